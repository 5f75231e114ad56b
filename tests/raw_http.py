"""HTTP by hand: bytes in, bytes out, for what no well-behaved client would send."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any, Self

from tests.conditions import WAIT_SECONDS


@dataclass(frozen=True)
class RawResponse:
    """`headers` by name in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The code of the error that is answered, in the one shape that errors have."""
        answer = self.json()
        assert answer.keys() == {"error", "message", "detail", "retry"}, answer
        assert self.headers["content-type"] == "application/json"
        return str(answer["error"])


class RawConnection:
    """One connection to a port of this machine."""

    def __init__(self, port: int, *, receive_buffer_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.settimeout(WAIT_SECONDS)
        self.socket.connect(("127.0.0.1", port))
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> RawResponse:
        """Send a request, `Content_Type="..."` for headers, and read the response."""
        self.send(request_bytes(method, path, body, **headers))
        return self.response()

    def response(self, *, has_body: bool = True) -> RawResponse:
        """Read one response."""
        head = self.until(b"\r\n\r\n").decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        status = int(first.split(" ")[1])
        body = b""
        if has_body and "content-length" in headers:
            body = self.exactly(int(headers["content-length"]))
        elif has_body and headers.get("transfer-encoding") == "chunked":
            while chunk := self.chunk():
                body += chunk
        return RawResponse(status, headers, body)

    def chunk(self) -> bytes:
        """Read one chunk of a chunked body; empty at its end."""
        length = int(self.until(b"\r\n"), 16)
        data = self.exactly(length)
        assert self.exactly(2) == b"\r\n"
        return data

    def until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._buffer += self._receive()
        data, _, self._buffer = self._buffer.partition(end)
        return data + end

    def exactly(self, length: int) -> bytes:
        while len(self._buffer) < length:
            self._buffer += self._receive()
        data, self._buffer = self._buffer[:length], self._buffer[length:]
        return data

    def some(self) -> bytes:
        """Whatever has arrived, at least one byte; empty at the end."""
        data, self._buffer = self._buffer or self.socket.recv(1 << 16), b""
        return data

    def rest(self) -> bytes:
        """Read until the other side closes."""
        while True:
            data = self.socket.recv(1 << 16)
            if not data:
                rest, self._buffer = self._buffer, b""
                return rest
            self._buffer += data

    def _receive(self) -> bytes:
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError(f"closed after {self._buffer[-200:]!r}")
        return data


def request_bytes(method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
    """A request with a `Content-Length` and JSON's `Content-Type` if it has a body; `headers` go before
    those.
    """
    fields = {"Host": "127.0.0.1"}
    if body is not None:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(head).encode("latin-1") + (body or b"")


def chunked(*chunks: bytes) -> bytes:
    """A chunked body of these chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
