"""`backup`: the store's topics and consumers in one file, or a snapshot of Valkey's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from pulsar_relay.backup.backup import Backup, Summary
from pulsar_relay.backup.blocks import BackupFileError
from pulsar_relay.backup.snapshot import Snapshot, SnapshotFailedError
from pulsar_relay.cli.backup_progress import BackupProgress
from pulsar_relay.cli.opened_store import with_store
from pulsar_relay.cli.settings import load_settings, settings_options
from pulsar_relay.store.client import Client
from pulsar_relay.store.copies import Copies
from pulsar_relay.store.identity import identity_of
from pulsar_relay.store.shard import Shard


@click.command()
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False), metavar="[FILE]", required=False)
@click.option(
    "--rdb", "is_snapshot", is_flag=True, help="Have Valkey write a snapshot, and wait for its end."
)
@settings_options
def backup(
    file: Path | None,
    assignments: Sequence[str],
    target: Path | None,
    *,
    is_snapshot: bool,
    **flags: str | bool | None,
) -> None:
    """Write all topics, and the places of named clients, to FILE: compressed, checksummed, with the ids they
    have. Relays may go on meanwhile. `pulsar-relay restore` reads it.

    Takes the options of `serve`. A topic that is being published to is in the backup as it was at one moment.
    What is broken off leaves FILE.part; the same command goes on with it.

    \b
    Examples:
      pulsar-relay backup relay-$(date +%F).backup
      pulsar-relay backup --rdb
    """
    if is_snapshot == (target is not None):
        raise click.UsageError("name a FILE to write, or have Valkey write its snapshot with --rdb")
    settings = load_settings(file, assignments, flags).settings

    async def to_file(client: Client) -> Summary:
        assert target is not None
        with BackupProgress() as progress:
            identity = await identity_of(client.command)
            return await Backup(Copies(client), identity, target, progress).make()

    async def snapshots(client: Client) -> list[str]:
        with BackupProgress("keys") as progress:
            shards = await client.shards()
            return [_at(shard, shards, await Snapshot(shard, progress).take()) for shard in shards]

    try:
        if is_snapshot:
            for path in with_store(settings, snapshots):
                click.echo(path)
        else:
            click.echo(f"{target}: {counted(with_store(settings, to_file))}")
    except (BackupFileError, SnapshotFailedError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"the backup cannot be written: {error}") from error


def _at(shard: Shard, shards: Sequence[Shard], path: str) -> str:
    told = path or "the snapshot is written; Valkey does not tell this user where"
    return f"{shard.name}: {told}" if len(shards) > 1 else told


def counted(summary: Summary) -> str:
    return (
        f"{summary.topics:,} topics with {summary.messages:,} messages, places of "
        f"{summary.consumers:,} named clients"
    )
