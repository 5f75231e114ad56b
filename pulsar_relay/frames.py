"""WebSocket frames: what a client may send, read to values, and what it is answered.

Every frame is a JSON object with a `type`. A client may put a `ref` of its own, any small JSON value, into a
frame; the answer to that frame carries it back as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgspec
from marshmallow import Schema, ValidationError, fields, validate

from actors.protocol import Start, Wanted
from actors.stream import MessageId, timestamp_text
from pulsar_relay import json_text
from pulsar_relay.cursors import place
from pulsar_relay.errors import FieldError, RelayError
from pulsar_relay.fields import CursorMap, Text, TopicName, TopicNames, is_topic_name
from pulsar_relay.json_text import Fields, JsonError
from pulsar_relay.loading import Location, load_texts, refused_text, split_object
from pulsar_relay.message_reader import MessageReader, PublishRequest
from pulsar_relay.requests import IDEMPOTENCY_KEY_MAX_LENGTH, idempotency_key
from pulsar_relay.schemas import (
    EXAMPLE_ID,
    Request,
    about,
    client_id_field,
    publish_schema,
)
from pulsar_relay.settings import PublishSettings, SubscriberSettings
from pulsar_relay.wire import CLIENT_ID_MAX_LENGTH

REF_MAX_BYTES = 1024
TOKEN_MAX_LENGTH = 4096
PLAIN_SUBSCRIBE_MAX_BYTES = 64 * 1024

_FRAME: Location = ("frame",)

Ref = msgspec.Raw | None
"""A client's `ref` as JSON text, None if the frame had none."""


class FrameError(RelayError):
    """A frame was not understood; the connection goes on. `ref` is the frame's, where it could be read."""

    def __init__(self, error: RelayError, ref: Ref) -> None:
        super().__init__(error.code, error.detail, error.errors)
        self.ref = ref


@dataclass(frozen=True, slots=True)
class SubscribeFrame:
    wanted: tuple[Wanted, ...]
    client_id: str | None
    ref: Ref


@dataclass(frozen=True, slots=True)
class UnsubscribeFrame:
    topics: tuple[str, ...]
    ref: Ref


@dataclass(frozen=True, slots=True)
class PublishFrame:
    request: PublishRequest
    idempotency_key: str | None
    ref: Ref


@dataclass(frozen=True, slots=True)
class AckFrame:
    """`topic` is None where the client named none: it has only one."""

    topic: str | None
    message_id: MessageId
    ref: Ref


@dataclass(frozen=True, slots=True)
class PingFrame:
    ref: Ref


@dataclass(frozen=True, slots=True)
class AuthenticateFrame:
    token: str = field(repr=False)
    ref: Ref


Frame = SubscribeFrame | UnsubscribeFrame | PublishFrame | AckFrame | PingFrame | AuthenticateFrame


# ----------------------------------------------------------------------------------------------- the schemas


class Offset(fields.Raw):
    """One cursor for all topics, or an object of topic to cursor, in which the key "" is for all others."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str | dict[str, str]:
        if isinstance(value, str):
            return value
        if isinstance(value, dict) and all(isinstance(cursor, str) for cursor in value.values()):
            return value
        raise ValidationError("must be a cursor, or an object of topic to cursor")


def _type(name: str, *, required: bool = True) -> fields.String:
    return fields.String(
        required=required,
        validate=validate.Equal(name),
        metadata=about("What this is.", name, enum=[name]),
    )


def _ref() -> fields.Raw:
    return fields.Raw(
        metadata=about(f"Any JSON value of at most {REF_MAX_BYTES} bytes; the answer has it too.", 1)
    )


@cache
def subscribe_schema(settings: SubscriberSettings) -> type[Request]:
    class Subscribe(Request):
        """Begin to read topics. Answered by `subscribed`, then by their messages."""

        type = _type("subscribe", required=False)
        topics = TopicNames(
            settings.max_topics,
            required=True,
            metadata=about("Added to those subscribed already; a topic named again begins anew.", ["jobs"]),
        )
        offset = Offset(
            load_default="last",
            metadata=about(
                "Where to begin: `last` or `latest` with the next message, `earliest` with the oldest kept,"
                " `acked` after the "
                "last one this `client_id` acknowledged, or after a message's id. One for all topics, or an"
                " object of topic to it.",
                "earliest",
                oneOf=[{"type": "string"}, {"type": "object", "additionalProperties": {"type": "string"}}],
            ),
        )
        epochs = CursorMap(
            keys=fields.String(),
            values=fields.String(),
            load_default=dict,
            allow_none=True,
            metadata=about(
                "The epochs that came with the cursors: tells for certain whether they still hold.",
                {"jobs": "9f86d081884c7d65"},
            ),
        )
        client_id = client_id_field()
        ref = _ref()

    return Subscribe


class Unsubscribe(Request):
    """Read these topics no more. Answered by `unsubscribed`; nothing of them comes after it."""

    type = _type("unsubscribe")
    topics = fields.List(
        TopicName(), required=True, metadata=about("Those not subscribed are ignored.", ["jobs"])
    )


class Ack(Request):
    """Move this client's kept cursor forward. Answered by `acknowledged` once it is stored."""

    type = _type("ack")
    message_id = fields.String(
        required=True, metadata=about("Everything up to this message is dealt with.", EXAMPLE_ID)
    )
    topic = TopicName(
        allow_none=True, load_default=None, metadata=about("Needed if several topics are subscribed.", "jobs")
    )
    ref = _ref()


