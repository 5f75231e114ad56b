"""Farewells: the last words to peers that may still be sending.

A socket that is closed with unread bytes in it resets the connection, and the peer may lose what was written
to it just before. So: write, end our direction, read on for a moment, then close.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from tornado.iostream import IOStream, StreamClosedError

READ_BYTES = 64 * 1024


class Farewells:
    """The connections that are being told why they end; beyond `most` at a time they are just closed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def say(self, stream: IOStream, words: bytes, *, seconds: float, max_bytes: int) -> None:
        """Write `words`; close when the peer has, at latest after `seconds`, or when it sent `max_bytes`
        more.

        The stream belongs to the farewell from now on.
        """
        if len(self._tasks) >= self._most:
            stream.close()
            return
        task = asyncio.get_running_loop().create_task(_say(stream, words, seconds, max_bytes))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cut_short(self) -> None:
        """Close all of them now."""
        for task in list(self._tasks):
            task.cancel()


async def _say(stream: IOStream, words: bytes, seconds: float, max_bytes: int) -> None:
    try:
        with suppress(StreamClosedError, TimeoutError, OSError):
            async with asyncio.timeout(seconds):
                # Shielded: Tornado expects nobody to cancel the future of a write.
                await asyncio.shield(stream.write(words))
                stream.socket.shutdown(socket.SHUT_WR)
                read_bytes = 0
                while read_bytes <= max_bytes:
                    read_bytes += len(await stream.read_bytes(READ_BYTES, partial=True))
                    # What has arrived is read without waiting: others get their turn in between.
                    await asyncio.sleep(0)
    finally:
        stream.close()
