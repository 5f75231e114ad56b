"""Messages as bytes on each transport.

Every answer with messages in it is put together from ready pieces; a payload's bytes are never read again. A message's item, its JSON
text, is made once and kept with the message; what a transport adds around it is a few bytes.

    item       {"type":"message","message_id":"1700000000000-1","topic":"jobs","payload":...,"timestamp":"...","metadata":...}
    frame      WebSocket header, item
    event      id: 1700000000000-1 / event: message / data: item / empty line, all in one HTTP chunk
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from actors.protocol import Notice
from actors.stream import Message, MessageId

_TEXT_FRAME = 0x81
_LINE_BREAK = re.compile(rb"\r\n|\r|\n")


def json_text(value: Any) -> bytes:
    return msgspec.json.encode(value)


def item(message: Message) -> bytes:
    """The message's JSON text, the same on every transport."""
    text = message.item
    if text is None:
        # A topic's name, an id and a time need no escaping: they are made of letters, digits, dashes, colons and dots.
        text = message.item = b'{"type":"message","message_id":"%b","topic":"%b","payload":%b,"timestamp":"%b","metadata":%b}' % (
            message.id_text.encode(),
            message.topic.encode(),
            message.payload,
            message.timestamp.encode(),
            message.metadata or b"null",
        )
    return text


# ---------------------------------------------------------------------------------------------------------------- WebSocket


def websocket_frame(payload: bytes) -> bytes:
    """One unmasked text frame, as servers send them (RFC 6455, 5.2)."""
    return _frame_header(len(payload)) + payload


def websocket_frames(messages: Sequence[Message]) -> bytes:
    parts = []
    for message in messages:
        text = item(message)
        parts.append(_frame_header(len(text)))
        parts.append(text)
    return b"".join(parts)


def _frame_header(length: int) -> bytes:
    if length < 126:
        return bytes((_TEXT_FRAME, length))
    if length < 65536:
        return bytes((_TEXT_FRAME, 126)) + length.to_bytes(2, "big")
    return bytes((_TEXT_FRAME, 127)) + length.to_bytes(8, "big")


# --------------------------------------------------------------------------------------------------------- server-sent events


def sse_events(messages: Sequence[Message]) -> bytes:
    """Events of a stream with one topic: each message's id is the event's."""
    parts: list[bytes] = []
    for message in messages:
        parts += (b"id: ", message.id_text.encode(), b"\nevent: message\n", _data_lines(item(message)), b"\n")
    return _chunk(b"".join(parts))


def sse_events_with(messages: Sequence[Message], event_id: str) -> bytes:
    """Events of a stream with several topics: the id, a position in all of them, is the last event's, so that a client which lost the
    connection within the batch gets it again as a whole rather than in part."""
    parts: list[bytes] = []
    for message in messages:
        if message is messages[-1]:
            parts += (b"id: ", event_id.encode(), b"\n")
        parts += (b"event: message\n", _data_lines(item(message)), b"\n")
    return _chunk(b"".join(parts))


def sse_event(name: str, data: bytes, event_id: str | None) -> bytes:
    id_line = b"" if event_id is None else b"id: %b\n" % event_id.encode()
    return _chunk(id_line + b"event: " + name.encode() + b"\n" + _data_lines(data) + b"\n")


def sse_comment(text: str) -> bytes:
    return _chunk(b":" + text.encode() + b"\n\n")


def sse_retry(milliseconds: int) -> bytes:
    """How long the client waits before it connects again."""
    return _chunk(b"retry: %d\n\n" % milliseconds)


def _data_lines(data: bytes) -> bytes:
    # A line break ends a line of the stream; in JSON text it can only be white space between tokens.
    if b"\n" not in data and b"\r" not in data:
        return b"data: " + data + b"\n"
    return b"".join(b"data: " + line + b"\n" for line in _LINE_BREAK.split(data))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# ------------------------------------------------------------------------------------------------------------------- answers


def notice_json(notice: Notice) -> dict[str, Any]:
    return {
        "type": notice.kind,
        "topic": notice.topic,
        "reason": notice.reason,
        "lost": notice.lost,
        "first_available": notice.first_available,
    }


def poll_answer(
    messages: Iterable[Message], cursors: Mapping[str, MessageId], has_more: bool, notices: Sequence[Notice]
) -> bytes:
    tail = {"has_more": has_more, "cursors": {topic: str(cursor) for topic, cursor in cursors.items()}}
    if notices:
        tail["notices"] = [notice_json(notice) for notice in notices]
    return _with_messages(messages, tail)


def history_answer(
    messages: Sequence[Message], limit: int, order: str, cursor: str | None, has_more: bool
) -> bytes:
    tail = {
        "total": len(messages),
        "limit": limit,
        "order": order,
        "cursor": cursor,
        "next_cursor": messages[-1].id_text if messages else None,
        "has_more": has_more,
    }
    return _with_messages(messages, tail)


def _with_messages(messages: Iterable[Message], tail: Mapping[str, Any]) -> bytes:
    items = b",".join([item(message) for message in messages])
    return b'{"messages":[' + items + b"]," + json_text(tail)[1:]