@cache
def publish_frame_schema(settings: PublishSettings) -> type[Request]:
    class FramedPublish(publish_schema(settings)):  # type: ignore[misc]  # a class made by a function is one all the same
        """Publish a message. Answered by `published` once it is stored."""

        type = _type("publish")
        idempotency_key = Text(
            IDEMPOTENCY_KEY_MAX_LENGTH,
            allow_none=True,
            metadata=about("Publishing again with this key does not store the message again.", "job-7-done"),
        )
        ref = _ref()

    return FramedPublish


class Ping(Request):
    """Answered by `pong`."""

    type = _type("ping")
    ref = _ref()


class Authenticate(Request):
    """Go on with another token of the same user's. Answered by `authenticated`."""

    type = _type("authenticate")
    token = Text(
        TOKEN_MAX_LENGTH,
        1,
        required=True,
        metadata=about("An access token, or an API key.", "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.c2ln"),
    )
    ref = _ref()


_NO_REF = msgspec.Raw()
_NO_OFFSETS: Mapping[str, str] = {}


class _PlainSubscribe(msgspec.Struct, tag="subscribe", forbid_unknown_fields=True):
    """A subscribe frame whose fields have the types that need no coercion."""

    topics: list[str]
    offset: str | dict[str, str] = "last"
    epochs: dict[str, str] | None = None
    client_id: str | None = None
    ref: msgspec.Raw = _NO_REF


class FrameReader:
    """Reads client frames."""

    def __init__(self, publish: PublishSettings, subscriber: SubscriberSettings) -> None:
        self._messages = MessageReader(publish)
        self._max_topics = subscriber.max_topics
        self._plain_subscribe = msgspec.json.Decoder(_PlainSubscribe)
        self._subscribe_schema = subscribe_schema(subscriber)()
        self._unsubscribe_schema = Unsubscribe()
        self._ack_schema = Ack()
        self._authenticate_schema = Authenticate()
        self._fields = Fields(
            "type",
            "ref",
            "topics",
            "offset",
            "epochs",
            "client_id",
            "message_id",
            "topic",
            "idempotency_key",
            "token",
        )
        self._readers: Mapping[str, Callable[[bytes, Mapping[str, bytes], Ref], Frame]] = {
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "publish": self._publish,
            "ack": self._ack,
            "ping": self._ping,
            "authenticate": self._authenticate,
        }

    def read(self, text: bytes) -> Frame:
        """The frame that `text` is. Raises FrameError, and nothing else."""
        # A hint, not a verdict.
        if b'"subscribe"' in text[:40]:
            plain = self._read_plain_subscribe(text)
            if plain is not None:
                return plain
        return self.read_any(text)

    def read_any(self, text: bytes) -> Frame:
        """The same, by the schemas alone."""
        ref: Ref = None
        try:
            texts = split_object(self._fields, text, _FRAME)
            ref = _read_ref(texts)
            kind = _value(texts, "type", "subscribe")
            read = self._readers.get(kind) if isinstance(kind, str) else None
            if read is None:
                raise RelayError("unknown_frame")
            return read(text, texts, ref)
        except RelayError as error:
            raise FrameError(error, ref) from None

    def _read_plain_subscribe(self, text: bytes) -> SubscribeFrame | None:
        """The frame, if it is written as clients write it: what is unusual is for the schema to judge."""
        if len(text) > PLAIN_SUBSCRIBE_MAX_BYTES:
            return None
        try:
            json_text.check_encoding(text)
            plain = self._plain_subscribe.decode(text)
            ref = None if plain.ref is _NO_REF else _read_ref({"ref": bytes(plain.ref)})
            topics, client_id = plain.topics, plain.client_id
            if not 1 <= len(topics) <= self._max_topics or not all(map(is_topic_name, topics)):
                return None
            if client_id is not None and not 1 <= len(client_id) <= CLIENT_ID_MAX_LENGTH:
                return None
            if len(topics) > 1:
                topics = list(dict.fromkeys(topics))
            return _subscribe_frame(topics, plain.offset, plain.epochs or {}, client_id, ref)
        except (RelayError, JsonError, msgspec.DecodeError, RecursionError):
            return None

    def _subscribe(self, text: bytes, texts: Mapping[str, bytes], ref: Ref) -> SubscribeFrame:
        found = _load(self._subscribe_schema, texts)
        return _subscribe_frame(
            found["topics"], found["offset"], found["epochs"] or {}, found["client_id"], ref
        )

    def _unsubscribe(self, text: bytes, texts: Mapping[str, bytes], ref: Ref) -> UnsubscribeFrame:
        return UnsubscribeFrame(tuple(dict.fromkeys(_load(self._unsubscribe_schema, texts)["topics"])), ref)

    def _publish(self, text: bytes, texts: Mapping[str, bytes], ref: Ref) -> PublishFrame:
        key = _value(texts, "idempotency_key", None)
        if not isinstance(key, str | None):
            raise RelayError("idempotency_key_invalid")
        return PublishFrame(self._messages.one(text, _FRAME), idempotency_key(key), ref)

    def _ack(self, text: bytes, texts: Mapping[str, bytes], ref: Ref) -> AckFrame:
        found = _load(self._ack_schema, texts)
        try:
            message_id = MessageId.parse(found["message_id"])
        except ValueError:
            raise RelayError("invalid_cursor") from None
        return AckFrame(found["topic"], message_id, ref)

    def _ping(self, text: bytes, texts: Mapping[str, bytes], ref: Ref) -> PingFrame:
        return PingFrame(ref)

    def _authenticate(self, text: bytes, texts: Mapping[str, bytes], ref: Ref) -> AuthenticateFrame:
        return AuthenticateFrame(_load(self._authenticate_schema, texts)["token"], ref)


