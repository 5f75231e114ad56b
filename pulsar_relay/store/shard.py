"""Shard: a worker's connections to one primary. A cluster has several, any other store is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pulsar_relay.store.identity import accept
from pulsar_relay.store.line import Line, Lines
from pulsar_relay.store.link import Endpoint, Word
from pulsar_relay.store.refusals import ElsewhereError
from pulsar_relay.store.replicated_line import ReplicatedLine
from pulsar_relay.store.sentinels import Sentinels

T = TypeVar("T")

REPLACED = frozenset({"store_read_only", "store_primary_down"})
"""What a server says that is no primary, while another one takes its place."""


class Shard:
    """All methods raise StoreError only. Connects on first use, and again whenever a connection was lost.

    `line` is shared by everything with a short answer; `pages` are for large ones. `appends` is the line
    too, unless replicas have to confirm what is appended: waiting for them holds up all that is behind.
    `feed_endpoint` is where appends are announced. Alone, it is the client of a store that is one server.
    """

    publish_word = "PUBLISH"
    """The command that announces an append."""

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        max_pages: int,
        replicas: int = 0,
        sentinels: Sentinels | None = None,
    ) -> None:
        self.name = name
        """Where it is, as an operator knows it."""
        self.endpoint = endpoint
        self.line = Line(endpoint)
        self.appends = ReplicatedLine(endpoint, replicas) if replicas else self.line
        self.pages = Lines(endpoint, max_pages)
        self._sentinels = sentinels
        self.passing_codes = REPLACED if sentinels else frozenset[str]()
        """Refusals that pass by themselves, and soon: what was refused may be repeated."""

    async def command(self, *words: Word) -> Any:
        """Run one command with a short answer, once: the error says whether its outcome is known."""
        return await self.line.call(*words)

    async def shards(self) -> Sequence[Shard]:
        return [self]

    def apart(self, items: Sequence[T], key: Callable[[T], str]) -> Sequence[Sequence[int]]:
        """Which of the items, by their index, one script may have the keys of: here all."""
        return [range(len(items))]

    # There is nothing to look for: all is here.

    def known_shards(self) -> Sequence[Shard]:
        return [self]

    def home(self, key: bytes) -> Shard | None:
        return self

    def tag_at(self, shard: Shard) -> str | None:
        return None

    def listen(self, on_change: Callable[[], None]) -> None: ...

    def doubt(self) -> None: ...

    def note_move(self, told: ElsewhereError, told_by: str) -> None: ...

    async def load_script(self, text: bytes) -> None:
        # SCRIPT LOAD and not EVAL: scripts that came by EVAL are evicted when there are many.
        await self.command("SCRIPT", "LOAD", text)

    @property
    def refused_shards(self) -> Mapping[str, str]:
        return {}

    async def check_identity(self) -> None:
        """Raises StoreError if it is not the store this relay knows, as far as it is to know any."""
        if self.endpoint.identity is not None:
            await self.endpoint.identity.check(self.command)

    async def accept(self, known: str) -> str:
        """See `identity.accept`."""
        return await accept(self.command, known)

    async def aclose(self) -> None:
        """Give up whatever is under way; returns when all connections are closed."""
        await self.line.aclose()
        await self.appends.aclose()
        await self.pages.aclose()
        if self._sentinels is not None:
            await self._sentinels.aclose()
