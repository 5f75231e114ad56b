"""Canary: a message that goes the way of all messages, again and again, to show that the way is open.

    append.lua ──▶ stream ──▶ feed ──▶ TopicActor ──▶ SubscriberActor ──▶ heard

It is appended in another worker's name, so that this worker learns of it only by the feed, as it would of
anybody else's. A store that takes writes, a feed that hears itself and a loop that turns do not prove that a
message arrives; this does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from actors.ports import Draft, Notice, Publish, StoreError
from actors.protocol import Start, Subscribe, Wanted
from actors.stream import BEGINNING, Batch, MessageId
from pulsar_relay.relay import Relay, Subscriber
from pulsar_relay.store.appends import Appends
from pulsar_relay.store.client import Client
from pulsar_relay.store.probe import Leg
from pulsar_relay.store.schema import canary_topic, stream, stream_keys

logger = logging.getLogger(__name__)

DEADLINE_SECONDS = 2.0
"""Time a canary has to arrive."""
STALE_SECONDS = 5.0
KEPT_MESSAGES = 1
MOST_TOPICS = 1000
"""Of so many topics one is on any shard that has more than a few slots."""
FORGOTTEN_SECONDS = 120
"""When the canary's keys of a worker that is gone leave the store."""


class Canary:
    """One per worker; needs its relay started. `clock` is monotonic."""

    def __init__(
        self,
        relay: Relay,
        client: Client,
        worker: str,
        interval_seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._relay = relay
        self._client = client
        self._worker = worker
        self._topic_number = 0
        self._appends = Appends(
            client,
            f"{worker}canary",
            max_messages_per_topic=KEPT_MESSAGES,
            idempotency_window_seconds=1.0,
            # Sooner than the canary's own: a store that is away is told as that.
            publish_deadline_seconds=DEADLINE_SECONDS / 2,
            lists_topics=False,
        )
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._subscriber: Subscriber | None = None
        self._subscribed = asyncio.Event()
        self._number = 0
        self._heard: asyncio.Future[None] | None = None
        self._heard_at: float | None = None
        self._failure: str | None = "not_delivered"
        self._is_told = False
        self._task: asyncio.Task[None] | None = None
        self.delivery_seconds = 0.0
        """How long the last canary that arrived was on its way, the append included."""

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="canary")

    async def stop(self) -> None:
        """May be called without `start`, and again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._leave()

    def leg(self) -> Leg:
        """Returns at once; asks nobody."""
        age = None if self._heard_at is None else self._clock() - self._heard_at
        failure = self._failure
        if failure is None and (age is None or age > STALE_SECONDS):
            failure = "not_delivered"
        return Leg("delivery", failure, age)

    async def _run(self) -> None:
        while True:
            failure = await self._fly()
            for _ in self._client.known_shards()[1:]:
                if failure is not None:
                    # The shard it flies over may be down, alone.
                    self._go_elsewhere()
                    failure = await self._fly()
            # What is wrong with the store is said by those who look after it.
            if failure == "not_delivered" and not self._is_told:
                self._is_told = True
                logger.warning("canary: a message of the relay's own did not arrive")
            elif failure is None and self._is_told:
                self._is_told = False
                logger.info("canary: messages arrive again")
            self._failure = failure
            await asyncio.sleep(self._interval_seconds)

    @property
    def _topic(self) -> str:
        return canary_topic(self._worker, self._topic_number)

    def _go_elsewhere(self) -> None:
        """To a topic of another shard, the next in order."""
        self._leave()
        shards = self._client.known_shards()
        here = self._client.home(stream(self._topic).encode())
        at = (shards.index(here) + 1) % len(shards) if here in shards else 0
        for self._topic_number in range(MOST_TOPICS):
            if self._client.home(stream(self._topic).encode()) is shards[at]:
                return

    async def _fly(self) -> str | None:
        """Send one and wait for it; returns why it did not arrive, a row of the error table."""
        self._number += 1
        heard = self._heard = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await self._subscribe()
            began = self._clock()
            async with asyncio.timeout(DEADLINE_SECONDS):
                await self._append(b"%d" % self._number)
                await heard
        except StoreError as error:
            return error.code
        except TimeoutError:
            return "not_delivered"
        self._heard_at = self._clock()
        self.delivery_seconds = self._heard_at - began
        return None

    async def _subscribe(self) -> None:
        """Returns when what is appended from now on has to arrive."""
        if self._subscriber is None:
            self._subscribed = asyncio.Event()
            sink = CanarySink(self._subscribed.set, self._take, self._leave)
            self._subscriber = self._relay.open_subscriber(sink, None)
            self._subscriber.tell(Subscribe((Wanted(self._topic, Start.LATEST),)))
        await self._subscribed.wait()

    async def _append(self, payload: bytes) -> None:
        publish = Publish(self._topic, (Draft(payload),))
        await self._appends.append(self._topic, [publish], BEGINNING)
        for key in stream_keys(self._topic):
            await self._client.command("EXPIRE", key, FORGOTTEN_SECONDS)

    def _take(self, payload: bytes) -> None:
        heard = self._heard
        if heard is not None and not heard.done() and payload == b"%d" % self._number:
            heard.set_result(None)

    def _leave(self) -> None:
        """The next one subscribes anew."""
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is not None:
            subscriber.disconnect()


class CanarySink:
    """The end of the way."""

    def __init__(
        self, begin: Callable[[], None], take: Callable[[bytes], None], leave: Callable[[], None]
    ) -> None:
        self._begin = begin
        self._take = take
        self._leave = leave

    def deliver(self, batch: Batch) -> bool:
        for message in batch.messages:
            self._take(message.payload)
        return False

    def subscribed(self, cursors: Mapping[str, MessageId], epochs: Mapping[str, str], ref: object) -> None:
        self._begin()

    def fail(self) -> None:
        self._leave()

    def complete(self, cursors: Mapping[str, MessageId], has_more: bool, failure: str | None) -> None:
        raise AssertionError("a canary is no long-poll")

    # Whatever else is said: what counts is whether it arrives.

    def unsubscribed(self, topics: Sequence[str], ref: object) -> None: ...

    def notify(self, notice: Notice) -> None: ...

    def acknowledged(self, topic: str, message_id: MessageId, ref: object) -> None: ...

    def refuse(self, code: str, detail: str, ref: object) -> None: ...

    def taken_over(self) -> None: ...
