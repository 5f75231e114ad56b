"""An entry of the predecessor's stream, made into one of ours. Pure.

Ids and texts stay as they are. What it stored and could not hand out (NaN, half a surrogate pair) becomes
what its readers could have read: null, and the replacement character.
"""

from __future__ import annotations

import json
import math
from typing import Any

from actors.stream import MessageId
from pulsar_relay import json_text
from pulsar_relay.store.entries import Entry, time_or_none

_TOO_DEEP = "nested_too_deeply"


def migrated(entry: Entry, before: MessageId | None) -> Entry | None:
    """The entry as the relay would have written it; None for what is no message. `before` is the id of the
    one before it, None as long as that is not known.
    """
    fields = dict(zip(entry[1][::2], entry[1][1::2], strict=False))
    payload = fields.get(b"payload")
    if payload is None:
        return None
    words = [b"payload", mended(payload)]
    metadata = fields.get(b"metadata", b"null")
    if _is_object(metadata):
        words += [b"metadata", metadata]
    timestamp = fields.get(b"timestamp", b"")
    if time_or_none(timestamp) is not None:
        words += [b"timestamp", timestamp]
    if before is not None:
        words += [b"prev", str(before).encode()]
    return entry[0], words


def size_of(entry: Entry) -> int:
    """Of one of ours: bytes, all but its predecessor's id."""
    return sum(
        len(value) for name, value in zip(entry[1][::2], entry[1][1::2], strict=True) if name != b"prev"
    )


def mended(text: bytes) -> bytes:
    """The text itself where it can be read; else what could be meant, at worst as a JSON string."""
    try:
        json_text.check(text)
        return text
    except json_text.JsonError as error:
        # What is nested deeper than may be published now can be read by most.
        if error.code == _TOO_DEEP and _is_fit(text):
            return text
    decoded = text.decode("utf-8", "replace")
    try:
        return json.dumps(_readable(json.loads(decoded)), allow_nan=False).encode()
    except (ValueError, RecursionError):
        return json.dumps(_readable(decoded)).encode()


def _is_fit(text: bytes) -> bool:
    """The same judgement as `json_text.check`, but for the depth. It builds the value."""
    try:
        json.dumps(json.loads(text), allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def _is_object(text: bytes) -> bool:
    try:
        json_text.check(text)
    except json_text.JsonError:
        return False
    return text.lstrip()[:1] == b"{"


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_readable(name): _readable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_readable(inner) for inner in value]
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
