"""A web server that misbehaves in the ways of real ones, for tests of downloads."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Script:
    """What the server does, and what it saw: (path, headers) of each request."""

    content: bytes
    etag: str | None = '"one"'
    ranges: bool = True
    conditions: bool = True  # heeds If-Range
    chunked: bool = False  # does not tell the length
    drop_after: list[int] = field(default_factory=list)  # bytes, one number per answer
    statuses: list[int] = field(default_factory=list)  # instead of an answer, one per request
    headers: dict[str, str] = field(default_factory=dict)
    redirect: dict[str, str] = field(default_factory=dict)  # path: address
    files: dict[str, bytes] | None = None  # all that there is, by path; HEAD knows no other
    upload_to: str | None = None  # where a POST is told to go on
    uploaded: list[bytes] = field(default_factory=list)
    silent: bool = False
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    @property
    def ranges_asked(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.seen]


@dataclass(frozen=True)
class Site:
    script: Script
    port: int
    scheme: str = "http"

    def url(self, path: str = "/model.zip", *, user: str = "") -> str:
        return f"{self.scheme}://{user}127.0.0.1:{self.port}{path}"


def handler(script: Script) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            script.seen.append((self.path, dict(self.headers)))
            if script.silent:
                time.sleep(1)
                self.close_connection = True
            elif script.statuses:
                self.answer(script.statuses.pop(0), dict(script.headers), b"no")
            elif self.path in script.redirect:
                self.answer(302, {"Location": script.redirect[self.path]}, b"")
            elif script.files is not None:
                there = script.files.get(self.path)
                self.answer(404 if there is None else 200, {}, there or b"")
            else:
                self.send_file()

        def do_HEAD(self) -> None:
            script.seen.append((self.path, dict(self.headers)))
            there = (script.files or {}).get(self.path)
            self.send_response(404 if there is None else 200)
            self.send_header("Content-Length", str(len(there or b"")))
            self.end_headers()

        def do_POST(self) -> None:
            script.uploaded.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            self.answer(202, {"Location": script.upload_to or self.path}, b"")

        do_PUT = do_POST

        def send_file(self) -> None:
            headers = dict(script.headers)
            if script.etag is not None:
                headers["ETag"] = script.etag
            asked = self.headers.get("Range") if script.ranges else None
            condition = self.headers.get("If-Range", script.etag)
            if asked is None or (script.conditions and condition != script.etag):
                self.answer(200, headers, script.content)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            size = len(script.content)
            if start >= size:
                self.answer(416, {"Content-Range": f"bytes */{size}"}, b"")
                return
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
            self.answer(206, headers, script.content[start:])

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            if script.chunked:
                headers["Transfer-Encoding"] = "chunked"
                body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            else:
                headers = {"Content-Length": str(len(body)), **headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if script.drop_after and status in (200, 206):
                body = body[: script.drop_after.pop(0)]
                self.close_connection = True
            self.wfile.write(body)

    return Handler


@contextmanager
def serving(script: Script, *, context: ssl.SSLContext | None = None) -> Iterator[Site]:
    """A server of the script on a port of this machine; with ``context`` over TLS."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(script))
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield Site(script, server.server_address[1], "https" if context else "http")
    finally:
        server.shutdown()
        server.server_close()
