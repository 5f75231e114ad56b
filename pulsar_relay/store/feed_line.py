"""FeedLine: the feed's connection to one shard, replaced when it is lost, or when it is deaf.

Pub/sub can be deaf without an error: a network that swallows packets, a server that was deposed. So it speaks
to itself through the connection that appends take, and a connection that does not hear it is replaced too.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from actors.ports import StoreError
from pulsar_relay.store.line import Answer
from pulsar_relay.store.link import Endpoint, Link, pack
from pulsar_relay.store.refusals import ElsewhereError
from pulsar_relay.store.slots import slot_of

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
RECONNECT_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How Valkey's pub/sub is spoken to."""

    subscribe: str
    unsubscribe: str
    publish: str
    message: bytes
    subscribed_at_once: int
    """Channels in one command: Valkey serves nobody else while it enters them."""


PLAIN = Dialect("SUBSCRIBE", "UNSUBSCRIBE", "PUBLISH", b"message", 500)
SHARDED = Dialect("SSUBSCRIBE", "SUNSUBSCRIBE", "SPUBLISH", b"smessage", 1)
"""Of a cluster: a channel has a slot, and lives where that is. Two in one command would need the same."""


class FeedEars(Protocol):
    """What a line tells. Nothing may raise."""

    def on_message(self, channel: bytes, data: bytes) -> None:
        """Something was said."""

    def on_confirmed(self, channel: bytes) -> None:
        """From now on nothing is missed that is said on the channel, as long as the connection lasts."""

    def on_moved(self, channel: bytes, told: ElsewhereError | None) -> None:
        """Another shard has the channel; which, if that was told."""

    def on_restored(self, line: FeedLine) -> None:
        """The connection was replaced, and all channels are confirmed on it."""


