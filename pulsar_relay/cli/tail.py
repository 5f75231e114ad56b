"""`tail`: a topic's newest messages."""

from __future__ import annotations

import asyncio

import click
import msgspec

from pulsar_relay.cli.connection import FailedError, topic_names, url_option
from pulsar_relay.cli.subscribe import Subscription
from pulsar_relay.client.address import Address, topic_path
from pulsar_relay.client.errors import ClientError
from pulsar_relay.client.frames import one_line
from pulsar_relay.client.http import HttpClient
from pulsar_relay.client.reader import EARLIEST

REQUEST_SECONDS = 30.0
MOST_LINES = 100_000


class _Message(msgspec.Struct):
    message_id: str
    payload: msgspec.Raw


class _History(msgspec.Struct):
    messages: list[msgspec.Raw]
    next_cursor: str | None
    has_more: bool


@click.command()
@click.argument("topic", callback=topic_names)
@click.option(
    "--lines",
    "-n",
    "count",
    type=click.IntRange(1, MOST_LINES),
    default=10,
    show_default=True,
    metavar="COUNT",
    help="How many messages.",
)
@click.option("--follow", "-f", "follows", is_flag=True, help="Go on with new ones, until Ctrl-C.")
@click.option("--payload-only", is_flag=True, help="Print the payloads alone.")
@url_option
def tail(topic: str, count: int, address: Address, *, follows: bool, payload_only: bool) -> None:
    """Print the newest messages of TOPIC, the oldest of them first, a JSON object a line.

    \b
    Examples:
      pulsar-relay tail jobs
      pulsar-relay tail jobs -n 100 -f --payload-only
    """
    try:
        asyncio.run(_tail(address, topic, count, follows=follows, payload_only=payload_only))
    except ClientError as error:
        raise FailedError(error) from error


async def _tail(address: Address, topic: str, count: int, *, follows: bool, payload_only: bool) -> None:
    newest = await _print_newest(address, topic, count, may_be_new=follows, payload_only=payload_only)
    if follows:
        # From the last one printed on, so that none is missed in between.
        subscription = Subscription(address, "ws", {topic: newest}, None, None, payload_only=payload_only)
        await subscription.run(follows=True)


async def _print_newest(
    address: Address, topic: str, count: int, *, may_be_new: bool, payload_only: bool
) -> str:
    """Returns the id of the last one, or where to begin if there is none."""
    http = HttpClient(address)
    try:
        texts = await _newest(http, topic, count)
    except ClientError as error:
        if may_be_new and error.code == "topic_not_found":
            return EARLIEST
        raise
    finally:
        http.close()
    newest = EARLIEST
    for text in reversed(texts):
        message = msgspec.json.decode(text, type=_Message)
        newest = message.message_id
        click.echo(one_line(bytes(message.payload if payload_only else text)))
    return newest


async def _newest(http: HttpClient, topic: str, count: int) -> list[msgspec.Raw]:
    """The newest first."""
    texts: list[msgspec.Raw] = []
    query = {"order": "desc"}
    has_more = True
    while has_more and len(texts) < count:
        query["limit"] = str(count - len(texts))
        url = http.address.url(topic_path(topic) + "/messages", query)
        page = (await http.request("GET", url, timeout_seconds=REQUEST_SECONDS)).read(_History)
        texts += page.messages
        has_more = page.has_more and page.next_cursor is not None
        query["cursor"] = page.next_cursor or ""
    return texts
