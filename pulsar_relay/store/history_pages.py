"""History: a topic's messages page by page, in either direction, without those that have expired."""

from __future__ import annotations

import time
from collections.abc import Sequence
from operator import attrgetter

from actors.ports import HistoryPage
from actors.stream import BEGINNING, Message, MessageId
from pulsar_relay.store.entries import message_id, messages_from
from pulsar_relay.store.pages import EntryPage, Pages

READS_AT_MOST = 20
"""Reads for one page. Beyond, it is given as it is: its end leads on, past what has expired."""
READ_MESSAGES = 1000
GROWTH = 10
"""How many times more is read at once where a read brought expired messages."""

_expiry, _payload = attrgetter("expires_at_ms"), attrgetter("payload")


class HistoryPages:
    """Reads pages of messages. Raises StoreError only."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    async def page(
        self, topic: str, cursor: MessageId | None, max_messages: int, max_bytes: int, *, descends: bool
    ) -> HistoryPage:
        """Messages beyond the cursor: as many as were asked for, or as fit, or all there are. Where some have
        expired, others are read in their place: who asks for the newest message is given the newest that
        lives, unless very many have expired since.
        """
        found: list[Message] = []
        count, place = max_messages, cursor
        for _ in range(READS_AT_MOST):
            page = await self._read(topic, place, count, max_bytes, descends=descends)
            if not page.entries:
                return HistoryPage(found, False, place if place != cursor else None)
            place = message_id(page.entries[-1][0])
            messages = _messages(topic, page, descends=descends)
            alive = _alive(messages)
            if len(found) + len(alive) <= max_messages and (size := _size(alive)) <= max_bytes:
                found += alive
                max_bytes -= size
            else:
                for message in alive:
                    max_bytes -= _size([message])
                    if len(found) == max_messages or (found and max_bytes < 0):
                        return HistoryPage(found, True, found[-1].id)
                    found.append(message)
            if not page.has_more or len(found) == max_messages or max_bytes <= 0:
                return HistoryPage(found, page.has_more, place)
            # A page ends where the stream was known to end: what was appended since is read too.
            if len(alive) < len(messages):
                count = max(count, min(READ_MESSAGES, count * GROWTH))
        return HistoryPage(found, True, place)

    async def _read(
        self, topic: str, place: MessageId | None, count: int, max_bytes: int, *, descends: bool
    ) -> EntryPage:
        if descends:
            return await self._pages.before(topic, place, count, max_bytes)
        return await self._pages.after(topic, place or BEGINNING, count, max_bytes)


def _messages(topic: str, page: EntryPage, *, descends: bool) -> list[Message]:
    if descends:
        return messages_from(topic, reversed(page.entries), BEGINNING)[::-1]
    return messages_from(topic, page.entries, BEGINNING)


def _alive(messages: list[Message]) -> list[Message]:
    if set(map(_expiry, messages)) <= {None}:
        return messages
    now_ms = time.time_ns() // 1_000_000
    return [message for message in messages if not message.is_expired(now_ms)]


def _size(messages: Sequence[Message]) -> int:
    """Bytes of payloads and metadata."""
    metadata = [message.metadata for message in messages if message.metadata]
    return sum(map(len, map(_payload, messages))) + sum(map(len, metadata))
