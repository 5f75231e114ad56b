"""What a relay tells a subscriber, read from any transport: messages, notices, and where reading stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from pulsar_relay.client.errors import NotARelayError, RefusedError, wrong_fields

_NULL = msgspec.Raw(b"null")


@dataclass(frozen=True, slots=True)
class MessageFrame:
    """One message. `text` is its JSON and `payload` the payload's, both as the relay sent them."""

    topic: str
    message_id: str
    text: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class NoticeFrame:
    """Reading could not go on where the cursor was; comes before the topic's next message."""

    kind: str
    topic: str
    text: bytes


@dataclass(frozen=True, slots=True)
class PositionFrame:
    """Where reading stands without a message to show it; the first one says that the relay has accepted."""

    cursors: Mapping[str, str]
    epochs: Mapping[str, str] = field(default_factory=dict)


Frame = MessageFrame | NoticeFrame | PositionFrame


class _Frame(msgspec.Struct):
    """Every frame's fields; each type of frame has some of them."""

    type: str = ""
    topic: str | None = None
    message_id: str = ""
    payload: msgspec.Raw = _NULL
    cursors: dict[str, str] = {}
    epochs: dict[str, str] = {}
    code: str = ""
    message: str = ""
    details: msgspec.Raw = _NULL
    retry: bool = False
    retry_after: float = 0.0


class _Poll(msgspec.Struct):
    messages: list[msgspec.Raw]
    cursors: dict[str, str] = {}
    notices: list[msgspec.Raw] = []
    has_more: bool = False


def one_line(text: bytes) -> bytes:
    """The same JSON without line ends. Inside strings there can be none, so only blanks between tokens
    change.
    """
    return text.replace(b"\r", b" ").replace(b"\n", b" ")


def read_frame(text: bytes) -> Frame | None:
    """The frame in `text`, None for types that say nothing to a reader. RefusedError for an error frame."""
    try:
        frame = _decode_frame.decode(text)
    except msgspec.DecodeError as error:
        raise NotARelayError(f"what came is no frame of a relay ({error}).") from None
    if frame.type == "message":
        return MessageFrame(frame.topic or "", frame.message_id, text, bytes(frame.payload))
    if frame.type in {"gap", "reset"}:
        return NoticeFrame(frame.type, frame.topic or "", text)
    if frame.type == "subscribed":
        return PositionFrame(frame.cursors, frame.epochs)
    if frame.type == "error":
        message = wrong_fields(frame.details) or frame.message
        raise RefusedError(
            frame.code, message, is_retryable=frame.retry, retry_after_seconds=frame.retry_after
        )
    return None


def read_poll(text: bytes) -> Iterator[Frame]:
    """What a poll was answered with, notices first and the position last."""
    try:
        poll = _decode_poll.decode(text)
    except msgspec.DecodeError as error:
        raise NotARelayError(f"what came is no relay's answer to a poll ({error}).") from None
    for raw in (*poll.notices, *poll.messages):
        frame = read_frame(bytes(raw))
        if frame is not None:
            yield frame
    yield PositionFrame(poll.cursors)


_decode_frame = msgspec.json.Decoder(_Frame)
_decode_poll = msgspec.json.Decoder(_Poll)
