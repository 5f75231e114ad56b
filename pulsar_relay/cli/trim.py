"""`trim`: what a topic holds is cut down, once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click

from actors.ports import Trimmed
from pulsar_relay.cli.connection import topic_names
from pulsar_relay.cli.opened_store import with_store
from pulsar_relay.cli.settings import load_settings, settings_options
from pulsar_relay.quantities import parse_duration
from pulsar_relay.store.client import Client
from pulsar_relay.store.trims import Trims


def _milliseconds(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    try:
        return round(parse_duration(value) * 1000)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} {error}") from error


@click.command()
@click.argument("topic", callback=topic_names)
@click.option(
    "--max-messages", type=click.IntRange(min=1), metavar="COUNT", help="Keep the newest COUNT messages."
)
@click.option(
    "--older-than",
    "age_ms",
    callback=_milliseconds,
    metavar="TIME",
    help="Remove messages that are older: 7d, 12h. The topic's newest one stays.",
)
@settings_options
def trim(
    file: Path | None,
    assignments: Sequence[str],
    topic: str,
    max_messages: int | None,
    age_ms: int | None,
    **flags: str | bool | None,
) -> None:
    """Remove messages from TOPIC, once, for good; subscribers that had not read them are told of a gap.

    Takes the options of `serve`. For limits that hold from now on: `pulsar-relay topics --change`.

    \b
    Examples:
      pulsar-relay trim jobs --max-messages 10000
      pulsar-relay trim jobs --older-than 24h --valkey-host valkey.internal
    """
    if max_messages is None and age_ms is None:
        raise click.UsageError("say what is to go: --max-messages, --older-than or both")
    settings = load_settings(file, assignments, flags).settings

    async def work(client: Client) -> Trimmed | None:
        now_ms = time.time_ns() // 1_000_000
        trims = Trims(client, settings.storage)
        return await trims.trim_to(topic, now_ms, retention_ms=age_ms, max_messages=max_messages)

    trimmed = with_store(settings, work)
    if trimmed is None:
        raise click.ClickException(f"there is no topic {topic}")
    oldest = f"; the oldest is {trimmed.oldest}" if trimmed.oldest else ""
    click.echo(f"{topic}: {trimmed.count:,} messages removed{oldest}")
