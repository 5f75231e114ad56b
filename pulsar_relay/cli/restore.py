"""`restore`: a backup's topics and consumers, put back into the store."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import click

from actors.stream import MessageId
from pulsar_relay.backup.backup_file import BackupFile
from pulsar_relay.backup.blocks import BackupFileError
from pulsar_relay.backup.restore import Restore, TopicsNotEmptyError
from pulsar_relay.cli.backup import counted
from pulsar_relay.cli.backup_progress import BackupProgress
from pulsar_relay.cli.opened_store import with_store
from pulsar_relay.cli.settings import load_settings, settings_options
from pulsar_relay.settings import StorageSettings
from pulsar_relay.store.client import Client
from pulsar_relay.store.entries import message_id
from pulsar_relay.store.identity import Identity, identity_of
from pulsar_relay.store.restores import DisturbedError, Mode, NotEmptyError, Restores


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE")
@click.option("--merge", "merges", is_flag=True, help="Add to topics that have messages what they lack.")
@click.option("--replace", "replaces", is_flag=True, help="Replace what such topics hold.")
@click.option(
    "--complete",
    "is_complete",
    is_flag=True,
    help="Nothing was published after the backup was made: who has all of it is told of no loss.",
)
@click.option(
    "--check", "only_checks", is_flag=True, help="Say whether the file is whole, and write nothing."
)
@settings_options
def restore(
    file: Path | None,
    assignments: Sequence[str],
    source: Path,
    *,
    merges: bool,
    replaces: bool,
    is_complete: bool,
    only_checks: bool,
    **flags: str | bool | None,
) -> None:
    """Put the topics of a backup back, with the ids they had, and the places of named clients.

    Takes the options of `serve`. Nothing is written if FILE is damaged or no backup, or if one of its topics
    has messages and neither --merge nor --replace is given. What is broken off goes on when it is repeated.
    Subscribers go on where they were; those whose messages are not there, and those who reach the backup's
    end, where later messages may be lost, get a `reset`.

    \b
    Examples:
      pulsar-relay restore relay.backup
      pulsar-relay restore relay.backup --complete --valkey-host new.internal
    """
    if merges and replaces:
        raise click.UsageError("--merge and --replace exclude each other")
    settings = load_settings(file, assignments, flags).settings
    mode = Mode.MERGE if merges else Mode.REPLACE if replaces else Mode.NEW
    try:
        with open(source, "rb") as opened:
            backup = _whole(opened, source)
            if only_checks:
                click.echo(f"whole, made {backup.header.made}: {counted(backup.summary)}")
                return

            async def work(client: Client) -> Identity:
                with BackupProgress() as progress:
                    restores = Restores(client, backup.header.backup_id, mode, is_complete=is_complete)
                    await Restore(restores, backup, progress).run(mode)
                return await identity_of(client.command)

            identity = with_store(settings, work, makes_directory=True)
            click.echo(f"restored: {counted(backup.summary)}")
            for hint in _hints(backup, identity, settings.storage):
                click.echo(hint, err=True)
    except TopicsNotEmptyError as error:
        raise click.ClickException(
            f"{len(error.topics)} topics of the backup have messages in the store ({error}): keep both with "
            "--merge, or what the backup holds with --replace; nothing was written"
        ) from error
    except (NotEmptyError, DisturbedError, BackupFileError) as error:
        raise click.ClickException(f"{error}; repeat it, to go on") from error
    except OSError as error:
        raise click.ClickException(f"{source} cannot be read: {error}") from error


def _whole(opened: BinaryIO, source: Path) -> BackupFile:
    try:
        return BackupFile(opened)
    except BackupFileError as error:
        raise click.ClickException(f"{source}: {error}; nothing was written") from error


def _hints(backup: BackupFile, found: Identity, storage: StorageSettings) -> Iterator[str]:
    known = backup.header.store_id
    if known and known != found.id and known not in found.succeeds:
        yield (
            f"The backup is of the store {known}, this is {found.id or 'a new one'}. Relays that know that "
            f"one go on with this one after: pulsar-relay store accept {known}"
        )
    too_old = sum(_too_old(backup, topic, storage) for topic in backup.topics)
    if too_old:
        yield (
            f"{too_old:,} messages are older than their topic's retention: a relay that runs trims them. To "
            "keep them, give it a longer `storage.persistent_tier_retention` first."
        )


def _too_old(backup: BackupFile, topic: str, storage: StorageSettings) -> int:
    own = backup.state(topic).meta.get("retention_ms", b"")
    default_ms = round(storage.persistent_tier_retention_seconds * 1000)
    kept_ms = int(own) if own.isdigit() else default_ms
    bound = MessageId.of(max(0, time.time_ns() // 1_000_000 - kept_ms), 0)
    newest = backup.state(topic).newest
    # The newest message of a topic is never too old.
    return sum(bound > this != newest for this in (message_id(name) for name, _ in backup.entries(topic)))
