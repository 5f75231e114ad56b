"""ValkeyStore: the `Store` port over Valkey Streams.

A topic is one stream and a small meta hash beside it (the keys: `schema.py`). Every write is one script call, so that what belongs
together happens together, whoever dies when. Nothing here keeps a message: what is in memory is the actors' business.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from valkey.asyncio import Valkey
from valkey.exceptions import ValkeyError

from actors.protocol import Appended, Description, HistoryPage, Position, Publish, StreamPage
from actors.stream import NEVER_MS, Batch, MessageId
from pulsar_relay.settings import StorageSettings
from pulsar_relay.store import schema
from pulsar_relay.store.appends import Appends
from pulsar_relay.store.client import Script, command, explain
from pulsar_relay.store.entries import message_id, messages_from
from pulsar_relay.store.feed import Feed

DELETED_META_SECONDS = 7 * 24 * 3600
"""How long a deleted topic's last id is remembered. Ids start with the clock, so this guards against one that is set back."""
ACKNOWLEDGED_SECONDS = 30 * 24 * 3600
TRIMMED_AT_ONCE = 10_000
KNOWN_TOPICS = 100_000


class ValkeyStore:
    """Implements `actors.protocol.Store`, and the read-only questions of the front end. All methods raise StoreError only."""

    def __init__(self, client: Valkey, feed: Feed, worker: str, settings: StorageSettings) -> None:
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
        self._read = Script("read")
        self._position = Script("position")
        self._trim = Script("trim")
        self._delete = Script("delete")
        self._acknowledge = Script("acknowledge")
        self._listed: dict[str, None] = {}

    # ---------------------------------------------------------------------------------------------------------- the Store port

    async def append(self, topic: str, publishes: Sequence[Publish], floor: MessageId) -> Appended:
        if topic not in self._listed:
            await self._list(topic)
        return await self._appends.append(topic, publishes, floor)

    async def _list(self, topic: str) -> None:
        """Enter the topic into the index, once per worker. Before its first append: a topic with messages is never unlisted."""
        await command(self._client, "ZADD", schema.TOPICS, 0, topic)
        self._listed[topic] = None
        if len(self._listed) > KNOWN_TOPICS:
            del self._listed[next(iter(self._listed))]

    async def read(self, topic: str, after: MessageId, max_messages: int, max_bytes: int) -> StreamPage:
        reply = await self._page(topic, str(after), max_messages, max_bytes, "asc")
        epoch, last, _oldest, oldest_prev, knows_cursor, has_more, entries = reply
        messages = messages_from(topic, entries, after)
        end = message_id(entries[-1][0]) if entries else after
        first_id = message_id(entries[0][0]) if entries else None
        first_prev = (
            messages[0].prev if messages and messages[0].id == first_id else (after if entries else None)
        )
        return StreamPage(
            Position(epoch.decode("ascii"), message_id(last)),
            Batch(topic, messages, end),
            bool(has_more),
            first_id,
            first_prev,
            bool(knows_cursor),
            message_id(oldest_prev) if _oldest else None,
        )

    async def follow(self, topic: str) -> Position:
        await self._feed.follow(topic)
        return await self.position(topic)

    def unfollow(self, topic: str) -> None:
        self._feed.unfollow(topic)

    async def position(self, topic: str) -> Position:
        reply = await self._position.run(self._client, _stream_keys(topic), [])
        return Position(reply[0].decode("ascii"), message_id(reply[1]))

    async def positions(self, topics: Sequence[str]) -> Sequence[Position]:
        pipeline = self._client.pipeline(transaction=False)
        for topic in topics:
            pipeline.hmget(schema.meta(topic), "epoch", "last")
        try:
            replies = await pipeline.execute()
        except (ValkeyError, OSError) as error:
            raise explain(error) from error
        return [Position((epoch or b"").decode("ascii"), message_id(last or b"")) for epoch, last in replies]

    async def trim(self, topic: str, before_ms: int) -> int:
        removed = TRIMMED_AT_ONCE
        total = 0
        while removed >= TRIMMED_AT_ONCE:
            # In steps, which is all an approximate XTRIM does in one call: other commands get their turn in between.
            removed = await self._trim.run(self._client, _stream_keys(topic), [max(0, before_ms)]) or 0
            total += removed
        return total

    async def delete(self, topic: str) -> Position | None:
        last = await self._delete.run(self._client, _stream_keys(topic), [DELETED_META_SECONDS * 1000])
        await command(self._client, "ZREM", schema.TOPICS, topic)
        self._listed.pop(topic, None)
        return None if last is None else Position("", message_id(last))

    async def acknowledge(self, client_id: str, cursors: Mapping[str, MessageId]) -> None:
        args: list[Any] = [ACKNOWLEDGED_SECONDS * 1000]
        for topic, cursor in cursors.items():
            args += (topic, str(cursor))
        await self._acknowledge.run(self._client, [schema.offsets(client_id)], args)

    async def acknowledged(self, client_id: str, topics: Sequence[str]) -> Mapping[str, MessageId]:
        found = await command(self._client, "HMGET", schema.offsets(client_id), *topics)
        return {
            topic: message_id(cursor)
            for topic, cursor in zip(topics, found, strict=True)
            if cursor is not None
        }

    # ------------------------------------------------------------------------------------------------- questions of the front end

    async def history(
        self, topic: str, cursor: MessageId | None, max_messages: int, max_bytes: int, *, descends: bool
    ) -> HistoryPage:
        text = "" if cursor is None else str(cursor)
        reply = await self._page(topic, text, max_messages, max_bytes, "desc" if descends else "asc")
        entries = reply[6]
        messages = messages_from(topic, reversed(entries) if descends else entries, MessageId(0))
        now_ms = time.time_ns() // 1_000_000
        alive = [message for message in messages if (message.expires_at_ms or NEVER_MS) > now_ms]
        return HistoryPage(alive[::-1] if descends else alive, bool(reply[5]))

    async def describe(self, topic: str) -> Description | None:
        epoch, last, length, oldest = await self._position.run(self._client, _stream_keys(topic), [])
        if not epoch and not length:
            return None
        return Description(
            topic, length, oldest.decode() or None, last.decode() or None, epoch.decode("ascii")
        )

    async def topics(self, after: str, limit: int) -> list[str]:
        """Names of topics that come after `after`, in alphabetical order, at most `limit`."""
        first = f"({after}" if after else "-"
        names = await command(self._client, "ZRANGE", schema.TOPICS, first, "+", "BYLEX", "LIMIT", 0, limit)
        return [name.decode("utf-8") for name in names]

    async def topic_count(self) -> int:
        return int(await command(self._client, "ZCARD", schema.TOPICS))

    async def cookie_key(self) -> str:
        """The secret all workers sign cursor cookies with; whoever asks first makes it."""
        await command(self._client, "SET", schema.COOKIE_KEY, secrets.token_hex(32), "NX")
        key: bytes = await command(self._client, "GET", schema.COOKIE_KEY)
        return key.decode("ascii")

    async def probe(self) -> None:
        """Write something, as an append would have to; raises StoreError where an append would be refused."""
        await command(
            self._client, "SET", schema.probe(self._worker), time.time_ns() // 1_000_000, "PX", 60_000
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def _page(self, topic: str, cursor: str, max_messages: int, max_bytes: int, order: str) -> Any:
        return await self._read.run(
            self._client, _stream_keys(topic), [cursor, max_messages, max_bytes, order]
        )


def _stream_keys(topic: str) -> list[str]:
    return [schema.stream(topic), schema.meta(topic)]
