"""Backing: whether Valkey's own settings back what this relay promises.

They are looked at before the relay starts, and again each second while it runs: a connection may have ended
on another server, and anybody may say CONFIG SET. What does not fit refuses the start, and later makes the
relay not ready; each text says what to change.
"""

from __future__ import annotations

from dataclasses import dataclass

from actors.ports import StoreError
from pulsar_relay.settings import ValkeySettings
from pulsar_relay.store.client import Client

NO_EVICTION = "noeviction"


class MisfitError(Exception):
    """The store's settings do not back the relay's promises; `problems` holds a line with a cure for each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What a Valkey server says of itself."""

    eviction_policy: str

    @classmethod
    def of(cls, information: dict[str, str]) -> ServerSettings:
        return cls(information.get("maxmemory_policy", ""))


class Backing:
    """Asks over `client`; what it asks about the relay is in the settings."""

    def __init__(self, client: Client, valkey: ValkeySettings) -> None:
        self._client = client
        self._allowed_policies = ("", NO_EVICTION, valkey.allowed_eviction_policy)

    async def refuse_misfit(self) -> None:
        """Raises MisfitError with all that does not fit, StoreError if the store cannot be asked now."""
        server = await self._ask()
        problems = [problem for problem in (self._evicts(server),) if problem]
        if problems:
            raise MisfitError(problems)

    async def check_eviction(self) -> None:
        """Raises StoreError while the store may forget messages."""
        problem = self._evicts(await self._ask())
        if problem:
            raise StoreError("store_evicts", problem)

    async def _ask(self) -> ServerSettings:
        # INFO and not CONFIG GET, which many operators deny or rename.
        text: bytes = await self._client.command("INFO", "memory")
        lines = text.decode("utf-8", "replace").splitlines()
        return ServerSettings.of({name: value for name, _, value in (line.partition(":") for line in lines)})

    def _evicts(self, server: ServerSettings) -> str | None:
        policy = server.eviction_policy
        if policy in self._allowed_policies:
            return None
        return (
            f"Valkey's maxmemory-policy is {policy}: when full it forgets messages, whole topics among them, "
            f"while every append says OK. Set `maxmemory-policy {NO_EVICTION}` in its configuration and with "
            f"CONFIG SET, or accept that loss by name: valkey.allowed_eviction_policy: {policy}"
        )
