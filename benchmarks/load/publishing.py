"""Publishers: crowds that wait for each answer, one that keeps a pace, WebSockets with many on their way."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Sequence
from time import monotonic_ns
from typing import Any

from benchmarks.load.calls import Caller
from benchmarks.load.stage import Stage
from benchmarks.load.times import milliseconds
from benchmarks.messages import FIRST, MESSAGE_ID, Template

ANSWER_SECONDS = 30.0
CONNECTIONS = 32
"""Where one message of each of many topics is published."""
_ACCEPTED = re.compile(rb"HTTP/1\.[01] 20[0-9] ")
REJECTED = b'"rejected",'
"""In a result; the summary has a number by that name."""
_REF = re.compile(rb'"ref":(1\d{9})')


async def publish_each(_: Stage, port: int, templates: Sequence[Template], number: int) -> list[str]:
    """One message of each, on a few connections.

    Returns their ids, empty for targets that tell none; raises RuntimeError if one is refused.
    """
    ids = [""] * len(templates)

    async def publish(indexes: range) -> None:
        answers: asyncio.Queue[bytes] = asyncio.Queue()
        caller = await Caller.connect(port, lambda _, answer: answers.put_nowait(answer))
        for index in indexes:
            caller.send(templates[index].fill(number))
            answer = await asyncio.wait_for(answers.get(), ANSWER_SECONDS)
            if not _ACCEPTED.match(answer) or REJECTED in answer:
                raise RuntimeError(f"a publish was refused: {answer[:500]!r}")
            if found := MESSAGE_ID.search(answer):
                ids[index] = f"{found[1].decode()}-{found[2].decode()}"
        caller.close()

    turns = [range(first, len(templates), CONNECTIONS) for first in range(min(CONNECTIONS, len(templates)))]
    await asyncio.gather(*map(publish, turns))
    return ids


class Crowd:
    """Connections that each publish, wait for the answer, and publish again, until they are told to end.

    The topics take turns: message `FIRST + n` goes to the nth template, and so on around.
    """

    def __init__(self, templates: Sequence[Template]) -> None:
        self._templates = templates
        self._messages = templates[0].messages
        self._numbers = itertools.count(FIRST + 1, self._messages)
        self._started: dict[Caller, int] = {}
        self._is_ending = False
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.latencies: list[int] = []
        self.refused: list[bytes] = []
        self._most = 0
        self._begun = 0

    async def gather(self, port: int, connections: int) -> None:
        self._callers = [await Caller.connect(port, self._answered) for _ in range(connections)]

    async def publish(self, seconds: float, most: int = 0) -> None:
        """For so long, or `most` requests (0: no limit). Returns after the last answer."""
        self._most = most
        self._at_work = set(self._callers)
        for caller in self._callers:
            self._next(caller)
        asyncio.get_running_loop().call_later(seconds, self._end)
        await asyncio.wait_for(self._ended, seconds + ANSWER_SECONDS)
        for caller in self._callers:
            caller.close()

    @property
    def published(self) -> int:
        return len(self.latencies) * self._messages

    def _end(self) -> None:
        self._is_ending = True

    def _next(self, caller: Caller) -> None:
        if self._is_ending or self._begun == self._most > 0:
            self._leave(caller)
            return
        self._begun += 1
        number = next(self._numbers)
        template = self._templates[(number - FIRST - 1) // self._messages % len(self._templates)]
        self._started[caller] = monotonic_ns()
        caller.send(template.fill(number))

    def _answered(self, caller: Caller, answer: bytes) -> None:
        if answer[9:11] == b"20" and REJECTED not in answer:
            self.latencies.append(monotonic_ns() - self._started[caller])
            self._next(caller)
        else:
            self.refused.append(answer[:500])
            self._leave(caller)

    def _leave(self, caller: Caller) -> None:
        self._started.pop(caller, None)
        self._at_work.discard(caller)
        if not self._at_work and not self._ended.done():
            self._ended.set_result(None)


async def publish_in_crowd(
    stage: Stage, port: int, templates: Sequence[Template], connections: int, seconds: float, most: int = 0
) -> dict[str, Any]:
    """Closed loop: what this tells of latency is a request's with so many others under way."""
    crowd = Crowd(templates)
    await crowd.gather(port, connections)
    stage.say("ready")
    await stage.hear()
    started = monotonic_ns()
    await crowd.publish(seconds, most)
    return {
        "started": started,
        "published": crowd.published,
        "seconds": (monotonic_ns() - started) / 1e9,
        "refused": [answer.decode("latin-1") for answer in crowd.refused],
        **milliseconds(crowd.latencies),
    }