def _subscribe_frame(
    topics: Sequence[str],
    offset: str | Mapping[str, str],
    epochs: Mapping[str, str],
    client_id: str | None,
    ref: Ref,
) -> SubscribeFrame:
    for_others = offset if isinstance(offset, str) else offset.get("", "last")
    own: Mapping[str, str] = _NO_OFFSETS if isinstance(offset, str) else offset
    wanted = tuple(
        [Wanted(topic, place(own.get(topic, for_others)), epochs.get(topic) or None) for topic in topics]
    )
    if client_id is None and any(topic.start is Start.ACKED for topic in wanted):
        raise RelayError("client_id_required")
    return SubscribeFrame(wanted, client_id, ref)


def _read_ref(texts: Mapping[str, bytes]) -> Ref:
    text = texts.get("ref")
    if text is None or text == b"null":
        return None
    loc = (*_FRAME, "ref")
    if len(text) > REF_MAX_BYTES:
        raise RelayError(
            "invalid_request", errors=[FieldError(loc, f"must be at most {REF_MAX_BYTES} bytes of JSON")]
        )
    try:
        json_text.check_value(text)
    except JsonError as error:
        raise refused_text(error, loc) from None
    return msgspec.Raw(text)


def _value(texts: Mapping[str, bytes], name: str, absent: Any) -> Any:
    try:
        return json_text.value(texts[name]) if name in texts else absent
    except ValueError as error:
        raise RelayError("invalid_request", errors=[FieldError((*_FRAME, name), str(error))]) from None


def _load(schema: Schema, texts: Mapping[str, bytes]) -> dict[str, Any]:
    known = {name: text for name, text in texts.items() if name in schema.fields}
    return load_texts(schema, known, _FRAME)


# ----------------------------------------------------------------------------------------------- the answers


def subscribed(cursors: Mapping[str, MessageId], epochs: Mapping[str, str], ref: object) -> dict[str, Any]:
    """Where each topic begins; a client that keeps these can come back even before its first message."""
    told = {topic: str(cursor) for topic, cursor in cursors.items()}
    return _answer("subscribed", ref, topics=list(told), cursors=told, epochs=dict(epochs), timestamp=_now())


def unsubscribed(topics: Sequence[str], ref: object) -> dict[str, Any]:
    return _answer("unsubscribed", ref, topics=list(topics), timestamp=_now())


def published(publication: Mapping[str, str], ref: object) -> dict[str, Any]:
    """`publication` is what the HTTP answer to the same publish says."""
    return _answer("published", ref, **publication)


def acknowledged(topic: str, message_id: MessageId, ref: object) -> dict[str, Any]:
    return _answer("acknowledged", ref, topic=topic, message_id=str(message_id))


def pong(ref: object) -> dict[str, Any]:
    return _answer("pong", ref, timestamp=_now())


def token_expiring(expires_at: float) -> dict[str, Any]:
    """Nobody has asked for it, so there is no `ref`. In Unix seconds."""
    return _answer("token_expiring", None, expires_at=timestamp_text(int(expires_at * 1000)))


def authenticated(expires_at: float | None, ref: object) -> dict[str, Any]:
    """Until when, in Unix seconds; None for what does not expire."""
    told = None if expires_at is None else timestamp_text(int(expires_at * 1000))
    return _answer("authenticated", ref, expires_at=told)


def error(error: RelayError, ref: object) -> dict[str, Any]:
    seconds = error.retry_after_seconds
    return _answer(
        "error",
        ref,
        code=error.code,
        message=error.message,
        details=error.details,
        retry=error.kind.is_retryable,
        **({} if seconds is None else {"retry_after": seconds}),
    )


def _answer(kind: str, ref: object, **more: Any) -> dict[str, Any]:
    return {"type": kind, **more} if ref is None else {"type": kind, "ref": ref, **more}


def _now() -> str:
    return timestamp_text(time.time_ns() // 1_000_000)
