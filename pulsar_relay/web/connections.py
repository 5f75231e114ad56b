"""OpenConnections: who must be told, and waited for, when the relay stops."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Protocol
from weakref import WeakSet


class Leaving(Protocol):
    def go_away(self) -> None:
        """The relay stops: end this connection's exchange in the way its transport has for that."""


class OpenConnections:
    """The polls, streams and sockets that are open in this worker, and the requests that are being answered."""

    def __init__(self) -> None:
        self._open: dict[int, Leaving] = {}
        # Weak: a request whose connection broke is never finished, but it goes.
        self._requests: WeakSet[Any] = WeakSet()
        self._changed = asyncio.Event()

    def add(self, connection: Leaving) -> None:
        self._open[id(connection)] = connection

    def discard(self, connection: Leaving) -> None:
        self._open.pop(id(connection), None)
        self._changed.set()

    def begin(self, request: object) -> None:
        """A request has come in."""
        self._requests.add(request)

    def end(self, request: object) -> None:
        """It is answered."""
        self._requests.discard(request)
        self._changed.set()

    async def drained(self) -> None:
        """Wait until nothing is open and everything is answered."""
        while self._open or self._requests:
            self._changed.clear()
            await self._changed.wait()

    def __iter__(self) -> Iterator[Leaving]:
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)