async def publish_at_pace(
    stage: Stage, port: int, template: Template, rate: float, messages: int, connections: int
) -> dict[str, Any]:
    """Open loop: a message every 1/`rate` s on the next free connection, whatever has become of the last.

    Returns when each was sent, by number; where the target held up all connections, when it was due.
    """
    free: asyncio.Queue[Caller] = asyncio.Queue()
    refused: list[bytes] = []

    def answered(caller: Caller, answer: bytes) -> None:
        if answer[9:11] != b"20":
            refused.append(answer[:500])
        free.put_nowait(caller)

    for _ in range(connections):
        free.put_nowait(await Caller.connect(port, answered))
    stage.say("ready")
    await stage.hear()
    sent: dict[int, int] = {}
    started = monotonic_ns()
    for index in range(messages):
        due = started + round(index / rate * 1e9)
        await asyncio.sleep((due - monotonic_ns()) / 1e9)
        is_held_up = free.empty()
        caller = await free.get()
        sent[FIRST + 1 + index] = due if is_held_up else monotonic_ns()
        caller.send(template.fill(FIRST + 1 + index))
    for _ in range(connections):
        (await asyncio.wait_for(free.get(), ANSWER_SECONDS)).close()
    return {"sent": sent, "refused": [answer.decode("latin-1") for answer in refused]}


class FramePublisher(asyncio.Protocol):
    """A WebSocket that keeps `window` publishes on their way."""

    def __init__(self, handshake: bytes, template: Template, numbers: itertools.count[int]) -> None:
        self._handshake = handshake
        self._template = template
        self._numbers = numbers
        self.is_open = asyncio.get_running_loop().create_future()
        self.ended = asyncio.get_running_loop().create_future()
        self.sent: dict[int, int] = {}
        self.latencies: list[int] = []
        self.refused: list[bytes] = []
        self.is_ending = False
        self._rest = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.transport.write(self._handshake)

    def data_received(self, data: bytes) -> None:
        if not self.is_open.done():
            self.is_open.set_result(data.startswith(b"HTTP/1.1 101"))
            return
        data = self._rest + data
        # Frames are whole up to the last closing brace.
        end = data.rfind(b"}") + 1
        self._rest = data[end:]
        now = monotonic_ns()
        answered = [int(ref) for ref in _REF.findall(data, 0, end)]
        for ref in answered:
            self.latencies.append(now - self.sent.pop(ref))
        if b'"type":"error"' in data:
            self.refused.append(data[:500])
            self.is_ending = True
        if not self.is_ending:
            self.send(len(answered))
        elif not self.sent and not self.ended.done():
            self.ended.set_result(None)

    def send(self, frames: int) -> None:
        now = monotonic_ns()
        numbers = [next(self._numbers) for _ in range(frames)]
        self.sent.update(dict.fromkeys(numbers, now))
        self.transport.write(b"".join([self._template.fill(number) for number in numbers]))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.refused.append(b"the connection was closed")
            self.ended.set_result(None)


async def publish_frames(
    stage: Stage,
    port: int,
    handshake: bytes,
    template: Template,
    connections: int,
    window: int,
    seconds: float,
) -> dict[str, Any]:
    """WebSocket publishing with so many on their way on each connection."""
    loop = asyncio.get_running_loop()
    numbers = itertools.count(FIRST + 1)
    publishers: list[FramePublisher] = []
    for _ in range(connections):
        _, publisher = await loop.create_connection(
            lambda: FramePublisher(handshake, template, numbers), "127.0.0.1", port
        )
        if not await publisher.is_open:
            raise RuntimeError("the WebSocket was refused")
        publishers.append(publisher)
    stage.say("ready")
    await stage.hear()
    started = monotonic_ns()
    for publisher in publishers:
        publisher.send(window)
    await asyncio.sleep(seconds)
    for publisher in publishers:
        publisher.is_ending = True
    await asyncio.wait_for(asyncio.gather(*(each.ended for each in publishers)), ANSWER_SECONDS)
    took = (monotonic_ns() - started) / 1e9
    latencies = list(itertools.chain.from_iterable(each.latencies for each in publishers))
    for publisher in publishers:
        publisher.transport.abort()
    return {
        "published": len(latencies),
        "seconds": took,
        "refused": [answer.decode("latin-1") for each in publishers for answer in each.refused],
        **milliseconds(latencies),
    }
