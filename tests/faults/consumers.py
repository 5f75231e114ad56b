"""The consumers of a load, a process of its own: `python -m tests.faults.consumers <ConsumersPlan as JSON>`.

Each writes down in `<directory>/consumer-<name>.jsonl` what comes, before anybody looks whether it came
before, keeps its cursors as a good client does, and goes to the next relay when there is trouble.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.faults.http import HttpConnection, LostError, UnsentError
from tests.faults.orders import Orders
from tests.faults.records import Attached, Content, Detached, Log, Noticed, Received, place

AGAIN_SECONDS = 0.05
"""From the end of a session to the next one."""
POLL_SECONDS = 2.0
SILENCE_SECONDS = 30.0
"""A connection that says nothing for so long, no ping and no comment, is given up."""
ACKNOWLEDGED_EVERY = 5
"""Messages of a topic."""
LINGER_SECONDS = 0.2
"""How long consumers that have everything are still listened to: nothing more may come."""


class RefusedError(Exception):
    """The relay answered a subscription with an error, whose code this is."""


class ConsumersPlan(msgspec.Struct, kw_only=True):
    directory: str
    relays: Sequence[str]
    topics: Sequence[str]
    kinds: Sequence[str]
    """Of KINDS, one for each consumer."""
    stay_seconds: float
    """How long those that come back stay."""


class Consumer(ABC):
    """Reads all topics from their beginning. Begins with the relay at `first`."""

    def __init__(self, name: str, first: int, plan: ConsumersPlan, log: Log) -> None:
        self._name, self._plan, self._log = name, plan, log
        self._relay = first % len(plan.relays)
        self._cursors = dict.fromkeys(plan.topics, "0-0")
        self._has_moved = asyncio.Event()
        self._port = 0
        self.is_ready = asyncio.Event()
        """Set when it has begun; what is published from now on must come."""

    async def run(self) -> None:
        while True:
            try:
                cause, reason = await self._session(self._plan.relays[self._relay])
            except (OSError, UnsentError, LostError, InvalidHandshake, RefusedError) as error:
                cause, reason = type(error).__name__, str(error)
            if cause:
                relay = self._plan.relays[self._relay]
                self._log.write(Detached(time.monotonic(), self._name, cause, relay, reason))
                self._relay = (self._relay + 1) % len(self._plan.relays)
                await asyncio.sleep(AGAIN_SECONDS)

    async def wait_for(self, newest: Mapping[str, str]) -> None:
        """Return when it has got as far as this in each topic."""
        while any(place(self._cursors[topic]) < place(wanted) for topic, wanted in newest.items()):
            self._has_moved.clear()
            await self._has_moved.wait()

    @abstractmethod
    async def _session(self, url: str) -> tuple[str, str]:
        """One connection, or one poll. Returns why it ended and the relay's reason; "" if all is well."""

    def _attached(self, cursors: Mapping[str, str] | None) -> None:
        relay = self._plan.relays[self._relay]
        self._log.write(Attached(time.monotonic(), self._name, cursors, relay, self._port))

    def _took(self, frame: Mapping[str, Any]) -> None:
        """Write down a message or a notice; a message moves its topic's cursor."""
        now, topic = time.monotonic(), frame["topic"]
        if frame["type"] == "message":
            message_id = frame["message_id"]
            content = Content.of(frame["payload"])
            self._log.write(Received(now, self._name, topic, message_id, content))
            self._cursors[topic] = message_id
            self._has_moved.set()
        else:
            first = frame["first_available"]
            self._log.write(Noticed(now, self._name, topic, frame["type"], first, frame["reason"]))


