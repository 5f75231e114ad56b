"""How a process of the load is told what to do: a JSON value as its argument, then lines on its standard
input; it answers with lines on its standard output, and ends when its parent has."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import msgspec


class Orders:
    """The child's end. Use within a loop."""

    async def open(self) -> Orders:
        self._reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self._reader), sys.stdin)
        return self

    async def next(self) -> Any:
        """The next order. Ends the process if there will be none: the parent is gone."""
        line = await self._reader.readline()
        if not line:
            os._exit(1)
        return msgspec.json.decode(line)

    def answer(self, value: object) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
        sys.stdout.buffer.flush()
