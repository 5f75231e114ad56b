"""Outbox: what a connection has not taken, on real sockets."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
import uvloop

from pulsar_relay.web.outbox import Outbox
from tests.conditions import WAIT_SECONDS, until_in_loop
from tests.quiet_logs import quiet_logs as quiet_logs

BLOCK = b"x" * 1000
HIGH, LOW = 100_000, 20_000


class Owner(asyncio.Protocol):
    """The protocol of a transport whose outbox it has."""

    def __init__(self, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self.drained_at: list[int] = []
        self.stalls = 0
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.outbox = Outbox(
            self.transport, self, high_bytes=HIGH, low_bytes=LOW, stall_seconds=self._stall_seconds
        )

    def pause_writing(self) -> None:
        self.outbox.pause_writing()

    def resume_writing(self) -> None:
        self.outbox.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self.outbox.close()

    def on_drained(self) -> None:
        self.drained_at.append(self.outbox.size_bytes)

    def on_stalled(self) -> None:
        self.stalls += 1


class Wire:
    """An outbox on one end of a connection; `read` and `close` are the other end's."""

    def __init__(self, owner: Owner, theirs: socket.socket) -> None:
        self.owner = owner
        self.theirs = theirs
        self.transport = owner.transport
        self.outbox = owner.outbox

    @property
    def drained_at(self) -> list[int]:
        return self.owner.drained_at

    @property
    def stalls(self) -> int:
        return self.owner.stalls

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


@asynccontextmanager
async def wire(stall_seconds: float = 60.0) -> AsyncIterator[Wire]:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.setblocking(False)
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    _, owner = await loop.connect_accepted_socket(lambda: Owner(stall_seconds), ours)
    try:
        yield Wire(owner, theirs)
    finally:
        owner.outbox.close()
        owner.transport.abort()
        theirs.close()
        await until_in_loop(lambda: owner.is_lost, "closed")


