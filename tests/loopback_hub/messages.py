"""Requests and replies, free of sockets, and the small readings that every route needs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlencode

from .repositories import HubError
from .storage import Blob, Body

_REVISION_AND_PATH = re.compile(r"(refs/(?:pr|heads|convert)/[^/]+|[^/]+)(?:/(.*))?")


@dataclass
class Request:
    """One request. `path` is as it came, so that a `%2F` in a branch name is no separator."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: Body
    base_url: str
    user: str | None = None
    read_only: bool = False
    has_token: bool = False

    def json(self) -> Any:
        try:
            return json.loads(self.body.read() or b"{}")
        except ValueError as error:
            raise HubError(400, None, f"the body is no JSON: {error}") from error

    def flag(self, name: str) -> bool:
        return self.query.get(name, "").lower() in ("1", "true")


@dataclass
class Reply:
    """An answer: bytes, or part of a blob."""

    status: int = 200
    data: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    blob: Blob | None = None
    start: int = 0
    stop: int = 0

    @property
    def length(self) -> int:
        return len(self.data) if self.blob is None else self.stop - self.start


def json_reply(content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    return Reply(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})


def error_reply(error: HubError) -> Reply:
    # Headers are one line of Latin-1; the body has the message in full.
    line = error.message.replace("\n", " ").encode("latin-1", "replace").decode("latin-1")
    headers = {"X-Error-Message": line, **error.headers}
    if error.code is not None:
        headers["X-Error-Code"] = error.code
    return json_reply({"error": error.message}, status=error.status, headers=headers)


def file_reply(blob: Blob, headers: dict[str, str], wanted_range: str | None) -> Reply:
    """The whole of a blob, or the part that a Range header asks for."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    bounds = re.fullmatch(r"bytes=(\d*)-(\d*)", (wanted_range or "").strip())
    if bounds is None or bounds.groups() == ("", ""):
        return Reply(200, headers=headers, blob=blob, start=0, stop=blob.size)
    first, last = bounds.groups()
    if first == "":
        start, stop = max(blob.size - int(last), 0), blob.size
    else:
        start, stop = int(first), min(int(last) + 1, blob.size) if last else blob.size
    if start >= stop:
        whole = {"Content-Range": f"bytes */{blob.size}"}
        raise HubError(416, None, f"range {wanted_range} lies outside of {blob.size} bytes", whole)
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size}"
    return Reply(206, headers=headers, blob=blob, start=start, stop=stop)


def page_reply(items: list, request: Request, page_size: int) -> Reply:
    """One page of a list, with the `Link` to the next one that the clients follow."""
    start = int(request.query.get("cursor", "0"))
    headers = {}
    if start + page_size < len(items):
        query = {**request.query, "cursor": str(start + page_size)}
        headers["Link"] = f'<{request.base_url}{request.path}?{urlencode(query)}>; rel="next"'
    return json_reply(items[start : start + page_size], headers=headers)


def split_revision(rest: str) -> tuple[str, str]:
    """`revision/path/in/repo` as it stands in a URL -> revision and path, unquoted."""
    match = _REVISION_AND_PATH.fullmatch(rest)
    if match is None:
        raise HubError(404, "RevisionNotFound", "the address names no revision")
    return unquote(match[1]), unquote(match[2] or "")
