"""WebSocket frames, both ways: what a client may say, and what it is answered (messages apart, those are `wire.py`'s)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.protocol import Start, Wanted
from actors.stream import MessageId, timestamp_text
from pulsar_relay import json_text
from pulsar_relay.cursors import place
from pulsar_relay.errors import FieldError, RelayError
from pulsar_relay.fields import is_topic_name
from pulsar_relay.json_text import Fields, JsonError, NotThisError
from pulsar_relay.message_reader import MessageReader, PublishRequest
from pulsar_relay.requests import idempotency_key
from pulsar_relay.settings import PublishSettings, SubscriberSettings

FRAME = ("frame",)
CLIENT_ID_MAX_LENGTH = 255
REF_MAX_BYTES = 1024


@dataclass(frozen=True, slots=True)
class SubscribeFrame:
    wanted: tuple[Wanted, ...]
    client_id: str | None
    ref: object


@dataclass(frozen=True, slots=True)
class UnsubscribeFrame:
    topics: tuple[str, ...]
    ref: object


@dataclass(frozen=True, slots=True)
class PublishFrame:
    request: PublishRequest
    idempotency_key: str | None
    ref: object


@dataclass(frozen=True, slots=True)
class AckFrame:
    topic: str | None
    message_id: MessageId
    ref: object


@dataclass(frozen=True, slots=True)
class PingFrame:
    ref: object


Frame = SubscribeFrame | UnsubscribeFrame | PublishFrame | AckFrame | PingFrame


class FrameError(RelayError):
    """A frame that cannot be obeyed; `ref` is the client's, if it could be read."""

    def __init__(self, error: RelayError, ref: object) -> None:
        super().__init__(error.code, error.detail, error.errors)
        self.ref = ref


class FrameReader:
    """Reads clients' frames. `read` raises FrameError; unknown fields are ignored, as in requests."""

    def __init__(self, publish: PublishSettings, subscriber: SubscriberSettings) -> None:
        self._fields = Fields(
            "type", "ref", "topics", "offset", "epochs", "client_id", "message_id",
            "topic", "payload", "ttl", "metadata", "idempotency_key",
        )  # fmt: skip
        self._message_reader = MessageReader(publish)
        self._max_topics = subscriber.max_topics

    def read(self, text: bytes) -> Frame:
        ref: object = None
        try:
            texts = self._split(text)
            ref = _ref(texts)
            return self._frame(texts, ref)
        except FrameError:
            raise
        except RelayError as error:
            raise FrameError(error, ref) from None

    def _split(self, text: bytes) -> dict[str, bytes]:
        try:
            return self._fields.split(text)
        except JsonError as error:
            raise RelayError(error.code, errors=[FieldError(FRAME, str(error), error.code)]) from None
        except NotThisError:
            raise _wrong("a frame must be a JSON object") from None

    def _frame(self, texts: Mapping[str, bytes], ref: object) -> Frame:
        # The first frame of older clients may leave its type out; only a subscribe frame has `topics` without one.
        kind = _value(texts, "type", "subscribe" if "topics" in texts else None)
        if kind == "subscribe":
            return self._subscribe(texts, ref)
        if kind == "unsubscribe":
            return UnsubscribeFrame(self._topics(texts), ref)
        if kind == "publish":
            key = _text(texts, "idempotency_key")
            return PublishFrame(self._message_reader.read(texts, FRAME), idempotency_key(key), ref)
        if kind == "ack":
            return self._ack(texts, ref)
        if kind == "ping":
            return PingFrame(ref)
        raise RelayError("unknown_frame")

    def _subscribe(self, texts: Mapping[str, bytes], ref: object) -> SubscribeFrame:
        topics = self._topics(texts)
        offset = _value(texts, "offset", None)
        epochs = _value(texts, "epochs", None)
        epochs = {} if epochs is None else epochs
        if not isinstance(offset, str | dict | None):
            raise _wrong("must be a cursor, or an object of topic to cursor", "offset")
        if not isinstance(epochs, dict):
            raise _wrong("must be an object of topic to epoch", "epochs")
        wanted = tuple(_wanted(topic, offset, epochs) for topic in dict.fromkeys(topics))
        client_id = _text(texts, "client_id")
        if client_id is not None and not 1 <= len(client_id) <= CLIENT_ID_MAX_LENGTH:
            raise _wrong(f"must have 1 to {CLIENT_ID_MAX_LENGTH} characters", "client_id")
        return SubscribeFrame(wanted, client_id, ref)

    def _topics(self, texts: Mapping[str, bytes]) -> tuple[str, ...]:
        topics = _value(texts, "topics", None)
        if not isinstance(topics, list) or not 1 <= len(topics) <= self._max_topics:
            raise _wrong(f"must be a list of 1 to {self._max_topics} topics", "topics")
        for index, topic in enumerate(topics):
            if not isinstance(topic, str) or not is_topic_name(topic):
                raise _wrong("is not a topic's name", "topics", index)
        return tuple(topics)

    def _ack(self, texts: Mapping[str, bytes], ref: object) -> AckFrame:
        topic = _text(texts, "topic")
        if topic is not None and not is_topic_name(topic):
            raise _wrong("is not a topic's name", "topic")
        message_id = place(_text(texts, "message_id") or "")
        if not isinstance(message_id, MessageId):
            raise _wrong("must be the id of the last message dealt with", "message_id")
        return AckFrame(topic, message_id, ref)


