"""Handing a connection over: its request was read and accepted, and from now on it is no HTTP any more."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

from tornado.ioloop import IOLoop
from tornado.iostream import IOStream

READ_BYTES = 1024 * 1024


def take_socket(stream: IOStream) -> tuple[socket.socket, bytes]:
    """Tornado's stream ends here; its socket lives on. With what was read from it and is nobody's yet.

    Raises StreamClosedError if the peer has gone.
    """
    unread = b""
    while True:
        # From the stream's buffer if there is anything in it, else from the socket if that has anything.
        reading = cast("asyncio.Future[bytes]", stream.read_bytes(READ_BYTES, partial=True))
        if not reading.done():
            break
        piece = reading.result()
        unread += piece
        if len(piece) < READ_BYTES:
            break
    IOLoop.current().remove_handler(stream.fileno())
    theirs = stream.socket
    ours = socket.socket(theirs.family, theirs.type, theirs.proto, fileno=theirs.detach())
    ours.setblocking(False)
    stream.close()
    return ours, unread


async def hand_over(connection: socket.socket, protocol: asyncio.Protocol) -> None:
    """Have `protocol` speak on the connection; returns when it has begun."""
    await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, connection)