class StayingSocket(Consumer):
    """A WebSocket for as long as it lasts."""

    stay_seconds: float | None = None

    async def _session(self, url: str) -> tuple[str, str]:
        address = url.replace("http", "ws", 1) + "/ws"
        async with connect(
            address, max_size=None, open_timeout=5, ping_interval=None, close_timeout=0
        ) as socket:
            self._port = socket.local_address[1]
            subscribe = {"type": "subscribe", "topics": self._plan.topics, **self._place()}
            try:
                async with asyncio.timeout(self.stay_seconds):
                    await socket.send(json.dumps(subscribe))
                    while True:
                        answer = self._frame(json.loads(await socket.recv()))
                        if answer is not None:
                            await socket.send(json.dumps(answer))
            except TimeoutError:
                socket.transport.abort()
                return "moves on", ""
            except ConnectionClosed as closed:
                received = closed.rcvd
                return (str(received.code), received.reason) if received else ("lost", "")

    def _place(self) -> Mapping[str, object]:
        """Where the subscription begins."""
        self._attached(self._cursors)
        return {"offset": self._cursors}

    def _frame(self, frame: Mapping[str, Any]) -> Mapping[str, object] | None:
        """Take a frame; returns the answer to it if it has one. Raises RefusedError."""
        if frame["type"] == "error":
            raise RefusedError(frame["code"])
        if frame["type"] == "subscribed":
            self.is_ready.set()
        else:
            self._took(frame)
        return None


class ReturningSocket(StayingSocket):
    """A WebSocket that every few seconds is gone without a word, and comes back to the next relay."""

    def __init__(self, name: str, first: int, plan: ConsumersPlan, log: Log) -> None:
        super().__init__(name, first, plan, log)
        self.stay_seconds = plan.stay_seconds


class NamedSocket(ReturningSocket):
    """Has its place kept by the relay: acknowledges some of what it gets, and comes back to there."""

    def __init__(self, name: str, first: int, plan: ConsumersPlan, log: Log) -> None:
        super().__init__(name, first, plan, log)
        self._acknowledged: dict[str, str] = {}
        self._unacknowledged = dict.fromkeys(plan.topics, 0)

    def _place(self) -> Mapping[str, object]:
        offset = {
            topic: "acked" if topic in self._acknowledged else "earliest" for topic in self._plan.topics
        }
        return {"client_id": self._name, "offset": offset}

    def _frame(self, frame: Mapping[str, Any]) -> Mapping[str, object] | None:
        if frame["type"] == "subscribed":
            # What it was told to be acknowledged must not come again, wherever the relay begins.
            told = {topic: self._acknowledged.get(topic, "0-0") for topic in self._plan.topics}
            begun = frame["cursors"]
            self._attached({topic: max(told[topic], begun[topic], key=place) for topic in self._plan.topics})
        elif frame["type"] == "acknowledged":
            self._acknowledged[frame["topic"]] = frame["message_id"]
            return None
        elif frame["type"] == "error" and "ref" in frame:
            # An acknowledgement that was not stored: what it was for comes again, or the next one is.
            return None
        super()._frame(frame)
        return self._acknowledgement(frame["topic"]) if frame["type"] == "message" else None

    def _acknowledgement(self, topic: str) -> Mapping[str, object] | None:
        self._unacknowledged[topic] += 1
        if self._unacknowledged[topic] < ACKNOWLEDGED_EVERY:
            return None
        self._unacknowledged[topic] = 0
        return {"type": "ack", "topic": topic, "message_id": self._cursors[topic], "ref": "ack"}


class EventStream(Consumer):
    """Server-sent events, with the last event's id when it comes back, as EventSource does."""

    def __init__(self, name: str, first: int, plan: ConsumersPlan, log: Log) -> None:
        super().__init__(name, first, plan, log)
        self._last_event_id = ""
        self._at_last_id = dict(self._cursors)

    async def _session(self, url: str) -> tuple[str, str]:
        path = "/api/v1/stream?since=earliest&topics=" + quote(",".join(self._plan.topics))
        headers = {"Last-Event-ID": self._last_event_id} if self._last_event_id else {}
        connection = HttpConnection(url)
        try:
            status, parts = await connection.stream(path, headers=headers, seconds=SILENCE_SECONDS)
            if status != 200:
                return str(status), ""
            self._cursors = dict(self._at_last_id)
            self._port = connection.port
            self._attached(self._cursors)
            rest = b""
            async for part in parts:
                *events, rest = (rest + part).split(b"\n\n")
                for event in events:
                    self._event(event)
            return "ended", ""
        finally:
            connection.close()

    def _event(self, event: bytes) -> None:
        data, event_id = [], None
        for line in event.split(b"\n"):
            name, _, value = line.partition(b": ")
            if name == b"data":
                data.append(value)
            elif name == b"id":
                event_id = value.decode()
        if data:
            frame = json.loads(b"\n".join(data))
            if frame["type"] == "subscribed":
                self.is_ready.set()
            else:
                self._took(frame)
        if event_id is not None:
            self._last_event_id = event_id
            self._at_last_id = dict(self._cursors)


