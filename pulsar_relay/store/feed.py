"""The feed: what other workers append, as Valkey's pub/sub tells it.

Only a hint, never the truth: what is lost, doubled or late here is repaired by whoever follows a topic, from
the stream. So a broken connection is replaced quietly, everything followed is subscribed to again, and the
followers are told to compare.

Pub/sub can be deaf without an error: a network that swallows packets, a server that was deposed. So the feed
speaks to itself through the connection that appends take, and a connection that does not hear it is replaced
too.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from actors.ports import StoreError
from actors.protocol import Fed
from actors.stream import Message, MessageId
from pulsar_relay.store import schema
from pulsar_relay.store.client import Client
from pulsar_relay.store.link import Link, pack

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
RECONNECT_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0)
SUBSCRIBED_AT_ONCE = 500
"""Channels in one SUBSCRIBE: Valkey serves nobody else while it enters them."""

_CLAIMS = schema.CLAIMS.encode()


class Feed:
    """One pub/sub connection for all topics this worker follows.

    `on_fed` is called for each append of another worker, `on_claimed` for each claim of a client's name, by
    whichever worker, with the client's id and the claim's generation. `on_reconnected` is called when the
    connection was replaced and all that was followed is confirmed again: from then on nothing is missed, and
    what was missed before must be compared.
    """

    def __init__(self, client: Client, worker: str, follow_timeout_seconds: float) -> None:
        if not worker.isalnum() or not worker.isascii():
            raise ValueError(f"a worker's name is made of letters and digits: {worker!r}")
        self._client = client
        self._own = f"{worker} ".encode()
        self._timeout_seconds = follow_timeout_seconds
        self._heartbeat_channel = schema.heartbeat(worker).encode()
        self._topics: dict[bytes, str] = {}
        self._follows: dict[bytes, asyncio.Future[None]] = {}
        self._asked: Counter[bytes] = Counter()
        self._link: Link | None = None
        self._lost: asyncio.Future[None] | None = None
        self._resubscribing = 0
        self._resubscribed: asyncio.Future[None] | None = None
        self._heartbeat: tuple[bytes, asyncio.Future[None]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._on_fed: Callable[[Fed], None] = lambda fed: None
        self._on_reconnected: Callable[[], None] = lambda: None
        self._on_claimed: Callable[[str, int], None] = lambda client_id, generation: None
        self.connections = 0
        """How many connections it has had."""
        self.heard_at: float | None = None
        """When it last heard itself, on the monotonic clock; None before the first time."""
        self.failure: str | None = "store_unavailable"
        """Why it does not hear, a row of the error table; None while it hears all that is followed."""

    @property
    def is_connected(self) -> bool:
        """Whether all that was followed when the connection was made is subscribed to on it."""
        return self.failure is None

    def start(
        self,
        on_fed: Callable[[Fed], None],
        on_reconnected: Callable[[], None],
        on_claimed: Callable[[str, int], None],
    ) -> None:
        """Connect, now and whenever the connection is lost. The callbacks must not raise."""
        self._on_fed = on_fed
        self._on_reconnected = on_reconnected
        self._on_claimed = on_claimed
        self._task = asyncio.get_running_loop().create_task(self._run(), name="feed")

    async def stop(self) -> None:
        """May be called without `start`, and again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def follow(self, topic: str) -> None:
        """Returns when Valkey has confirmed; StoreError, and no following, if it does not in time."""
        channel = schema.feed(topic).encode()
        loop = asyncio.get_running_loop()
        if (earlier := self._follows.get(channel)) is not None:
            _time_out(earlier)
        follow = self._follows[channel] = loop.create_future()
        self._topics[channel] = topic
        if self._link is not None:
            self._subscribe(self._link, [channel])
        timer = loop.call_later(self._timeout_seconds, _time_out, follow)
        try:
            await follow
        except BaseException:
            # Unless somebody follows it anew by now.
            if self._follows.get(channel) is follow:
                self.unfollow(topic)
            raise
        finally:
            timer.cancel()
            if self._follows.get(channel) is follow:
                del self._follows[channel]

    def unfollow(self, topic: str) -> None:
        """Returns at once. Who still waits in `follow` for this topic gets a StoreError."""
        channel = schema.feed(topic).encode()
        follow = self._follows.pop(channel, None)
        if follow is not None:
            _time_out(follow)
        if self._topics.pop(channel, None) is not None and self._link is not None:
            self._link.write([pack(("UNSUBSCRIBE", channel))])

    def _subscribe(self, link: Link, channels: list[bytes]) -> None:
        for start in range(0, len(channels), SUBSCRIBED_AT_ONCE):
            part = channels[start : start + SUBSCRIBED_AT_ONCE]
            link.write([pack(("SUBSCRIBE", *part))])
        self._asked.update(channels)

    # The connection

    async def _run(self) -> None:
        failures = 0
        while True:
            heard_before = self.heard_at
            try:
                await self._hear()
            except StoreError as error:
                if self.failure is None:
                    logger.warning("feed: connection lost (%s), connecting anew", error.detail or error.code)
                self.failure = error.code
            finally:
                self.failure = self.failure or "store_unavailable"
                self._drop_link()
            failures = 0 if self.heard_at != heard_before else failures + 1
            pause = RECONNECT_SECONDS[min(failures, len(RECONNECT_SECONDS) - 1)]
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _hear(self) -> None:
        """The life of one connection; raises StoreError when it is over."""
        loop = asyncio.get_running_loop()
        lost = self._lost = loop.create_future()
        self._link = link = await Link.open(self._client.endpoint, self._on_message, self._on_lost)
        self.connections += 1
        channels = [self._heartbeat_channel, _CLAIMS, *self._topics]
        self._resubscribing = len(channels)
        self._resubscribed = loop.create_future()
        self._subscribe(link, channels)
        await self._first_of(lost, self._resubscribed, "the feed's subscriptions are not confirmed")
        self.failure = None
        if self.connections > 1:
            logger.info("feed: connected anew, following %d topics", len(self._topics))
            self._on_reconnected()
        for number in itertools.count():
            await self._hear_itself(lost, b"%d" % number)
            await asyncio.wait([lost], timeout=HEARTBEAT_SECONDS)

    async def _hear_itself(self, lost: asyncio.Future[None], text: bytes) -> None:
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._heartbeat = text, heard
        said = self._client.line.call("PUBLISH", self._heartbeat_channel, text)
        # If this connection is lost first nobody asks what became of it.
        said.add_done_callback(_hear_out)
        await asyncio.wait([lost, said], return_when=asyncio.FIRST_COMPLETED)
        if said.done() and said.exception() is not None and not lost.done():
            return  # nothing was said, so that nothing was heard proves nothing
        await self._first_of(lost, heard, "the feed does not hear itself")

    async def _first_of(
        self, lost: asyncio.Future[None], hoped: asyncio.Future[None], complaint: str
    ) -> None:
        await asyncio.wait([lost, hoped], timeout=self._timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        if lost.done():
            lost.result()
        if not hoped.done():
            raise StoreError("store_unavailable", complaint)

    def _on_lost(self) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_exception(StoreError("store_unavailable"))

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        self._asked.clear()
        self._resubscribing = 0
        if link is not None:
            link.close()

    # What it says

    def _on_message(self, message: Any) -> None:
        if isinstance(message, StoreError):
            if self._lost is not None and not self._lost.done():
                self._lost.set_exception(StoreError(message.code, "Valkey refuses the subscription"))
            return
        kind, channel, data = message
        if kind == b"message":
            if channel == self._heartbeat_channel:
                self._on_heartbeat(data)
            elif channel == _CLAIMS:
                self._on_claim(data)
            elif not data.startswith(self._own):
                # Our own append's reply brings the same, and is not lost unnoticed.
                self._on_news(channel, data)
        elif kind == b"subscribe":
            self._on_subscribed(channel)

    def _on_heartbeat(self, text: bytes) -> None:
        if self._heartbeat is not None and self._heartbeat[0] == text:
            self.heard_at = time.monotonic()
            if not self._heartbeat[1].done():
                self._heartbeat[1].set_result(None)

    def _on_claim(self, data: bytes) -> None:
        generation, _, name = data.partition(b" ")
        try:
            client_id, number = name.decode("utf-8"), int(generation)
        except ValueError:
            logger.warning("feed: something else than a relay spoke on the channel of claims")
            return
        self._on_claimed(client_id, number)

    def _on_subscribed(self, channel: bytes) -> None:
        if self._resubscribing:
            # Confirmations come in the order of asking: the connection's first ones are first.
            self._resubscribing -= 1
            if not self._resubscribing and self._resubscribed is not None and not self._resubscribed.done():
                self._resubscribed.set_result(None)
        self._asked[channel] -= 1
        if self._asked[channel] <= 0:
            # Had it been unfollowed and followed again meanwhile, the second confirmation alone would count.
            del self._asked[channel]
            follow = self._follows.get(channel)
            if follow is not None and not follow.done():
                follow.set_result(None)

    def _on_news(self, channel: bytes, data: bytes) -> None:
        topic = self._topics.get(channel)
        if topic is None:
            return
        try:
            fed = _fed(topic, data)
        except (ValueError, IndexError):
            logger.warning("feed: something else than a relay spoke on the channel of topic %s", topic)
            return
        self._on_fed(fed)


def _fed(topic: str, data: bytes) -> Fed:
    """The announcement of append.lua: `<worker> <prev> <last> <epoch>`, then, if it carries the drafts, for
    each `<bytes of payload>` or `<bytes of payload>.<bytes of metadata>.<expiry>`, then a line feed and their
    texts. ValueError or IndexError if it is something else.
    """
    end = data.index(b"\n")
    words = data[:end].decode("ascii").split(" ")
    prev, newest, epoch, shapes = MessageId.parse(words[1]), MessageId.parse(words[2]), words[3], words[4:]
    if not shapes:
        return Fed(topic, prev, newest, epoch, None)
    at = end + 1
    messages, before, this = [], prev, MessageId(newest - len(shapes) + 1)
    for shape in shapes:
        payload_bytes, metadata_bytes, expiry = shape.split(".") if "." in shape else (shape, 0, "")
        middle = at + int(payload_bytes)
        after = middle + int(metadata_bytes)
        metadata = data[middle:after] or None
        expires_at_ms = int(expiry) if expiry else None
        messages.append(Message(topic, this, str(this), before, data[at:middle], metadata, expires_at_ms))
        at, before, this = after, this, MessageId(this + 1)
    if at != len(data):
        raise ValueError("lengths do not add up")
    return Fed(topic, prev, newest, epoch, messages)


def _hear_out(answer: asyncio.Future[Any]) -> None:
    """Take the outcome of a future that nobody may be waiting for any more."""
    if not answer.cancelled():
        answer.exception()


def _time_out(follow: asyncio.Future[None]) -> None:
    if not follow.done():
        follow.set_exception(StoreError("store_unavailable"))
