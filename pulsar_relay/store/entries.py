"""Stream entries as Valkey hands them out, made into messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from actors.stream import BEGINNING, Message, MessageId
from pulsar_relay import json_text

Entry = tuple[bytes, Sequence[bytes]]
"""An entry's id, and its fields' names and values, alternating."""


def message_id(text: bytes | str) -> MessageId:
    """An id that Valkey wrote; "" is the beginning."""
    if isinstance(text, bytes):
        text = text.decode("ascii")
    milliseconds, _, number = text.partition("-")
    return MessageId.of(int(milliseconds), int(number)) if number else BEGINNING


def predecessor(entry: Entry) -> MessageId | None:
    """The id that the entry names as the one before it; None if it was not the relay that wrote it."""
    return _predecessor(dict(zip(entry[1][::2], entry[1][1::2], strict=False)))


def messages_from(topic: str, entries: Iterable[Entry], after: MessageId) -> list[Message]:
    """Entries in ascending order, the first of which follows `after`.

    Those the relay wrote are taken as they are. What another server, or a hand, wrote is made fit to be
    passed on: an entry without a payload is no message and is left out, a payload that is not JSON becomes a
    JSON string, and an entry that names no predecessor follows the entry before it.
    """
    messages = []
    prev, prev_text = after, b""
    milliseconds, shifted = b"", 0
    for id_text, fields in entries:
        first, _, number = id_text.partition(b"-")
        if first != milliseconds:
            milliseconds, shifted = first, MessageId.of(int(first), 0)
        this = MessageId(shifted + int(number))
        if len(fields) == 4 and fields[2] == b"prev" and fields[0] == b"payload":
            # The usual entry of ours, and all there is to it.
            named = prev if fields[3] == prev_text else id_or_none(fields[3])
        else:
            named = None
        if named is not None:
            messages.append(Message(topic, this, id_text.decode("ascii"), named, fields[1]))
        elif (message := _message(topic, this, id_text.decode("ascii"), prev, fields)) is not None:
            messages.append(message)
        prev, prev_text = this, id_text
    return messages


def _message(
    topic: str, this: MessageId, id_text: str, before: MessageId, words: Sequence[bytes]
) -> Message | None:
    fields = dict(zip(words[::2], words[1::2], strict=False))
    payload = fields.get(b"payload")
    if payload is None:
        return None
    prev = _predecessor(fields)
    metadata = fields.get(b"metadata")
    if prev is None:
        payload = _as_json(payload)
        metadata = metadata if metadata is None or _is_object(metadata) else None
    return Message(
        topic,
        this,
        id_text,
        before if prev is None else prev,
        payload,
        metadata,
        _whole_number(fields.get(b"expires_at")),
        time_or_none(fields.get(b"timestamp", b"")),
    )


def _predecessor(fields: dict[bytes, bytes]) -> MessageId | None:
    return id_or_none(fields.get(b"prev", b""))


def id_or_none(text: bytes) -> MessageId | None:
    """The id that somebody wrote into a field; None if it is not one."""
    try:
        return MessageId.parse(text.decode("ascii"))
    except ValueError:
        return None


def _whole_number(text: bytes | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def time_or_none(text: bytes) -> str | None:
    try:
        timestamp = text.decode("ascii")
        datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    return timestamp


def _as_json(text: bytes) -> bytes:
    try:
        json_text.check(text)
    except json_text.JsonError:
        return msgspec.json.encode(text.decode("utf-8", "replace"))
    return text


def _is_object(text: bytes) -> bool:
    try:
        json_text.check(text)
    except json_text.JsonError:
        return False
    return text.lstrip()[:1] == b"{"
