"""The connections a worker has to Valkey, and the scripts it runs there."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from typing import Any

from pulsar_relay.settings import ValkeySettings
from pulsar_relay.store.identity import StoreIdentity
from pulsar_relay.store.line import Line, Lines
from pulsar_relay.store.link import Endpoint, Word
from pulsar_relay.store.refusals import ScriptUnknownError
from pulsar_relay.store.replicated_line import ReplicatedLine
from pulsar_relay.store.sentinels import Sentinels

SINGLE_CONNECTIONS = 2
"""Of a worker's connections, the line is one, and the feed another."""
REPLACED = frozenset({"store_read_only", "store_primary_down"})
"""What a server says that is no primary, while another one takes its place."""


class Client:
    """All methods raise StoreError only. Connects on first use, and again whenever a connection was lost.

    `line` is shared by everything with a short answer; `pages` are for large ones. `appends` is the line
    too, unless replicas have to confirm what is appended: waiting for them holds up all that is behind.
    """

    def __init__(
        self, endpoint: Endpoint, max_pages: int, replicas: int = 0, sentinels: Sentinels | None = None
    ) -> None:
        self.endpoint = endpoint
        self._sentinels = sentinels
        self.passing_codes = REPLACED if sentinels else frozenset[str]()
        """Refusals that pass by themselves, and soon: what was refused may be repeated."""
        self.line = Line(endpoint)
        self.appends = ReplicatedLine(endpoint, replicas) if replicas else self.line
        self.pages = Lines(endpoint, max_pages)

    async def command(self, *words: Word) -> Any:
        """Run one command with a short answer, once: the error says whether its outcome is known."""
        return await self.line.call(*words)

    async def aclose(self) -> None:
        """Give up whatever is under way; returns when all connections are closed."""
        await self.line.aclose()
        await self.appends.aclose()
        await self.pages.aclose()
        if self._sentinels is not None:
            await self._sentinels.aclose()


def make_client(
    settings: ValkeySettings,
    unix_socket: str | None = None,
    *,
    replicas: int = 0,
    identity: StoreIdentity | None = None,
) -> Client:
    """A client for the server the settings name; `unix_socket` (the embedded server's) wins over them.

    With `replicas`, an append counts as done once that many have it; with an `identity`, nothing is sent to
    another store than that.
    """
    singles = SINGLE_CONNECTIONS + (1 if replicas else 0)
    endpoint = Endpoint.of(settings, unix_socket, identity)
    sentinels = _sentinels(settings) if settings.mode == "sentinel" else None
    endpoint = replace(endpoint, locator=sentinels)
    return Client(endpoint, max(1, settings.pool_size - singles), replicas, sentinels)


def _sentinels(settings: ValkeySettings) -> Sentinels:
    own = replace(settings, username=settings.sentinel_username, password=settings.sentinel_password, db=0)
    endpoint = Endpoint.of(own)
    assert settings.addresses is not None and settings.sentinel_service is not None
    return Sentinels([endpoint.at(place) for place in settings.addresses], settings.sentinel_service)


class Script:
    """One of the `.lua` files beside this module. Its `sha` is known before the server knows the script."""

    def __init__(self, name: str) -> None:
        self.text = resources.files("pulsar_relay.store").joinpath(f"{name}.lua").read_bytes()
        # SHA-1 is how Valkey names scripts; nothing is secured by it.
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()
        self._loading: asyncio.Future[Any] | None = None

    async def run(self, client: Client, keys: Sequence[str], args: Sequence[Word]) -> Any:
        """Run it; loads it first where the server has forgotten it (a restart, a failover, SCRIPT FLUSH)."""
        return await self._run(client, client.line, keys, args)

    async def run_for_page(self, client: Client, keys: Sequence[str], args: Sequence[Word]) -> Any:
        """The same for a script with a large answer."""
        return await self._run(client, client.pages, keys, args)

    async def _run(self, client: Client, via: Line | Lines, keys: Sequence[str], args: Sequence[Word]) -> Any:
        try:
            return await via.call("EVALSHA", self.sha, len(keys), *keys, *args)
        except ScriptUnknownError:
            # It has not run, so the repetition doubles nothing.
            await self.load(client)
            return await via.call("EVALSHA", self.sha, len(keys), *keys, *args)

    async def load(self, client: Client) -> None:
        """Make the script known to the server; who asks while that is under way waits for the same answer."""
        # SCRIPT LOAD and not EVAL: scripts that came by EVAL are evicted when there are many.
        if self._loading is None or self._loading.done():
            self._loading = client.line.call("SCRIPT", "LOAD", self.text)
        await asyncio.shield(self._loading)
