"""The connections a worker has to Valkey, and the scripts it runs there."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from typing import Any, Protocol, TypeVar

from pulsar_relay.settings import ValkeySettings
from pulsar_relay.store.cluster import Cluster
from pulsar_relay.store.identity import StoreIdentity
from pulsar_relay.store.line import Answer
from pulsar_relay.store.link import Endpoint, Word
from pulsar_relay.store.refusals import ElsewhereError, ScriptUnknownError
from pulsar_relay.store.sentinels import Sentinels
from pulsar_relay.store.shard import Shard

T = TypeVar("T")

SINGLE_CONNECTIONS = 2
"""Of a worker's connections, the line is one, and the feed another."""


class Calls(Protocol):
    def call(self, *words: Word) -> Answer:
        """As `Line.call`."""

    def send(self, words: tuple[Word, ...], answer: Answer) -> None:
        """As `Line.send`."""


class PageCalls(Protocol):
    async def call(self, *words: Word) -> Any:
        """As `Lines.call`."""

    async def call_all(self, *commands: tuple[Word, ...]) -> list[Any]:
        """As `Lines.call_all`; the commands have their keys in one slot."""


class Client(Protocol):
    """What the parts of a store see of Valkey, be it one server, or a cluster: a `Shard`, or a `Cluster`.

    A command finds its server by its key. One without a key is asked of a shard.
    """

    @property
    def line(self) -> Calls: ...

    @property
    def appends(self) -> Calls: ...

    @property
    def pages(self) -> PageCalls: ...

    @property
    def publish_word(self) -> str: ...

    @property
    def passing_codes(self) -> frozenset[str]: ...

    async def command(self, *words: Word) -> Any: ...

    async def shards(self) -> Sequence[Shard]:
        """Those there are now. StoreError if nobody can tell."""

    def apart(self, items: Sequence[T], key: Callable[[T], str]) -> Sequence[Sequence[int]]: ...

    # What there is to know at once, without asking anybody.

    def known_shards(self) -> Sequence[Shard]:
        """Those that are known of now; none before the first answer."""

    def home(self, key: bytes) -> Shard | None:
        """The shard that has the key; None while nobody knows."""

    def tag_at(self, shard: Shard) -> str | None:
        """What between braces takes a key to this shard; None where all keys are."""

    def listen(self, on_change: Callable[[], None]) -> None:
        """`on_change` is called whenever keys may have another shard."""

    def doubt(self) -> None:
        """What is known seems to be wrong: ask anew, soon."""

    def note_move(self, told: ElsewhereError, told_by: str) -> None:
        """A shard, by its name, has told who has a slot."""

    async def load_script(self, text: bytes) -> None:
        """On all shards that can be reached."""

    @property
    def refused_shards(self) -> Mapping[str, str]: ...

    async def check_identity(self) -> None:
        """Raises StoreError if nothing of it is the store this relay knows."""

    async def accept(self, known: str) -> str: ...

    async def aclose(self) -> None: ...


def make_client(
    settings: ValkeySettings,
    unix_socket: str | None = None,
    *,
    replicas: int = 0,
    identity: StoreIdentity | None = None,
) -> Shard | Cluster:
    """A client for what the settings name; `unix_socket` (the embedded server's) wins over them.

    With `replicas`, an append counts as done once that many have it; with an `identity`, nothing is sent to
    another store than that.
    """
    max_pages = max(1, settings.pool_size - SINGLE_CONNECTIONS - (1 if replicas else 0))
    if settings.mode == "cluster":
        assert settings.addresses is not None
        return Cluster(Endpoint.of(settings), settings.addresses, max_pages, replicas, identity)
    endpoint = Endpoint.of(settings, unix_socket, identity)
    if settings.mode == "sentinel":
        sentinels = _sentinels(settings)
        endpoint = replace(endpoint, locator=sentinels)
        return Shard(settings.sentinel_service or "", endpoint, max_pages, replicas, sentinels)
    path = unix_socket or settings.unix_socket
    name = str(path) if path else f"{settings.host or 'localhost'}:{settings.port}"
    return Shard(name, endpoint, max_pages, replicas)


def _sentinels(settings: ValkeySettings) -> Sentinels:
    own = replace(settings, username=settings.sentinel_username, password=settings.sentinel_password, db=0)
    endpoint = Endpoint.of(own)
    assert settings.addresses is not None
    assert settings.sentinel_service is not None
    return Sentinels([endpoint.at(place) for place in settings.addresses], settings.sentinel_service)


class Script:
    """One of a package's `.lua` files, of this one unless told otherwise. Its `sha` is known before the
    server knows the script.
    """

    def __init__(self, name: str, package: str = "pulsar_relay.store") -> None:
        self.text = resources.files(package).joinpath(f"{name}.lua").read_bytes()
        # SHA-1 is how Valkey names scripts; nothing is secured by it.
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()
        self._loading: asyncio.Future[None] | None = None

    async def run(self, client: Client, keys: Sequence[str], args: Sequence[Word]) -> Any:
        """Run it; loads it first where the server has forgotten it (a restart, a failover, SCRIPT FLUSH)."""
        return await self._run(client, client.line, keys, args)

    async def run_as_append(self, client: Client, keys: Sequence[str], args: Sequence[Word]) -> Any:
        """The same for what must be as durable as an append when it is answered."""
        return await self._run(client, client.appends, keys, args)

    async def run_for_page(self, client: Client, keys: Sequence[str], args: Sequence[Word]) -> Any:
        """The same for a script with a large answer."""
        return await self._run(client, client.pages, keys, args)

    async def _run(
        self, client: Client, via: Calls | PageCalls, keys: Sequence[str], args: Sequence[Word]
    ) -> Any:
        try:
            return await via.call("EVALSHA", self.sha, len(keys), *keys, *args)
        except ScriptUnknownError:
            # It has not run, so the repetition doubles nothing.
            await self.load(client)
            return await via.call("EVALSHA", self.sha, len(keys), *keys, *args)

    async def load(self, client: Client) -> None:
        """Make the script known to the server; who asks while that is under way waits for the same answer."""
        if self._loading is None or self._loading.done():
            self._loading = asyncio.ensure_future(client.load_script(self.text))
        await asyncio.shield(self._loading)
