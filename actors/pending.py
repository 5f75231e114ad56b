"""The publishes of one topic that wait for their append: what group commit collects while one append is on its way."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from actors.protocol import Publish


class PendingPublishes:
    """A bounded queue of publishes with those who wait for their answer, taken out in batches."""

    __slots__ = ("_max_bytes", "_max_messages", "_messages", "_publishes", "_size_bytes")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._publishes: deque[tuple[Publish, object, int]] = deque()
        self._messages = 0
        self._size_bytes = 0

    def add(self, publish: Publish, publisher: object) -> bool:
        """Queue a publish; False, and nothing changed, if the bounds would be passed. An empty queue takes any one publish."""
        size_bytes, messages = publish.size_bytes, len(publish.drafts)
        is_over = (
            self._messages + messages > self._max_messages or self._size_bytes + size_bytes > self._max_bytes
        )
        if is_over and self._publishes:
            return False
        self._publishes.append((publish, publisher, size_bytes))
        self._messages += messages
        self._size_bytes += size_bytes
        return True

    def take(self, max_messages: int, max_bytes: int) -> list[tuple[Publish, object]]:
        """The oldest publishes that fit one append. A publish is never split, so a single large one is taken alone."""
        taken: list[tuple[Publish, object]] = []
        messages = size_bytes = 0
        while self._publishes:
            publish, publisher, publish_bytes = self._publishes[0]
            if taken and (
                messages + len(publish.drafts) > max_messages or size_bytes + publish_bytes > max_bytes
            ):
                break
            self._publishes.popleft()
            messages += len(publish.drafts)
            size_bytes += publish_bytes
            taken.append((publish, publisher))
        self._messages -= messages
        self._size_bytes -= size_bytes
        return taken

    def drain(self) -> Iterator[tuple[Publish, object]]:
        """Take everything out."""
        while self._publishes:
            publish, publisher, _ = self._publishes.popleft()
            yield publish, publisher
        self._messages = self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._publishes)
