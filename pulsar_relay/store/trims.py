"""Trims: what a topic need not keep any more is removed from its stream. The rules stand in trim.lua, each
topic's own limits in its meta hash; the settings are for those that have none.
"""

from __future__ import annotations

from actors.ports import Trimmed
from pulsar_relay.settings import StorageSettings
from pulsar_relay.store import schema
from pulsar_relay.store.client import Client, Script
from pulsar_relay.store.entries import message_id
from pulsar_relay.store.link import Word

NO_LIMIT = 10**15
"""Milliseconds, or messages, that are never reached."""


class Trims:
    """Removes what has expired at the old end of a stream, what is over the topic's most messages and what is
    older than its retention, but never the newest entry. Raises StoreError only."""

    def __init__(self, client: Client, settings: StorageSettings) -> None:
        self._client = client
        self._script = Script("trim")
        self.reload(settings)

    def reload(self, settings: StorageSettings) -> None:
        """Go on with these."""
        self._retention_ms = round(settings.persistent_tier_retention_seconds * 1000)
        self._max_messages = settings.max_messages_per_topic

    async def trim(self, topic: str, now_ms: int, most_steps: int | None = None) -> Trimmed | None:
        """None if there is no such topic.

        Goes in steps, so that other commands get their turn in between. What is left after `most_steps` waits
        for the next time.
        """
        return await self._run(topic, [now_ms, self._retention_ms, self._max_messages], most_steps)

    async def trim_to(
        self, topic: str, now_ms: int, *, retention_ms: int | None, max_messages: int | None
    ) -> Trimmed | None:
        """The same with these limits, for once, whatever limits the topic has; None is no limit."""
        limits: list[Word] = [NO_LIMIT if limit is None else limit for limit in (retention_ms, max_messages)]
        return await self._run(topic, [now_ms, *limits, "exact"])

    async def _run(self, topic: str, args: list[Word], most_steps: int | None = None) -> Trimmed | None:
        total = steps = 0
        while True:
            reply = await self._script.run(self._client, schema.stream_keys(topic), args)
            if reply is None:
                return None
            removed, has_more, oldest = reply
            total += removed
            steps += 1
            if not has_more or steps == most_steps:
                return Trimmed(total, message_id(oldest) if oldest else None)
