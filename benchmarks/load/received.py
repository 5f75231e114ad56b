"""What a connection received, judged after the clock has stopped: all of it, once, in order."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence

from benchmarks.messages import FIRST, LAST, MESSAGE_ID, NUMBER


class Received:
    """Bytes in the pieces they came in, and when each came (monotonic nanoseconds)."""

    __slots__ = ("pieces", "times")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.times: list[int] = []

    def numbers(self) -> list[int]:
        return [int(number) for number in NUMBER.findall(b"".join(self.pieces))]

    def ids(self) -> list[tuple[int, int]]:
        """Empty for targets that send none."""
        found = MESSAGE_ID.findall(b"".join(self.pieces))
        return [(int(milliseconds), int(sequence)) for milliseconds, sequence in found]

    def arrivals(self) -> dict[int, int]:
        """When each number was there."""
        ends = list(itertools.accumulate(len(piece) for piece in self.pieces))
        found = NUMBER.finditer(b"".join(self.pieces))
        return {int(match[1]): self.times[bisect.bisect_left(ends, match.end())] for match in found}


def complaints(all_received: Sequence[Received], expected: Iterable[int]) -> dict[str, int]:
    """What is wrong, by name: 0 everywhere is right.

    `expected` are the numbers between the first and the last message, for each connection. Those that got
    the same numbers must have got them in the same order, which is the target's; ids must ascend.
    """
    wanted = {FIRST, *expected, LAST}
    found = {"lost": 0, "doubled": 0, "foreign": 0, "reordered": 0}
    orders: set[tuple[int, ...]] = set()
    for received in all_received:
        numbers = received.numbers()
        once = set(numbers)
        found["lost"] += len(wanted - once)
        found["foreign"] += len(once - wanted)
        found["doubled"] += len(numbers) - len(once)
        ids = received.ids()
        found["reordered"] += sum(later <= earlier for earlier, later in itertools.pairwise(ids))
        orders.add(tuple(numbers))
    found["reordered"] += len(orders) - 1
    return found
