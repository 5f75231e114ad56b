"""The hand-over of a connection: Tornado reads what was read before, then what comes, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from tornado.iostream import StreamClosedError

from pulsar_relay.web.handover import HandedStream, hand_over
from tests.conditions import WAIT_SECONDS

LOOPS = pytest.mark.parametrize(
    "make_loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"]
)
Talk = Callable[[socket.socket, HandedStream], Awaitable[None]]


class HomeOfPlain:
    """Takes back what begins with `plain`."""

    def __init__(self) -> None:
        self.returned: list[tuple[socket.socket, bytes]] = []

    def takes(self, data: bytes) -> bool:
        return data.startswith(b"plain")

    def take_back(self, connected: socket.socket, data: bytes) -> None:
        self.returned.append((connected, data))


class Taking(asyncio.Protocol):
    """Hands its connection over once `enough` bytes have come."""

    def __init__(self, enough: int, taken: asyncio.Future[HandedStream], home: HomeOfPlain) -> None:
        self.home = home
        self.enough = enough
        self.taken = taken
        self.data = b""
        self.is_lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        if len(self.data) >= self.enough:
            self.taken.set_result(hand_over(self.transport, self.data, 0.0, self.home))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True


def handing_over(
    first: bytes,
    talk: Talk,
    make_loop: Callable[[], Any] = uvloop.new_event_loop,
    home: HomeOfPlain | None = None,
) -> None:
    """Connect, send `first`, have the connection handed over, and `talk`."""

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        taken: asyncio.Future[HandedStream] = loop.create_future()
        protocol = Taking(len(first), taken, home or HomeOfPlain())
        server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, server.sockets[0].getsockname())
            await loop.sock_sendall(client, first)
            stream = await taken
            try:
                await talk(client, stream)
                while not protocol.is_lost:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            finally:
                stream.close()
        server.close()

    def within(coroutine: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
        return asyncio.wait_for(coroutine, WAIT_SECONDS)

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(within(serve()))


@LOOPS
def test_what_was_read_before_is_read_first_and_what_comes_after_it(make_loop: Callable[[], Any]) -> None:
    async def talk(client: socket.socket, stream: HandedStream) -> None:
        loop = asyncio.get_running_loop()
        assert await stream.read_until(b"\n") == b"before\n"
        await loop.sock_sendall(client, b"er\nand more\n")
        assert await stream.read_until(b"\n") == b"aft" + b"er\n"
        assert await stream.read_bytes(100, partial=True) == b"and more\n"

    handing_over(b"before\naft", talk, make_loop)


@LOOPS
def test_the_connection_outlives_its_transport(make_loop: Callable[[], Any]) -> None:
    async def talk(client: socket.socket, stream: HandedStream) -> None:
        loop = asyncio.get_running_loop()
        for number in range(3):
            await asyncio.sleep(0)  # in which the transport is closed
            await stream.write(b"%d" % number)
            assert await loop.sock_recv(client, 100) == b"%d" % number
        stream.close()
        assert await loop.sock_recv(client, 100) == b""

    handing_over(b"x", talk, make_loop)


def test_the_end_of_what_the_client_sends_is_seen_after_what_it_sent() -> None:
    async def talk(client: socket.socket, stream: HandedStream) -> None:
        client.shutdown(socket.SHUT_WR)
        assert await stream.read_bytes(3) == b"abc"
        with pytest.raises(StreamClosedError):
            await stream.read_bytes(1)

    handing_over(b"abc", talk)


@given(
    st.binary(min_size=1, max_size=300), st.binary(max_size=300), st.lists(st.integers(1, 100), max_size=9)
)
@settings(max_examples=30)
def test_every_byte_is_read_once_and_in_order(first: bytes, then: bytes, sizes: list[int]) -> None:
    async def talk(client: socket.socket, stream: HandedStream) -> None:
        await asyncio.get_running_loop().sock_sendall(client, then)
        client.shutdown(socket.SHUT_WR)
        read = b""
        for size in sizes:
            if len(read) + size <= len(first + then):
                read += await stream.read_bytes(size)
        assert read + await stream.read_until_close() == first + then

    handing_over(first, talk)


HEAD_END = rb"\r?\n\r?\n"


@LOOPS
@pytest.mark.parametrize("is_ahead", [True, False])
def test_a_later_head_that_is_plain_goes_home_with_all_that_follows(
    make_loop: Callable[[], Any], is_ahead: bool
) -> None:
    home = HomeOfPlain()

    async def talk(client: socket.socket, stream: HandedStream) -> None:
        loop = asyncio.get_running_loop()
        # The first one was handed over for a reason.
        assert await stream.read_until_regex(HEAD_END) == b"plain 1\r\n\r\n"
        assert await stream.read_bytes(4) == b"body"
        if not is_ahead:
            await loop.sock_sendall(client, b"strange\r\n\r\n")
        assert await stream.read_until_regex(HEAD_END) == b"strange\r\n\r\n"
        if not is_ahead:
            await loop.sock_sendall(client, b"plain 2\r\n\r\nand")
        with pytest.raises(StreamClosedError):
            await stream.read_until_regex(HEAD_END)
        assert stream.closed()
        (connected, data) = home.returned.pop()
        assert data == b"plain 2\r\n\r\nand"
        with connected:
            await loop.sock_sendall(client, b" more")
            assert await loop.sock_recv(connected, 100) == b" more"
            await loop.sock_sendall(connected, b"answer")
            assert await loop.sock_recv(client, 100) == b"answer"

    ahead = b"strange\r\n\r\nplain 2\r\n\r\nand" if is_ahead else b""
    handing_over(b"plain 1\r\n\r\nbody" + ahead, talk, make_loop, home)


def test_a_later_head_that_is_not_plain_stays_however_much_follows_it() -> None:
    rest = os.urandom(300_000)

    async def talk(client: socket.socket, stream: HandedStream) -> None:
        assert await stream.read_until_regex(HEAD_END) == b"a\r\n\r\n"
        assert await stream.read_until_regex(HEAD_END) == b"b\r\n\r\n"
        assert await stream.read_bytes(len(rest)) == rest

    handing_over(b"a\r\n\r\n" + b"b\r\n\r\n" + rest, talk)


def test_what_was_read_before_may_be_larger_than_what_is_read_at_once() -> None:
    first = os.urandom(200_000)

    async def talk(client: socket.socket, stream: HandedStream) -> None:
        assert await stream.read_bytes(len(first)) == first

    handing_over(first, talk)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_descriptor_is_left_to_nobody() -> None:
    async def talk(client: socket.socket, stream: HandedStream) -> None:
        await asyncio.sleep(0)

    handing_over(b"x", talk)
    before = _descriptors()
    for _ in range(5):
        handing_over(b"x", talk)
    assert _descriptors() <= before
