"""What goes wrong on purpose: statuses, delays and dropped connections, each for a set number of requests."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field


@dataclass
class Fault:
    """One misfortune for the requests whose method and (unquoted) path match."""

    kind: str
    method: str
    path: str
    times: int = 1
    skip: int = 0
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    message: str = ""
    seconds: float = 0.0
    after_bytes: int = 0

    def matches(self, method: str, path: str) -> bool:
        return re.fullmatch(self.method, method) is not None and re.search(self.path, path) is not None


class Faults:
    """The faults still to happen. The first request that matches takes the first fault, whatever the thread."""

    def __init__(self):
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()

    def answer(
        self,
        status: int,
        *,
        method: str = ".*",
        path: str = "",
        times: int = 1,
        skip: int = 0,
        retry_after: int | None = None,
        message: str = "an injected fault",
    ) -> None:
        """Answer the next `times` requests that match (after `skip` spared ones) with `status` and nothing else."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self._add(Fault("answer", method, path, times, skip, status=status, headers=headers, message=message))

    def delay(self, seconds: float, *, method: str = ".*", path: str = "", times: int = 1, skip: int = 0) -> None:
        """Wait before answering."""
        self._add(Fault("delay", method, path, times, skip, seconds=seconds))

    def drop_upload(self, after_bytes: int, *, nth: int = 1, times: int = 1, path: str = "^/lfs/") -> None:
        """Cut the connection once `after_bytes` of the `nth` LFS upload from now have arrived."""
        self._add(Fault("drop", "PUT", path, times, nth - 1, after_bytes=after_bytes))

    def drop_download(self, path_in_repo: str, after_bytes: int, *, times: int = 1, skip: int = 0) -> None:
        """Cut the connection once `after_bytes` of the answer to a download of this file were sent."""
        path = f"/resolve/.+/{re.escape(path_in_repo)}$"
        self._add(Fault("drop", "GET", path, times, skip, after_bytes=after_bytes))

    def clear(self) -> None:
        with self._lock:
            self._waiting.clear()

    def take(self, kind: str, method: str, path: str) -> Fault | None:
        """The fault of this kind that this request must suffer, if any."""
        with self._lock:
            for fault in self._waiting:
                if fault.kind != kind or not fault.matches(method, path):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                if fault.times <= 0:
                    self._waiting.remove(fault)
                return fault
        return None

    def _add(self, fault: Fault) -> None:
        re.compile(fault.method)
        re.compile(fault.path)
        with self._lock:
            self._waiting.append(fault)
