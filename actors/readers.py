"""The fetches of one topic that are not answered yet."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from actors.ports import Notice
from actors.protocol import Fetch
from actors.stream import MessageId
from actors.value import value

PageKey = tuple[MessageId, int]
"""Cursor and bound of a page. Who asks for the same page shares one read."""


@value
class Reader:
    """A fetch, who asked, and what must be said before the answer's first message."""

    fetch: Fetch
    subscriber: Any
    notice: Notice | None = None

    @property
    def key(self) -> PageKey:
        return self.fetch.cursor, self.fetch.max_messages


class Readers:
    """At most one open fetch a subscriber. It is open until `close`, whatever happens in between, so that a
    topic that ends can answer everybody.

    An open reader may wait for the topic's memory, or for a page of the stream. A reader that left, or asked
    anew, is in nobody's way: it is no longer open, and passed over.
    """

    __slots__ = ("_open", "_pages", "_waiting")

    def __init__(self) -> None:
        self._open: dict[int, Reader] = {}
        # A plain dict walks over all it has lost to find its first.
        self._waiting: OrderedDict[int, Reader] = OrderedDict()
        self._pages: dict[PageKey, list[Reader]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, reader: Reader) -> None:
        """Take a fetch in, in the place of an earlier one of the same subscriber."""
        subscriber_id = reader.fetch.subscriber_id
        self._open[subscriber_id] = reader
        self._waiting.pop(subscriber_id, None)

    def close(self, subscriber_id: int) -> None:
        """The fetch is answered, or its subscriber wants no answer any more."""
        self._open.pop(subscriber_id, None)
        self._waiting.pop(subscriber_id, None)

    def wait(self, reader: Reader) -> None:
        """Have an open reader wait for the topic's memory."""
        self._waiting[reader.fetch.subscriber_id] = reader

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def next_waiting(self) -> Reader | None:
        """The one that waits longest, which waits no more, but is still open."""
        return self._waiting.popitem(last=False)[1] if self._waiting else None

    def read(self, reader: Reader) -> bool:
        """Have an open reader wait for its page. True: nobody else does, the page must be read."""
        waiting_for_page = self._pages.setdefault(reader.key, [])
        waiting_for_page.append(reader)
        return len(waiting_for_page) == 1

    def take_page(self, key: PageKey) -> list[Reader]:
        """Those who waited for this page and are still open."""
        return [
            reader
            for reader in self._pages.pop(key, ())
            if self._open.get(reader.fetch.subscriber_id) is reader
        ]

    def drain(self) -> list[Reader]:
        """Everybody who is open; nobody is afterwards."""
        readers = list(self._open.values())
        self._open.clear()
        self._waiting.clear()
        return readers
