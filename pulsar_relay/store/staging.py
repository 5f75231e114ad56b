"""Staging: the stream that is filled beside a topic's own, until it takes its place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable

from pulsar_relay.store import schema
from pulsar_relay.store.client import Client
from pulsar_relay.store.entries import Entry

KEPT_SECONDS = 24 * 3600
"""How long one is kept that a restore left unfinished."""
ENTRIES_AT_ONCE, BYTES_AT_ONCE = 500, 1024 * 1024


class Staging:
    """One attempt to fill it, in ascending order. Raises StoreError."""

    def __init__(self, client: Client, topic: str) -> None:
        self._client = client
        self.key = schema.staging(topic)
        self.count = 0
        """How many entries it must have, once `flush` has returned."""
        self._waiting: list[Entry] = []
        self._waiting_bytes = 0

    async def clear(self) -> None:
        await self._client.command("UNLINK", self.key)

    async def add(self, entry: Entry) -> None:
        self._waiting.append(entry)
        self._waiting_bytes += sum(map(len, entry[1]))
        if len(self._waiting) >= ENTRIES_AT_ONCE or self._waiting_bytes >= BYTES_AT_ONCE:
            await self.flush()

    async def add_all(self, entries: AsyncIterable[Entry]) -> None:
        """Returns when all are there."""
        async for entry in entries:
            await self.add(entry)
        await self.flush()

    async def flush(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if not waiting:
            return
        self.count += len(waiting)
        calls = [self._client.line.call("XADD", self.key, name, *fields) for name, fields in waiting]
        await asyncio.gather(*calls, self._client.line.call("EXPIRE", self.key, KEPT_SECONDS))