Scenario = Callable[[], Coroutine[Any, Any, None]]
Run = Callable[[Scenario], None]
LOOPS = (asyncio.new_event_loop, uvloop.new_event_loop)


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    """Runs a scenario, on each of the loops that a relay may have."""

    async def bounded(scenario: Scenario) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await scenario()

    def run(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(bounded(scenario))

    return run


def test_what_goes_out_at_once_and_what_waits_come_out_in_order(run: Run) -> None:
    async def scenario() -> None:
        rng = random.Random(7)
        async with wire() as one:
            sent, received = bytearray(), bytearray()
            for _ in range(300):
                data = rng.randbytes(rng.choice([0, 1, 100, 3000, 70_000]))
                # Replies, among what is delivered.
                if rng.random() < 0.2:
                    one.outbox.write_soon(data)
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

    run(scenario)


def test_what_the_kernel_takes_is_not_in_the_outbox(run: Run) -> None:
    async def scenario() -> None:
        async with wire() as one:
            for _ in range(1000):
                assert one.outbox.write(BLOCK) is False
                assert await one.read(1000) == 1000
                assert one.outbox.size_bytes == 0
            assert one.drained_at == []

    run(scenario)


def test_above_the_high_mark_it_is_full_and_at_the_low_mark_drained_once(run: Run) -> None:
    async def scenario() -> None:
        async with wire() as one:
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


def test_each_time_it_was_full_is_drained_once(run: Run) -> None:
    async def scenario() -> None:
        async with wire() as one:
            for _ in range(5):
                count = one.fill()
                await one.read(count * 1000)
                await until_in_loop(lambda: one.drained_at, "drained")
                assert len(one.drained_at) == 1
                one.drained_at.clear()

    run(scenario)


def test_one_write_larger_than_all_marks_is_drained_once_when_it_is_as_good_as_gone(run: Run) -> None:
    async def scenario() -> None:
        async with wire() as one:
            assert one.outbox.write(b"x" * 3_000_000) is True
            await one.read(2_900_000)
            assert one.drained_at == []
            await one.read(100_000)
            await until_in_loop(lambda: one.drained_at, "drained")
            [size] = one.drained_at
            assert size <= LOW

    run(scenario)


@pytest.mark.parametrize("closes", ["outbox", "transport"])
def test_once_closed_it_swallows_what_it_is_given(run: Run, closes: str) -> None:
    async def scenario() -> None:
        async with wire() as one:
            count = one.fill()
            if closes == "transport":
                one.transport.abort()
                await until_in_loop(lambda: one.owner.is_lost, "closed")
            one.outbox.close()
            size = one.outbox.size_bytes
            assert one.outbox.write(BLOCK) is False
            assert one.outbox.size_bytes == size
            await one.read(count * 1000)
            await until_in_loop(lambda: one.outbox.size_bytes == 0, "all is gone")
            assert one.drained_at == []

    run(scenario)


def test_what_was_written_before_it_was_closed_still_goes_out(run: Run) -> None:
    async def scenario() -> None:
        async with wire() as one:
            count = one.fill()
            one.outbox.close()
            one.outbox.write(b"not this")
            assert await one.read(count * 1000) == count * 1000
            one.transport.close()
            assert await one.read(1) == 0
            assert one.drained_at == []

    run(scenario)


def test_replies_of_one_turn_are_one_write(run: Run) -> None:
    async def scenario() -> None:
        async with wire() as one:
            writes: list[bytes] = []
            real = one.transport

            class Counting:
                def write(self, data: bytes) -> None:
                    writes.append(data)
                    real.write(data)

                def is_closing(self) -> bool:
                    return real.is_closing()

            one.outbox._transport = Counting()  # type: ignore[assignment]
            for _ in range(100):
                one.outbox.write_soon(b"reply")
            assert writes == []
            await asyncio.sleep(0)
            assert writes == [b"reply" * 100]
            one.outbox.write_soon(b"a")
            one.outbox.write(b"b")
            one.outbox.write_soon(b"c")
            one.outbox.close()
            one.outbox.write_soon(b"d")
            assert writes[1:] == [b"a", b"b", b"c"]
            assert await one.read(503) == 503

    run(scenario)


def test_a_peer_that_goes_ends_it_quietly(run: Run) -> None:
    async def scenario() -> None:
        async with wire() as one:
            one.fill()
            one.theirs.close()
            await until_in_loop(lambda: one.owner.is_lost, "closed")
            assert one.outbox.write(BLOCK) is False
            await asyncio.sleep(0)
            assert one.drained_at == []

    run(scenario)


def test_progress_is_another_exactly_if_the_kernel_took_something(run: Run) -> None:
    async def scenario() -> None:
        async with wire() as one:
            one.fill()
            before = one.outbox.progress()
            one.outbox.write(BLOCK)
            one.outbox.write(b"")
            assert one.outbox.progress() == before
            await one.read(50_000)
            await until_in_loop(lambda: one.outbox.progress() != before, "something went out")

    run(scenario)


def test_the_write_that_made_it_full_is_no_progress(run: Run) -> None:
    async def scenario() -> None:
        async with wire(stall_seconds=0.3) as one:
            began = asyncio.get_running_loop().time()
            one.outbox.progress()
            one.fill()
            await until_in_loop(lambda: one.stalls, "stalled")
            assert asyncio.get_running_loop().time() - began < 0.55

    run(scenario)


def test_a_peer_that_takes_nothing_is_told_once(run: Run) -> None:
    async def scenario() -> None:
        async with wire(stall_seconds=0.05) as one:
            one.fill()
            await until_in_loop(lambda: one.stalls, "stalled")
            await asyncio.sleep(0.15)
            assert one.stalls == 1

    run(scenario)


def test_a_peer_that_takes_a_little_now_and_then_is_not_stalled(run: Run) -> None:
    async def scenario() -> None:
        async with wire(stall_seconds=0.1) as one:
            one.fill()
            one.outbox.write(b"x" * 1_000_000)
            for _ in range(30):
                await one.read(20_000)
                await asyncio.sleep(0.02)
            assert one.outbox.is_full
            assert one.stalls == 0

    run(scenario)


def test_a_full_outbox_that_drains_is_not_stalled_later(run: Run) -> None:
    async def scenario() -> None:
        async with wire(stall_seconds=0.05) as one:
            count = one.fill()
            await one.read(count * 1000)
            await until_in_loop(lambda: one.drained_at, "drained")
            await asyncio.sleep(0.15)
            assert one.stalls == 0

    run(scenario)
