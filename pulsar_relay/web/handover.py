"""The hand-over of a connection from an asyncio transport to Tornado, in the middle of a request."""

from __future__ import annotations

import asyncio
import socket
import sys

from tornado.iostream import IOStream

READ_BYTES = 64 * 1024
"""Read from a socket at once. More makes each small request dearer: a buffer of this size is made for it."""


class HandedStream(IOStream):
    """A stream whose first input was read from its socket before. `deadline` is until when, in the loop's
    time, the head of its first request has to come.
    """

    def __init__(self, connected: socket.socket, first_input: bytes, deadline: float) -> None:
        # What comes is bounded where it is read.
        super().__init__(connected, max_buffer_size=sys.maxsize, read_chunk_size=READ_BYTES)
        self._first_input = memoryview(first_input)
        self.deadline = deadline

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        first = self._first_input
        if not first:
            return super().read_from_fd(buf)
        size = min(len(first), len(buf))
        buf[:size] = first[:size]
        self._first_input = first[size:]
        return size


def hand_over(transport: asyncio.Transport, first_input: bytes, deadline: float) -> HandedStream:
    """The transport's connection as a stream that begins with `first_input`; the transport is closed, which
    its protocol is told as usual.

    Nothing may wait to be written. Raises OSError for a connection that is broken already.
    """
    own = transport.get_extra_info("socket")
    # The connection ends with the last descriptor of it, so that closing the transport does not end it.
    stream = HandedStream(socket.fromfd(own.fileno(), own.family, own.type), first_input, deadline)
    transport.abort()
    return stream
