"""Durations and sizes as people write them: `1h30m`, `500ms`, `32MiB`.

Text becomes a number of seconds or bytes, and a number becomes a short text that reads back as the same one.
Nothing is guessed: what can be read in two ways (`32M`: of 1000 or of 1024?) is refused.
"""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = r"\d+(?:\.\d+)?"
_PLAIN_NUMBER = re.compile(_NUMBER, re.ASCII)
_DURATION = re.compile(rf"(?:{_NUMBER}(?:ms|[smhd]))+", re.ASCII)
_DURATION_PART = re.compile(rf"({_NUMBER})(ms|[smhd])", re.ASCII)
_SIZE = re.compile(rf"({_NUMBER})\s*([a-z]*)", re.ASCII)

_MILLISECONDS_PER_UNIT = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_LEAST_COUNT = {"d": 3, "m": 2}
_BYTES_PER_UNIT = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}

DURATION_FORM = "a duration such as 500ms, 30s, 1h30m or 7d; a plain number is seconds"
SIZE_FORM = "a size such as 64KiB (1024), 64KB (1000) or 32MiB; a plain number is bytes"


def parse_duration(text: str) -> float:
    """Seconds in `text`, exact to the millisecond; ValueError when it is not a duration."""
    text = text.strip().lower()
    if _PLAIN_NUMBER.fullmatch(text):
        milliseconds = Decimal(text) * 1000
    elif _DURATION.fullmatch(text):
        parts = _DURATION_PART.findall(text)
        units = [unit for _, unit in parts]
        if len(set(units)) != len(units):
            raise ValueError(f"names a unit twice; expected {DURATION_FORM}")
        milliseconds = sum(
            (Decimal(number) * _MILLISECONDS_PER_UNIT[unit] for number, unit in parts), Decimal(0)
        )
    else:
        raise ValueError(f"is not a duration; expected {DURATION_FORM}")
    if milliseconds != milliseconds.to_integral_value():
        raise ValueError("is finer than a millisecond")
    return float(milliseconds) / 1000


def format_duration(seconds: float) -> str:
    """A short text that `parse_duration` reads as the same number of milliseconds."""
    rest = round(seconds * 1000)
    text = ""
    for unit, milliseconds in _MILLISECONDS_PER_UNIT.items():
        # People say 24h and 75s, not 1d and 1m15s.
        if rest < _LEAST_COUNT.get(unit, 1) * milliseconds:
            continue
        count, rest = divmod(rest, milliseconds)
        text += f"{count}{unit}"
    return text or "0s"


def parse_size(text: str) -> int:
    """Bytes in `text`; ValueError when it is not a size or not a whole number of bytes."""
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None or match[2] not in _BYTES_PER_UNIT:
        raise ValueError(f"is not a size; expected {SIZE_FORM}")
    size = Decimal(match[1]) * _BYTES_PER_UNIT[match[2]]
    if size != size.to_integral_value():
        raise ValueError("is not a whole number of bytes")
    return int(size)


def format_size(size_bytes: int) -> str:
    """A short text in units of 1024 that `parse_size` reads as the same number of bytes."""
    if size_bytes == 0:
        return "0"
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        count, rest = divmod(size_bytes, _BYTES_PER_UNIT[unit.lower()])
        if rest == 0:
            return f"{count}{unit}"
    return str(size_bytes)
