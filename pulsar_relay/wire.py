"""What leaves the relay: messages as JSON items, WebSocket frames, server-sent events and answers.

All pure, and all by putting ready bytes together: a payload is never parsed or dumped again. A message's item
is made once, by whoever needs it first, and every transport wraps the same bytes:

    item        {"type":"message","message_id":…,"topic":…,"payload":…,"timestamp":…,"metadata":…}
                and for a client that was given it before: ,"redelivered":true}
    frame       FIN+text, length, item
    event       id: …⏎ event: message⏎ data: item⏎⏎, as a chunk of an HTTP/1.1 response
    answer      {"messages":[item,…],…}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from actors.ports import Notice
from actors.stream import Message, MessageId

_TEXT_FRAME = 0x81
"""FIN, and the opcode of a text frame."""
_SHORT_HEADERS = tuple(bytes((_TEXT_FRAME, length)) for length in range(126))

CLIENT_ID_MAX_LENGTH = 255
OWNER = "-"
"""Whose all topics are without accounts: nobody's."""

_LINE_END = re.compile(rb"\r\n|\r|\n")

_encode = msgspec.json.Encoder().encode


def json_text(value: Any) -> bytes:
    """`value` as JSON; bytes are JSON already."""
    return value if isinstance(value, bytes) else _encode(value)


def item(message: Message) -> bytes:
    """The message's JSON text, the same on every transport; made once and kept in the message."""
    found = message.item
    if found is None:
        if message.metadata is None and not message.is_redelivered:
            end = _plain_end(message.timestamp)
        else:
            end = _end(message.timestamp, message.metadata, is_redelivered=message.is_redelivered)
        found = message.item = b'{"type":"message","message_id":"%b","topic":%b,"payload":%b%b' % (
            message.id_text.encode(),
            _quoted(message.topic),
            message.payload,
            end,
        )
    return found


def _end(timestamp: str, metadata: bytes | None, *, is_redelivered: bool = False) -> bytes:
    """What follows the payload."""
    redelivered = b',"redelivered":true' if is_redelivered else b""
    return b',"timestamp":%b,"metadata":%b%b}' % (_encode(timestamp), metadata or b"null", redelivered)


@lru_cache(maxsize=1024)
def _plain_end(timestamp: str) -> bytes:
    return _end(timestamp, None)


@lru_cache(maxsize=4096)
def _quoted(topic: str) -> bytes:
    """The name of a topic as its owner knows it. A worker sees few topics at a time."""
    return _encode(topic.rpartition("/")[2])


def full_item(message: Message) -> bytes:
    """The item as it is for all others than the topic's owner: with the owner in front of the name."""
    text = message.item or item(message)
    owner = message.topic.rpartition("/")[0]
    if not owner:
        return text
    at = _BEFORE_NAME_BYTES + len(message.id_text)
    return b"%b%b/%b" % (text[:at], owner.encode(), text[at:])


_BEFORE_NAME_BYTES = len('{"type":"message","message_id":"","topic":"')


def notice_frame(notice: Notice, name: str | None = None) -> dict[str, Any]:
    """The notice as a JSON value: a WebSocket frame, the data of an event, one of a poll's `notices`. `name`
    is what the client calls the topic, where that is not its name inside.
    """
    return {
        "type": notice.kind,
        "topic": notice.topic if name is None else name,
        "reason": notice.reason,
        "lost": notice.lost,
        "first_available": notice.first_available,
    }


# ------------------------------------------------------------------------------------------------- WebSocket


def websocket_frames(messages: Sequence[Message]) -> bytes:
    """One text frame a message, one after the other, as a server sends them: unmasked."""
    parts: list[bytes] = []
    for message in messages:
        text = message.item or item(message)
        parts.append(_frame_header(len(text)))
        parts.append(text)
    return b"".join(parts)


def full_websocket_frames(messages: Sequence[Message]) -> bytes:
    """The same for all others than the topic's owner."""
    return b"".join([websocket_frame(full_item(message)) for message in messages])


def websocket_frame(text: bytes) -> bytes:
    """One text frame around `text`."""
    return _frame_header(len(text)) + text


def _frame_header(length: int) -> bytes:
    if length < 126:
        return _SHORT_HEADERS[length]
    if length < 1 << 16:
        return b"\x81\x7e" + length.to_bytes(2, "big")
    return b"\x81\x7f" + length.to_bytes(8, "big")


