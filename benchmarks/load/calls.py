"""HTTP requests over one kept connection, answered to a callback: as little as can be called a client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

OnAnswer = Callable[["Caller", bytes], None]


class Caller(asyncio.Protocol):
    """One connection. One request at a time; `on_answer` gets each whole answer, head and body."""

    def __init__(self, on_answer: OnAnswer) -> None:
        self.on_answer = on_answer
        self.is_lost = False
        self._rest = b""
        self._transport: Any = None

    @classmethod
    async def connect(cls, port: int, on_answer: OnAnswer) -> Caller:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(lambda: cls(on_answer), "127.0.0.1", port)
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.send = self._transport.write

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0:
            self._rest = data
            return
        # Both `Content-Length` and `content-length`. All answers looked for here have one.
        at = data.index(b"ength: ", 0, head_end) + len(b"ength: ")
        length = int(data[at : data.index(b"\r", at)])
        if len(data) < head_end + 4 + length:
            self._rest = data
            return
        self._rest = b""
        self.on_answer(self, data)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self.on_answer(self, b"")

    def close(self) -> None:
        self.on_answer = lambda caller, answer: None
        self._transport.close()
