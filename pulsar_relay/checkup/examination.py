"""The examination: all that `doctor` looks at, in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

from actors.ports import StoreError
from pulsar_relay.checkup.finding import Finding, advice, ok, problem
from pulsar_relay.checkup.host import Host
from pulsar_relay.checkup.server_checks import CHECKS
from pulsar_relay.checkup.vitals import take_vitals
from pulsar_relay.errors import ERRORS
from pulsar_relay.settings import Settings
from pulsar_relay.store.backing import NO_EVICTION, Backing, ServerSettings
from pulsar_relay.store.client import Client
from pulsar_relay.store.identity import ID_FORM, Identity, identity_of
from pulsar_relay.store.shard import Shard


async def examine(
    client: Client, settings: Settings, host: Host, identity_file: Path | None
) -> AsyncIterator[Finding]:
    """What is found about the store. `identity_file` is where the relay remembers which one it knows.

    Raises StoreError where the server cannot be asked.
    """
    shards = await client.shards()
    for shard in shards:
        try:
            async for finding in _shard(shard, Backing(client, settings), host):
                yield replace(finding, about=f"{finding.about} {shard.name}") if len(shards) > 1 else finding
        except StoreError as error:
            if len(shards) == 1:
                raise
            cure = "bring it back: its topics cannot be read or written"
            yield problem(f"connection {shard.name}", ERRORS[error.code].message, cure)
        if shard is shards[0]:
            for finding in _identity(await identity_of(client.command), identity_file):
                yield finding


async def _shard(shard: Shard, backing: Backing, host: Host) -> AsyncIterator[Finding]:
    vitals, server = await take_vitals(shard), await backing.ask(shard)
    yield ok("connection", "Valkey answers")
    for finding in _backing(backing, server):
        yield finding
    for check in CHECKS:
        for finding in check(vitals):
            yield finding
    for finding in host.findings(vitals):
        yield finding


def _backing(backing: Backing, server: ServerSettings) -> Iterator[Finding]:
    level = backing.level
    problems = list(backing.not_durable(server))
    for text in problems:
        says, _, cure = text.partition(": ")
        yield problem("durability", says, cure)
    if not problems:
        yield ok("durability", f"Valkey's settings back the level `{level}`")
    evicting = list(backing.evicts(server))
    for text in evicting:
        says, _, cure = text.partition(". ")
        yield problem("eviction", says, cure)
    if not evicting and server.eviction_policy not in ("", NO_EVICTION):
        text = f"maxmemory-policy is {server.eviction_policy}, as the settings allow: messages may vanish"
        yield advice("eviction", text, f"set `maxmemory-policy {NO_EVICTION}`")
    elif not evicting:
        yield ok("eviction", f"maxmemory-policy is {server.eviction_policy or 'not told'}")


def _identity(found: Identity, file: Path | None) -> Iterator[Finding]:
    about = "identity"
    known = _remembered(file)
    if known and not found.id:
        cure = f"bring its data back, or go on without: pulsar-relay store accept {known}"
        yield problem(about, f"the store has lost its data: it is not {known}, which the relay knows", cure)
    elif known and known != found.id and known not in found.succeeds:
        cure = f"correct the address, or go on with this store: pulsar-relay store accept {known}"
        yield problem(about, f"the store is {found.id}, not {known}, which the relay knows", cure)
    elif found.id:
        yield ok(about, f"the store is {found.id}")
    else:
        yield ok(about, "the store is new: no relay has worked on it")


def _remembered(file: Path | None) -> str | None:
    try:
        text = "" if file is None else file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None  # a relay that cannot read it says so, and does not start
    return text if ID_FORM.fullmatch(text) else None
