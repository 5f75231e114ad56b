"""BackupFile: a backup that was read to its end and found whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import msgspec

from actors.stream import BEGINNING, MessageId
from pulsar_relay.backup import records
from pulsar_relay.backup.backup import Summary
from pulsar_relay.backup.blocks import BackupFileError, BlockReader, Place
from pulsar_relay.backup.records import Consumer, Consumers, End, Entries, Header, Record, Topic, TopicEnd
from pulsar_relay.store import schema
from pulsar_relay.store.copies import TopicState
from pulsar_relay.store.entries import Entry, id_or_none, message_id

_IDS = ("last", "broken", "expired_to")
_NUMBERS = ("created", "largest", "max_messages", "retention_ms")
_MOST_DIGITS = 15
NOT_A_BACKUP = "the file is whole, but says what no backup of this version says"


@dataclass(slots=True)
class _Kept:
    """A topic in the file: `place` is where its entries begin."""

    record: Topic
    place: Place
    messages: int = 0
    newest: MessageId = BEGINNING


class BackupFile:
    """Raises BackupFileError, also later, should the file change meanwhile."""

    def __init__(self, file: BinaryIO) -> None:
        """Reads all of it."""
        self._file = file
        self._kept: dict[str, _Kept] = {}
        self.consumers: list[Consumer] = []
        self.header = self._check()

    @property
    def topics(self) -> Sequence[str]:
        return list(self._kept)

    @property
    def summary(self) -> Summary:
        messages = sum(kept.messages for kept in self._kept.values())
        return Summary(len(self._kept), messages, len(self.consumers))

    def messages(self, topic: str) -> int:
        return self._kept[topic].messages

    def state(self, topic: str) -> TopicState:
        kept = self._kept[topic]
        return TopicState(kept.record.meta, kept.newest, message_id(kept.record.last))

    def entries(self, topic: str) -> Iterator[Entry]:
        """The topic's entries, read from the file as one goes on."""
        for record in self._records(self._kept[topic].place):
            if not isinstance(record, Entries):
                return
            yield from record.entries

    def _check(self) -> Header:
        found = self._records()
        header = next(found, None)
        if not isinstance(header, Header):
            raise BackupFileError(NOT_A_BACKUP)
        kept: _Kept | None = None
        for record in found:
            if isinstance(record, End):
                if kept is not None or Summary(*_counts(record)) != self.summary:
                    raise BackupFileError(NOT_A_BACKUP)
                if next(found, None) is not None:
                    raise BackupFileError("something follows the backup's end")
                return header
            kept = self._take(record, kept)
        raise BackupFileError("the backup has no end: it was broken off")

    def _take(self, record: Record, kept: _Kept | None) -> _Kept | None:
        """Note what a record says; returns the topic that is open behind it."""
        if isinstance(record, Consumers) and kept is None:
            _check_consumers(record.consumers)
            self.consumers += record.consumers
        elif isinstance(record, Topic) and kept is None:
            self._check_topic(record)
            kept = self._kept[record.name] = _Kept(record, self._reader.place)
        elif isinstance(record, Entries) and kept is not None:
            _check_entries(record.entries, kept)
        elif isinstance(record, TopicEnd) and kept is not None and record.messages == kept.messages:
            kept = None
        else:
            raise BackupFileError(NOT_A_BACKUP)
        return kept

    def _check_topic(self, topic: Topic) -> None:
        is_name = schema.topic_named(topic.name.encode()) is not None and topic.name not in self._kept
        is_id = not topic.last or id_or_none(topic.last.encode()) is not None
        if not (is_name and is_id and all(_is_meta(topic.meta))):
            raise BackupFileError(NOT_A_BACKUP)

    def _records(self, place: Place | None = None) -> Iterator[Record]:
        self._reader = BlockReader(self._file, place)
        for block in self._reader.blocks():
            try:
                yield records.decode(block)
            except msgspec.DecodeError:
                raise BackupFileError(NOT_A_BACKUP) from None


def _counts(end: End) -> tuple[int, int, int]:
    return end.topics, end.messages, end.consumers


def _check_entries(entries: Sequence[Entry], kept: _Kept) -> None:
    for name, fields in entries:
        this = id_or_none(name)
        if this is None or this <= kept.newest or not fields or len(fields) % 2:
            raise BackupFileError(NOT_A_BACKUP)
        kept.newest = this
        kept.messages += 1


def _check_consumers(consumers: Sequence[Consumer]) -> None:
    for consumer in consumers:
        if not consumer.client_id or not consumer.places or not all(_is_place(consumer.places)):
            raise BackupFileError(NOT_A_BACKUP)


def _is_meta(meta: Mapping[str, bytes]) -> Iterator[bool]:
    """What scripts would stumble over halfway."""
    for field, value in meta.items():
        if field in _IDS:
            yield id_or_none(value) is not None
        elif field in _NUMBERS:
            yield len(value) <= _MOST_DIGITS and value.isdigit()


def _is_place(places: Mapping[str, str]) -> Iterator[bool]:
    for field, value in places.items():
        yield field != schema.CLAIM_FIELD and id_or_none(value.encode()) is not None
