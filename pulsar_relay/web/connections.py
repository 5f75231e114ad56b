"""OpenConnections: who must be told when the relay stops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Leaving(Protocol):
    def go_away(self) -> None:
        """The relay stops: end this connection's exchange in the way its transport has for that."""


class OpenConnections:
    """The polls, streams and sockets that are open in this worker."""

    def __init__(self) -> None:
        self._open: dict[int, Leaving] = {}

    def add(self, connection: Leaving) -> None:
        self._open[id(connection)] = connection

    def discard(self, connection: Leaving) -> None:
        self._open.pop(id(connection), None)

    def __iter__(self) -> Iterator[Leaving]:
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)
