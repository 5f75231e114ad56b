"""Restores: topics and consumers put back from a backup.

A topic is built beside its stream, under a key that expires, and takes the stream's place in one step. Until
then nobody sees anything of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Mapping, Sequence
from enum import Enum
from typing import Any

from actors.stream import MessageId
from pulsar_relay.store import schema
from pulsar_relay.store.client import Client, Script
from pulsar_relay.store.consumers import KEPT_SECONDS
from pulsar_relay.store.copies import Copies, OvertakenError, TopicState
from pulsar_relay.store.entries import Entry, message_id
from pulsar_relay.store.link import Word
from pulsar_relay.store.staging import Staging

RESUMED_SECONDS = 24 * 3600
"""How long a restore that was broken off can be gone on with; a later one begins anew."""
MERGE_ATTEMPTS = 20
TOPICS_AT_ONCE = 1000
_MORE, _DISTURBED = 2, 3
_TERMS = ("description", "max_messages", "retention_ms")
_EXPIRED = ("expired_from", "expired_to")


class Mode(Enum):
    """What becomes of a topic that has messages already: nothing is done, or it goes, or both are kept."""

    NEW = "new"
    REPLACE = "replace"
    MERGE = "merge"


class NotEmptyError(Exception):
    """The topic has messages, or changes too often to be merged."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic} is being published to")


