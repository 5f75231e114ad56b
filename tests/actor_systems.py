"""Actor systems for the tests of the runtime, on each kind of loop, and actors that tell what they saw."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop
from thespian.actors import Actor, ActorSystem

from actors.runtime import AsyncioSystemBase, LoopActor

PATIENCE_SECONDS = 10 * float(os.environ.get("TEST_PATIENCE", "1"))
"""How long a test waits for what must happen; only a failing test waits so long."""

Main = Callable[[], Coroutine[Any, Any, None]]


class RunOn:
    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._new_loop = new_loop

    def __call__(self, main: Main) -> None:
        with asyncio.Runner(debug=True, loop_factory=self._new_loop) as runner:
            # A busy machine is no finding: debug mode logs callbacks that took long.
            runner.get_loop().slow_callback_duration = PATIENCE_SECONDS
            runner.run(asyncio.wait_for(main(), PATIENCE_SECONDS))


on_each_loop = pytest.mark.parametrize(
    "run", [RunOn(asyncio.new_event_loop), RunOn(uvloop.new_event_loop)], ids=["asyncio", "uvloop"]
)


@contextmanager
def actor_system(**options: Any) -> Iterator[tuple[ActorSystem, AsyncioSystemBase]]:
    base = AsyncioSystemBase(**options)
    system = ActorSystem(systemBase=base, transientUnique=True)
    try:
        yield system, base
    finally:
        system.shutdown()


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0)


class Recorder(LoopActor):
    """Keeps what it gets: `seen` has the messages, `senders` who sent each."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.senders: list[Any] = []

    def receiveMessage(self, message: Any, sender: Any) -> None:
        self.seen.append(message)
        self.senders.append(sender)


class Echo(LoopActor):
    """Answers with what it was sent."""

    def receiveMessage(self, message: Any, sender: Any) -> None:
        self.send(sender, message)


class Caller(LoopActor):
    """Calls each function it is sent with itself and the sender: a handler of the test's own making."""

    def receiveMessage(self, message: Any, sender: Any) -> None:
        if callable(message):
            message(self, sender)


class PlainCaller(Actor):  # type: ignore[misc]
    """The same, as a plain Thespian actor."""

    def receiveMessage(self, message: Any, sender: Any) -> None:
        if callable(message):
            message(self, sender)
