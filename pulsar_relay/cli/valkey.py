"""`valkey`: a command of Valkey's own, on the store that the settings name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import aclosing, suppress
from pathlib import Path

import click

from pulsar_relay.cli.opened_store import with_store
from pulsar_relay.cli.replies import bare, typed
from pulsar_relay.cli.settings import load_settings, settings_options
from pulsar_relay.store.client import Client
from pulsar_relay.store.console import AnswerError, Console, Reply, shards_for


# Options end where the command begins: a word of it may look like one.
@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("words", nargs=-1, required=True, metavar="COMMAND [WORD]...")
@settings_options
def valkey(
    file: Path | None, assignments: Sequence[str], words: tuple[str, ...], **flags: str | bool | None
) -> None:
    """Run a COMMAND of Valkey's own on the store, and print its reply as `valkey-cli` does.

    Takes the options of `serve`, before the COMMAND: it goes to the configured Valkey, with its user,
    password and TLS, or to the embedded server. On a terminal a reply is shown with its types, elsewhere
    bare. MONITOR and SUBSCRIBE print until Ctrl-C. In a cluster the primary that has the key is asked; where
    there is no key, each of them, its address above its reply on standard error.

    Look, do not write: what changes the relay's keys, relays do not know of.

    \b
    Examples:
      pulsar-relay valkey INFO persistence
      pulsar-relay valkey XLEN topic:jobs:stream
      pulsar-relay valkey --valkey-host valkey.internal CONFIG GET 'maxmemory*'
    """
    settings = load_settings(file, assignments, flags).settings

    async def work(client: Client) -> None:
        shards = await shards_for(client, words)
        for shard in shards:
            if len(shards) > 1:
                click.echo(f"{shard.name}:", err=True)
            async with aclosing(Console(shard.endpoint).replies(words)) as replies:
                async for reply in replies:
                    _print(reply)

    with suppress(KeyboardInterrupt, BrokenPipeError):
        try:
            with_store(settings, work)
        except AnswerError as error:
            raise click.ClickException(str(error)) from error


def _print(reply: Reply) -> None:
    if sys.stdout.isatty():
        click.echo("\n".join(typed(reply)))
    else:
        click.echo(b"\n".join(bare(reply)))
