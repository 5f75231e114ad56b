"""Backing: whether Valkey's own settings back what this relay promises.

They are looked at before the relay starts, and again each second while it runs: a connection may have ended
on another server, and anybody may say CONFIG SET. What does not fit refuses the start, and later makes the
relay not ready; each text says what to change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, takewhile

from actors.ports import StoreError
from pulsar_relay.config import ConfigError
from pulsar_relay.settings import Settings
from pulsar_relay.store.client import Client
from pulsar_relay.store.information import HIDDEN, configuration_of, information_of
from pulsar_relay.store.shard import Shard

NO_EVICTION = "noeviction"
WHERE = "in its configuration and with CONFIG SET"
CONFIGURED = ("appendfsync", "no-appendfsync-on-rewrite", "min-replicas-to-write")
"""What INFO does not tell."""


class MisfitError(ConfigError):
    """The store's settings do not back what the relay's settings promise; each problem has its cure."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What a Valkey server says of itself. None: it does not let this user ask."""

    eviction_policy: str
    has_append_only_file: bool
    replicas: int
    appendfsync: str | None
    spares_fsync_on_rewrite: bool | None
    min_replicas: int | None
    is_cluster_node: bool = False

    @classmethod
    def of(cls, information: Mapping[str, str], configured: Mapping[str, str]) -> ServerSettings:
        """From the replies to INFO, and to CONFIG GET, which may be empty."""
        replicas = takewhile(bool, (information.get(f"slave{number}") for number in count()))
        spares = configured.get("no-appendfsync-on-rewrite")
        min_replicas = configured.get("min-replicas-to-write")
        return cls(
            information.get("maxmemory_policy", ""),
            information.get("aof_enabled") == "1",
            sum(",state=online," in (replica or "") for replica in replicas),
            configured.get("appendfsync"),
            None if spares is None else spares == "yes",
            None if min_replicas is None else int(min_replicas),
            information.get("cluster_enabled") == "1",
        )


class Backing:
    """What the relay promises is in the settings. Each primary of `client` has to back it."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self.level = settings.storage.durability
        self._mode = settings.valkey.mode
        self._replicas = settings.replicas_to_wait_for
        self._allowed_policies = ("", NO_EVICTION, settings.valkey.allowed_eviction_policy)
        self._hides_configuration = False

    async def refuse_misfit(self) -> None:
        """Raises MisfitError with all that does not fit, StoreError if the store cannot be asked now."""
        problems = []
        shards = await self._client.shards()
        for shard in shards:
            where = f"{shard.name}: " if len(shards) > 1 else ""
            server = await self.ask(shard)
            texts = (*self.not_alone(server), *self.not_durable(server), *self.evicts(server))
            problems += [where + text for text in texts]
        if problems:
            raise MisfitError(problems)

    async def check_durability(self, shard: Shard) -> None:
        """Raises StoreError while the server's settings do not back the durability level."""
        for problem in self.not_durable(await self._ask(shard, "persistence", "replication")):
            raise StoreError("store_not_durable", problem)

    async def check_eviction(self, shard: Shard) -> None:
        """Raises StoreError while the server may forget messages."""
        # Asked each second: for no more than it looks at.
        for problem in self.evicts(ServerSettings.of(await information_of(shard, "memory"), {})):
            raise StoreError("store_evicts", problem)

    async def ask(self, shard: Shard) -> ServerSettings:
        return await self._ask(shard, "memory", "persistence", "replication", "cluster")

    async def _ask(self, shard: Shard, *sections: str) -> ServerSettings:
        information, configured = await asyncio.gather(
            information_of(shard, *sections), self._configured(shard)
        )
        return ServerSettings.of(information, configured)

    async def _configured(self, shard: Shard) -> dict[str, str]:
        """Nothing where CONFIG is denied to this user, or renamed away as some services do."""
        if self._hides_configuration:
            return {}
        try:
            return await configuration_of(shard, *CONFIGURED)
        except StoreError as error:
            # An unknown command is logged as an error: once is enough.
            self._hides_configuration = error.code == "store_error"
            if error.code not in HIDDEN:
                raise
            return {}

    def not_alone(self, server: ServerSettings) -> Iterator[str]:
        """Why this server is not what `valkey.mode` says, and what to do."""
        if server.is_cluster_node and self._mode != "cluster":
            yield (
                f"valkey.mode is {self._mode}, and Valkey is a node of a cluster: it has a part of the "
                "topics only. Set `valkey.mode: cluster`, and `valkey.addresses` to some of its nodes"
            )

    def evicts(self, server: ServerSettings) -> Iterator[str]:
        """Why this server may forget messages, and what to do."""
        policy = server.eviction_policy
        if policy not in self._allowed_policies:
            yield (
                f"Valkey's maxmemory-policy is {policy}: when full it forgets messages, whole topics among "
                f"them, while every append says OK. Set `maxmemory-policy {NO_EVICTION}` {WHERE}, or accept "
                f"that loss by name: valkey.allowed_eviction_policy: {policy}"
            )

    def not_durable(self, server: ServerSettings) -> Iterator[str]:
        """Why this server does not back the durability level, and what to do."""
        says = f"storage.durability is {self.level}, and Valkey's"
        if not server.has_append_only_file:
            yield (
                f"{says} append-only file is off: its restart would lose what was acknowledged. Say CONFIG "
                "SET appendonly yes while it runs, then set `appendonly yes` in its configuration; the other "
                "way round it would start empty"
            )
        elif self.level == "disk":
            yield from self._not_on_disk(server, says)
        elif server.appendfsync == "no":
            yield f"{says} appendfsync is no: set `appendfsync everysec` {WHERE}"
        if self._replicas:
            yield from self._not_on_replicas(server, says)

    def _not_on_disk(self, server: ServerSettings, says: str) -> Iterator[str]:
        if server.appendfsync is None:
            yield f"{says} appendfsync cannot be known: let its user say CONFIG GET (ACL: +config|get)"
        elif server.appendfsync != "always":
            yield (
                f"{says} appendfsync is {server.appendfsync}: set `appendfsync always` {WHERE}, or choose "
                "storage.durability: memory"
            )
        elif server.spares_fsync_on_rewrite:
            yield f"{says} no-appendfsync-on-rewrite is yes: set `no-appendfsync-on-rewrite no` {WHERE}"

    def _not_on_replicas(self, server: ServerSettings, says: str) -> Iterator[str]:
        wanted = self._replicas
        if server.replicas < wanted:
            yield (
                f"{says} connected replicas are {server.replicas}, of {wanted} wanted (storage.replicas): "
                "start them, and let each say REPLICAOF with this server's address"
            )
        if server.min_replicas is not None and server.min_replicas < wanted:
            yield (
                f"{says} min-replicas-to-write is {server.min_replicas}: set `min-replicas-to-write "
                f"{wanted}` and `min-replicas-max-lag 2` {WHERE}"
            )
