"""Restore: a backup's topics and consumers, put back into a store.

One that was broken off goes on where it was when it is asked for again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from pulsar_relay.backup.backup import Progress, Summary
from pulsar_relay.backup.backup_file import BackupFile
from pulsar_relay.store.entries import Entry
from pulsar_relay.store.restores import Mode, Restores

SHOWN_TOPICS = 5
TOLD_AT_ONCE = 500


class TopicsNotEmptyError(Exception):
    """These topics have messages in the store."""

    def __init__(self, topics: Sequence[str]) -> None:
        super().__init__(", ".join(topics[:SHOWN_TOPICS]) + (", ..." if len(topics) > SHOWN_TOPICS else ""))
        self.topics = topics


class Restore:
    """Raises StoreError, and BackupFileError should the file change meanwhile."""

    def __init__(self, restores: Restores, backup: BackupFile, progress: Progress) -> None:
        self._restores = restores
        self._backup = backup
        self._progress = progress

    async def run(self, mode: Mode) -> Summary:
        """Raises TopicsNotEmptyError, before it has written anything."""
        backup, restores = self._backup, self._restores
        done = await self._still_there(await restores.done(backup.topics))
        rest = [topic for topic in backup.topics if topic not in done]
        if mode is Mode.NEW and (taken := await restores.topics_with_messages(rest)):
            raise TopicsNotEmptyError(taken)
        self._progress.expect(backup.summary.messages)
        self._progress.advance(sum(map(backup.messages, done)), "")
        for topic in rest:
            entries = _Entries(backup, topic, self._progress)
            await restores.topic(backup.state(topic), topic, entries)
        for consumer in backup.consumers:
            await restores.consumer(consumer.client_id, consumer.places)
        await restores.forget_done(backup.topics)
        return backup.summary

    async def _still_there(self, done: set[str]) -> set[str]:
        """Of the topics that an earlier attempt restored, those that nobody has deleted since."""
        known = [topic for topic in self._backup.topics if topic in done]
        there = await self._restores.topics_with_messages(known)
        return {topic for topic in known if topic in there or not self._backup.messages(topic)}


class _Entries:
    """A topic's entries in the file, from the first one each time they are iterated."""

    def __init__(self, backup: BackupFile, topic: str, progress: Progress) -> None:
        self._backup = backup
        self._topic = topic
        self._progress = progress
        self._told = 0

    async def __aiter__(self) -> AsyncIterator[Entry]:
        self._tell(-self._told)
        for count, entry in enumerate(self._backup.entries(self._topic), 1):
            yield entry
            if count % TOLD_AT_ONCE == 0:
                self._tell(TOLD_AT_ONCE)
        self._tell(self._backup.messages(self._topic) - self._told)

    def _tell(self, messages: int) -> None:
        self._told += messages
        self._progress.advance(messages, self._topic)
