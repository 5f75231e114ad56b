"""The feed: what other workers append, as Valkey's pub/sub tells it.

Only a hint, never the truth: what is lost, doubled or late here is repaired by whoever follows a topic, from the stream. So a broken
connection is replaced quietly, everything followed is subscribed to again, and the followers are told to compare.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec
from valkey.asyncio import Valkey
from valkey.asyncio.client import PubSub
from valkey.exceptions import ValkeyError

from actors.protocol import Fed, StoreError
from actors.stream import Message
from pulsar_relay.store import schema
from pulsar_relay.store.client import explain
from pulsar_relay.store.entries import message_id

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 5.0
"""A connection that said nothing for this long is asked to answer; one that does not answer is replaced."""
RECONNECT_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0)


class Feed:
    """One pub/sub connection for all topics this worker follows.

    `on_fed` is called for each append of another worker, `on_reconnected` when the connection was replaced and all subscriptions are
    confirmed again: from then on nothing is missed, and what was missed before must be compared.
    """

    def __init__(self, client: Valkey, worker: str, follow_timeout_seconds: float) -> None:
        self._client = client
        self._worker = worker
        self._follow_timeout_seconds = follow_timeout_seconds
        self._topics: dict[str, str] = {}
        self._confirmations: dict[str, list[asyncio.Future[None]]] = {}
        self._unconfirmed: set[str] = set()
        self._pubsub: PubSub | None = None
        self._task: asyncio.Task[None] | None = None
        self._wants_connection = asyncio.Event()
        # Subscribing and unsubscribing take turns: one that checked, waited and then spoke could undo the other's word.
        self._changes = asyncio.Lock()
        self._on_fed: Callable[[Fed], None] = lambda fed: None
        self._on_reconnected: Callable[[], None] = lambda: None
        self._failures = 0
        self.reconnects = 0
        self.heard_at: float | None = None
        """When it last said something, on the monotonic clock."""

    @property
    def is_connected(self) -> bool:
        """Whether every topic followed is subscribed to; True also while there is none."""
        return not self._topics or (self._pubsub is not None and not self._unconfirmed)

    def start(self, on_fed: Callable[[Fed], None], on_reconnected: Callable[[], None]) -> None:
        self._on_fed = on_fed
        self._on_reconnected = on_reconnected
        self._task = asyncio.get_running_loop().create_task(self._run(), name="feed")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def follow(self, topic: str) -> None:
        """Returns when Valkey has confirmed; StoreError if it does not in time."""
        channel = schema.feed(topic)
        loop = asyncio.get_running_loop()
        confirmation: asyncio.Future[None] = loop.create_future()
        self._topics[channel] = topic
        self._unconfirmed.add(channel)
        self._confirmations.setdefault(channel, []).append(confirmation)
        self._wants_connection.set()
        async with self._changes:
            if self._pubsub is not None:
                # If this fails the connection is about to be replaced, and the next one takes all of `_topics` with it.
                with contextlib.suppress(ValkeyError, OSError):
                    await self._pubsub.subscribe(channel)
        timer = loop.call_later(self._follow_timeout_seconds, _time_out, confirmation)
        try:
            await confirmation
        finally:
            timer.cancel()
            waiting = self._confirmations.get(channel, [])
            if confirmation in waiting:
                waiting.remove(confirmation)

    def unfollow(self, topic: str) -> None:
        channel = schema.feed(topic)
        self._unconfirmed.discard(channel)
        if self._topics.pop(channel, None) is not None and self._pubsub is not None:
            task = asyncio.get_running_loop().create_task(self._unsubscribe(self._pubsub, channel))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _unsubscribe(self, pubsub: PubSub, channel: str) -> None:
        async with self._changes:
            if channel not in self._topics:
                with contextlib.suppress(ValkeyError, OSError):
                    await pubsub.unsubscribe(channel)

    async def _run(self) -> None:
        while True:
            await self._wants_connection.wait()
            pubsub = self._client.pubsub()
            try:
                async with self._changes:
                    self._unconfirmed = set(self._topics)
                    await pubsub.subscribe(schema.FEED_KEPT_OPEN, *self._topics)
                    self._pubsub = pubsub
                await self._listen(pubsub)
            except (ValkeyError, OSError, StoreError) as error:
                logger.warning("feed: connection lost (%s), reconnecting", type(error).__name__)
            finally:
                self._pubsub = None
                with contextlib.suppress(ValkeyError, OSError):
                    await pubsub.aclose()
            self.reconnects += 1
            self._failures += 1
            await asyncio.sleep(RECONNECT_SECONDS[min(self._failures, len(RECONNECT_SECONDS)) - 1])

    async def _listen(self, pubsub: PubSub) -> NoReturn:
        must_announce, is_questioned = self.reconnects > 0, False
        while True:
            message = await pubsub.get_message(timeout=SILENCE_SECONDS)
            if message is None:
                if is_questioned:
                    raise StoreError("store_unavailable", "the feed does not answer")
                is_questioned = True
                await pubsub.ping()
                continue
            is_questioned = False
            self._failures = 0
            self.heard_at = time.monotonic()
            kind = message["type"]
            if kind == "message":
                self._take(message)
            elif kind == "subscribe":
                self._confirm(message["channel"].decode())
            if must_announce and not self._unconfirmed:
                must_announce = False
                self._on_reconnected()

    def _confirm(self, channel: str) -> None:
        self._unconfirmed.discard(channel)
        for confirmation in self._confirmations.pop(channel, ()):
            if not confirmation.done():
                confirmation.set_result(None)

    def _take(self, message: dict[str, Any]) -> None:
        topic = self._topics.get(message["channel"].decode())
        if topic is None:
            return
        news = msgspec.msgpack.decode(message["data"])
        if news[0] == self._worker:
            return  # our own append: its reply brings the same, and cannot be lost without notice
        prev = message_id(news[1])
        newest, epoch = message_id(news[2]), news[3]
        messages: list[Message] | None = None
        if len(news) > 4:
            messages = []
            before = prev
            for id_text, payload, metadata, expiry in news[4]:
                this = message_id(id_text)
                messages.append(
                    Message(
                        topic,
                        this,
                        id_text,
                        before,
                        payload.encode(),
                        metadata.encode() or None,
                        int(expiry) if expiry else None,
                    )
                )
                before = this
        self._on_fed(Fed(topic, prev, newest, epoch, messages))


def _time_out(confirmation: asyncio.Future[None]) -> None:
    if not confirmation.done():
        confirmation.set_exception(explain(TimeoutError()))
