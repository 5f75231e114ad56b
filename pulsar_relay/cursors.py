"""Cursors as texts: what a client may say about where to begin, and how a position in several topics is
written down.

No text is wrong here. Clients keep cursors for months and bring those of other relays; refusing one would
make them ask again for ever. What is not understood begins at the oldest message kept, and the subscriber is
told so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from zlib import crc32

from actors.protocol import Start
from actors.stream import MessageId

ACKED = "acked"
_WORDS = {
    "": Start.EARLIEST,
    "earliest": Start.EARLIEST,
    "latest": Start.LATEST,
    "last": Start.LATEST,
    ACKED: Start.ACKED,
}
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_POSITION = re.compile(r"([0-9a-z]{1,13})-([0-9a-z]{1,13})", re.ASCII)
_END = 1 << 64


def place(cursor: str) -> MessageId | Start:
    """Where a subscription with this cursor begins. "" is the oldest message kept, as is whatever is not
    understood.
    """
    word = _WORDS.get(cursor)
    if word is not None:
        return word
    try:
        return MessageId.parse(cursor)
    except ValueError:
        return Start.UNKNOWN


def encode_positions(positions: Mapping[str, MessageId]) -> str:
    """One word for the positions in several topics, short and safe in a URL.

    It holds no names: whoever decodes it must name the same topics in the same order, and a checksum of them
    tells.
    """
    vector = [f"{_base36(at.milliseconds)}-{_base36(at.number)}" for at in positions.values()]
    return ".".join([_checksum(positions), *vector])


def decode_positions(text: str, topics: Sequence[str]) -> dict[str, MessageId] | None:
    """What `encode_positions` wrote for these topics, None if `text` is anything else."""
    checksum, *vector = text.split(".")
    matches = [_POSITION.fullmatch(word) for word in vector]
    if checksum != _checksum(topics) or len(vector) != len(topics):
        return None
    positions = {}
    for topic, match in zip(topics, matches, strict=True):
        if match is None:
            return None
        milliseconds, number = int(match[1], 36), int(match[2], 36)
        if milliseconds >= _END or number >= _END:
            return None
        positions[topic] = MessageId.of(milliseconds, number)
    return positions


def read_last_event_id(text: str, topics: Sequence[str]) -> dict[str, str]:
    """The cursor of each topic that a `Last-Event-ID` header stands for: positions in all of them, or one
    cursor for each.
    """
    positions = decode_positions(text, topics)
    if positions is None:
        return dict.fromkeys(topics, text)
    return {topic: str(at) for topic, at in positions.items()}


def _checksum(topics: Iterable[str]) -> str:
    return _base36(crc32(",".join(topics).encode()))


def _base36(number: int) -> str:
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
        if number == 0:
            return digits
