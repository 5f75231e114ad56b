"""What the predecessor keeps in Valkey, read and never written.

| key                           | type   | holds                                                      |
| ----------------------------- | ------ | ---------------------------------------------------------- |
| `stream:topic:<owner>/<name>` | stream | payload, timestamp, metadata: texts                        |
| `topic:<owner>/<name>`        | hash   | topic_name, owner_id, description, created_at              |
| `user:<id>`                   | hash   | user_id, username, email, hashed_password, is_active, ...  |
| `refresh:tok:<jti>`           | hash   | user_id, secret_hash, parent_jti, expires_at, revoked, ... |
| `denylist:jti:<jti>`          | string | an access token that was logged out; expires with it       |

It keeps a deleted topic's stream, and everything of a deleted user.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.stream import BEGINNING, MessageId
from pulsar_relay.store.client import Client
from pulsar_relay.store.entries import Entry, message_id
from pulsar_relay.store.key_scan import KeyScan

STREAMS, TOPICS, USERS = "stream:topic:", "topic:", "user:"
REFRESH_TOKENS, DENIED_TOKENS = "refresh:tok:", "denylist:jti:"
_OF_MANY_USERS = frozenset({"username_index", "fed_index"})
KEYS_AT_ONCE = 500
PAGE_ENTRIES, PAGE_BYTES = 200, 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream as it was when it was looked at. `has_all`: nothing was ever trimmed from it."""

    length: int
    oldest: MessageId
    newest: MessageId
    has_all: bool


class Source:
    """Raises StoreError. Records are as they stand there, by the rest of their key."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def topics(self) -> Mapping[str, Mapping[str, str]]:
        """The record of each topic that has one, or has a stream; of a deleted one it is empty."""
        names = {*await self._names(STREAMS, "stream"), *await self._names(TOPICS, "hash")}
        return await self._records(TOPICS, sorted(names))

    async def users(self) -> Mapping[str, Mapping[str, str]]:
        ids = sorted({*await self._names(USERS, "hash")} - _OF_MANY_USERS)
        return await self._records(USERS, ids)

    async def refresh_tokens(self) -> Mapping[str, Mapping[str, str]]:
        return await self._records(REFRESH_TOKENS, await self._names(REFRESH_TOKENS, "hash"))

    async def denied_tokens(self) -> Mapping[str, int]:
        """For how many milliseconds each is denied still."""
        names = await self._names(DENIED_TOKENS, "string")
        times = await self._each("PTTL", DENIED_TOKENS, names)
        return {name: int(time) for name, time in zip(names, times, strict=True) if int(time) > 0}

    async def stream(self, topic: str) -> Stream | None:
        """None where there are no messages."""
        key = STREAMS + topic
        if not await self._client.command("XLEN", key):
            return None
        flat = await self._client.command("XINFO", "STREAM", key)
        told = dict(zip(flat[::2], flat[1::2], strict=True))
        first, last = told[b"first-entry"], told[b"last-entry"]
        if first is None or last is None:
            return None
        # Servers before 7.0 do not count what was added.
        added = told.get(b"entries-added")
        return Stream(told[b"length"], message_id(first[0]), message_id(last[0]), added == told[b"length"])

    async def entries(self, topic: str, after: MessageId, up_to: MessageId) -> AsyncIterator[Entry]:
        """Those after the one id, up to the other, in ascending order."""
        place, count = after, 1
        while place < up_to:
            first = "-" if place == BEGINNING else f"({place}"
            words = ("XRANGE", STREAMS + topic, first, str(up_to), "COUNT", count)
            page = await self._client.pages.call(*words)
            if not page:
                return
            for entry in page:
                yield entry
            place = message_id(page[-1][0])
            # XRANGE cannot be bounded by bytes: the next page is by what these were.
            each = max(1, sum(len(word) for _, words in page for word in words) // len(page))
            count = max(1, min(PAGE_ENTRIES, 2 * count, PAGE_BYTES // each))

    async def _names(self, prefix: str, kind: str) -> Sequence[str]:
        scan = KeyScan(self._client, f"{prefix}*", kind, KEYS_AT_ONCE)
        names: set[str] = set()
        is_done = False
        while not is_done:
            keys, is_done = await scan.step()
            names.update(key.decode("utf-8", "replace")[len(prefix) :] for key in keys)
        return sorted(names)

    async def _records(self, prefix: str, names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        records = await self._each("HGETALL", prefix, names)
        return {name: _texts(record) for name, record in zip(names, records, strict=True)}

    async def _each(self, command: str, prefix: str, names: Sequence[str]) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(names), KEYS_AT_ONCE):
            part = names[start : start + KEYS_AT_ONCE]
            found += await asyncio.gather(*(self._client.command(command, prefix + name) for name in part))
        return found


def _texts(flat: Sequence[bytes]) -> dict[str, str]:
    words = [word.decode("utf-8", "replace") for word in flat]
    return dict(zip(words[::2], words[1::2], strict=True))
