"""The feed: what other workers append, as Valkey's pub/sub tells it.

Only a hint, never the truth: what is lost, doubled or late here is repaired by whoever follows a topic, from
the stream. So a broken connection is replaced quietly, everything followed is subscribed to again, and the
followers are told to compare.

In a cluster a topic's news are told where its stream is. So there is a line to each primary, and a topic that
moves is followed to the next: it compares when that line has confirmed.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping, Sequence

from actors.ports import StoreError
from actors.protocol import Fed
from pulsar_relay.store import schema
from pulsar_relay.store.client import Client
from pulsar_relay.store.feed_line import PLAIN, SHARDED, FeedEars, FeedLine
from pulsar_relay.store.news import read_news
from pulsar_relay.store.refusals import ElsewhereError
from pulsar_relay.store.shard import Shard

logger = logging.getLogger(__name__)

KNOWN_CLAIMS = 100
SETTLE_SECONDS = 0.02
"""Topics that move one by one are dealt with together."""

_CLAIMS = schema.CLAIMS.encode()


class Feed(FeedEars):
    """A pub/sub connection to each shard, for all topics this worker follows.

    `on_fed` is called for each append of another worker, `on_claimed` for each claim of a client's name, by
    whichever worker, with the client's id and the claim's generation. `on_reconnected` is called when a
    connection was replaced and all that was followed on it is confirmed again, with these topics, or None for
    all: from then on nothing is missed, and what was missed before must be compared.
    """

    def __init__(self, client: Client, worker: str, follow_timeout_seconds: float) -> None:
        if not worker.isalnum() or not worker.isascii():
            raise ValueError(f"a worker's name is made of letters and digits: {worker!r}")
        self._client = client
        self._worker = worker
        self._own = f"{worker} ".encode()
        self._timeout_seconds = follow_timeout_seconds
        self._dialect = PLAIN if client.publish_word == PLAIN.publish else SHARDED
        self._topics: dict[bytes, str] = {}
        self._follows: dict[bytes, asyncio.Future[None]] = {}
        self._lines: dict[str, FeedLine] = {}
        self._homes: dict[bytes, FeedLine] = {}
        self._moved: set[bytes] = set()
        self._claims: dict[str, int] = {}
        self._plain: dict[bytes, Callable[[bytes], None]] = {_CLAIMS: self._on_claim}
        self._arrived: list[str] = []
        self._settling: asyncio.TimerHandle | None = None
        self._stopping: set[asyncio.Task[None]] = set()
        self._is_running = False
        self._on_fed: Callable[[Fed], None] = lambda fed: None
        self._on_reconnected: Callable[[Sequence[str] | None], None] = lambda topics: None
        self._on_claimed: Callable[[str, int], None] = lambda client_id, generation: None

    @property
    def connections(self) -> int:
        """How many connections it has had."""
        return sum(line.connections for line in self._lines.values())

    @property
    def heard_at(self) -> float | None:
        """When it last heard itself, on the monotonic clock; None before the first time."""
        return max(
            (line.heard_at for line in self._lines.values() if line.heard_at is not None), default=None
        )

    @property
    def failures(self) -> Mapping[str, str]:
        """The shards that are not heard, and why: a row of the error table."""
        return {line.name: line.failure for line in self._lines.values() if line.failure is not None}

    @property
    def failure(self) -> str | None:
        """Why nothing is heard, a row of the error table; None while any shard is."""
        failures = self.failures
        if len(failures) < len(self._lines):
            return None
        return next(iter(failures.values()), "store_unavailable")

    @property
    def is_connected(self) -> bool:
        """Whether all that was followed when a connection was made is subscribed to on it."""
        return bool(self._lines) and not self.failures

    def listen_to(self, channel: str, on_said: Callable[[bytes], None]) -> None:
        """Hear what is said on a plain channel, too: a hint that may be doubled, and may be lost. To be
        called before `start`; the callback must not raise.
        """
        self._plain[channel.encode()] = on_said

    def start(
        self,
        on_fed: Callable[[Fed], None],
        on_reconnected: Callable[[Sequence[str] | None], None],
        on_claimed: Callable[[str, int], None],
    ) -> None:
        """Connect, now and whenever a connection is lost. The callbacks must not raise."""
        self._on_fed = on_fed
        self._on_reconnected = on_reconnected
        self._on_claimed = on_claimed
        self._is_running = True
        self._client.listen(self._settle_soon)
        self._settle()

    async def stop(self) -> None:
        """May be called without `start`, and again."""
        self._is_running = False
        if self._settling is not None:
            self._settling.cancel()
        for line in self._lines.values():
            self._end(line)
        self._lines.clear()
        if self._stopping:
            await asyncio.wait(self._stopping)

    async def follow(self, topic: str) -> None:
        """Returns when Valkey has confirmed; StoreError, and no following, if it does not in time."""
        channel = schema.feed(topic).encode()
        loop = asyncio.get_running_loop()
        if (earlier := self._follows.get(channel)) is not None:
            _time_out(earlier)
        follow = self._follows[channel] = loop.create_future()
        self._topics[channel] = topic
        self._hear(channel)
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
        if self._topics.pop(channel, None) is not None:
            self._moved.discard(channel)
            home = self._homes.pop(channel, None)
            if home is not None:
                home.leave(channel)

    # Who hears what

    def _hear(self, channel: bytes) -> None:
        """On the line of the shard that has it, if anybody knows that by now."""
        shard = self._client.home(channel)
        home = None if shard is None else self._lines.get(shard.name)
        before = self._homes.get(channel)
        if before is not None and before is not home:
            before.forget(channel)
            del self._homes[channel]
        if home is None:
            self._client.doubt()
        else:
            self._homes[channel] = home
            home.hear(channel)

    def _settle_soon(self) -> None:
        """The map of the cluster was told anew."""
        if self._is_running and self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._settle)

    def _settle(self) -> None:
        """A line to each shard, and each topic on the line of its own."""
        self._settling = None
        shards = {shard.name: shard for shard in self._client.known_shards()}
        for name in [name for name in self._lines if name not in shards]:
            self._end(self._lines.pop(name))
        for name, shard in shards.items():
            if name not in self._lines:
                self._begin(shard)
        for channel in list(self._topics):
            found = self._client.home(channel)
            line = None if found is None else self._lines.get(found.name)
            if line is not self._homes.get(channel):
                self._moved.add(channel)
                self._hear(channel)

    def _begin(self, shard: Shard) -> None:
        line = self._lines[shard.name] = FeedLine(
            shard.name,
            shard.endpoint,
            self._dialect,
            self._client.line.call,
            functools.partial(self._heartbeat_channel, shard),
            # Who has a line open is alive, wherever that is asked.
            [*self._plain]
            if self._dialect is PLAIN
            else [*self._plain, schema.heartbeat(self._worker).encode()],
            self._timeout_seconds,
            self,
        )
        line.start()

    def _end(self, line: FeedLine) -> None:
        stopping = asyncio.get_running_loop().create_task(line.stop())
        self._stopping.add(stopping)
        stopping.add_done_callback(self._stopping.discard)
        for channel in [channel for channel, home in self._homes.items() if home is line]:
            del self._homes[channel]

    def _heartbeat_channel(self, shard: Shard) -> bytes:
        channel = schema.heartbeat(self._worker)
        tag = self._client.tag_at(shard)
        return (channel if tag is None else f"{channel}:{{{tag}}}").encode()

    # What the lines tell

    def on_message(self, channel: bytes, data: bytes) -> None:
        if (on_said := self._plain.get(channel)) is not None:
            on_said(data)
        elif not data.startswith(self._own):
            # Our own append's reply brings the same, and is not lost unnoticed.
            self._on_news(channel, data)

    def on_confirmed(self, channel: bytes) -> None:
        follow = self._follows.get(channel)
        if follow is not None and not follow.done():
            follow.set_result(None)
        if channel in self._moved:
            self._moved.remove(channel)
            if not self._arrived:
                asyncio.get_running_loop().call_soon(self._tell_arrived)
            self._arrived.append(self._topics[channel])

    def on_moved(self, channel: bytes, told: ElsewhereError | None) -> None:
        self._moved.add(channel)
        home = self._homes.pop(channel, None)
        if home is not None:
            home.forget(channel)
            if told is not None:
                self._client.note_move(told, home.name)
        self._client.doubt()
        self._settle_soon()

    def on_restored(self, line: FeedLine) -> None:
        if self._dialect is PLAIN:
            self._on_reconnected(None)
        else:
            self._on_reconnected(
                [self._topics[channel] for channel, home in self._homes.items() if home is line]
            )

    def _tell_arrived(self) -> None:
        arrived, self._arrived = self._arrived, []
        self._on_reconnected(arrived)

    def _on_claim(self, data: bytes) -> None:
        generation, _, name = data.partition(b" ")
        try:
            client_id, number = name.decode("utf-8"), int(generation)
        except ValueError:
            logger.warning("feed: something else than a relay spoke on the channel of claims")
            return
        # Each shard tells of it.
        if self._claims.pop(client_id, None) != number:
            self._on_claimed(client_id, number)
        self._claims[client_id] = number
        if len(self._claims) > KNOWN_CLAIMS:
            del self._claims[next(iter(self._claims))]

    def _on_news(self, channel: bytes, data: bytes) -> None:
        topic = self._topics.get(channel)
        if topic is None:
            return
        try:
            fed = read_news(topic, data)
        except (ValueError, IndexError):
            logger.warning("feed: something else than a relay spoke on the channel of topic %s", topic)
            return
        self._on_fed(fed)


def _time_out(follow: asyncio.Future[None]) -> None:
    if not follow.done():
        follow.set_exception(StoreError("store_unavailable"))
