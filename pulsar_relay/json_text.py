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
from functools import cache
from operator import itemgetter
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
        found = _decode(self._decoder, text)
        return {name: bytes(raw) for name in self._names if (raw := getattr(found, name)) is not _ABSENT}


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
# and whatever cannot be part of a number a space, so that two plain searches find both, also inside strings:
# a hint, not a verdict.
_LONG_RUN = b"0" * 200
_SHAPES = bytes(
    ord("0")
    if byte in b"0123456789"
    else ord("e")
    if byte in b"eE"
    else ord("+")
    if byte == ord("+")
    else ord(" ")
    for byte in range(256)
)

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_HARMLESS_NUMBER = rb"[0-9]{1,199}+(?:\.[0-9]*+)?+(?:[eE](?:-[0-9]++|\+?[0-9]{1,2}+))?+(?![0-9.eE])"
_SUSPECTS = re.compile(
    rb'(?:[^"0-9]*+(?:%b|%b))*+[^"0-9]*+([0-9.eE+-]++|\Z)' % (_STRING, _HARMLESS_NUMBER), re.DOTALL
)


def may_overflow(text: bytes) -> bool:
    """False if no number in `text`, nor in any part of it, can be too large: a quick look, easily alarmed."""
    shapes = text.translate(_SHAPES)
    return b"0e000" in shapes or b"0e+000" in shapes or _LONG_RUN in shapes


def _overflows(text: bytes) -> bool:
    # Iterators all the way: a hostile text holds millions of numbers that are large but not too large.
    suspects = filter(None, map(itemgetter(1), _SUSPECTS.finditer(text)))
    return any(map(math.isinf, map(float, suspects)))


# --------------------------------------------------------------------------------------------- bounded depth

_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b'[]{}"')


def _exceeds(text: bytes, max_depth: int) -> bool:
    """Whether `text` is nested deeper: leave its brackets and quotes, then match them with a pattern that
    goes as deep, no deeper.
    """
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Strings without brackets are empty now; taking out `""` between two other strings joins them, which
    # makes no difference.
    skeleton = text.translate(_BRACKETS, _NO_BRACKETS).replace(b'""', b"")
    return _nested(max_depth).fullmatch(skeleton) is None


@cache
def _nested(depth: int) -> re.Pattern[bytes]:
    """Brackets balanced up to a depth are a regular language: each level of the pattern holds the next."""
    pattern = rb'(?:"[^"]*+")*+'
    for _ in range(depth):
        pattern = rb'(?:"[^"]*+"|\[%b\])*+' % pattern
    return re.compile(pattern)
