"""Outbox: what a connection has not taken, on real sockets."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from tornado.iostream import IOStream

from pulsar_relay.web.outbox import Outbox
from tests.conditions import WAIT_SECONDS, until_in_loop
from tests.quiet_logs import quiet_logs as quiet_logs

BLOCK = b"x" * 1000
HIGH, LOW = 100_000, 20_000


class Wire:
    """An outbox on one end of a connection; `read` and `close` are the other end's."""

    def __init__(self, stall_seconds: float = 60.0) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.theirs.setblocking(False)
        self.stream = IOStream(ours)
        self.drained_at: list[int] = []
        self.stalls = 0
        self.outbox = Outbox(
            self.stream,
            high_bytes=HIGH,
            low_bytes=LOW,
            stall_seconds=stall_seconds,
            on_drained=lambda: self.drained_at.append(self.outbox.size_bytes),
            on_stalled=self._stall,
        )

    def _stall(self) -> None:
        self.stalls += 1

    def fill(self) -> int:
        """Write blocks until the outbox says it is full; returns how many."""
        count = 1
        while not self.outbox.write(BLOCK):
            count += 1
        return count

    async def read(self, count: int) -> int:
        """Take up to `count` bytes as they come; fewer if the stream ends."""
        loop, taken = asyncio.get_running_loop(), 0
        while taken < count:
            data = await loop.sock_recv(self.theirs, min(count - taken, 65536))
            if not data:
                break
            taken += len(data)
        return taken


@contextmanager
def wire(**options: Any) -> Iterator[Wire]:
    made = Wire(**options)
    try:
        yield made
    finally:
        made.outbox.close()
        made.stream.close()
        made.theirs.close()


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await scenario()

    asyncio.run(bounded())


def test_the_counters_of_tornados_stream_are_what_the_outbox_takes_them_for() -> None:
    """They are private to Tornado. Should it change them, then here and not in production."""

    async def scenario() -> None:
        with wire() as one:
            stream = one.stream
            assert (stream._total_write_index, stream._total_write_done_index) == (0, 0)
            stream.write(b"12345")
            assert (stream._total_write_index, stream._total_write_done_index) == (5, 5)
            assert not stream._write_futures
            large = stream.write(b"x" * 1_000_000)
            assert stream._total_write_index == 1_000_005
            taken = stream._total_write_done_index
            assert 5 < taken < 1_000_005
            assert list(stream._write_futures) == [(1_000_005, large)]
            last = stream.write(b"y")
            assert list(stream._write_futures) == [(1_000_005, large), (1_000_006, last)]
            await one.read(500_000)
            assert 500_000 <= stream._total_write_done_index < 1_000_006
            assert not large.done()
            await one.read(500_006)
            await last
            assert large.done()
            assert stream._total_write_done_index == 1_000_006
            assert not stream._write_futures
            assert stream._read_buffer_size == 0

    run(scenario)


def test_what_goes_out_at_once_and_what_waits_come_out_in_order() -> None:
    async def scenario() -> None:
        rng = random.Random(7)
        with wire() as one:
            sent, received = bytearray(), bytearray()
            for _ in range(300):
                data = rng.randbytes(rng.choice([0, 1, 100, 3000, 70_000]))
                # Tornado writes to the stream too: answers to pings, and the close frame.
                if rng.random() < 0.2:
                    one.stream.write(data)
                else:
                    one.outbox.write(data)
                sent += data
                if rng.random() < 0.7:
                    with suppress(BlockingIOError):
                        received += one.theirs.recv(rng.choice([1000, 200_000]))
                if rng.random() < 0.5:
                    await asyncio.sleep(0)
            while len(received) < len(sent):
                received += await asyncio.get_running_loop().sock_recv(one.theirs, 65536)
            assert received == sent
            await until_in_loop(lambda: one.outbox.size_bytes == 0, "all is taken")
            assert one.outbox.taken_bytes == len(sent)

    run(scenario)


def test_what_the_kernel_takes_at_once_is_never_in_the_outbox() -> None:
    async def scenario() -> None:
        with wire() as one:
            for _ in range(1000):
                assert one.outbox.write(BLOCK) is False
                assert one.outbox.size_bytes == 0
                assert await one.read(1000) == 1000
            assert one.outbox.taken_bytes == 1_000_000
            await one.outbox.drained()
            assert one.drained_at == []

    run(scenario)


