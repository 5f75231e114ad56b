"""`publish`: one message from the command line, or one for each line of standard input."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Mapping, Sequence

import click

from pulsar_relay.cli.connection import FailedError, interrupted, topic_names, url_option
from pulsar_relay.cli.lines import Batches
from pulsar_relay.cli.payload import hint, why_not_json
from pulsar_relay.cli.publish_lines import LinesPublisher
from pulsar_relay.cli.publish_progress import PublishProgress
from pulsar_relay.client.address import Address
from pulsar_relay.client.errors import ClientError
from pulsar_relay.client.frames import one_line
from pulsar_relay.client.http import HttpClient
from pulsar_relay.client.publisher import Publisher

STANDARD_INPUT = "-"
BATCH_LINES = 500
BATCH_BYTES = 4 * 1024 * 1024


def _metadata(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> Mapping[str, str]:
    pairs = [value.partition("=") for value in values]
    for key, equals, text in pairs:
        if not equals:
            raise click.BadParameter(f"{key!r} is not KEY=VALUE")
        try:
            (key + text).encode()
        except UnicodeEncodeError:
            raise click.BadParameter(f"{key!r} or its value is not UTF-8") from None
    return {key: text for key, _, text in pairs}


def _payload(context: click.Context, parameter: click.Parameter, value: str) -> bytes:
    """The argument as the bytes it was given in; what is no JSON is refused before anybody is asked."""
    text = os.fsencode(value)
    if value != STANDARD_INPUT and (reason := why_not_json(text)):
        raise click.BadParameter(f"{value!r} is not JSON: {reason}.\nHint: {hint(value)}")
    return text


def _key(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not (value and value.isascii() and value.isprintable()):
        raise click.BadParameter("a key is made of printable ASCII characters")
    return value


@click.command()
@click.argument("topic", callback=topic_names)
@click.argument("payload", metavar="JSON|-", callback=_payload)
@click.option(
    "--ttl",
    "ttl_seconds",
    type=click.IntRange(min=1),
    metavar="SECONDS",
    help="After this time the message is given to nobody any more.",
)
@click.option(
    "--metadata",
    multiple=True,
    callback=_metadata,
    metavar="KEY=VALUE",
    help="An annotation of the message. May be repeated.",
)
@click.option(
    "--idempotency-key",
    "key",
    callback=_key,
    metavar="KEY",
    help="Publishing again under the same key, within ten minutes, stores nothing twice. The tries of one "
    "call have a key in any case; give one to make another call safe. With `-`, the input must be the same "
    "again.",
)
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a request is tried, again and again while the relay is away or overloaded.",
)
@click.option(
    "--quiet", "-q", is_flag=True, help="Print nothing for a message; with `-`, one line with the totals."
)
@url_option
def publish(
    topic: str,
    payload: bytes,
    ttl_seconds: int | None,
    metadata: Mapping[str, str],
    key: str | None,
    timeout_seconds: float,
    address: Address,
    *,
    quiet: bool,
) -> None:
    """Publish the payload JSON to TOPIC, or, with `-`, each line of standard input as a message.

    A payload is any JSON value and is passed on exactly as written. Printed is, a JSON object a line, what
    became of each message. Messages are stored in the order given. A line that is rejected does not keep
    the others from being stored, but the exit code is 1 then.

    \b
    Examples:
      pulsar-relay publish jobs '{"job": 7, "state": "running"}'
      pulsar-relay publish jobs '"a string"' --ttl 3600 --metadata source=galaxy
      pulsar-relay publish temperatures -- -40
      generate-events | pulsar-relay publish events -
    """
    with asyncio.Runner() as runner:
        http = runner.run(_client(address))
        publisher = Publisher(
            http,
            topic,
            ttl_seconds=ttl_seconds,
            metadata=metadata,
            timeout_seconds=timeout_seconds,
            on_retry=interrupted,
        )
        if payload == STANDARD_INPUT.encode():
            is_done = _publish_lines(runner, publisher, topic, key, quiet=quiet)
        else:
            is_done = _publish_one(runner, publisher, payload, key, quiet=quiet)
        http.close()
    if not is_done:
        raise click.exceptions.Exit(1)


async def _client(address: Address) -> HttpClient:
    # Tornado's client belongs to the loop that runs while it is made.
    return HttpClient(address)


def _publish_one(
    runner: asyncio.Runner, publisher: Publisher, text: bytes, key: str | None, *, quiet: bool
) -> bool:
    try:
        answer = runner.run(publisher.publish(text, key or secrets.token_hex(16)))
    except ClientError as error:
        raise FailedError(error) from error
    if not quiet:
        click.echo(one_line(answer))
    return True


def _publish_lines(
    runner: asyncio.Runner, publisher: Publisher, topic: str, key: str | None, *, quiet: bool
) -> bool:
    if sys.stdin.isatty():
        click.echo("reading messages, one a line, up to Ctrl-D", err=True)
    progress = PublishProgress(topic)
    lines = LinesPublisher(publisher, topic, key or secrets.token_hex(16), progress, quiet=quiet)
    with open(sys.stdin.fileno(), "rb", closefd=False) as stream:
        # Under a key of the caller's, requests must be the same each time, whatever the pace of the input.
        batches = Batches(stream, max_lines=BATCH_LINES, max_bytes=BATCH_BYTES, fills=key is not None)
        return lines.run(runner, batches)
