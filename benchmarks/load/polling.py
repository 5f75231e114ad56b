"""Readers by HTTP: long-pollers that follow a topic, and one that reads it from its beginning."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Any

from benchmarks.dialects import Dialect
from benchmarks.load.calls import Caller
from benchmarks.load.received import Received, complaints
from benchmarks.load.stage import Stage
from benchmarks.messages import FIRST, LAST_MARK

_FIRST_MARK = b'"n":%d' % FIRST


class Poller:
    """One client: polls, keeps what it got, polls again after that, until it has the last message."""

    def __init__(self, next_poll: Callable[[bytes], bytes]) -> None:
        loop = asyncio.get_running_loop()
        self._next_poll = next_poll
        self._answer = b""
        self.received = Received()
        self.polls = 0
        self.refused: bytes | None = None
        self.has_first: asyncio.Future[None] = loop.create_future()
        self.has_last: asyncio.Future[int] = loop.create_future()

    async def start(self, port: int) -> None:
        self._caller = await Caller.connect(port, self._answered)
        self._caller.send(self._next_poll(b""))

    def close(self) -> None:
        self._caller.close()

    def _answered(self, caller: Caller, answer: bytes) -> None:
        now = monotonic_ns()
        if answer[9:12] != b"200":
            self.refused = answer[:500]
            self._finish(-1)
            return
        self.polls += 1
        if b'"n":' in answer:
            self._answer = answer
            self.received.pieces.append(answer)
            self.received.times.append(now)
            if not self.has_first.done() and _FIRST_MARK in answer:
                self.has_first.set_result(None)
        if LAST_MARK in answer:
            self._finish(now)
        else:
            caller.send(self._next_poll(self._answer))

    def _finish(self, at: int) -> None:
        if not self.has_first.done():
            self.has_first.set_exception(RuntimeError(f"the first poll: {self.refused!r}"))
        if not self.has_last.done():
            self.has_last.set_result(at)


async def poll_all(
    stage: Stage, port: int, dialect: Dialect, topic: str, pollers: int, limit: float
) -> dict[str, Any]:
    """Long-pollers of one topic, from its first message, which is there already, to its last.

    Hears the numbers of what was published meanwhile.
    """
    readers = [Poller(lambda answer: dialect.poll(topic, answer)) for _ in range(pollers)]
    for reader in readers:
        await reader.start(port)
    await asyncio.wait_for(asyncio.gather(*(reader.has_first for reader in readers)), limit)
    stage.say("ready")
    numbers: Sequence[int] = await stage.hear()
    done, _ = await asyncio.wait([reader.has_last for reader in readers], timeout=limit)
    ended = max((each.result() for each in done), default=-1)
    return _report(readers, numbers) | {"ended": ended}


async def read_back(
    stage: Stage, port: int, dialect: Dialect, topic: str, numbers: Sequence[int], limit: float
) -> dict[str, Any]:
    """One reader, page after page, from the oldest message to the last."""
    reader = Poller(lambda answer: dialect.poll(topic, answer))
    stage.say("ready")
    await stage.hear()
    started = monotonic_ns()
    await reader.start(port)
    await asyncio.wait([reader.has_last], timeout=limit)
    ended = reader.has_last.result() if reader.has_last.done() else -1
    stage.say("ended")
    return _report([reader], numbers) | {"seconds": (ended - started) / 1e9}


def _report(readers: Sequence[Poller], numbers: Sequence[int]) -> dict[str, Any]:
    for reader in readers:
        reader.close()
    found = complaints([reader.received for reader in readers], numbers)
    found["refused"] = sum(reader.refused is not None for reader in readers)
    return {
        "complaints": found,
        "polls": sum(reader.polls for reader in readers),
        "deliveries": sum(len(reader.received.numbers()) for reader in readers),
    }
