"""Requests and answers, and what can go wrong with them."""

import json
import urllib.parse
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from time import sleep  # a name of its own: tests take time.sleep away from the client
from typing import Any


@dataclass
class Fault:
    """What goes wrong, with which requests, and how often."""

    path: str
    kind: str
    times: int = 10**6
    method: str = "GET"
    value: float = 0.0
    headers: dict = field(default_factory=dict)


class Transport(BaseHTTPRequestHandler):
    """One connection, which sends what it is told to, or what a fault makes of it."""

    hub: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status=200, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_one(self):
        self.body = self.read_body()
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query))
        self.parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        self.hub.requests.append(
            {
                "method": self.command,
                "path": self.path,
                "headers": {name.lower(): value for name, value in self.headers.items()},
            }
        )
        self.fault = self.hub.pending_fault(self.command, self.path)
        if self.fault is not None and self.fault.kind.isdigit():
            return self.reply(int(self.fault.kind), b"out of order", **self.fault.headers)
        if self.fault is not None and self.fault.kind == "close":
            self.close_connection = True
            return self.connection.close()
        if self.fault is not None and self.fault.kind == "garbage":
            return self.reply(200, b"<html>log in to the guest network</html>")
        return self.route()

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_HEAD = do_POST = do_PUT = handle_one

    def content(self, body, **headers):
        """A body, whole or from a byte on, perhaps with a fault."""
        wanted = self.headers.get("Range")
        ignored = self.fault is not None and self.fault.kind == "ignore_range"
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and not ignored else 0
        if start >= len(body) > 0:
            return self.reply(416)
        status = 206 if start else 200
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        body = body[start:]
        if self.fault is None or ignored:
            return self.reply(status, body, **headers)
        return self.faulty(self.fault, status, body, headers)

    def faulty(self, fault, status, body, headers):
        if fault.kind == "flip":
            middle = len(body) // 2
            changed = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
            return self.reply(status, changed, **headers)
        if fault.kind == "longer":
            return self.reply(status, body + b"x" * 100, **headers)
        if fault.kind == "endless":
            return self.endless(status, body, headers)
        assert fault.kind in ("truncate", "stall"), fault.kind
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        if fault.kind == "stall":
            sleep(fault.value)
        self.close_connection = True
        return None

    def endless(self, status, body, headers):
        """The body again and again, without a length, until nobody listens."""
        self.send_response(status)
        for name, value in {"Transfer-Encoding": "chunked", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            while True:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(body), body))