# ---------------------------------------------------------------------------------------- server-sent events


def sse_events(messages: Sequence[Message]) -> bytes:
    """One event a message, with the message's id as its id: for streams of a single topic."""
    return _events(messages, item)


def full_sse_events(messages: Sequence[Message]) -> bytes:
    """The same for all others than the topic's owner."""
    return _events(messages, full_item)


def _events(messages: Sequence[Message], text_of: Callable[[Message], bytes]) -> bytes:
    parts: list[bytes] = []
    for message in messages:
        parts += (
            b"id: ",
            message.id_text.encode(),
            b"\nevent: message\ndata: ",
            _lines(text_of(message)),
            b"\n\n",
        )
    return _chunk(b"".join(parts))


def sse_events_with(messages: Sequence[Message], id_text: str, prefix: str = "") -> bytes:
    """One event a message; only the last has an id, `id_text`, which stands for all that was sent before it.
    They are for whose topics begin with the prefix inside.

    Without messages the id is sent alone: it becomes the client's, and nothing is dispatched.
    """
    parts: list[bytes] = []
    for message in messages:
        text = item(message) if message.topic.startswith(prefix) else full_item(message)
        parts += (b"event: message\ndata: ", _lines(text), b"\n\n")
    own_id = b"id: %b\n" % id_text.encode()
    # The fields of an event have no order: the id may follow the data of the last one.
    parts[-1:] = (b"\n", own_id, b"\n") if parts else (own_id, b"\n")
    return _chunk(b"".join(parts))


def sse_event(name: str, data: bytes, event_id: str | None = None) -> bytes:
    own_id = b"" if event_id is None else b"id: %b\n" % event_id.encode()
    return _chunk(b"%bevent: %b\ndata: %b\n\n" % (own_id, name.encode(), _lines(data)))


def sse_comment(text: str) -> bytes:
    """What clients read and ignore; it keeps proxies from taking a quiet stream for a dead one."""
    return _chunk(b": " + b"\n: ".join(_LINE_END.split(text.encode())) + b"\n\n")


def sse_retry(milliseconds: int) -> bytes:
    """Tells the client how long to wait before it comes back."""
    return _chunk(b"retry: %d\n\n" % milliseconds)


def _lines(data: bytes) -> bytes:
    if b"\n" not in data and b"\r" not in data:
        return data
    # In a JSON text these are only ever white space between values, so it means the same afterwards.
    return b"\ndata: ".join(_LINE_END.split(data))


def _chunk(data: bytes) -> bytes:
    # A chunk without data would be the last one, and end the response; a comment says nothing and ends
    # nothing.
    data = data or b":\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


# --------------------------------------------------------------------------------------------------- answers


def items(messages: Sequence[Message]) -> bytes:
    """The items of an answer, in the order given."""
    return b",".join([message.item or item(message) for message in messages])


def full_items(messages: Sequence[Message]) -> bytes:
    """The same for all others than the owners of the topics."""
    return b",".join([full_item(message) for message in messages])


def items_for(messages: Sequence[Message], prefix: str) -> bytes:
    """The same for whose topics begin with the prefix inside, and who may read others too."""
    return b",".join(
        [item(message) if message.topic.startswith(prefix) else full_item(message) for message in messages]
    )


def poll_answer(
    items: bytes, cursors: Mapping[str, MessageId], has_more: bool, notices: Sequence[Mapping[str, Any]]
) -> bytes:
    """A long-poll's answer around its `items`. The names in `cursors` and `notices` are the client's."""
    told = {name: str(cursor) for name, cursor in cursors.items()}
    noticed = b',"notices":' + _encode(notices) if notices else b""
    return b'{"messages":[%b],"has_more":%b,"cursors":%b%b}' % (
        items,
        b"true" if has_more else b"false",
        _encode(told),
        noticed,
    )


def history_answer(
    items: bytes,
    total: int,
    limit: int,
    order: str,
    cursor: str | None,
    end: MessageId | None,
    *,
    has_more: bool,
) -> bytes:
    """A page of a topic's history around its `items`, which are `total`."""
    rest = {
        "total": total,
        "limit": limit,
        "order": order,
        "cursor": cursor,
        "next_cursor": None if end is None else str(end),
        "has_more": has_more,
    }
    return b'{"messages":[%b],%b' % (items, _encode(rest)[1:])
