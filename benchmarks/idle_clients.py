"""Clients that connect and wait: WebSockets, event streams, polls, and connections without a request."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from typing import Self

AT_ONCE = 50
WAIT_SECONDS = 120
TRANSPORTS = ("websocket", "sse", "poll", "kept")


def _request(transport: str, topic: str) -> bytes:
    path, headers = {
        "websocket": (
            "/ws",
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n",
        ),
        "sse": (f"/api/v1/stream?topics={topic}", ""),
        "poll": (f"/api/v1/poll?topics={topic}&since=latest&timeout=60", ""),
        "kept": ("/health", ""),
    }[transport]
    return f"GET {path} HTTP/1.1\r\nHost: relay\r\n{headers}\r\n".encode()


def _frame(text: bytes) -> bytes:
    """A client's text frame of less than 126 bytes; a mask of zeros leaves the text as it is."""
    assert len(text) < 126
    return bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text


class IdleClients:
    """Connections of one transport, each with one subscription; closed on leaving the context."""

    def __init__(self, address: tuple[str, int], transport: str, topic: str) -> None:
        self._address = address
        self._transport = transport
        self._topic = topic
        self._open: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in self._open:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._open), return_exceptions=True)

    async def add(self, count: int) -> None:
        """Open so many more; return when each one has said what it wants and was answered, polls excepted."""
        async with asyncio.timeout(WAIT_SECONDS):
            for start in range(0, count, AT_ONCE):
                await asyncio.gather(*(self._connect() for _ in range(start, min(start + AT_ONCE, count))))

    async def _connect(self) -> None:
        reader, writer = await asyncio.open_connection(*self._address, limit=4096)
        self._open.append(writer)
        writer.write(_request(self._transport, self._topic))
        if self._transport == "poll":
            return
        # An event stream says so right behind its headers.
        await self._until(reader, b"subscribed" if self._transport == "sse" else b"\r\n\r\n")
        if self._transport == "websocket":
            writer.write(_frame(json.dumps({"type": "subscribe", "topics": [self._topic]}).encode()))
            await self._until(reader, b"subscribed")

    async def _until(self, reader: asyncio.StreamReader, text: bytes) -> None:
        seen = b""
        while text not in seen:
            more = await reader.read(1024)
            assert more, f"{self._transport}: closed after {seen!r}"
            seen += more
