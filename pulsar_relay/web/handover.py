"""The hand-over of a connection from an asyncio transport to Tornado, in the middle of a request, and back
between two.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Protocol

from tornado.iostream import IOStream, StreamClosedError

from pulsar_relay.web.detaching import take_socket

READ_BYTES = 64 * 1024
"""Read from a socket at once. More makes each small request dearer: a buffer of this size is made for it."""


class Home(Protocol):
    """Where a connection was before it was handed over."""

    def takes(self, data: bytes) -> bool:
        """Whether the request that begins with `data` would not have been handed over."""

    def take_back(self, connected: socket.socket, data: bytes) -> None:
        """Have the connection again, whose next request begins with `data`."""


class HandedStream(IOStream):
    """A stream whose first input was read from its socket before. `deadline` is until when, in the loop's
    time, the head of its first request has to come.

    Tornado asks it for one head after the other. Where that is of a request for `home`, it closes instead,
    as if its client had, and the connection goes back.
    """

    def __init__(self, connected: socket.socket, first_input: bytes, deadline: float, home: Home) -> None:
        # What comes is bounded where it is read.
        super().__init__(connected, max_buffer_size=sys.maxsize, read_chunk_size=READ_BYTES)
        self._unread = memoryview(first_input)
        self._home = home
        self._is_first = True
        self.deadline = deadline

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        unread = self._unread
        if not unread:
            return super().read_from_fd(buf)
        size = min(len(unread), len(buf))
        buf[:size] = unread[:size]
        self._unread = unread[size:]
        return size

    async def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> bytes:
        if not self._is_first:
            # All there is: what were left in the stream's own buffer would come before what is put back.
            data = await self.read_bytes(sys.maxsize, partial=True) + bytes(self._unread)
            self._unread = memoryview(b"")
            if self._home.takes(data):
                connected, more = take_socket(self)
                self._home.take_back(connected, data + more)
                raise StreamClosedError
            self._unread = memoryview(data)
        self._is_first = False
        return await super().read_until_regex(regex, max_bytes)


def hand_over(transport: asyncio.Transport, first_input: bytes, deadline: float, home: Home) -> HandedStream:
    """The transport's connection as a stream that begins with `first_input`; the transport is closed, which
    its protocol is told as usual.

    Nothing may wait to be written. Raises OSError for a connection that is broken already.
    """
    own = transport.get_extra_info("socket")
    # The connection ends with the last descriptor of it, so that closing the transport does not end it.
    connected = socket.fromfd(own.fileno(), own.family, own.type)
    stream = HandedStream(connected, first_input, deadline, home)
    transport.abort()
    return stream
