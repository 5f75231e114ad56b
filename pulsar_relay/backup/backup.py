"""Backup: the store's topics and consumers, read over the wire into a file.

The file is written as `<name>.part` and gets its name when it is whole. A topic is in it as it was at one
moment: the messages of that moment that retention had left, in their order. Topics are of different moments.
A backup that was broken off goes on behind the last whole topic of its part.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from pulsar_relay import __version__
from pulsar_relay.backup import records
from pulsar_relay.backup.blocks import MAGIC, BackupFileError, BlockReader, BlockWriter, Place
from pulsar_relay.backup.records import Consumer, Consumers, End, Entries, Header, Topic, TopicEnd
from pulsar_relay.store.copies import Copies, OvertakenError
from pulsar_relay.store.identity import Identity

CONSUMERS_AT_ONCE = 1000
ATTEMPTS = 20
"""How often a topic is begun anew that is trimmed faster than it is read."""


class Progress(Protocol):
    """Hears how far a backup, or a restore, has come."""

    def expect(self, messages: int) -> None:
        """So many are to be done, as far as one knows."""

    def advance(self, messages: int, topic: str) -> None:
        """So many more are done; less than none where a topic is begun anew."""


@dataclass(frozen=True, slots=True)
class Summary:
    topics: int
    messages: int
    consumers: int


@dataclass(slots=True)
class _Part:
    """What a part holds: whole topics only, up to `place`."""

    store_id: str
    place: Place
    topics: set[str]
    messages: int
    consumers: int


class Backup:
    """Raises StoreError, BackupFileError and OSError. `identity` is the store's."""

    def __init__(self, copies: Copies, identity: Identity, file: Path, progress: Progress) -> None:
        self._copies = copies
        self._identity = identity
        self._file = file
        self._part = file.with_name(f"{file.name}.part")
        self._progress = progress

    async def make(self) -> Summary:
        if self._file.is_symlink() or self._file.exists():
            raise BackupFileError(f"{self._file} is there already; a backup overwrites nothing")
        # In a directory of many, somebody else may have put a link to one of our files there.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        with os.fdopen(os.open(self._part, flags, 0o600), "r+b") as file:
            _lock(file, self._part)
            summary = await self._write(file)
            file.flush()
            os.fsync(file.fileno())
            self._part.rename(self._file)
        _sync_directory(self._file.parent)
        return summary

    async def _write(self, file: BinaryIO) -> Summary:
        part = _kept(file)
        if part is not None and part.store_id != self._identity.id:
            raise BackupFileError(f"{self._part} was begun from another store; remove it to begin anew")
        names = await self._copies.topics()
        self._progress.expect(sum(await self._copies.lengths(names)))
        if part is None:
            writer = BlockWriter(file)
            writer.write(records.encode(self._header()))
            part = _Part(self._identity.id, writer.place, set(), 0, await self._consumers(writer))
        else:
            writer = BlockWriter(file, part.place)
            self._progress.advance(part.messages, "")
        for name in names:
            if name not in part.topics and (messages := await self._topic(writer, name)) is not None:
                part.topics.add(name)
                part.messages += messages
        end = End(len(part.topics), part.messages, part.consumers)
        writer.write(records.encode(end))
        return Summary(end.topics, end.messages, end.consumers)

    def _header(self) -> Header:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return Header(
            secrets.token_hex(12), now, __version__, self._identity.id, dict(self._identity.succeeds)
        )

    async def _consumers(self, writer: BlockWriter) -> int:
        count = 0
        batch: list[Consumer] = []
        async for client_id, places in self._copies.consumers():
            batch.append(Consumer(client_id, places))
            count += 1
            if len(batch) == CONSUMERS_AT_ONCE:
                writer.write(records.encode(Consumers(batch)))
                batch = []
        if batch:
            writer.write(records.encode(Consumers(batch)))
        return count

    async def _topic(self, writer: BlockWriter, name: str) -> int | None:
        """Write a topic, all or nothing; None if there is none any more."""
        begin = writer.place
        for _ in range(ATTEMPTS):
            state = await self._copies.state(name)
            if state is None:
                return None
            last = str(state.last) if state.last else ""
            writer.write(records.encode(Topic(name, dict(state.meta), last)))
            written = 0
            try:
                async for entries in self._copies.pages(name, state):
                    writer.write(records.encode(Entries(entries)))
                    written += len(entries)
                    self._progress.advance(len(entries), name)
            except OvertakenError:
                writer.rewind(begin)
                self._progress.advance(-written, name)
                continue
            writer.write(records.encode(TopicEnd(written)))
            return written
        raise BackupFileError(f"topic {name} is trimmed faster than it can be read; try again later")


def _kept(file: BinaryIO) -> _Part | None:
    """What can be kept of a part that was broken off: its whole topics; None if there is none."""
    beginning = file.read(len(MAGIC))
    if not MAGIC.startswith(beginning):
        raise BackupFileError("what stands in the place of the backup's part is none; remove it")
    part: _Part | None = None
    kept: _Part | None = None
    name = ""
    try:
        reader = BlockReader(file)
        for block in reader.blocks():
            record = records.decode(block)
            if isinstance(record, Header):
                part = _Part(record.store_id, reader.place, set(), 0, 0)
            elif part is None:
                return None
            elif isinstance(record, Consumers):
                part.consumers += len(record.consumers)
            elif isinstance(record, Topic):
                name = record.name
            elif isinstance(record, TopicEnd):
                part.topics.add(name)
                part.messages += record.messages
                part.place = reader.place
                kept = part
    except (BackupFileError, msgspec.DecodeError):
        # Here it was broken off. What stands before is whole, and without a topic not worth keeping.
        pass
    return kept


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BackupFileError(f"{path} is being written by another backup") from None


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
