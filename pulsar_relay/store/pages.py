"""Pages: the read path from Valkey, bounded by messages and by bytes.

XRANGE alone cannot be bounded by bytes, so read.lua walks the entries; but a script handles each of them
several times over, for six times the price. Where the size of a topic's largest entry is known, the bound is
kept by asking for few enough, and XRANGE answers without the script:

    MULTI, XRANGE (<cursor> <last id known> COUNT n, prove.lua, EXEC
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actors.stream import BEGINNING, MessageId
from pulsar_relay.store import schema
from pulsar_relay.store.client import Client, Script
from pulsar_relay.store.entries import Entry, id_or_none, message_id, predecessor
from pulsar_relay.store.link import Word

KNOWN_TOPICS = 10_000
ENTRY_OVERHEAD_BYTES = 64
"""What an entry's predecessor and expiry add to its payload and metadata."""
MIN_RANGE_MESSAGES = 100
"""Fewer are not worth a range: one large message would make all pages of its topic short."""
RANGE_OVERSHOOT = 4
"""How many times the bytes asked for a range may bring at worst; what is too much is cut off here."""


@dataclass(frozen=True, slots=True)
class Bound:
    """No entry of the topic up to `last` is larger than `largest_bytes`: the relay wrote them all."""

    last: MessageId
    largest_bytes: int


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Entries strictly beyond the cursor in the direction asked, and what proves where the cursor stands. See
    `actors.protocol.StreamPage`."""

    epoch: str
    last: MessageId
    oldest_prev: MessageId | None
    expired_from: tuple[MessageId, MessageId] | None
    knows_cursor: bool
    has_more: bool
    entries: Sequence[Entry]

    def has_expired_before(self, cursor: MessageId) -> bool:
        """Whether all that was between the cursor and the oldest entry had expired when it was removed."""
        if self.expired_from is None or self.oldest_prev is None:
            return False
        before, first = self.expired_from
        return cursor == before or first <= cursor < self.oldest_prev

    def first_prev(self, cursor: MessageId) -> MessageId | None:
        """The predecessor of the first entry; None if there is no entry."""
        if not self.entries:
            return None
        named = predecessor(self.entries[0])
        if named is None:
            # Written by another server. It follows the cursor if that is an entry; else who knows.
            return cursor if self.knows_cursor else BEGINNING
        return named


class Pages:
    """Reads pages. Raises StoreError only."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._read = Script("read")
        self._prove = Script("prove")
        self._bounds: dict[str, Bound] = {}

    async def after(self, topic: str, cursor: MessageId, max_messages: int, max_bytes: int) -> EntryPage:
        """Entries after the cursor, ascending; at least one if there is any."""
        bound = self._bounds.get(topic)
        if bound is not None and cursor < bound.last:
            fitting = RANGE_OVERSHOOT * max_bytes // (bound.largest_bytes + ENTRY_OVERHEAD_BYTES)
            count = min(max_messages, fitting)
            if count >= min(max_messages, MIN_RANGE_MESSAGES):
                page = await self._range(topic, cursor, bound, count, max_bytes)
                if page is not None:
                    return page
        return await self._walk(topic, str(cursor), max_messages, max_bytes, "asc")

    async def before(
        self, topic: str, cursor: MessageId | None, max_messages: int, max_bytes: int
    ) -> EntryPage:
        """Entries before the cursor, or from the newest on, descending; at least one if there is any."""
        return await self._walk(topic, "" if cursor is None else str(cursor), max_messages, max_bytes, "desc")

    async def _walk(
        self, topic: str, cursor: str, max_messages: int, max_bytes: int, direction: str
    ) -> EntryPage:
        args: list[Word] = [cursor, max_messages, max_bytes, direction]
        reply = await self._read.run_for_page(self._client, schema.stream_keys(topic), args)
        return self._page(topic, [*reply[:6], reply[8]], bool(reply[6]), reply[7])

    async def _range(
        self, topic: str, cursor: MessageId, bound: Bound, count: int, max_bytes: int
    ) -> EntryPage | None:
        """None if this is not the way to read this page."""
        keys = schema.stream_keys(topic)
        *_, replies = await self._client.pages.call_all(
            ("MULTI",),
            ("XRANGE", keys[0], f"({cursor}", str(bound.last), "COUNT", count + 1),
            ("EVALSHA", self._prove.sha, len(keys), *keys, str(cursor), str(bound.last)),
            ("EXEC",),
        )
        entries, proof = replies
        if isinstance(proof, Exception):
            await self._prove.load(self._client)
            return None
        if not entries:
            return None
        fitting = min(count, len(entries))
        if fitting * (bound.largest_bytes + ENTRY_OVERHEAD_BYTES) > max_bytes:
            fitting = min(fitting, _fitting(entries, max_bytes))
        has_more = fitting < len(entries) or bool(proof[6])
        return self._page(topic, [*proof[:6], proof[7]], has_more, entries[:fitting])

    def _page(self, topic: str, proof: Sequence[Any], has_more: bool, entries: Sequence[Entry]) -> EntryPage:
        epoch, last_text, oldest, oldest_prev, knows_cursor, largest, expired_from = proof
        last = message_id(last_text)
        self._bounds.pop(topic, None)
        if largest:
            self._bounds[topic] = Bound(last, int(largest))
            if len(self._bounds) > KNOWN_TOPICS:
                del self._bounds[next(iter(self._bounds))]
        return EntryPage(
            epoch.decode("ascii"),
            last,
            _predecessor_of_oldest(oldest, oldest_prev),
            _before_and_first(expired_from),
            bool(knows_cursor),
            has_more,
            entries,
        )


def _fitting(entries: Sequence[Entry], max_bytes: int) -> int:
    """How many of the entries fit, at least one; measured as read.lua does."""
    for count, (_, fields) in enumerate(entries):
        max_bytes -= sum(map(len, fields[1::2]))
        if max_bytes < 0 and count > 0:
            return count
    return len(entries)


def _before_and_first(text: bytes) -> tuple[MessageId, MessageId] | None:
    before, _, first = text.partition(b" ")
    return (message_id(before), message_id(first)) if first else None


def _predecessor_of_oldest(oldest: bytes, named: bytes) -> MessageId | None:
    if not oldest:
        return None
    prev = id_or_none(named)
    # One that names none was written by another server: whatever was before it was below it.
    return MessageId(max(0, message_id(oldest) - 1)) if prev is None else prev