class DisturbedError(Exception):
    """What was filled is not what it must be: another restore fills it too."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic} is being restored by somebody else too")


class Restores:
    """Those of the backup `backup_id`. `is_complete`: nothing was published after the backup was made, so no
    history ends with it. Raises StoreError.
    """

    def __init__(self, client: Client, backup_id: str, mode: Mode, *, is_complete: bool) -> None:
        self._client = client
        self._backup_id = backup_id
        self._mode = mode
        self._is_complete = is_complete
        self._copies = Copies(client)
        self._script = Script("restore")
        self._acknowledge = Script("acknowledge")

    async def topics_with_messages(self, topics: Sequence[str]) -> list[str]:
        lengths = await self._copies.lengths(topics)
        return [topic for topic, length in zip(topics, lengths, strict=True) if length]

    async def done(self, topics: Sequence[str]) -> set[str]:
        """Those that an earlier attempt, not long ago, has put in their place."""
        notes = await self._each(topics, "HGET", schema.RESTORED_FIELD)
        return {topic for topic, note in zip(topics, notes, strict=True) if self._is_of_this(note)}

    async def forget_done(self, topics: Sequence[str]) -> None:
        """The restore is over: the next one begins anew."""
        await self._each(topics, "HDEL", schema.RESTORED_FIELD)

    async def _each(self, topics: Sequence[str], command: str, field: str) -> list[Any]:
        replies: list[Any] = []
        for start in range(0, len(topics), TOPICS_AT_ONCE):
            part = topics[start : start + TOPICS_AT_ONCE]
            calls = [self._client.command(command, schema.meta(topic), field) for topic in part]
            replies += await asyncio.gather(*calls)
        return replies

    def _is_of_this(self, note: bytes | None) -> bool:
        backup_id, _, seconds = (note or b"").decode("utf-8", "replace").partition(" ")
        return (
            backup_id == self._backup_id
            and seconds.isdigit()
            and time.time() - int(seconds) < RESUMED_SECONDS
        )

    async def topic(self, backup: TopicState, topic: str, entries: AsyncIterable[Entry]) -> None:
        """Put the topic in its place. `entries` are iterated again if it changes meanwhile.

        Raises NotEmptyError, DisturbedError.
        """
        # Into the index first, as for a topic that is made: a name without a topic is found and taken out.
        await self._client.command("ZADD", schema.TOPICS, 0, topic)
        for _ in range(MERGE_ATTEMPTS):
            found = await self._copies.state(topic) if self._mode is Mode.MERGE else None
            staging = Staging(self._client, topic)
            await staging.clear()
            if found is None:
                await staging.add_all(entries)
                mode = Mode.NEW if self._mode is Mode.MERGE else self._mode
                is_done = await self._swap(topic, mode, backup, backup.meta, staging, is_backup_newer=True)
            else:
                is_done = await self._merge(topic, backup, found, entries, staging)
            if is_done:
                return
            if self._mode is Mode.NEW:
                await staging.clear()
                raise NotEmptyError(topic)
        raise NotEmptyError(topic)

    async def consumer(self, client_id: str, places: Mapping[str, str]) -> None:
        """Give a client its places back. A place that is further on stays, unless topics are replaced."""
        key = schema.offsets(client_id)
        words: list[Word] = [word for pair in places.items() for word in pair]
        if self._mode is Mode.REPLACE:
            await self._client.command("HSET", key, *words)
            await self._client.command("PEXPIRE", key, KEPT_SECONDS * 1000)
        else:
            await self._acknowledge.run(self._client, [key], [KEPT_SECONDS * 1000, "", "", *words])
        await self._client.command("ZADD", schema.CONSUMERS, 0, client_id)

    async def _merge(
        self,
        topic: str,
        backup: TopicState,
        found: TopicState,
        entries: AsyncIterable[Entry],
        staging: Staging,
    ) -> bool:
        """False if the topic has changed so that it has to be done anew."""
        rest = aiter(entries)
        pending = await anext(rest, None)
        oldest = None if pending is None else message_id(pending[0])
        oldest_there: MessageId | None = None
        try:
            async for page in self._copies.pages(topic, found):
                for entry in page:
                    this = message_id(entry[0])
                    oldest_there = this if oldest_there is None else oldest_there
                    while pending is not None and message_id(pending[0]) < this:
                        await staging.add(pending)
                        pending = await anext(rest, None)
                    if pending is not None and message_id(pending[0]) == this:
                        pending = await anext(rest, None)
                    await staging.add(entry)
        except OvertakenError:
            return False
        if pending is not None:
            await staging.add(pending)
        await staging.add_all(rest)
        begins_earlier = oldest is not None and (oldest_there is None or oldest < oldest_there)
        meta = merged_meta(backup, found, backup_begins=begins_earlier)
        is_newer = backup.last > found.last
        return await self._swap(topic, Mode.MERGE, found, meta, staging, is_backup_newer=is_newer)

    async def _swap(
        self,
        topic: str,
        mode: Mode,
        merged: TopicState,
        meta: Mapping[str, bytes],
        staging: Staging,
        *,
        is_backup_newer: bool,
    ) -> bool:
        is_broken = is_backup_newer and not self._is_complete
        note = f"{self._backup_id} {int(time.time())}"
        args: list[Word] = [mode.value, merged.epoch, str(merged.newest), int(is_broken), note]
        fields: list[Word] = [word for pair in meta.items() for word in pair]
        keys = [*schema.stream_keys(topic), staging.key]
        count: int | str = staging.count
        while (reply := await self._script.run(self._client, keys, [*args, count, *fields])) == _MORE:
            # The script has added to it.
            count = ""
        if reply == _DISTURBED:
            raise DisturbedError(topic)
        return bool(reply)


def merged_meta(backup: TopicState, found: TopicState, *, backup_begins: bool) -> dict[str, bytes]:
    """The meta hash of a topic that holds both: the epoch of the newer of the two histories, what was said of
    the topic that is there, and of the older end what is known of that.
    """
    newer = backup.meta if backup.last > found.last else found.meta
    meta = {name: value for name, value in newer.items() if name not in (*_TERMS, *_EXPIRED, "largest")}
    meta |= {name: found.meta[name] for name in _TERMS if name in found.meta}
    older = backup.meta if backup_begins else found.meta
    meta |= {name: older[name] for name in _EXPIRED if name in older}
    sizes = [backup.meta.get("largest"), found.meta.get("largest")]
    if all(size is not None and size.isdigit() for size in sizes):
        meta["largest"] = max((size for size in sizes if size is not None), key=int)
    return meta
