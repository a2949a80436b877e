"""The HTTP side: reads requests whole, suffers the injected faults, sends replies, and writes everything down."""

from __future__ import annotations

import socket
import struct
import time
import traceback
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from . import control, protocol
from .faults import Fault
from .messages import Reply, Request, error_reply
from .repositories import HubError
from .storage import CHUNK, Body

if TYPE_CHECKING:
    from . import LoopbackHub


@dataclass
class LoggedRequest:
    """One line of the request log. `status` is None when the connection broke before an answer began."""

    method: str
    path: str
    query: str
    user: str | None = None
    status: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    range: str | None = None
    error: str | None = None

    def to_json(self) -> dict:
        return asdict(self)


class DroppedConnection(ConnectionError):
    """A fault cut the connection."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hub: LoopbackHub, port: int):
        self.hub = hub
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Header and body go out as two writes; without this each answer waits for the acknowledgement of its header.
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *args) -> None:
        """Nothing goes to stderr: the log of the hub has it."""

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            # A client that went away between two requests has nothing to tell.
            self.close_connection = True

    def _serve(self) -> None:
        hub = self.server.hub
        url = urlsplit(self.path)
        entry = LoggedRequest(self.command, unquote(url.path), url.query, range=self.headers.get("Range"))
        body = Body(self.rfile, self.headers)
        request = Request(
            self.command,
            url.path,
            dict(parse_qsl(url.query)),
            self.headers,
            body,
            f"http://{self.headers.get('Host') or self.server.url.removeprefix('http://')}",
        )
        self._sent_headers = False
        steering = url.path.startswith(control.PREFIX)
        if not steering:
            hub.request_begins(entry)
        try:
            self._answer(request, entry)
            body.drain()
        except ConnectionError as error:
            entry.error = f"{type(error).__name__}: {error}"
            self._cut()
        except Exception:
            entry.error = traceback.format_exc()
            self._internal_error(body, entry)
        finally:
            entry.user = request.user
            entry.bytes_in = body.received
            if not steering:
                sha256 = url.path.removeprefix("/lfs/") if url.path.startswith("/lfs/") else None
                hub.request_ends(sha256, body.received)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

    def _answer(self, request: Request, entry: LoggedRequest) -> None:
        hub = self.server.hub
        if request.path.startswith(control.PREFIX):
            self._send(control.respond(hub, request), entry)
            return
        if delay := hub.faults.take("delay", request.method, entry.path):
            time.sleep(delay.seconds)
        if fault := hub.faults.take("answer", request.method, entry.path):
            request.body.drain()
            self._send(error_reply(HubError(fault.status, None, fault.message, fault.headers)), entry)
            return
        drop = hub.faults.take("drop", request.method, entry.path)
        if drop is not None and request.method == "PUT":
            for _ in request.body.pieces(drop.after_bytes):
                pass
            raise DroppedConnection(f"cut after {request.body.received} bytes of an upload")
        try:
            reply = protocol.respond(hub, request)
        except HubError as error:
            if "no route" in error.message:
                entry.error = error.message
            reply = error_reply(error)
        request.body.drain()
        self._send(reply, entry, drop)

    def _send(self, reply: Reply, entry: LoggedRequest, drop: Fault | None = None) -> None:
        wants_file = reply.blob is not None and self.command != "HEAD"
        # Opened before the first byte goes out, so that a file that cannot be read is a 500 and no broken answer.
        with reply.blob.open() if wants_file else nullcontext() as file:
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(reply.length)}.items():
                self.send_header(name, value)
            entry.status = reply.status
            self._sent_headers = True
            self.end_headers()
            if self.command == "HEAD":
                return
            length = reply.length if drop is None else min(reply.length, drop.after_bytes)
            if file is None:
                self.wfile.write(reply.data[:length])
                entry.bytes_out = length
            else:
                self._send_file(file, reply.start, length, entry)
            if length < reply.length:
                raise DroppedConnection(f"cut after {length} bytes of a download")

    def _send_file(self, file, start: int, length: int, entry: LoggedRequest) -> None:
        """Send a part of a file, counting as it goes so that the log is right when the client leaves midway."""
        while entry.bytes_out < length:
            piece = min(length - entry.bytes_out, 16 * CHUNK)
            sent = self.connection.sendfile(file, start + entry.bytes_out, piece)
            entry.bytes_out += sent
            if sent < piece:
                raise OSError(f"{file.name} is shorter than it was when it was added")

    def _internal_error(self, body: Body, entry: LoggedRequest) -> None:
        """A fault of this server: 500 with the traceback, which the client shows."""
        if self._sent_headers:
            self._cut()
            return
        try:
            body.drain()
            self._send(Reply(500, entry.error.encode(), {"Content-Type": "text/plain; charset=utf-8"}), entry)
        except ConnectionError:
            self._cut()

    def _cut(self) -> None:
        """Close for good, without waiting for what the client still wants to send."""
        self.close_connection = True
        try:
            if not self._sent_headers:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
