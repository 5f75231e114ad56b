"""Migration: the predecessor's topics, copied to ours with the ids they have.

First a plan, which writes nothing; then topic by topic, each put in its place in one step. A note in the
topic's meta hash says up to where it was copied: what is repeated goes on there, and what is done is done.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from actors.stream import BEGINNING, MessageId
from pulsar_relay.backup.backup import Progress
from pulsar_relay.predecessor.entry import migrated, size_of
from pulsar_relay.predecessor.source import Source, Stream
from pulsar_relay.store import schema
from pulsar_relay.store.client import Client
from pulsar_relay.store.copies import Copies, TopicState
from pulsar_relay.store.entries import Entry, id_or_none
from pulsar_relay.store.restores import Mode, Restores

NO_OWNER = "is of a version before 0.2, which had no owners"
NO_NAME = "has a name that topics cannot have here: a-z, A-Z, 0-9, - and _"
NO_RECORD = "was deleted; its messages were kept, and nobody is to get them"
NO_USER = "belongs to a user who was deleted"
TOLD_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic that can be copied: what of its stream is to be, `after` the id up to which it was before.
    `messages` is about how many those are.
    """

    name: str
    description: str
    created_ms: int | None
    stream: Stream | None
    after: MessageId
    messages: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    what: str
    why: str


@dataclass(slots=True)
class Plan:
    """`done` are the topics of which everything is here already."""

    topics: list[TopicPlan] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def messages(self) -> int:
        return sum(topic.messages for topic in self.topics)


class TopicMigration:
    """From `source` to the store of `target`, which may be one Valkey. Raises StoreError."""

    def __init__(self, source: Source, target: Client) -> None:
        self._source = source
        self._target = target
        self._copies = Copies(target)

    async def plan(self) -> Plan:
        plan = Plan()
        users = await self._source.users()
        for name, record in (await self._source.topics()).items():
            owner, slash, _ = name.partition("/")
            if not slash:
                plan.left_out.append(LeftOut(f"topic {name}", NO_OWNER))
            elif schema.topic_named(name.encode()) is None:
                plan.left_out.append(LeftOut(f"topic {name}", NO_NAME))
            elif owner not in users:
                plan.left_out.append(LeftOut(f"topic {name}", NO_USER))
            elif not record:
                plan.left_out.append(LeftOut(f"topic {name}", NO_RECORD))
            else:
                await self._plan_topic(
                    plan, name, record.get("description", ""), record.get("created_at", "")
                )
        return plan

    async def _plan_topic(self, plan: Plan, name: str, description: str, created: str) -> None:
        stream = await self._source.stream(name)
        mark = await self._target.command("HGET", schema.meta(name), schema.MIGRATED_FIELD)
        after = BEGINNING if mark is None else id_or_none(mark) or BEGINNING
        newest = BEGINNING if stream is None else stream.newest
        if mark is not None and after >= newest:
            plan.done.append(name)
            return
        messages = 0 if stream is None else stream.length
        if stream is not None and after >= stream.oldest:
            messages = await self._count(name, after, stream.newest)
        plan.topics.append(TopicPlan(name, description, _milliseconds(created), stream, after, messages))

    async def _count(self, name: str, after: MessageId, newest: MessageId) -> int:
        count = 0
        async for _ in self._source.entries(name, after, newest):
            count += 1
        return count

    async def run(self, plan: Plan, progress: Progress) -> int:
        """How many messages were copied. What is broken off goes on with another plan."""
        # Nothing is lost behind what is copied: a stream is copied whole.
        restores = Restores(self._target, f"migration-{secrets.token_hex(8)}", Mode.MERGE, is_complete=True)
        progress.expect(plan.messages)
        copied = 0
        for topic in plan.topics:
            copied += await self._copy(restores, topic, progress)
        return copied

    async def _copy(self, restores: Restores, topic: TopicPlan, progress: Progress) -> int:
        state, meta = await self._state(topic)
        entries = _Entries(self._source, topic, meta, progress)
        await restores.topic(state, topic.name, entries)
        mark = BEGINNING if topic.stream is None else topic.stream.newest
        await self._target.command("HSET", schema.meta(topic.name), schema.MIGRATED_FIELD, str(mark))
        await restores.forget_done([topic.name])
        return entries.count

    async def _state(self, topic: TopicPlan) -> tuple[TopicState, dict[str, bytes]]:
        """What is to be said of the topic, as a backup would; and its meta hash, of which the size of the
        largest entry is known only once all have been read.
        """
        found = await self._copies.state(topic.name)
        # Cursors from here name the history they are of: what is added to it is not another one.
        epoch = found.epoch if found is not None and found.epoch else secrets.token_hex(8)
        newest = BEGINNING if topic.stream is None else topic.stream.newest
        meta = {"epoch": epoch.encode()}
        if topic.stream is not None:
            meta["last"] = str(newest).encode()
        if topic.created_ms is not None:
            meta["created"] = str(topic.created_ms).encode()
        if topic.description:
            meta["description"] = topic.description.encode()
        return TopicState(meta, newest, newest), meta


class _Entries:
    """What is to be copied of a topic, from the first one each time it is iterated. At the end of each, the
    size of the largest entry stands in `meta`.
    """

    def __init__(self, source: Source, topic: TopicPlan, meta: dict[str, bytes], progress: Progress) -> None:
        self._source = source
        self._topic = topic
        self._meta = meta
        self._progress = progress
        self._told = 0
        self.count = 0

    async def __aiter__(self) -> AsyncIterator[Entry]:
        topic, self.count = self._topic, 0
        self._tell(-self._told)
        stream = topic.stream
        if stream is None:
            return
        before = topic.after if topic.after > BEGINNING or stream.has_all else None
        largest = 0
        async for entry in self._source.entries(topic.name, topic.after, stream.newest):
            ours = migrated(entry, before)
            if ours is not None:
                yield ours
                before = id_or_none(entry[0])
                self.count += 1
                largest = max(largest, size_of(ours))
            if self.count % TOLD_AT_ONCE == 0:
                self._tell(self.count - self._told)
        self._meta["largest"] = str(largest).encode()
        self._tell(topic.messages - self._told)

    def _tell(self, messages: int) -> None:
        self._told += messages
        self._progress.advance(messages, self._topic.name)


def _milliseconds(text: str) -> int | None:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