class FeedLine:
    """`heartbeat` names the channel it speaks to itself on, anew for each connection; `speak` sends a command
    the way appends go. `always` are plain channels that it hears besides, and that live everywhere.
    """

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        dialect: Dialect,
        speak: Callable[..., Answer],
        heartbeat: Callable[[], bytes],
        always: Sequence[bytes],
        timeout_seconds: float,
        ears: FeedEars,
    ) -> None:
        self.name = name
        self._endpoint = endpoint
        self._dialect = dialect
        self._speak = speak
        self._heartbeat_of = heartbeat
        self._always = always
        self._timeout_seconds = timeout_seconds
        self._ears = ears
        self._channels: set[bytes] = set()
        self._asked: deque[bytes] = deque()
        self._confirming: Counter[bytes] = Counter()
        self._leaving: Counter[bytes] = Counter()
        self._link: Link | None = None
        self._lost: asyncio.Future[None] | None = None
        self._resubscribing = 0
        self._resubscribed: asyncio.Future[None] | None = None
        self._heartbeat: tuple[bytes, bytes, asyncio.Future[None]] | None = None
        self._task: asyncio.Task[None] | None = None
        self.connections = 0
        """How many connections it has had."""
        self.heard_at: float | None = None
        """When it last heard itself, on the monotonic clock; None before the first time."""
        self.failure: str | None = "store_unavailable"
        """Why it does not hear, a row of the error table; None while it hears all it should."""

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"feed {self.name}")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def hear(self, channel: bytes) -> None:
        """From when it is confirmed, on this connection and all that follow. May be said again."""
        self._channels.add(channel)
        if self._link is not None:
            self._subscribe(self._link, self._dialect, [channel])

    def leave(self, channel: bytes) -> None:
        """Returns at once."""
        if channel in self._channels:
            self._channels.remove(channel)
            if self._link is not None:
                self._leaving[channel] += 1
                self._link.write([pack((self._dialect.unsubscribe, channel))])

    def forget(self, channel: bytes) -> None:
        """It has moved to another shard: this one takes its leave by itself."""
        self._channels.discard(channel)

    def _subscribe(self, link: Link, dialect: Dialect, channels: Sequence[bytes]) -> None:
        size = dialect.subscribed_at_once
        for part in (channels[start : start + size] for start in range(0, len(channels), size)):
            link.write([pack((dialect.subscribe, *part))])
        self._asked.extend(channels)
        self._confirming.update(channels)

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
        self._link = link = await Link.open(self._endpoint, self._on_message, self._on_lost)
        self.connections += 1
        heartbeat = self._heartbeat_of()
        channels = [heartbeat, *self._channels]
        self._heartbeat = heartbeat, b"", loop.create_future()
        self._resubscribing = len(self._always) + len(channels)
        self._resubscribed = loop.create_future()
        self._subscribe(link, PLAIN, self._always)
        self._subscribe(link, self._dialect, channels)
        await self._first_of(lost, self._resubscribed, "the feed's subscriptions are not confirmed")
        self.failure = None
        if self.connections > 1:
            logger.info("feed: connected anew, following %d topics", len(self._channels))
            self._ears.on_restored(self)
        for number in itertools.count(1):
            await self._hear_itself(lost, heartbeat, b"%d" % number)
            await asyncio.wait([lost], timeout=HEARTBEAT_SECONDS)

    async def _hear_itself(self, lost: asyncio.Future[None], channel: bytes, text: bytes) -> None:
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._heartbeat = channel, text, heard
        said = self._speak(self._dialect.publish, channel, text)
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
        self._lose(StoreError("store_unavailable"))

    def _lose(self, error: StoreError) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_exception(error)

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        self._asked.clear()
        self._confirming.clear()
        self._leaving.clear()
        self._heartbeat = None
        self._resubscribing = 0
        if link is not None:
            link.close()

    # What it says

    def _on_message(self, message: Any) -> None:
        if isinstance(message, ElsewhereError):
            self._on_elsewhere(message)
            return
        if isinstance(message, StoreError):
            self._lose(StoreError(message.code, "Valkey refuses the subscription"))
            return
        kind, channel, data = message
        if kind in (b"message", b"smessage"):
            if self._heartbeat is not None and channel == self._heartbeat[0]:
                self._on_heartbeat(data)
            else:
                self._ears.on_message(channel, data)
        elif kind in (b"subscribe", b"ssubscribe"):
            self._on_subscribed(channel)
        elif kind == b"sunsubscribe":
            self._on_unsubscribed(channel)

    def _on_heartbeat(self, text: bytes) -> None:
        assert self._heartbeat is not None
        _, expected, heard = self._heartbeat
        if text == expected:
            self.heard_at = time.monotonic()
            if not heard.done():
                heard.set_result(None)

    def _on_subscribed(self, channel: bytes) -> None:
        self._asked.remove(channel)
        # Had it been left and asked for again meanwhile, the second confirmation alone would count.
        if self._on_settled(channel):
            self._ears.on_confirmed(channel)

    def _on_elsewhere(self, told: ElsewhereError) -> None:
        """It does not say which channel is meant, but its slot. None may be: what was left can have moved."""
        channel = next((channel for channel in self._asked if slot_of(channel) == told.slot), None)
        if channel is not None:
            self._asked.remove(channel)
            self._on_settled(channel)
            self._on_moved(channel, told)

    def _on_settled(self, channel: bytes) -> bool:
        """Whether nothing more is to be said on what was asked for this channel."""
        if self._resubscribing:
            # Confirmations come in the order of asking: the connection's first ones are first.
            self._resubscribing -= 1
            if not self._resubscribing and self._resubscribed is not None and not self._resubscribed.done():
                self._resubscribed.set_result(None)
        self._confirming[channel] -= 1
        if self._confirming[channel] > 0:
            return False
        del self._confirming[channel]
        return True

    def _on_unsubscribed(self, channel: bytes) -> None:
        """Because it was left, or because its slot was."""
        if self._leaving[channel] > 0:
            self._leaving[channel] -= 1
            if not self._leaving[channel]:
                del self._leaving[channel]
        else:
            del self._leaving[channel]
            self._on_moved(channel, None)

    def _on_moved(self, channel: bytes, told: ElsewhereError | None) -> None:
        if self._heartbeat is not None and channel == self._heartbeat[0]:
            self._lose(StoreError("store_moving", "its own channel has moved"))
        elif channel in self._channels:
            self._ears.on_moved(channel, told)


def _hear_out(answer: asyncio.Future[Any]) -> None:
    """Take the outcome of a future that nobody may be waiting for any more."""
    if not answer.cancelled():
        answer.exception()
