"""What producers and consumers write down while faults happen, and the files they write it to.

A log is a file of JSON lines, one record a line, written by one process and whole as far as it goes: a record
is on the file before its writer does anything else. All times are seconds of CLOCK_MONOTONIC, which all
processes of a machine share.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Self

import msgspec

Place = tuple[int, int]
"""A message id as two numbers, as ids are compared."""
BEGINNING: Place = (0, 0)


def place(message_id: str) -> Place:
    """The numbers of `<ms>-<n>`; "" and `earliest` are the beginning. Raises ValueError on anything else."""
    if message_id in ("", "earliest"):
        return BEGINNING
    milliseconds, number = message_id.split("-")
    return int(milliseconds), int(number)


class Content(NamedTuple):
    """What makes a message: its producer, its number among theirs on the topic, a digest of the rest."""

    producer: str
    number: int
    digest: int

    @classmethod
    def of(cls, payload: object) -> Content:
        """The content of a payload that `payload_of` made, its digest counted anew; of any other, one that
        nobody sent."""
        if isinstance(payload, dict) and {"p", "s", "h", "pad"} <= payload.keys():
            return cls(payload["p"], payload["s"], zlib.crc32(payload["pad"].encode()) ^ payload["h"])
        return cls("?", 0, zlib.crc32(repr(payload).encode()))


def payload_of(producer: str, number: int, pad: str) -> dict[str, object]:
    """The payload of a message that `Content.of` knows again: its content has the digest 0."""
    return {"p": producer, "s": number, "h": zlib.crc32(pad.encode()), "pad": pad}


class Sent(msgspec.Struct, frozen=True, tag=True):
    """A producer is about to send one attempt of a message."""

    at: float
    topic: str
    content: Content
    relay: str = ""


class Answered(msgspec.Struct, frozen=True, tag=True):
    """How an attempt ended. `ok`: stored, under `message_id`. `fail`: for certain not stored by it, because
    it was refused for good, or could not be sent. `info`: nobody knows; `status` is None without an answer.
    """

    at: float
    topic: str
    content: Content
    outcome: Literal["ok", "fail", "info"]
    message_id: str = ""
    seconds: float = 0.0
    status: int | None = None
    code: str | None = None
    """The error's word in the answer, or why there was none."""
    retry_after: str | None = None
    relay: str = ""


class Attached(msgspec.Struct, frozen=True, tag=True):
    """A consumer begins a session from these cursors; None: from where its last one ended, which somebody
    else remembers for it. On a connection of its own, or with each long-poll."""

    at: float
    consumer: str
    cursors: Mapping[str, str] | None
    relay: str = ""
    port: int = 0
    """The connection's port on the consumer's side."""


class Received(msgspec.Struct, frozen=True, tag=True):
    """A message came, before anybody looked whether it came before."""

    at: float
    consumer: str
    topic: str
    message_id: str
    content: Content


class Noticed(msgspec.Struct, frozen=True, tag=True):
    """The relay said that what comes next does not follow what came before."""

    at: float
    consumer: str
    topic: str
    kind: str
    """`gap` or `reset`"""
    first_available: str | None = None
    reason: str = ""


class Detached(msgspec.Struct, frozen=True, tag=True):
    """A consumer's session ended, or could not begin. `cause` is a close code, a status or an error."""

    at: float
    consumer: str
    cause: str
    relay: str = ""
    reason: str = ""


class Stored(msgspec.Struct, frozen=True, tag=True):
    """An entry as the final read of the store found it."""

    topic: str
    message_id: str
    content: Content


ProducerRecord = Sent | Answered
ConsumerRecord = Attached | Received | Noticed | Detached
Record = ProducerRecord | ConsumerRecord | Stored

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


class Log:
    """Appends records to a file, each with a write of its own."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, record: Record) -> None:
        os.write(self._descriptor, _ENCODER.encode(record) + b"\n")

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LogReader:
    """Reads a log that may still be growing; each call of `new` returns what came since the last one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new(self) -> Iterator[Record]:
        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            yield _DECODER.decode(line)
