"""Subscribers on WebSockets and event streams: they keep what comes and look only for the last message."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from time import monotonic_ns
from typing import Any

from benchmarks.dialects import Subscription
from benchmarks.load.received import Received, complaints
from benchmarks.load.stage import Stage
from benchmarks.load.times import milliseconds
from benchmarks.messages import FIRST, LAST_MARK

SETTLE_SECONDS = 1.0
CONNECT_SECONDS = 30.0
AT_ONCE = 64
"""Connections being made at the same time, below any server's backlog."""
PING = 0x89
"""First byte of a WebSocket's ping; no event stream begins with it."""
_FIRST_MARK = b'"n":%d' % FIRST


class Subscriber(asyncio.Protocol):
    """One connection that receives."""

    def __init__(self, subscription: Subscription) -> None:
        loop = asyncio.get_running_loop()
        self._subscription = subscription
        self._answer = b""
        self.is_there: asyncio.Future[None] = loop.create_future()
        """Done when the target has confirmed the subscription."""
        self.has_first: asyncio.Future[None] = loop.create_future()
        self.has_last: asyncio.Future[int] = loop.create_future()
        """When the last message came, or -1 for a connection that was lost before."""
        self.received = Received()
        self._seam = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.transport.write(self._subscription.request)

    def data_received(self, data: bytes) -> None:
        if not self.is_there.done():
            data = self._greeted(data)
        elif data[0] == PING:
            self._pong(data)
        received = self.received
        received.pieces.append(data)
        received.times.append(monotonic_ns())
        if LAST_MARK in data or LAST_MARK in self._seam + data[:20]:
            if not self.has_last.done():
                self.has_last.set_result(received.times[-1])
        elif not self.has_first.done() and _FIRST_MARK in b"".join(received.pieces):
            self.has_first.set_result(None)
        self._seam = data[-20:]

    def _pong(self, data: bytes) -> None:
        """A ping has a piece of its own wherever it matters: on a connection that is quiet."""
        self.transport.write(bytes((0x8A, 0x80 | data[1])) + b"\0\0\0\0" + data[2 : 2 + data[1]])

    def _greeted(self, data: bytes) -> bytes:
        """What is left for `received` of an answer to the handshake."""
        self._answer += data
        head_end = self._answer.find(b"\r\n\r\n") + 4
        if head_end < 4:
            return b""
        if self._answer[9:12] not in (b"101", b"200"):
            self.is_there.set_exception(RuntimeError(f"refused: {self._answer[:300]!r}"))
            return b""
        if self._subscription.frame:
            self.transport.write(self._subscription.frame)
            self._subscription = Subscription(b"", b"", self._subscription.confirmation)
        if self._subscription.confirmation not in self._answer:
            return b""
        self.is_there.set_result(None)
        return self._answer[head_end:]

    def connection_lost(self, error: Exception | None) -> None:
        if not self.is_there.done():
            self.is_there.set_exception(ConnectionError("closed during the handshake"))
        if not self.has_last.done():
            self.has_last.set_result(-1)


async def connect_all(
    port: int, subscriptions: Sequence[Subscription], *, receive_buffer: int = 0
) -> list[Subscriber]:
    """All confirmed, in order. Raises what the first that failed met."""
    loop = asyncio.get_running_loop()
    turn = asyncio.Semaphore(AT_ONCE)

    async def connect(subscription: Subscription) -> Subscriber:
        async with turn:
            connection = socket.socket()
            if receive_buffer:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            connection.setblocking(False)
            await loop.sock_connect(connection, ("127.0.0.1", port))
            _, subscriber = await loop.create_connection(lambda: Subscriber(subscription), sock=connection)
            await asyncio.wait_for(subscriber.is_there, CONNECT_SECONDS)
            return subscriber

    return await asyncio.gather(*(connect(subscription) for subscription in subscriptions))


