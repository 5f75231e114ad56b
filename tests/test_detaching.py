"""Handing a connection over: nothing that the client sent is lost, and nothing of Tornado is left."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Coroutine
from typing import Any

import pytest
from tornado.iostream import IOStream, StreamClosedError

from pulsar_relay.web.detaching import READ_BYTES, hand_over, take_socket
from tests.conditions import WAIT_SECONDS, until_in_loop


class Heard(asyncio.Protocol):
    """What came behind what the stream had read."""

    def __init__(self, unread: bytes) -> None:
        self.data = bytearray(unread)
        self.is_over = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, error: Exception | None) -> None:
        self.is_over = True


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await scenario

    asyncio.run(bounded())


@pytest.mark.parametrize("size", [0, 1, 1000, 65_536, READ_BYTES, 3 * READ_BYTES])
def test_what_follows_the_request_is_handed_over_in_order(size: int) -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        behind = random.Random(size).randbytes(size)
        sending = asyncio.ensure_future(loop.sock_sendall(theirs, b"GET / HTTP/1.1\r\n\r\n" + behind))
        stream = IOStream(ours)
        await stream.read_until(b"\r\n\r\n")
        connection, unread = take_socket(stream)
        assert stream.closed()
        heard = Heard(unread)
        await hand_over(connection, heard)
        await sending
        await until_in_loop(lambda: len(heard.data) >= size, "all arrived")
        assert heard.data == behind
        heard.transport.write(b"here")
        assert await loop.sock_recv(theirs, 100) == b"here"
        theirs.close()
        await until_in_loop(lambda: heard.is_over, "the end is heard")

    run(scenario())


def test_a_peer_that_has_gone_is_not_handed_over() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        stream = IOStream(ours)
        theirs.close()
        with pytest.raises(StreamClosedError):
            take_socket(stream)
        assert stream.closed()

    run(scenario())
