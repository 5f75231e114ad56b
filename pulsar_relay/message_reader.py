"""MessageReader: from the bytes of a publish, alone, in bulk or in a frame, to messages that hold what they
promise.

One rule judges: the marshmallow schema. In front of it stands a shorter way for messages as nearly all
publishers write them. It takes only what the schema would take, with the same result, and leaves everything
else, every error included, to the schema.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from pulsar_relay import json_text
from pulsar_relay.errors import FieldError, RelayError
from pulsar_relay.fields import METADATA_MAX_BYTES, TTL_MAX_SECONDS, is_metadata, is_topic_name
from pulsar_relay.json_text import Fields, JsonError
from pulsar_relay.loading import BODY, Location, load_texts, refused_text, split_object
from pulsar_relay.schemas import bulk_schema, bulk_too_large, publish_schema
from pulsar_relay.settings import PublishSettings


class PublishRequest(msgspec.Struct, frozen=True):
    """One message to publish. `payload` and `metadata` are JSON texts exactly as they were sent."""

    # A struct: a frozen dataclass takes four times as long to make, and bulk requests make thousands.
    topic: str
    payload: bytes
    ttl_seconds: int | None = None
    metadata: bytes | None = None


class ItemError(msgspec.Struct, frozen=True):
    """A message of a bulk request that is not valid. `topic` is None if what was sent is no topic's name."""

    topic: str | None
    error: RelayError


_ABSENT = msgspec.Raw()
_LINE_END = re.compile(rb"\n[ \t\r\n]*")
"""One, with the empty lines that follow it. White space in front of it is left to JSON, which allows it."""


class _Plain(msgspec.Struct):
    """A message whose fields have the types that need no coercion."""

    topic: str
    payload: msgspec.Raw
    ttl: Annotated[int, msgspec.Meta(ge=1, le=TTL_MAX_SECONDS)] | None = None
    metadata: msgspec.Raw = _ABSENT


class MessageReader:
    """Reads messages. Every method raises RelayError for what is not valid."""

    def __init__(self, settings: PublishSettings) -> None:
        self._settings = settings
        self._max_depth = settings.max_payload_depth
        self._schema = publish_schema(settings)()
        self._bulk_schema = bulk_schema(settings)()
        self._fields = Fields("topic", "payload", "ttl", "metadata")
        self._bulk_fields = Fields("messages")
        self._plain = msgspec.json.Decoder(_Plain)
        self._plain_bulk = _bulk_decoder(settings.bulk_max_messages)

    def one(self, text: bytes, loc: Location = BODY) -> PublishRequest:
        """The message whose JSON object is `text`, which stands at `loc`."""
        return self._plainly(text) or self.any(text, loc)

    def any(self, text: bytes, loc: Location = BODY) -> PublishRequest:
        """As `one`, by the schema alone."""
        return self._load(split_object(self._fields, text, loc), loc)

    def bulk(self, text: bytes) -> Sequence[PublishRequest | ItemError]:
        """The messages of a bulk request in the order sent; a wrong one does not stop the others."""
        return self._all_plainly(text) or self._one_by_one(text)

    def lines(self, text: bytes) -> Sequence[PublishRequest | ItemError]:
        """The same of a body with one message's JSON object on each line; empty lines are passed over."""
        most = self._settings.bulk_max_messages
        lines = _LINE_END.split(text.lstrip(b" \t\r\n"), maxsplit=most)
        beyond = lines[most:] or [b""]
        if beyond[0]:
            raise bulk_too_large(most)
        lines = [line for line in lines if line]
        if not lines:
            raise RelayError("invalid_request", errors=[FieldError(BODY, "has no line", "length")])
        return [self._item(line, (*BODY, "lines", index)) for index, line in enumerate(lines)]

    def _plainly(self, text: bytes) -> PublishRequest | None:
        """The message, or None if anything about it is for the schema to judge."""
        try:
            json_text.check_encoding(text)
            return self._message(self._plain.decode(text), numbers_checked=False)
        except (JsonError, msgspec.DecodeError, RecursionError):
            return None

    def _all_plainly(self, text: bytes) -> list[PublishRequest] | None:
        """All messages of a bulk request; None if any is for the schema to judge, or there are none or too
        many.
        """
        try:
            json_text.check_encoding(text)
            *plains, beyond = msgspec.structs.astuple(self._plain_bulk.decode(text).messages)
            if beyond is not _ABSENT or plains[0] is _ABSENT:
                return None
            are_numbers_checked = not json_text.may_overflow(text)
            messages = []
            for plain in plains:
                if plain is _ABSENT:
                    break
                message = self._message(plain, numbers_checked=are_numbers_checked)
                if message is None:
                    return None
                messages.append(message)
            return messages
        except (JsonError, msgspec.DecodeError, RecursionError):
            return None

    def _message(self, plain: _Plain, *, numbers_checked: bool) -> PublishRequest | None:
        """None if the fields are not valid, JsonError if the payload is not."""
        if not is_topic_name(plain.topic):
            return None
        metadata = None
        if plain.metadata is not _ABSENT:
            metadata = bytes(plain.metadata)
            if len(metadata) > METADATA_MAX_BYTES or not is_metadata(metadata):
                return None
        payload = bytes(plain.payload)
        if not numbers_checked:
            json_text.check_numbers(payload)
        json_text.check_depth(payload, self._max_depth)
        return PublishRequest(plain.topic, payload, plain.ttl, metadata)

    def _load(self, texts: Mapping[str, bytes], loc: Location) -> PublishRequest:
        try:
            found = load_texts(self._schema, texts, loc)
        except JsonError as error:
            raise refused_text(error, (*loc, "payload")) from None
        return PublishRequest(found["topic"], found["payload"], found["ttl"], found["metadata"])

    def _one_by_one(self, text: bytes) -> list[PublishRequest | ItemError]:
        messages = load_texts(self._bulk_schema, split_object(self._bulk_fields, text, BODY), BODY)[
            "messages"
        ]
        return [self._item(message, (*BODY, "messages", index)) for index, message in enumerate(messages)]

    def _item(self, text: bytes, loc: Location) -> PublishRequest | ItemError:
        plain = self._plainly(text)
        if plain is not None:
            return plain
        texts: Mapping[str, bytes] = {}
        try:
            texts = split_object(self._fields, text, loc)
            return self._load(texts, loc)
        except RelayError as error:
            return ItemError(_topic_in(texts), error)


def _bulk_decoder(max_messages: int) -> msgspec.json.Decoder[Any]:
    """Reads bulk requests up to their limit and one message beyond it; what comes after is passed over, not
    built.
    """
    slots = [(f"message_{index}", _Plain, _ABSENT) for index in range(max_messages + 1)]
    messages = msgspec.defstruct("Messages", slots, array_like=True)
    return msgspec.json.Decoder(msgspec.defstruct("Bulk", [("messages", messages)]))


def _topic_in(texts: Mapping[str, bytes]) -> str | None:
    """The name of the topic in a message that is wrong otherwise."""
    try:
        name = json_text.value(texts.get("topic", b"null"))
    except ValueError:
        return None
    return name if isinstance(name, str) and is_topic_name(name) else None