class Poll(Consumer):
    """Long-polls with the cursors of the last answer."""

    def __init__(self, name: str, first: int, plan: ConsumersPlan, log: Log) -> None:
        super().__init__(name, first, plan, log)
        self._connections = {url: HttpConnection(url) for url in plan.relays}
        self._since = dict(self._cursors)

    async def _session(self, url: str) -> tuple[str, str]:
        # What is published before its first poll arrives is behind the cursor it will present.
        self.is_ready.set()
        body = {"topics": self._plan.topics, "since": self._since, "timeout": POLL_SECONDS}
        connection = self._connections[url]
        answer = await connection.request("POST", "/messages/poll", body, seconds=SILENCE_SECONDS)
        if answer.status != 200:
            return str(answer.status), answer.body.decode("utf-8", "replace")
        self._port = connection.port
        self._attached(self._since)
        self._all(answer.json())
        return "", ""

    def _all(self, answer: Mapping[str, Any]) -> None:
        for frame in (*answer.get("notices", ()), *answer["messages"]):
            self._took(frame)
        self._since = dict(answer["cursors"])


class CookiePoll(Poll):
    """Long-polls that never say where they are, and send back the cookies they are given."""

    def __init__(self, name: str, first: int, plan: ConsumersPlan, log: Log) -> None:
        super().__init__(name, first, plan, log)
        self._cookies: dict[str, str] = {}

    async def _session(self, url: str) -> tuple[str, str]:
        is_first = not self.is_ready.is_set()
        body = {"topics": self._plan.topics, "timeout": 1 if is_first else POLL_SECONDS}
        cookie = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        connection = self._connections[url]
        answer = await connection.request(
            "POST",
            "/messages/poll",
            body,
            headers={"Cookie": cookie} if cookie else {},
            seconds=SILENCE_SECONDS,
        )
        if answer.status != 200:
            return str(answer.status), answer.body.decode("utf-8", "replace")
        if "set-cookie" in answer.headers:
            name, _, value = answer.headers["set-cookie"].partition(";")[0].partition("=")
            self._cookies[name] = value
        value = answer.json()
        self._port = connection.port
        self._attached(value["cursors"] if is_first else None)
        self._all(value)
        self.is_ready.set()
        return "", ""


class WanderingPoll(CookiePoll):
    """A `CookiePoll` that makes a connection of its own for each poll, to the next relay."""

    async def _session(self, url: str) -> tuple[str, str]:
        # The last one stays until now: long enough to be seen by who looks for it.
        self._connections[url].close()
        cause, reason = await super()._session(url)
        return cause or "moves on", reason


KINDS: Mapping[str, type[Consumer]] = {
    "socket": StayingSocket,
    "returning": ReturningSocket,
    "named": NamedSocket,
    "events": EventStream,
    "poll": Poll,
    "cookie": CookiePoll,
    "wandering": WanderingPoll,
}


async def _main(plan: ConsumersPlan) -> None:
    orders = await Orders().open()
    consumers = []
    for index, kind in enumerate(plan.kinds):
        name = f"{kind}{index}"
        log = Log(Path(plan.directory) / f"consumer-{name}.jsonl")
        consumers.append(KINDS[kind](name, index, plan, log))
    tasks = [asyncio.create_task(consumer.run()) for consumer in consumers]
    watch = asyncio.create_task(_drained(orders, consumers))
    done, _ = await asyncio.wait([watch, *tasks], return_when=asyncio.FIRST_COMPLETED)
    # A consumer ends only by a failure, which is shown.
    for task in done:
        task.result()


async def _drained(orders: Orders, consumers: Sequence[Consumer]) -> None:
    for consumer in consumers:
        await consumer.is_ready.wait()
    orders.answer("ready")
    drain = await orders.next()
    deadline = asyncio.get_running_loop().time() + drain["seconds"]
    for consumer in consumers:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await consumer.wait_for(drain["newest"])
    await asyncio.sleep(LINGER_SECONDS)
    orders.answer("drained")


if __name__ == "__main__":
    asyncio.run(_main(msgspec.json.decode(sys.argv[1], type=ConsumersPlan)))
