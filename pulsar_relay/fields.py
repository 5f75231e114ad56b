"""The kinds of values in requests: marshmallow fields that read them as the wire contract says.

A field of a JSON body is given the value, except for those marked `takes_text`: these are given the JSON text
itself, as it was sent, and give it back unparsed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import msgspec
from marshmallow import ValidationError, fields

from pulsar_relay import json_text
from pulsar_relay.accounts.access import SYSTEM
from pulsar_relay.errors import RelayError
from pulsar_relay.kinds import Duration

TOPIC_NAME = r"(?=[_-]*[A-Za-z0-9])[A-Za-z0-9_-]{1,255}"
OWNER_ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
REACHED_NAME = rf"(?:(?:{OWNER_ID}|{SYSTEM})/)?{TOPIC_NAME}"
"""A topic as a client may name it: with accounts also one of another user's, or of the relay's own."""

METADATA_MAX_BYTES = 64 * 1024
TTL_MAX_SECONDS = 3650 * 24 * 3600
"""Ten years: no retention is longer, and the end of life stays far below what a stream id can hold."""

_TOPIC_NAME = re.compile(REACHED_NAME)
_WHOLE_NUMBER = re.compile(r"\s*([+-]?[0-9]{1,20})(?:\.0*)?\s*", re.ASCII)
_TRUE = frozenset({"true", "1", "on", "t", "y", "yes"})
_FALSE = frozenset({"false", "0", "off", "f", "n", "no"})
_METADATA = msgspec.json.Decoder(dict[str, str])


def is_topic_name(text: str) -> bool:
    """Whether a topic can be named so: 1 to 255 ASCII letters, digits, `-`, `_`, not only these two; before
    it the id of its owner and a slash, if that is another user.
    """
    return _TOPIC_NAME.fullmatch(text) is not None


class TopicName(fields.String):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.metadata = {"pattern": f"^{REACHED_NAME}$", **self.metadata}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str) or not is_topic_name(value):
            raise ValidationError("must be a topic name: 1 to 255 of A-Z a-z 0-9 _ -, not only the last two")
        return value


class Text(fields.String):
    """A string of bounded length."""

    def __init__(self, max_length: int, min_length: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.metadata = {"minLength": min_length, "maxLength": max_length, **self.metadata}
        self._range = range(min_length, max_length + 1)
        self._wanted = f"must be a string of {min_length} to {max_length} characters"

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str) or len(value) not in self._range:
            raise ValidationError(self._wanted)
        return value


class TopicNames(fields.List[Any]):
    """Topic names, each once, in the order given. `is_query`: a text with commas between them."""

    def __init__(self, max_topics: int, *, is_query: bool = False, **kwargs: Any) -> None:
        super().__init__(TopicName(), **kwargs)
        self.metadata = {"minItems": 1, "maxItems": max_topics, **self.metadata}
        self.is_query = is_query
        self._max_topics = max_topics

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        if self.is_query and isinstance(value, str):
            value = value.split(",")
        if not isinstance(value, list) or not 1 <= len(value) <= self._max_topics:
            raise ValidationError(f"must be a list of 1 to {self._max_topics} topic names")
        return list(dict.fromkeys(super()._deserialize(value, attr, data, **kwargs)))


class WholeNumber(fields.Integer):
    """An integer, also written as an integral float (`30.0`), a string (`"30"`) or a boolean."""

    def __init__(self, minimum: int | None = None, maximum: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._minimum = minimum
        self._maximum = maximum
        bounds = {"minimum": minimum, "maximum": maximum}
        self.metadata = {
            **{name: bound for name, bound in bounds.items() if bound is not None},
            **self.metadata,
        }

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        number = self._number(value)
        if self._minimum is not None and number < self._minimum:
            raise ValidationError(f"must be at least {self._minimum}")
        if self._maximum is not None and number > self._maximum:
            raise ValidationError(f"must be at most {self._maximum}")
        return number

    def _number(self, value: Any) -> int:
        if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
            return int(value)
        match = _WHOLE_NUMBER.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ValidationError("must be a whole number")
        return int(match[1])


class CappedNumber(WholeNumber):
    """A whole number of at least 1; one above the cap counts as the cap."""

    def __init__(self, cap: int, **kwargs: Any) -> None:
        super().__init__(minimum=1, **kwargs)
        self._cap = cap

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        return min(super()._deserialize(value, attr, data, **kwargs), self._cap)


class Seconds(fields.Float):
    """Any number, also as a string, clamped into its bounds: a timeout that is a little off is no reason to
    fail for ever.
    """

    def __init__(self, minimum: float, maximum: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._minimum = minimum
        self._maximum = maximum

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        if not isinstance(value, int | float | str):
            raise ValidationError("must be a number of seconds")
        try:
            seconds = float(value)
        except (ValueError, OverflowError):
            raise ValidationError("must be a number of seconds") from None
        if not math.isfinite(seconds):
            raise ValidationError("must be a number of seconds")
        return min(max(seconds, self._minimum), self._maximum)


class Lifetime(fields.Field[int]):
    """A time as settings take it: a number of seconds, or a text such as `24h`. Read to milliseconds."""

    def __init__(self, kind: Duration, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._kind = kind
        self.metadata = {"oneOf": [{"type": "number"}, {"type": "string"}], **self.metadata}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValidationError(f"must be a time {self._kind.form}")
        try:
            return round(self._kind.parse(str(value)) * 1000)
        except ValueError as error:
            raise ValidationError(f"{error}; allowed: {self._kind.form}") from None


class Flag(fields.Boolean):
    """A boolean, also as a word: true/1/on/t/y/yes or false/0/off/f/n/no, in any case."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        word = str(value).lower() if isinstance(value, bool | int | str) else ""
        if word not in _TRUE and word not in _FALSE:
            raise ValidationError("must be true or false")
        return word in _TRUE


