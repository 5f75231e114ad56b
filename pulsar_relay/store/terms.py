"""Terms: what was said of a topic when it was made or changed. Kept in its meta hash, beside its stream."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from actors.ports import Description, RetentionLimits, TopicTerms
from pulsar_relay.settings import StorageSettings
from pulsar_relay.store import schema
from pulsar_relay.store.client import Client, Script
from pulsar_relay.store.link import Word


class Terms:
    """Makes, changes and describes topics. Raises StoreError only."""

    def __init__(self, client: Client, settings: StorageSettings) -> None:
        self._client = client
        self._create = Script("create")
        self._change = Script("change")
        self._describe = Script("describe")
        self.reload(settings)

    def reload(self, settings: StorageSettings) -> None:
        """Go on with these."""
        self._defaults = RetentionLimits(
            settings.max_messages_per_topic, round(settings.persistent_tier_retention_seconds * 1000)
        )

    async def create(self, topic: str, terms: TopicTerms) -> bool:
        """False if there is such a topic already."""
        # Into the index first: a name there without a topic is found and taken out, a topic without a name
        # would have to wait for its first message.
        await self._client.command("ZADD", schema.TOPICS, 0, topic)
        args: list[Word] = [secrets.token_hex(8)]
        for field, value in _fields(terms).items():
            if value is not None:
                args += (field, value)
        return await self._create.run(self._client, schema.stream_keys(topic), args) is not None

    async def change(self, topic: str, terms: TopicTerms) -> bool:
        """False if there is no such topic."""
        fields = _fields(terms)
        forgotten = [field for field, value in fields.items() if value is None]
        args: list[Word] = [len(forgotten), *forgotten]
        for field, value in fields.items():
            if value is not None:
                args += (field, value)
        return await self._change.run(self._client, schema.stream_keys(topic), args) is not None

    async def describe(self, topic: str) -> Description | None:
        reply = await self._describe.run(self._client, schema.stream_keys(topic), [])
        if reply is None:
            return None
        epoch, length, oldest, newest, created, text, max_messages, retention = reply
        own = RetentionLimits(_number_or_none(max_messages), _number_or_none(retention))
        effective = own.completed_by(self._defaults)
        return Description(
            topic,
            length,
            oldest.decode("ascii") or None,
            newest.decode("ascii") or None,
            epoch.decode("ascii"),
            _number_or_none(created),
            None if text is None else text.decode("utf-8", "replace"),
            own,
            effective,
        )


def _fields(terms: TopicTerms) -> Mapping[str, str | int | None]:
    """What is said, by its name in the meta hash; None is to be forgotten."""
    said: dict[str, str | int | None] = dict(terms.limits)
    if terms.description is not None:
        said["description"] = terms.description
    return said


def _number_or_none(text: bytes) -> int | None:
    return int(text) if text else None
