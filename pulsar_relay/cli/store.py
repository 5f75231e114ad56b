"""`store show` and `store accept`: which store Valkey holds, and whether relays may go on with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import click

from pulsar_relay.cli.opened_store import with_store
from pulsar_relay.cli.settings import load_settings, settings_options
from pulsar_relay.settings import Settings
from pulsar_relay.store.backing import Backing, MisfitError
from pulsar_relay.store.client import Client
from pulsar_relay.store.identity import ID_FORM, identity_of


@click.group()
def store() -> None:
    """Look at the store, or let relays go on with one that is not the one they know. Takes the options of
    `serve`: the store is the configured Valkey, or the embedded server's.
    """


@store.command()
@settings_options
def show(file: Path | None, assignments: Sequence[str], **flags: str | bool | None) -> None:
    """Print which store it is, whose place it has taken, and how it keeps what is acknowledged."""
    settings = load_settings(file, assignments, flags).settings

    async def rows(client: Client) -> list[tuple[str, str]]:
        return [row async for row in _rows(client, settings)]

    for name, value in with_store(settings, rows):
        click.echo(f"{name:24}  {value}")


@store.command()
@click.argument("known", metavar="ID")
@settings_options
def accept(known: str, file: Path | None, assignments: Sequence[str], **flags: str | bool | None) -> None:
    """Have the store there is take the place of the store ID, which relays remember and miss: their log names
    it. They go on by themselves, and tell subscribers that messages are missing.

    \b
    Examples:
      pulsar-relay store accept 0b5f1c2d3e4f5a6b7c8d9e0f
      pulsar-relay store accept 0b5f1c2d3e4f5a6b7c8d9e0f --valkey-host valkey.internal
    """
    if not ID_FORM.fullmatch(known):
        raise click.BadParameter("is not the id of a store; copy it from the relay's log", param_hint="ID")
    settings = load_settings(file, assignments, flags).settings
    try:
        found = with_store(settings, lambda client: client.accept(known))
    except ValueError as error:
        click.echo(str(error))
        return
    if found == known:
        click.echo(f"the shards of {known} that had lost their data go on with what they hold")
        return
    click.echo(f"store {found} has taken the place of {known}; relays that know {known} go on with it")


async def _rows(client: Client, settings: Settings) -> AsyncIterator[tuple[str, str]]:
    identity = await identity_of(client.command)
    yield "identity", identity.id or "none"
    for known, since in identity.succeeds.items():
        yield "has the place of", f"{known} since {since}"
    backing = Backing(client, settings)
    yield "durability", settings.storage.durability
    shards = await client.shards()
    for shard in shards:
        if len(shards) > 1:
            yield "shard", shard.name
        server = await backing.ask(shard)
        yield "append-only file", "on" if server.has_append_only_file else "off"
        yield "appendfsync", server.appendfsync or "unknown"
        yield "maxmemory-policy", server.eviction_policy or "unknown"
        yield "replicas", str(server.replicas)
    for problem in await _problems(backing):
        yield "problem", problem


async def _problems(backing: Backing) -> Sequence[str]:
    try:
        await backing.refuse_misfit()
    except MisfitError as error:
        return error.problems
    return ()
