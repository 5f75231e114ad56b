"""Slots: which primary of a cluster holds which keys. Pure values."""

from __future__ import annotations

import binascii
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pulsar_relay.store.link import Place, Word

SLOTS = 16384

_WITHOUT_KEY = frozenset(
    {"ASKING", "BGSAVE", "CLIENT", "CLUSTER", "CONFIG", "EXEC", "INFO", "MULTI", "PING", "PUBLISH", "ROLE"}
    | {"SCAN", "SCRIPT", "TIME"}
)
_FIRST_KEY_OF_SCRIPT = 3


def slot_of(key: Word) -> int:
    text = key if isinstance(key, bytes) else str(key).encode()
    # What stands between the first braces, if that is anything, decides alone.
    _, _, behind = text.partition(b"{")
    tag, brace, _ = behind.partition(b"}")
    # CRC-16/XMODEM.
    return binascii.crc_hqx(tag if brace and tag else text, 0) % SLOTS


def slot_of_command(words: Sequence[Word]) -> int | None:
    """The slot of a command's keys, of those commands that the relay uses; None if it has none."""
    if words[0] in _WITHOUT_KEY:
        return None
    if words[0] == "EVALSHA":
        return slot_of(words[_FIRST_KEY_OF_SCRIPT]) if words[2] else None
    return slot_of(words[1])


@functools.cache
def _tags() -> Sequence[str]:
    tags = [""] * SLOTS
    missing = SLOTS
    for number in itertools.count():
        tag = str(number)
        slot = slot_of(tag)
        if not tags[slot]:
            tags[slot] = tag
            missing -= 1
            if not missing:
                return tags
    raise AssertionError("unreachable")


def tag_of(slot: int) -> str:
    """What between braces puts a key into this slot. The same in all workers, and for ever."""
    return _tags()[slot]


class SlotMap:
    """The owner of each slot, as one node of the cluster told it. `epoch` is how far that node had come."""

    def __init__(self, owners: list[Place | None], epoch: int) -> None:
        self._owners = owners
        self._first_slots: Mapping[Place, int] | None = None
        self.epoch = epoch

    @classmethod
    def of(cls, ranges: Sequence[Any], epoch: int, told_by: Place) -> SlotMap:
        """From the reply to CLUSTER SLOTS."""
        owners: list[Place | None] = [None] * SLOTS
        for first, last, primary, *_ in ranges:
            # A node that knows no name of its own goes by the one it was reached under.
            host = primary[0].decode() if primary[0] else told_by[0]
            owners[first : last + 1] = [(host, primary[1])] * (last + 1 - first)
        return cls(owners, epoch)

    def owner(self, slot: int) -> Place | None:
        return self._owners[slot]

    def move(self, slot: int, place: Place) -> None:
        self._owners[slot] = place
        self._first_slots = None

    @property
    def primaries(self) -> Sequence[Place]:
        """Those that own slots, in order of their first."""
        return list(self.first_slots())

    @property
    def is_whole(self) -> bool:
        return None not in self._owners

    def first_slots(self) -> Mapping[Place, int]:
        """The first slot of each primary, in their order."""
        if self._first_slots is None:
            found: dict[Place, int] = {}
            for slot, place in enumerate(self._owners):
                if place is not None:
                    found.setdefault(place, slot)
            self._first_slots = found
        return self._first_slots

    def owned(self, place: Place, slots: Iterable[int]) -> list[int]:
        """Which of the slots are the primary's."""
        return [slot for slot in slots if self._owners[slot] == place]
