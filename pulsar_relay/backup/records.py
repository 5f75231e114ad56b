"""Records: what the blocks of a backup say, one each.

    Header ─ Consumers* ─ (Topic ─ Entries* ─ TopicEnd)* ─ End

Consumers come first: they are asked first, so that no place is ahead of its topic.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from pulsar_relay.store.entries import Entry


class Header(msgspec.Struct, frozen=True, tag="header"):
    """`backup_id` tells this backup from all others; `store_id` is empty if the store had none."""

    backup_id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{24}$")]
    made: str
    relay_version: str
    store_id: str
    succeeds: dict[str, str]


class Consumer(msgspec.Struct, frozen=True):
    """`places`: the fields of its hash, but for its claim."""

    client_id: str
    places: dict[str, str]


class Consumers(msgspec.Struct, frozen=True, tag="consumers"):
    consumers: list[Consumer]


class Topic(msgspec.Struct, frozen=True, tag="topic"):
    """Begins a topic. `meta` is its meta hash, `last` the last id it gave, "" if it gave none."""

    name: str
    meta: dict[str, bytes]
    last: str


class Entries(msgspec.Struct, frozen=True, tag="entries"):
    """As Valkey holds them: id, and names and values, alternating."""

    entries: list[Entry]


class TopicEnd(msgspec.Struct, frozen=True, tag="topic_end"):
    messages: int


class End(msgspec.Struct, frozen=True, tag="end"):
    topics: int
    messages: int
    consumers: int


Record = Header | Consumers | Topic | Entries | TopicEnd | End

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes:
    return _encoder.encode(record)


def decode(data: bytes) -> Record:
    """Raises msgspec.DecodeError if it is none of these."""
    return _decoder.decode(data)
