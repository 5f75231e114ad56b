"""ValkeyStore: the `Store` port over Valkey Streams.

A topic is one stream and a small meta hash beside it (the keys: `schema.py`). Every write is one script call,
so that what belongs together happens together, whoever dies when. Nothing here keeps a message: what is in
memory is the actors' business.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from itertools import chain

from actors.ports import (
    Appended,
    Claim,
    ConsumerPage,
    ConsumerRecord,
    Description,
    HistoryPage,
    Place,
    Position,
    Publish,
    RetentionLimits,
    StoreError,
    StreamPage,
    TopicTerms,
    Trimmed,
)
from actors.stream import BEGINNING, Batch, MessageId
from pulsar_relay.settings import StorageSettings
from pulsar_relay.store import schema
from pulsar_relay.store.appends import Appends
from pulsar_relay.store.client import Client, Script
from pulsar_relay.store.consumers import Consumers
from pulsar_relay.store.entries import message_id, messages_from
from pulsar_relay.store.feed import Feed
from pulsar_relay.store.history_pages import HistoryPages
from pulsar_relay.store.pages import Pages
from pulsar_relay.store.shard import Shard
from pulsar_relay.store.terms import Terms
from pulsar_relay.store.trims import Trims

DELETED_META_SECONDS = 7 * 24 * 3600
"""How long a deleted topic's last id is remembered. Ids start with the clock, so this guards against one set
back."""
POSITIONS_AT_ONCE = 100
PLACES_AT_ONCE = 100


class ValkeyStore:
    """Implements `actors.protocol.Store` and `Archive`. All methods raise StoreError only.

    `worker` names this process in this life, and is the name its `feed` has: two that share a name do not
    hear each other.
    """

    def __init__(self, client: Client, feed: Feed, worker: str, settings: StorageSettings) -> None:
        self._client = client
        self._feed = feed
        self._worker = worker
        self._appends = Appends(
            client,
            worker,
            max_messages_per_topic=settings.max_messages_per_topic,
            idempotency_window_seconds=settings.idempotency_window_seconds,
            publish_deadline_seconds=settings.publish_deadline_seconds,
        )
        self._pages = Pages(client)
        self._history = HistoryPages(self._pages)
        self._trims = Trims(client, settings)
        self._terms = Terms(client, settings)
        self._positions = Script("positions")
        self._delete = Script("delete")
        self._consumers = Consumers(client, worker)

    def reload(self, settings: StorageSettings) -> None:
        """Go on with these, from the next operation on."""
        self._appends.bound(
            max_messages_per_topic=settings.max_messages_per_topic,
            idempotency_window_seconds=settings.idempotency_window_seconds,
            publish_deadline_seconds=settings.publish_deadline_seconds,
        )
        self._trims.reload(settings)
        self._terms.reload(settings)

    # Store

    def append(self, topic: str, publishes: Sequence[Publish], floor: MessageId) -> asyncio.Future[Appended]:
        return self._appends.append(topic, publishes, floor)

    async def read(self, topic: str, after: MessageId, max_messages: int, max_bytes: int) -> StreamPage:
        page = await self._pages.after(topic, after, max_messages, max_bytes)
        entries = page.entries
        first_prev = page.first_prev(after)
        return StreamPage(
            Position(page.epoch, page.last),
            Batch(
                topic,
                messages_from(topic, entries, after),
                message_id(entries[-1][0]) if entries else after,
                after if first_prev == after or page.has_expired_before(after) else None,
            ),
            page.has_more,
            message_id(entries[0][0]) if entries else None,
            first_prev,
            page.knows_cursor,
            page.oldest_prev,
        )

    async def follow(self, topic: str) -> Position:
        await self._feed.follow(topic)
        return await self.position(topic)

    def unfollow(self, topic: str) -> None:
        self._feed.unfollow(topic)

    async def position(self, topic: str) -> Position:
        return _told((await self._positions_of([topic]))[0])

    async def positions(self, topics: Sequence[str]) -> Sequence[Position | None]:
        found = await self._positions_of(topics)
        if found and all(isinstance(one, StoreError) for one in found):
            _told(found[0])
        return [None if isinstance(one, StoreError) else one for one in found]

    async def _positions_of(self, topics: Sequence[str]) -> Sequence[Position | StoreError]:
        """Asked for in groups whose keys one script may have; one that cannot be asked takes no other with
        it."""
        groups = [
            group[start : start + POSITIONS_AT_ONCE]
            for group in self._client.apart(topics, schema.stream)
            for start in range(0, len(group), POSITIONS_AT_ONCE)
        ]
        replies = await asyncio.gather(
            *[self._group_positions([topics[index] for index in group]) for group in groups]
        )
        found = dict(zip(chain.from_iterable(groups), chain.from_iterable(replies), strict=True))
        return [found[index] for index in range(len(topics))]

    async def _group_positions(self, topics: Sequence[str]) -> Sequence[Position | StoreError]:
        keys = [key for topic in topics for key in schema.stream_keys(topic)]
        try:
            reply = await self._positions.run(self._client, keys, [])
        except StoreError as error:
            return [error] * len(topics)
        return [
            Position(epoch.decode("ascii"), message_id(last))
            for epoch, last in zip(reply[::2], reply[1::2], strict=True)
        ]

    async def trim(self, topic: str, now_ms: int) -> Trimmed:
        return await self._trims.trim(topic, now_ms) or Trimmed(0, None)

    async def delete(self, topic: str) -> Position | None:
        # Out of the index first. The other way round, a topic made anew in between would be taken out of it.
        await self._client.command("ZREM", schema.TOPICS, topic)
        self._appends.forget(topic)
        args = [DELETED_META_SECONDS * 1000]
        last = await self._delete.run(self._client, schema.stream_keys(topic), args)
        return None if last is None else Position("", message_id(last))

    async def claim(
        self, client_id: str, subscriber_id: int, topics: Sequence[str], *, is_held: bool
    ) -> Claim:
        return await self._consumers.claim(client_id, subscriber_id, topics, is_held=is_held)

    async def acknowledge(
        self,
        client_id: str,
        subscriber_id: int | None,
        cursors: Mapping[str, MessageId],
        *,
        proves: bool,
    ) -> Mapping[str, MessageId]:
        if proves:
            # Asked first: what a topic gave it does not take back.
            positions = [_told(found) for found in await self._positions_of(list(cursors))]
            if any(at > has.newest for at, has in zip(cursors.values(), positions, strict=True)):
                raise StoreError("ahead_of_stream")
        return await self._consumers.acknowledge(client_id, subscriber_id, cursors)

    async def mark(self, client_id: str, delivered: Mapping[str, MessageId]) -> None:
        await self._consumers.mark(client_id, delivered)

    async def release(self, client_id: str, subscriber_id: int, delivered: Mapping[str, MessageId]) -> None:
        await self._consumers.release(client_id, subscriber_id, delivered)

    async def claims(self, client_ids: Sequence[str]) -> Mapping[str, int]:
        return await self._consumers.claims(client_ids)

    # Archive

    async def history(
        self, topic: str, cursor: MessageId | None, max_messages: int, max_bytes: int, *, descends: bool
    ) -> HistoryPage:
        return await self._history.page(topic, cursor, max_messages, max_bytes, descends=descends)

    async def describe(self, topic: str) -> Description | None:
        return await self._terms.describe(topic)

    async def create(self, topic: str, terms: TopicTerms) -> bool:
        return await self._terms.create(topic, terms)

    async def change(self, topic: str, terms: TopicTerms) -> bool:
        return await self._terms.change(topic, terms)

    async def topics(self, after: str, limit: int) -> list[str]:
        """Names of topics that come after `after`, in alphabetical order, at most `limit`."""
        first = f"({after}" if after else "-"
        names = await self._client.command("ZRANGE", schema.TOPICS, first, "+", "BYLEX", "LIMIT", 0, limit)
        return [name.decode("utf-8", "replace") for name in names]

    async def topic_count(self) -> int:
        return int(await self._client.command("ZCARD", schema.TOPICS))

    async def consumer(self, client_id: str) -> ConsumerRecord:
        entries = await self._consumers.entries([client_id])
        if not entries:
            raise StoreError("consumer_not_found")
        fields = await self._consumers.fields(client_id)
        places: list[Place] = []
        for start in range(0, len(fields), PLACES_AT_ONCE):
            part = list(fields.items())[start : start + PLACES_AT_ONCE]
            places += await asyncio.gather(*(self._place(topic, *ids) for topic, ids in part))
        return ConsumerRecord(entries[0], places)

    async def _place(self, topic: str, cursor: MessageId | None, delivered: MessageId | None) -> Place:
        page, description = await asyncio.gather(
            self.read(topic, cursor or BEGINNING, 1, 1), self.describe(topic)
        )
        limits = RetentionLimits() if description is None else description.effective
        return Place(topic, cursor, delivered, page, limits)

    async def consumers(self, after: str, limit: int) -> ConsumerPage:
        return await self._consumers.page(after, limit)

    async def forget(self, client_id: str) -> None:
        await self._consumers.forget(client_id)

    # The worker's own needs

    async def cookie_key(self, offered: str | None = None) -> str:
        """The secret all workers sign cursor cookies with; who asks first makes it, or gives `offered`."""
        made = offered or secrets.token_hex(32)
        kept: bytes | None = await self._client.command("SET", schema.COOKIE_KEY, made, "NX", "GET")
        return made if kept is None else kept.decode("ascii")

    async def probe(self, shard: Shard) -> None:
        """Write something, as an append would have to; raises StoreError where an append would be refused."""
        now_ms = time.time_ns() // 1_000_000
        key = schema.probe(self._worker, self._client.tag_at(shard))
        await self._client.command("SET", key, now_ms, "PX", 60_000)

    async def close(self) -> None:
        await self._client.aclose()


def _told(found: Position | StoreError) -> Position:
    if isinstance(found, StoreError):
        raise found
    return found
