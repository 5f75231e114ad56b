"""Farewells: the last words arrive, also at those who are still talking."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tornado.iostream import IOStream

from pulsar_relay.web.farewell import Farewells
from tests.conditions import WAIT_SECONDS, until_in_loop
from tests.quiet_logs import quiet_logs as quiet_logs
from tests.valkeys import TIMEOUT_SCALE

WORDS = b"goodbye, and here is why"


def connected() -> tuple[IOStream, socket.socket]:
    """Both ends of a TCP connection: only there does closing with unread bytes reset it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname(), timeout=WAIT_SECONDS)
        ours, _ = server.accept()
    return IOStream(ours), theirs


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await scenario()

    asyncio.run(bounded())


async def ended(farewells: Farewells) -> None:
    await until_in_loop(lambda: not len(farewells), "all farewells are said")


def rest(theirs: socket.socket) -> bytes:
    data = b""
    while part := theirs.recv(1 << 16):
        data += part
    return data


def test_a_peer_that_sends_everything_before_it_reads_hears_the_words() -> None:
    def talk_then_listen(theirs: socket.socket) -> bytes:
        theirs.sendall(b"x" * (8 << 20))
        heard = rest(theirs)
        theirs.close()
        return heard

    async def scenario() -> None:
        farewells = Farewells(10)
        ours, theirs = connected()
        with ThreadPoolExecutor(1) as pool:
            talking = asyncio.get_running_loop().run_in_executor(pool, talk_then_listen, theirs)
            farewells.say(ours, WORDS, seconds=WAIT_SECONDS, max_bytes=1 << 30)
            assert await talking == WORDS
            await ended(farewells)
        assert ours.closed()

    run(scenario)


def test_a_peer_that_does_not_go_is_left_after_a_while() -> None:
    async def scenario() -> None:
        farewells = Farewells(10)
        ours, theirs = connected()
        started = time.monotonic()
        farewells.say(ours, WORDS, seconds=0.1, max_bytes=1 << 30)
        await ended(farewells)
        assert 0.05 < time.monotonic() - started < 5 * TIMEOUT_SCALE
        assert ours.closed()
        assert rest(theirs) == WORDS
        theirs.close()

    run(scenario)


def test_a_peer_that_never_stops_talking_is_cut_off() -> None:
    def talk(theirs: socket.socket) -> int:
        sent = 0
        try:
            while sent < 1 << 30:
                sent += theirs.send(b"x" * 65536)
        except OSError:
            return sent
        return sent

    async def scenario() -> None:
        farewells = Farewells(10)
        ours, theirs = connected()
        with ThreadPoolExecutor(1) as pool:
            talking = asyncio.get_running_loop().run_in_executor(pool, talk, theirs)
            farewells.say(ours, WORDS, seconds=WAIT_SECONDS, max_bytes=1 << 20)
            await ended(farewells)
            assert await talking < 1 << 26
        theirs.close()

    run(scenario)


def test_a_peer_that_does_not_read_the_words_is_left_after_a_while() -> None:
    async def scenario() -> None:
        farewells = Farewells(10)
        ours, theirs = connected()
        farewells.say(ours, WORDS * 1_000_000, seconds=0.1, max_bytes=1 << 30)
        await ended(farewells)
        assert ours.closed()
        theirs.close()

    run(scenario)


def test_beyond_their_number_peers_are_left_without_a_word() -> None:
    async def scenario() -> None:
        farewells = Farewells(2)
        pairs = [connected() for _ in range(3)]
        for ours, _ in pairs:
            farewells.say(ours, WORDS, seconds=WAIT_SECONDS, max_bytes=1 << 20)
        assert len(farewells) == 2
        assert [ours.closed() for ours, _ in pairs] == [False, False, True]
        assert rest(pairs[2][1]) == b""
        pairs[0][1].close()
        await until_in_loop(lambda: len(farewells) == 1, "one farewell is said")
        farewells.cut_short()
        await ended(farewells)
        assert all(ours.closed() for ours, _ in pairs)
        for _, theirs in pairs:
            theirs.close()

    run(scenario)


def test_a_peer_that_is_gone_already_is_no_error() -> None:
    async def scenario() -> None:
        farewells = Farewells(2)
        ours, theirs = connected()
        theirs.close()
        farewells.say(ours, WORDS, seconds=WAIT_SECONDS, max_bytes=1 << 20)
        await ended(farewells)
        closed, theirs = connected()
        closed.close()
        farewells.say(closed, WORDS, seconds=WAIT_SECONDS, max_bytes=1 << 20)
        await ended(farewells)
        theirs.close()

    run(scenario)