def test_above_the_high_mark_it_is_full_and_at_the_low_mark_drained_once() -> None:
    async def scenario() -> None:
        with wire() as one:
            count = one.fill()
            assert HIGH < one.outbox.size_bytes <= HIGH + len(BLOCK)
            assert one.outbox.is_full
            for _ in range(3):
                assert one.outbox.write(BLOCK) is True
            assert one.drained_at == []
            # Between the marks it is still full.
            await one.read(40_000)
            await asyncio.sleep(0)
            assert LOW < one.outbox.size_bytes < HIGH
            assert one.outbox.is_full
            assert one.outbox.write(BLOCK) is True
            await one.read((count + 4) * 1000 - 40_000)
            await until_in_loop(lambda: one.drained_at, "drained")
            assert len(one.drained_at) == 1
            assert one.drained_at[0] <= LOW
            assert not one.outbox.is_full
            assert one.outbox.write(BLOCK) is False

    run(scenario)


def test_each_time_it_was_full_is_drained_once() -> None:
    async def scenario() -> None:
        with wire() as one:
            for _ in range(5):
                count = one.fill()
                await one.read(count * 1000)
                await until_in_loop(lambda: one.drained_at, "drained")
                assert len(one.drained_at) == 1
                one.drained_at.clear()

    run(scenario)


def test_one_write_larger_than_all_marks_is_drained_when_it_is_gone() -> None:
    async def scenario() -> None:
        with wire() as one:
            assert one.outbox.write(b"x" * 3_000_000) is True
            await one.read(2_900_000)
            assert one.drained_at == []
            await one.read(100_000)
            await until_in_loop(lambda: one.drained_at, "drained")
            assert one.drained_at == [0]

    run(scenario)


def test_those_who_wait_for_it_to_drain_wait_exactly_so_long() -> None:
    async def scenario() -> None:
        with wire() as one:
            count = one.fill()
            waiting = [asyncio.ensure_future(one.outbox.drained()) for _ in range(2)]
            await one.read(30_000)
            await asyncio.sleep(0.01)
            assert not any(task.done() for task in waiting)
            waiting[0].cancel()
            await one.read(count * 1000 - 30_000)
            await waiting[1]
            assert waiting[0].cancelled()

    run(scenario)


@pytest.mark.parametrize("closes", ["outbox", "stream"])
def test_once_closed_it_swallows_what_it_is_given_and_nobody_waits(closes: str) -> None:
    async def scenario() -> None:
        with wire() as one:
            one.fill()
            waiting = asyncio.ensure_future(one.outbox.drained())
            await asyncio.sleep(0)
            if closes == "stream":
                one.stream.close()
            one.outbox.close()
            await waiting
            size = one.outbox.size_bytes
            assert one.outbox.write(BLOCK) is False
            assert one.outbox.size_bytes == size
            await one.outbox.drained()
            assert one.drained_at == []

    run(scenario)


def test_what_was_written_before_it_was_closed_still_goes_out() -> None:
    async def scenario() -> None:
        with wire() as one:
            count = one.fill()
            one.outbox.close()
            one.outbox.write(b"not this")
            assert await one.read(count * 1000) == count * 1000
            one.stream.close()
            assert await one.read(1) == 0
            assert one.drained_at == []

    run(scenario)


def test_a_peer_that_goes_ends_it_quietly() -> None:
    async def scenario() -> None:
        with wire() as one:
            one.fill()
            one.theirs.close()
            await until_in_loop(one.stream.closed, "closed")
            assert one.outbox.write(BLOCK) is False
            await asyncio.sleep(0)
            assert one.drained_at == []

    run(scenario)


def test_a_peer_that_takes_nothing_is_told_once() -> None:
    async def scenario() -> None:
        with wire(stall_seconds=0.05) as one:
            one.fill()
            await until_in_loop(lambda: one.stalls, "stalled")
            await asyncio.sleep(0.15)
            assert one.stalls == 1

    run(scenario)


def test_a_peer_that_takes_a_little_now_and_then_is_not_stalled() -> None:
    async def scenario() -> None:
        with wire(stall_seconds=0.1) as one:
            one.fill()
            one.outbox.write(b"x" * 1_000_000)
            for _ in range(30):
                await one.read(20_000)
                await asyncio.sleep(0.02)
            assert one.outbox.is_full
            assert one.stalls == 0

    run(scenario)


def test_a_full_outbox_that_drains_is_not_stalled_later() -> None:
    async def scenario() -> None:
        with wire(stall_seconds=0.05) as one:
            count = one.fill()
            await one.read(count * 1000)
            await until_in_loop(lambda: one.drained_at, "drained")
            await asyncio.sleep(0.15)
            assert one.stalls == 0

    run(scenario)
