"""OpenConnections: who must be told, and waited for, when the relay stops."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Protocol

RECONNECT_MILLISECONDS = 500
RECONNECTS_A_SECOND = 250
MOST_RECONNECT_MILLISECONDS = 60_000
"""So many clients come back in an even stream rather than as one wave."""


class Leaving(Protocol):
    def go_away(self) -> None:
        """The relay stops: end this connection's exchange in the way its transport has for that."""


class OpenConnections:
    """The polls, streams and sockets that are open in this worker."""

    def __init__(self) -> None:
        # By identity: handlers are compared by nobody.
        self._open: dict[int, Leaving] = {}
        self._changed = asyncio.Event()
        self.socket_count = 0
        """How many of them have taken their sockets over from HTTP, and count here themselves."""

    def add(self, connection: Leaving) -> None:
        self._open[id(connection)] = connection

    def discard(self, connection: Leaving) -> bool:
        """True if it was open. May be called again."""
        if self._open.pop(id(connection), None) is None:
            return False
        self._changed.set()
        return True

    def reconnect_milliseconds(self) -> int:
        """When a connection that is ended now should come back: another time for each, so that the next
        relay is not met by all of them at once.
        """
        spread = 2 * RECONNECT_MILLISECONDS + len(self._open) * 1000 // RECONNECTS_A_SECOND
        return random.randint(RECONNECT_MILLISECONDS, min(spread, MOST_RECONNECT_MILLISECONDS))

    async def drained(self) -> None:
        """Wait until nothing is open."""
        while self._open:
            self._changed.clear()
            await self._changed.wait()

    def __iter__(self) -> Iterator[Leaving]:
        """Those open now; they may leave meanwhile."""
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)
