"""Copies: the store's content as it is, for a backup. Reads, and changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from actors.stream import BEGINNING, MessageId
from pulsar_relay.store import schema
from pulsar_relay.store.client import Client
from pulsar_relay.store.entries import Entry, id_or_none, message_id
from pulsar_relay.store.key_scan import KeyScan
from pulsar_relay.store.pages import Pages

PAGE_ENTRIES, PAGE_BYTES = 2000, 1024 * 1024
NAMES_AT_ONCE = 1000


class OvertakenError(Exception):
    """What was read of a topic is no part of it any more: it was deleted, or trimmed faster than read."""


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic at one moment. `newest` is its newest entry, `last` the last id it gave."""

    meta: Mapping[str, bytes]
    newest: MessageId
    last: MessageId

    @property
    def epoch(self) -> str:
        return self.meta.get("epoch", b"").decode("ascii", "replace")


class Copies:
    """Raises StoreError."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pages = Pages(client)

    async def topics(self) -> list[str]:
        """All there are, also those that are missing in the index."""
        names = {schema.topic_named(name) for name in await self._index(schema.TOPICS)}
        names |= {schema.topic_of(key) for key in await self._keys("topic:*:stream", "stream")}
        return sorted(name for name in names if name is not None)

    async def lengths(self, topics: Sequence[str]) -> list[int]:
        """How many messages each has."""
        found: list[int] = []
        for start in range(0, len(topics), NAMES_AT_ONCE):
            part = topics[start : start + NAMES_AT_ONCE]
            found += await asyncio.gather(
                *[self._client.command("XLEN", schema.stream(topic)) for topic in part]
            )
        return found

    async def state(self, topic: str) -> TopicState | None:
        """None if there is no such topic (any more)."""
        stream, meta = schema.stream_keys(topic)
        *_, (flat, newest) = await self._client.pages.call_all(
            ("MULTI",),
            ("HGETALL", meta),
            ("XREVRANGE", stream, "+", "-", "COUNT", 1),
            ("EXEC",),
        )
        fields = {
            name.decode("utf-8", "replace"): value for name, value in zip(flat[::2], flat[1::2], strict=True)
        }
        if not newest and "epoch" not in fields:
            return None
        newest_id = message_id(newest[0][0]) if newest else BEGINNING
        return TopicState(fields, newest_id, max(newest_id, id_or_none(fields.get("last", b"")) or BEGINNING))

    async def pages(self, topic: str, state: TopicState) -> AsyncIterator[list[Entry]]:
        """The entries from the oldest to the newest of that state, without a hole that was not there before.

        Raises OvertakenError.
        """
        cursor = BEGINNING
        while cursor < state.newest:
            page = await self._pages.after(topic, cursor, PAGE_ENTRIES, PAGE_BYTES)
            is_next = cursor == BEGINNING or page.knows_cursor or page.first_prev(cursor) == cursor
            if page.epoch != state.epoch or not page.entries or not is_next:
                raise OvertakenError(topic)
            entries = [entry for entry in page.entries if message_id(entry[0]) <= state.newest]
            if entries:
                yield entries
            cursor = message_id(page.entries[-1][0])

    async def consumers(self) -> AsyncIterator[tuple[str, dict[str, str]]]:
        """Each client with a name, and its places: acknowledged cursors and delivered marks, as stored."""
        prefix, _, suffix = schema.offsets("*").encode().partition(b"*")
        keys = await self._keys(schema.offsets("*"), "hash")
        found = {key[len(prefix) : -len(suffix)] for key in keys}
        for name in sorted(found | set(await self._index(schema.CONSUMERS))):
            client_id = name.decode("utf-8", "surrogateescape")
            flat = await self._client.command("HGETALL", prefix + name + suffix)
            places = {
                field.decode("utf-8"): value.decode("ascii")
                for field, value in zip(flat[::2], flat[1::2], strict=True)
                if id_or_none(value) is not None and _is_text(field)
            }
            if places and _is_text(name):
                yield client_id, places

    async def _index(self, key: str) -> list[bytes]:
        names: list[bytes] = []
        after = b"-"
        while True:
            words = ("ZRANGE", key, after, "+", "BYLEX", "LIMIT", 0, NAMES_AT_ONCE)
            found = await self._client.command(*words)
            names += found
            if len(found) < NAMES_AT_ONCE:
                return names
            after = b"(" + found[-1]

    async def _keys(self, pattern: str, kind: str) -> set[bytes]:
        scan = KeyScan(self._client, pattern, kind, NAMES_AT_ONCE)
        keys: set[bytes] = set()
        is_done = False
        while not is_done:
            found, is_done = await scan.step()
            keys.update(found)
        return keys


def _is_text(name: bytes) -> bool:
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