def _wanted(topic: str, offset: str | dict[str, Any] | None, epochs: Mapping[str, Any]) -> Wanted:
    cursor = offset.get(topic) if isinstance(offset, dict) else offset
    if cursor is not None and not isinstance(cursor, str):
        raise _wrong("must be a cursor", "offset", topic)
    epoch = epochs.get(topic)
    if epoch is not None and not isinstance(epoch, str):
        raise _wrong("must be an epoch as `subscribed` gave it", "epochs", topic)
    return Wanted(topic, Start.LATEST if cursor is None else place(cursor), epoch)


def _ref(texts: Mapping[str, bytes]) -> object:
    text = texts.get("ref")
    if text is None:
        return None
    if len(text) > REF_MAX_BYTES:
        raise _wrong(f"must be at most {REF_MAX_BYTES} bytes of JSON", "ref")
    return _value(texts, "ref", None)


def _value(texts: Mapping[str, bytes], name: str, absent: Any) -> Any:
    if name not in texts:
        return absent
    try:
        return json_text.value(texts[name])
    except JsonError as error:
        raise RelayError(error.code, errors=[FieldError((*FRAME, name), str(error), error.code)]) from None
    except ValueError as error:
        raise _wrong(str(error), name) from None


def _text(texts: Mapping[str, bytes], name: str) -> str | None:
    value = _value(texts, name, None)
    if value is not None and not isinstance(value, str):
        raise _wrong("must be a string", name)
    return value


def _wrong(message: str, *place_in_frame: str | int) -> RelayError:
    return RelayError("invalid_request", errors=[FieldError((*FRAME, *place_in_frame), message)])


# ------------------------------------------------------------------------------------------------------------------- answers


def subscribed(
    cursors: Mapping[str, MessageId], epochs: Mapping[str, str], ref: object, session_id: str, now_ms: int
) -> dict[str, Any]:
    return _with_ref(
        {
            "type": "subscribed",
            "topics": list(cursors),
            "cursors": {topic: str(cursor) for topic, cursor in cursors.items()},
            "epochs": dict(epochs),
            "session_id": session_id,
            "timestamp": timestamp_text(now_ms),
        },
        ref,
    )


def unsubscribed(topics: Sequence[str], ref: object) -> dict[str, Any]:
    return _with_ref({"type": "unsubscribed", "topics": list(topics)}, ref)


def published(answer: Mapping[str, Any], ref: object) -> dict[str, Any]:
    return _with_ref({"type": "published", **answer}, ref)


def acknowledged(topic: str, message_id: MessageId, ref: object) -> dict[str, Any]:
    return _with_ref({"type": "acknowledged", "topic": topic, "message_id": str(message_id)}, ref)


def pong(ref: object, now_ms: int) -> dict[str, Any]:
    return _with_ref({"type": "pong", "timestamp": timestamp_text(now_ms)}, ref)


def error(failure: RelayError, ref: object) -> dict[str, Any]:
    frame = {
        "type": "error",
        "code": failure.code,
        "message": failure.message,
        "details": failure.details,
        "retry": failure.kind.is_retryable,
    }
    return _with_ref(frame, ref)


def _with_ref(frame: dict[str, Any], ref: object) -> dict[str, Any]:
    return frame if ref is None else {**frame, "ref": ref}