async def receive_all(
    stage: Stage, port: int, subscriptions: Sequence[Subscription], slow: Subscription | None, limit: float
) -> dict[str, Any]:
    """Subscribe, wait for the first message, then for the last one.

    With `slow` there is one more, which reads nothing until all others are done, and then as fast as it can.
    Hears what should have been received: the number of topics, of messages. What is still missing then is
    waited for a moment longer, for targets that send out of order.
    """
    subscribers = await connect_all(port, subscriptions)
    late = await connect_all(port, [slow], receive_buffer=4096) if slow else []
    stage.say("there")
    await asyncio.wait_for(asyncio.gather(*(each.has_first for each in [*subscribers, *late])), limit)
    for subscriber in late:
        subscriber.transport.pause_reading()
    stage.say("ready")
    expected: Sequence[Sequence[int]] = await stage.hear()
    done, _ = await asyncio.wait([each.has_last for each in subscribers], timeout=limit)
    ended = max((each.result() for each in done), default=-1)
    for subscriber in late:
        subscriber.transport.resume_reading()
    late_done, _ = await asyncio.wait([each.has_last for each in late], timeout=limit) if late else ([], None)
    found = _judge(subscribers, expected)
    if any(found.values()):
        await asyncio.sleep(SETTLE_SECONDS)
        found = _judge(subscribers, expected)
    for name, count in _judge(late, expected[:1]).items():
        found[name] += count
    found["closed"] = sum(
        each.has_last.done() and each.has_last.result() < 0 for each in [*subscribers, *late]
    )
    for subscriber in [*subscribers, *late]:
        subscriber.transport.abort()
    # Each message to each of its topic's subscribers, the last one too.
    deliveries = sum(len(numbers) + 1 for numbers in expected) * len(subscribers) // len(expected)
    late_at = max((each.result() for each in late_done), default=-1)
    return {
        "ended": ended,
        "deliveries": deliveries,
        "complaints": found,
        "late_seconds": (late_at - ended) / 1e9 if late else None,
    }


def _judge(subscribers: Sequence[Subscriber], expected: Sequence[Sequence[int]]) -> dict[str, int]:
    """Of several topics, the nth subscriber has the nth."""
    found: dict[str, int] = {}
    share = len(subscribers) if len(expected) == 1 else 1
    for index, numbers in enumerate(expected):
        if of_one_topic := [each.received for each in subscribers[index * share : (index + 1) * share]]:
            for name, count in complaints(of_one_topic, numbers).items():
                found[name] = found.get(name, 0) + count
    return found


async def receive_and_time(
    stage: Stage, port: int, subscriptions: Sequence[Subscription], limit: float
) -> dict[str, Any]:
    """As `receive_all`; hears when each message was sent, and tells how long each was on its way."""
    subscribers = await connect_all(port, subscriptions)
    stage.say("there")
    await asyncio.wait_for(asyncio.gather(*(each.has_first for each in subscribers)), limit)
    stage.say("ready")
    sent: dict[int, int] = await stage.hear()
    await asyncio.wait([each.has_last for each in subscribers], timeout=limit)
    found = _judge(subscribers, [list(sent)])
    if any(found.values()):
        await asyncio.sleep(SETTLE_SECONDS)
        found = _judge(subscribers, [list(sent)])
    durations: list[int] = []
    for subscriber in subscribers:
        arrivals = subscriber.received.arrivals()
        durations += [arrivals[number] - at for number, at in sent.items() if number in arrivals]
        subscriber.transport.abort()
    return {"deliveries": len(durations), "complaints": found, **milliseconds(durations)}


async def hold(stage: Stage, port: int, subscriptions: Sequence[Subscription]) -> dict[str, Any]:
    """Connect when told, tell how long it took, and stay until told to go."""
    stage.say("ready")
    await stage.hear()
    started = monotonic_ns()
    subscribers = await connect_all(port, subscriptions)
    seconds = (monotonic_ns() - started) / 1e9
    stage.say("there")
    await stage.hear()
    lost = sum(each.has_last.done() for each in subscribers)
    for subscriber in subscribers:
        subscriber.transport.abort()
    return {"seconds": seconds, "closed": lost}


async def catch_up(
    stage: Stage, port: int, subscriptions: Sequence[Subscription], numbers: Sequence[int], limit: float
) -> dict[str, Any]:
    """Connect when told, all at the same time, and receive what is there already up to the last message."""
    stage.say("ready")
    await stage.hear()
    started = monotonic_ns()
    subscribers = await connect_all(port, subscriptions)
    done, _ = await asyncio.wait([each.has_last for each in subscribers], timeout=limit)
    ended = max((each.result() for each in done), default=-1)
    stage.say("ended")
    found = _judge(subscribers, [numbers])
    found["closed"] = sum(each.has_last.done() and each.has_last.result() < 0 for each in subscribers)
    for subscriber in subscribers:
        subscriber.transport.abort()
    deliveries = len(subscribers) * (len(numbers) + 2)
    return {"seconds": (ended - started) / 1e9, "deliveries": deliveries, "complaints": found}
