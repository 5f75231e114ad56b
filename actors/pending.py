"""The publishes of one topic that are not answered yet: what group commit collects while one append is on its
way, and what is on its way."""

from __future__ import annotations

from collections import deque
from typing import Any

from actors.ports import Publish

Waiting = tuple[Publish, Any]
"""A publish and the address of whoever waits for its answer."""


class PendingPublishes:
    """A bounded queue of publishes, taken out in batches, one batch at a time.

    The bounds are of what waits; the batch under way is bounded by `begin`.
    """

    __slots__ = ("_max_bytes", "_max_messages", "_messages", "_size_bytes", "_waiting", "in_flight")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._waiting: deque[tuple[Publish, Any, int]] = deque()
        self._messages = 0
        self._size_bytes = 0
        self.in_flight: list[Waiting] = []
        """The batch that is being appended; empty if there is none."""

    def __len__(self) -> int:
        """Publishes not answered yet, in flight or not."""
        return len(self._waiting) + len(self.in_flight)

    def bound(self, max_messages: int, max_bytes: int) -> None:
        """For what is added from now on."""
        self._max_messages, self._max_bytes = max_messages, max_bytes

    def add(self, publish: Publish, publisher: Any) -> bool:
        """Queue a publish; False, and nothing changed, if a bound would be passed. An empty queue takes any
        one publish."""
        size_bytes, messages = publish.size_bytes, len(publish.drafts)
        is_over = (
            self._messages + messages > self._max_messages or self._size_bytes + size_bytes > self._max_bytes
        )
        if is_over and self._waiting:
            return False
        self._waiting.append((publish, publisher, size_bytes))
        self._messages += messages
        self._size_bytes += size_bytes
        return True

    def begin(self, max_messages: int, max_bytes: int) -> list[Publish]:
        """Put the oldest publishes that fit one append in flight; none while a batch is.

        A publish is never split, so one that is larger than the bounds goes alone.
        """
        if self.in_flight:
            return []
        if self._messages <= max_messages and self._size_bytes <= max_bytes:
            self.in_flight = self.drain()
        else:
            self._take(max_messages, max_bytes)
        return [publish for publish, _ in self.in_flight]

    def _take(self, max_messages: int, max_bytes: int) -> None:
        messages = size_bytes = 0
        while self._waiting:
            publish, publisher, publish_bytes = self._waiting[0]
            messages += len(publish.drafts)
            size_bytes += publish_bytes
            if self.in_flight and (messages > max_messages or size_bytes > max_bytes):
                break
            self._waiting.popleft()
            self._messages -= len(publish.drafts)
            self._size_bytes -= publish_bytes
            self.in_flight.append((publish, publisher))

    def finish(self) -> list[Waiting]:
        """The batch in flight is answered, or about to be; the next one may begin."""
        finished, self.in_flight = self.in_flight, []
        return finished

    def drain(self) -> list[Waiting]:
        """Take everything that waits, but not what is in flight."""
        drained = [(publish, publisher) for publish, publisher, _ in self._waiting]
        self._waiting.clear()
        self._messages = self._size_bytes = 0
        return drained
