"""Channel: the line between a supervisor and one worker. By its end each learns that the other is gone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Self

LENGTH_BYTES = 4
MOST_WAITING_BYTES = 64 * 1024 * 1024
"""What may wait for somebody who does not read. Beyond, he is told nothing more."""


class Channel:
    """Sends and receives whole notes, in order, over one end of a socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, connection: socket.socket) -> Self:
        """The connection belongs to the channel from now on."""
        return cls(*await asyncio.open_unix_connection(sock=connection))

    def send(self, note: bytes) -> None:
        """Returns at once; a note to somebody who is gone, or has stopped to read long ago, is lost."""
        if self._writer.transport.get_write_buffer_size() > MOST_WAITING_BYTES:
            return
        with suppress(OSError, RuntimeError):
            self._writer.write(len(note).to_bytes(LENGTH_BYTES, "big") + note)

    async def receive(self) -> bytes | None:
        """The next note; None when the other side is gone."""
        with suppress(asyncio.IncompleteReadError, OSError):
            length = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES), "big")
            return await self._reader.readexactly(length)
        return None

    async def notes(self) -> AsyncIterator[bytes]:
        """Each note that comes in; ends when the other side is gone."""
        while (note := await self.receive()) is not None:
            yield note

    async def flush(self) -> None:
        """Return when what was sent has left this process, or the other side is gone."""
        with suppress(OSError):
            await self._writer.drain()

    def close(self) -> None:
        """What was sent is still delivered. May be called again."""
        self._writer.close()
