"""JSON at the edge: strict reading of texts that are then passed on byte for byte.

What is accepted here comes out on every transport exactly as it came in: 2**70, 1.10, the order of keys and
keys given twice inside a value included. So a text is judged and cut, never dumped again. The rules, on every
path:

* RFC 8259 syntax, so no NaN, no Infinity, no comments, no byte order mark;
* UTF-8, and no half of a surrogate pair, neither raw nor escaped;
* every number finite when read as an IEEE 754 double, so that no subscriber's parser turns it into infinity;
* containers nested at most `MAX_DEPTH` deep.

Nothing here builds the values of a text it only judges: 32 MiB of `[]` would be a gigabyte of lists. msgspec
skips over a value checking its syntax and escapes, but neither UTF-8 nor the range of numbers (nor, usefully,
its depth); those follow, each in one pass.
"""

from __future__ import annotations

import math
import re
from itertools import accumulate
from typing import Any

import msgspec

MAX_DEPTH = 100
FIELD_MAX_BYTES = 1024 * 1024
"""Longest text `value` decodes: enough for every field the relay reads itself, payloads are never decoded."""


class JsonError(ValueError):
    """A text is refused; `code` is a row of the error table. The message never quotes the text."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class NotThisError(ValueError):
    """The text is JSON, but not the kind of value asked for."""


class Fields:
    """Cuts an object into the raw texts of the fields named here; fields not named are checked for syntax and
    dropped.

    A name given twice counts with its last value, as it does for the clients of the older relay. Nobody
    downstream can read it otherwise: only the value that was cut out and checked is passed on.
    """

    __slots__ = ("_decoder", "_names")

    def __init__(self, *names: str) -> None:
        self._names = names
        # A struct and not a dict: unknown fields then cost no memory, however many a body holds.
        struct = msgspec.defstruct("Fields", [(name, msgspec.Raw, _ABSENT) for name in names])
        self._decoder = msgspec.json.Decoder(struct)

    def split(self, text: bytes) -> dict[str, bytes]:
        """The fields present in the object `text`, in the order of their names here, each exactly as it was
        sent.

        JsonError unless `text` is JSON in UTF-8, NotThisError unless it is an object. The values' numbers and
        depth are not judged yet: see `check_value`.
        """
        check_encoding(text)
        found = msgspec.structs.astuple(_decode(self._decoder, text))
        pairs = zip(self._names, found, strict=True)
        return {name: bytes(raw) for name, raw in pairs if raw is not _ABSENT}


class Items:
    """Cuts an array into the raw texts of its elements, as long as there are at most `max_items`."""

    __slots__ = ("_decoder", "_names", "max_items")

    def __init__(self, max_items: int) -> None:
        self.max_items = max_items
        self._names = [f"item_{index}" for index in range(max_items + 1)]
        # Not list[Raw]: it would build millions of elements before anyone could count them.
        struct = msgspec.defstruct(
            "Items", [(name, msgspec.Raw, _ABSENT) for name in self._names], array_like=True
        )
        self._decoder = msgspec.json.Decoder(struct)

    def split(self, text: bytes) -> list[bytes] | None:
        """The elements of the array `text`, None if there are more than `max_items`. NotThisError unless it
        is an array.
        """
        found = msgspec.structs.astuple(_decode(self._decoder, text))
        items = [bytes(raw) for raw in found if raw is not _ABSENT]
        return items if len(items) <= self.max_items else None


def check(text: bytes, max_depth: int = MAX_DEPTH) -> None:
    """Raise JsonError unless `text` is one JSON value that keeps all the rules."""
    check_encoding(text)
    _decode(_RAW, text)
    check_value(text, max_depth)


def check_encoding(text: bytes) -> None:
    """Raise JsonError unless `text` is UTF-8."""
    try:
        str(text, "utf-8")
    except UnicodeDecodeError as error:
        raise JsonError("invalid_encoding", f"not UTF-8 at byte {error.start}") from None


def check_value(text: bytes, max_depth: int = MAX_DEPTH) -> None:
    """Raise JsonError unless the numbers of `text` are finite and its depth is bounded; the rest must have
    been checked before.
    """
    check_numbers(text)
    check_depth(text, max_depth)


def check_numbers(text: bytes) -> None:
    """Raise JsonError unless all numbers are finite; the rest must have been checked."""
    if may_overflow(text) and _overflows(text):
        raise JsonError("invalid_json", "a number is too large for a double")


def check_depth(text: bytes, max_depth: int = MAX_DEPTH) -> None:
    """Raise JsonError if containers are nested deeper; the rest must have been checked."""
    # The number of brackets bounds the depth, and is all that most texts need.
    if text.count(b"[") + text.count(b"{") > max_depth and _exceeds(text, max_depth):
        raise JsonError("nested_too_deeply", f"nested more than {max_depth} levels deep")


def value(text: bytes) -> Any:
    """The Python value of a text that `Fields` cut out: for the small fields that the relay reads itself."""
    if len(text) > FIELD_MAX_BYTES:
        raise NotThisError("too long")
    check_value(text)
    return _decode(_ANY, text)


# Given to msgspec as the default of each field and found again by identity: an absent field differs from
# every present one.
_ABSENT = msgspec.Raw()
_RAW = msgspec.json.Decoder(msgspec.Raw)
_ANY = msgspec.json.Decoder()
# Where msgspec's words would lead a person astray.
_REASONS = {"Input data was truncated": "ends in the middle of a value, or holds half of a surrogate pair"}


def _decode(decoder: msgspec.json.Decoder[Any], text: bytes) -> Any:
    try:
        return decoder.decode(text)
    except RecursionError:
        # The parser's own limit, somewhat below a thousand levels.
        raise JsonError("nested_too_deeply", "nested too deeply") from None
    except msgspec.ValidationError as error:
        raise NotThisError(str(error)) from None
    except msgspec.DecodeError as error:
        raise JsonError("invalid_json", _REASONS.get(str(error), str(error))) from None


# -------------------------------------------------------------------------------------------- finite numbers

# A double ends at 1.8e308. With fewer than 200 digits before the point and fewer than three in the exponent a
# number stays below 1e299, so what may be too large has a run of digits or a long exponent. Digits become 0,
# and whatever cannot be part of a number a space, so that plain searches find them, also inside strings: a
# hint, not a verdict. No regular expression with possessive quantifiers: Python 3.11.2 matches them wrongly.
_EXPONENT, _SIGNED_EXPONENT, _DIGITS = _SUSPECTS = (b"0e000", b"0e+000", b"0" * 200)
_SHAPES = bytes.maketrans(b"123456789E-", b"000000000e.")
_SHAPES = bytes(byte if byte in b"0e+." else ord(" ") for byte in _SHAPES)


def may_overflow(text: bytes) -> bool:
    """False if no number in `text`, nor in any part of it, can be too large: a quick look, easily alarmed."""
    shapes = text.translate(_SHAPES)
    # Written out: each publish comes here.
    return _EXPONENT in shapes or _SIGNED_EXPONENT in shapes or _DIGITS in shapes


def _overflows(text: bytes) -> bool:
    text = _without_strings(text)
    shapes = text.translate(_SHAPES)
    for suspect in _SUSPECTS:
        at = shapes.find(suspect)
        while at >= 0:
            end = shapes.find(b" ", at)
            end = len(shapes) if end < 0 else end
            if math.isinf(float(text[shapes.rfind(b" ", 0, at) + 1 : end])):
                return True
            at = shapes.find(suspect, end)
    return False


# --------------------------------------------------------------------------------------------- bounded depth

_STRING = re.compile(b'"[^"]*"')
# As signed bytes: one up, one down.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def _without_strings(text: bytes) -> bytes:
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return _STRING.sub(b'""', text)


def _exceeds(text: bytes, max_depth: int) -> bool:
    """Whether `text` is nested deeper: a walk over its brackets alone."""
    steps = _without_strings(text).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0) > max_depth
