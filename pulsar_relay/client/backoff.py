"""How long to wait before trying again."""

from __future__ import annotations

import random

FIRST_SECONDS = 0.1
MOST_SECONDS = 5.0


class Backoff:
    """Waits double from try to try. Each is shortened by chance, so that clients that were cut off together
    do not come back together.
    """

    def __init__(self, first_seconds: float = FIRST_SECONDS, most_seconds: float = MOST_SECONDS) -> None:
        self._first = first_seconds
        self._most = most_seconds
        self._next = first_seconds

    def next(self, at_least_seconds: float = 0.0) -> float:
        """Seconds to wait now. What the relay asked for is waited in any case."""
        wait = self._next * random.uniform(0.5, 1.0)
        self._next = min(self._next * 2, self._most)
        return max(wait, at_least_seconds)

    def reset(self) -> None:
        """It worked: the next wait is a first one again."""
        self._next = self._first
