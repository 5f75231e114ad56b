"""Stream entries as Valkey hands them out, made into messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from actors.stream import BEGINNING, Message, MessageId


def message_id(text: bytes | str) -> MessageId:
    """An id that Valkey wrote; "" is the beginning."""
    if isinstance(text, bytes):
        text = text.decode("ascii")
    milliseconds, _, number = text.partition("-")
    return MessageId.of(int(milliseconds), int(number)) if number else BEGINNING


def messages_from(topic: str, entries: Iterable[tuple[bytes, Sequence[bytes]]], after: MessageId) -> list[Message]:
    """Entries in ascending order, the first of which follows `after`.

    An entry without a payload is not a message (somebody else wrote it) and is passed over. One without `prev` was written by a server
    that does not keep it, and is taken to follow the entry before it.
    """
    messages = []
    prev = after
    for raw_id, raw_fields in entries:
        fields = dict(zip(raw_fields[::2], raw_fields[1::2], strict=True))
        id_text = raw_id.decode("ascii")
        this = message_id(id_text)
        payload = fields.get(b"payload")
        if payload is not None:
            named = fields.get(b"prev")
            expires = fields.get(b"expires_at")
            timestamp = fields.get(b"timestamp")
            messages.append(
                Message(
                    topic,
                    this,
                    id_text,
                    prev if named is None else message_id(named),
                    payload,
                    fields.get(b"metadata"),
                    int(expires) if expires else None,
                    timestamp.decode("utf-8", "replace") if timestamp else None,
                )
            )
        prev = this
    return messages
