"""HTTP/1.1 for the load: one connection that is kept, and that tells what never left from what got lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

HEAD_LIMIT_BYTES = 4 * 1024 * 1024


class UnsentError(Exception):
    """No connection, so that nothing of the request was sent."""


class LostError(Exception):
    """The request was sent, at least in part, and no whole answer came."""


@dataclass(frozen=True)
class Response:
    """`headers` by name in lower case; of several with one name the last."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class HttpConnection:
    """A connection to the relay at `url`, made anew when needed. One request at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(
        self,
        method: str,
        path: str,
        value: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float,
    ) -> Response:
        """Send a request with a JSON body, and read the answer; both must be done in `seconds`.

        Raises UnsentError or LostError; the connection is then closed.
        """
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await self._connect()
                writer.write(self._request(method, path, value, headers or {}))
                await writer.drain()
                status, answer_headers = await self._head(reader)
                body = b"".join([part async for part in self._body(reader, answer_headers)])
        except (OSError, EOFError, ValueError) as error:  # a timeout is an OSError
            self.close()
            raise LostError(repr(error)) from error
        if answer_headers.get("connection", "").lower() == "close":
            self.close()
        return Response(status, answer_headers, body)

    async def stream(
        self, path: str, *, headers: Mapping[str, str], seconds: float
    ) -> tuple[int, AsyncIterator[bytes]]:
        """Send a GET, and return the status and the parts of the body as they come, each within `seconds`.

        Raises UnsentError or LostError, the parts LostError; close the connection afterwards.
        """
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await self._connect()
                writer.write(self._request("GET", path, None, headers))
                status, answer_headers = await self._head(reader)
        except (OSError, EOFError, ValueError) as error:
            self.close()
            raise LostError(repr(error)) from error
        return status, self._parts(reader, answer_headers, seconds)

    @property
    def port(self) -> int:
        """Its port on this side; 0 while there is no connection."""
        return 0 if self._writer is None else int(self._writer.get_extra_info("sockname")[1])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None or self._reader.at_eof():
            self.close()
            try:
                self._reader, self._writer = await asyncio.open_connection(
                    self._host, self._port, limit=HEAD_LIMIT_BYTES
                )
            except OSError as error:
                raise UnsentError(repr(error)) from error
        return self._reader, self._writer

    def _request(self, method: str, path: str, value: object, headers: Mapping[str, str]) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        body = b""
        if value is not None:
            body = msgspec.json.encode(value)
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {text}" for name, text in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    async def _head(self, reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return int(first.split(" ")[1]), {name.lower(): text.strip() for name, _, text in pairs}

    async def _body(self, reader: asyncio.StreamReader, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
        if headers.get("transfer-encoding") != "chunked":
            yield await reader.readexactly(int(headers.get("content-length", "0")))
            return
        while length := int(await reader.readuntil(b"\r\n"), 16):
            yield (await reader.readexactly(length + 2))[:-2]
        await reader.readuntil(b"\r\n")

    async def _parts(
        self, reader: asyncio.StreamReader, headers: Mapping[str, str], seconds: float
    ) -> AsyncIterator[bytes]:
        parts = self._body(reader, headers)
        while True:
            try:
                async with asyncio.timeout(seconds):
                    part = await anext(parts, None)
            except (OSError, EOFError, ValueError) as error:
                raise LostError(repr(error)) from error
            if part is None:
                return
            yield part
