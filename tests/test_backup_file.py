"""Backup files: whole, or refused."""

from __future__ import annotations

import io
import itertools
import os
import random
from collections.abc import Sequence

import pytest

from pulsar_relay.backup import records
from pulsar_relay.backup.backup import Summary
from pulsar_relay.backup.backup_file import BackupFile
from pulsar_relay.backup.blocks import MAGIC, BackupFileError, BlockReader, BlockWriter
from pulsar_relay.backup.records import Consumer, Consumers, End, Entries, Header, Topic, TopicEnd

STORE_ID = "0123456789abcdef01234567"


def _block_file(*said: records.Record) -> io.BytesIO:
    file = io.BytesIO()
    writer = BlockWriter(file)
    for record in said:
        writer.write(records.encode(record))
    return file


HEADER = Header("a" * 24, "2024-01-01T00:00:00+00:00", "0.1.0", STORE_ID, {})
TOPIC = Topic("t", {"epoch": b"e", "last": b"1-1"}, "1-1")
ENTRIES = Entries([(b"1-1", [b"payload", b"1", b"prev", b"0-0"])])
GOOD: Sequence[records.Record] = (
    HEADER,
    Consumers([Consumer("c", {"t": "1-1"})]),
    TOPIC,
    ENTRIES,
    TopicEnd(1),
    End(1, 1, 1),
)


def test_a_whole_file_is_read() -> None:
    backup = BackupFile(_block_file(*GOOD))
    assert (backup.topics, backup.summary) == (["t"], Summary(1, 1, 1))
    assert (
        list(backup.entries("t"))
        == list(backup.entries("t"))
        == [(b"1-1", [b"payload", b"1", b"prev", b"0-0"])]
    )


def test_no_byte_can_be_changed_added_or_taken_unnoticed() -> None:
    data = _block_file(*GOOD).getvalue()
    for index in range(len(data)):
        for damaged in (
            data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :],
            data[:index],
            data[:index] + data[index + 1 :],
        ):
            with pytest.raises(BackupFileError):
                BackupFile(io.BytesIO(damaged))
    with pytest.raises(BackupFileError):
        BackupFile(io.BytesIO(data + b"x"))


def test_blocks_cannot_be_doubled_left_out_or_exchanged() -> None:
    file = _block_file(*GOOD)
    reader = BlockReader(file)
    ends = [len(MAGIC), *(reader.place.offset for _ in reader.blocks())]
    data = file.getvalue()
    blocks = [data[begin:end] for begin, end in itertools.pairwise(ends)]
    for index in range(len(blocks)):
        without = blocks[:index] + blocks[index + 1 :]
        for order in (
            without,
            [*blocks[:index], *blocks[index:][:1], *blocks[index:]],
            [*without, blocks[index]],
        ):
            if order != blocks:
                with pytest.raises(BackupFileError):
                    BackupFile(io.BytesIO(MAGIC + b"".join(order)))


@pytest.mark.parametrize(
    "said",
    [
        (TOPIC, ENTRIES, TopicEnd(1), End(1, 1, 0)),
        (HEADER, TOPIC, ENTRIES, End(1, 1, 0)),
        (HEADER, TOPIC, ENTRIES, TopicEnd(2), End(1, 2, 0)),
        (HEADER, TOPIC, ENTRIES, TopicEnd(1), End(2, 1, 0)),
        (HEADER, TOPIC, ENTRIES, ENTRIES, TopicEnd(2), End(1, 2, 0)),
        (HEADER, TOPIC, TopicEnd(0), TOPIC, TopicEnd(0), End(1, 0, 0)),
        (HEADER, Topic("a:b", {}, ""), TopicEnd(0), End(1, 0, 0)),
        (HEADER, Topic("~canary-x", {}, ""), TopicEnd(0), End(1, 0, 0)),
        (HEADER, Topic("t", {}, "x"), TopicEnd(0), End(1, 0, 0)),
        (HEADER, Topic("t", {"max_messages": b"x"}, ""), TopicEnd(0), End(1, 0, 0)),
        (HEADER, Topic("t", {"retention_ms": b"9" * 16}, ""), TopicEnd(0), End(1, 0, 0)),
        (HEADER, Topic("t", {"broken": b"1"}, ""), TopicEnd(0), End(1, 0, 0)),
        (HEADER, Topic("t", {}, "99999999999999999999-1"), TopicEnd(0), End(1, 0, 0)),
        (HEADER, TOPIC, Entries([(b"1-99999999999999999999", [b"p", b"1"])]), TopicEnd(1), End(1, 1, 0)),
        (HEADER, TOPIC, Entries([(b"1", [b"payload", b"1"])]), TopicEnd(1), End(1, 1, 0)),
        (HEADER, TOPIC, Entries([(b"1-1", [b"payload"])]), TopicEnd(1), End(1, 1, 0)),
        (HEADER, TOPIC, Entries([(b"1-1", [])]), TopicEnd(1), End(1, 1, 0)),
        (HEADER, Consumers([Consumer("c", {":claim": "1-1"})]), End(0, 0, 1)),
        (HEADER, Consumers([Consumer("c", {"t": "x"})]), End(0, 0, 1)),
        (HEADER, End(0, 0, 0), End(0, 0, 0)),
        (HEADER,),
        (),
    ],
)
def test_a_file_whose_sums_are_right_and_that_makes_no_sense_is_refused(
    said: Sequence[records.Record],
) -> None:
    with pytest.raises(BackupFileError):
        BackupFile(_block_file(*said))


def test_a_block_that_is_none_of_ours_is_refused() -> None:
    file = io.BytesIO()
    BlockWriter(file).write(b"\x93\x01\x02\x03")
    with pytest.raises(BackupFileError):
        BackupFile(file)


def test_files_that_are_only_half_there_at_random_are_refused() -> None:
    chance = random.Random(7)
    data = _block_file(*GOOD).getvalue()
    for _ in range(200):
        size = chance.randrange(1, len(data))
        scrambled = data[:size] + os.urandom(chance.randrange(40))
        if scrambled != data:
            with pytest.raises(BackupFileError):
                BackupFile(io.BytesIO(scrambled))
