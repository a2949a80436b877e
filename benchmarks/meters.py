"""Memory and time of a process, and how a case of a benchmark is run in one of its own.

Imports nothing large, so that a case can tell what an import costs.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

GIB, MIB = 2**30, 2**20
Row = dict[str, Any]


def memory() -> dict[str, int]:
    """Memory of this process in bytes: allocated, of mapped files, all that is resident, and its peak.

    Elsewhere than on Linux only the peak since the process began is known, and stands for all.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return dict.fromkeys(("anon", "files", "rss", "peak"), peak)
    fields = {name: value for name, _, value in (line.partition(":") for line in status.read_text().splitlines())}
    names = {"anon": "RssAnon", "files": "RssFile", "rss": "VmRSS", "peak": "VmHWM"}
    return {key: int(fields[name].split()[0]) * 1024 for key, name in names.items()}


def wait(device: torch.device) -> None:
    """Until a device has done what it was given."""
    if device.type in ("cuda", "mps"):
        import torch

        getattr(torch, device.type).synchronize()


class MemoryMeter:
    """Memory of this process (CPU) or of its tensors on the device (CUDA), in bytes.

    On Linux the peak can be set back; elsewhere it is that of the process since it began.
    """

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"

    def reset(self) -> None:
        """Sets the peak back to what is used now."""
        if self.cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
        elif sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")

    def now(self) -> int:
        return self._cuda("memory_allocated") if self.cuda else memory()["rss"]

    def peak(self) -> int:
        return self._cuda("max_memory_allocated") if self.cuda else memory()["peak"]

    @staticmethod
    def _cuda(name: str) -> int:
        import torch

        return getattr(torch.cuda, name)()


def timed(function: Callable[[], Any], repeats: int, device: torch.device) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for _ in range(repeats):
        wait(device)
        begun = time.perf_counter()
        function()
        wait(device)
        seconds.append(time.perf_counter() - begun)
    return seconds


def answer(*cases: Callable[[Row], Row]) -> None:
    """What the process of a case does: runs the function that `"do"` names on the JSON of its argument, prints JSON."""
    case = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    try:
        row = {"status": "ok", **{function.__name__: function for function in cases}[case["do"]](case)}
    except Exception as error:  # a case that fails is a result; the others go on
        traceback.print_exc()
        reason = (str(error).strip() or "no message").splitlines()[0]
        row = {"status": f"failed: {type(error).__name__}: {reason[:200]}"}
    print(json.dumps(row))