class CursorMap(fields.Dict):
    """Topic to cursor text; null counts as "". Cursors are judged later: none is ever wrong, only unknown."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[Any, Any]:
        if not isinstance(value, dict) or not all(isinstance(text, str | None) for text in value.values()):
            raise ValidationError("must be an object of topic to cursor")
        return {topic: text or "" for topic, text in value.items()}


class QueryCursors(fields.String):
    """Cursors in a query: one for all topics, or `topic:cursor` pairs with commas between them. Read to a
    CursorMap's value, with the key "" for all topics.
    """

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        pairs = [pair.rpartition(":") for pair in value.split(",") if pair]
        return {topic: cursor for topic, _, cursor in pairs}


class Payload(fields.Field[bytes]):
    """Any JSON value, as text."""

    takes_text = True

    def __init__(self, max_depth: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._max_depth = max_depth

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bytes:
        json_text.check_value(value, self._max_depth)
        return bytes(value)


class Metadata(fields.Dict):
    """An object of strings, as text, or null."""

    takes_text = True

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if value == b"null":
            return None
        # The length first: a small text cannot decode to much.
        if len(value) > METADATA_MAX_BYTES:
            raise ValidationError(f"must be at most {METADATA_MAX_BYTES} bytes of JSON")
        if not is_metadata(value):
            raise ValidationError("must be an object whose values are strings, or null")
        return bytes(value)


def is_metadata(text: bytes) -> bool:
    """Whether JSON, checked before, is an object whose values are strings."""
    try:
        _METADATA.decode(text)
    except msgspec.ValidationError:
        return False
    return True


class Texts(fields.List[Any]):
    """A list whose elements stay JSON texts, for those who read them one by one."""

    takes_text = True

    def __init__(
        self,
        element: fields.Field[Any],
        items: json_text.Items,
        too_many: Callable[[], RelayError],
        **kwargs: Any,
    ):
        super().__init__(element, **kwargs)
        self.metadata = {"minItems": 1, "maxItems": items.max_items, **self.metadata}
        self._items = items
        self._too_many = too_many

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        try:
            texts = self._items.split(value)
        except json_text.NotThisError:
            raise ValidationError("must be a list") from None
        if texts is None:
            raise self._too_many()
        if not texts:
            raise ValidationError("must not be empty")
        return texts


def takes_text(field: Any) -> bool:
    """Whether the field is to be given the JSON text rather than the value."""
    return getattr(field, "takes_text", False)
