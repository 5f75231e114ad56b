"""`stats`: what a relay and its topics do, once or as a table that lives."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import click
import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pulsar_relay.cli.connection import FailedError, interrupted, topic_names, url_option
from pulsar_relay.client.address import Address, topic_path
from pulsar_relay.client.errors import ClientError
from pulsar_relay.client.http import HttpClient

REQUEST_SECONDS = 10.0
MOST_TOPICS = 1000
ASKED_AT_ONCE = 10
ROWS = 30


class _Name(msgspec.Struct):
    topic_name: str


class Topic(msgspec.Struct):
    topic_name: str
    length: int
    last_id: str | None
    subscribers: int
    epoch: str

    @property
    def given(self) -> int:
        """How many messages the topic has ever had: its ids count them."""
        number = (self.last_id or "").rpartition("-")[2]
        return int(number) if number.isdigit() else 0


@dataclass(frozen=True, slots=True)
class Look:
    """What there was at one moment; `at` is of the monotonic clock."""

    at: float
    relay: Mapping[str, int]
    topics: Sequence[Topic]

    def rates(self, before: Look | None) -> Mapping[str, float | None]:
        """Messages a second since `before`, by topic; None where it cannot be told."""
        earlier = {} if before is None else {topic.topic_name: topic for topic in before.topics}
        return {topic.topic_name: self._rate(topic, earlier, before) for topic in self.topics}

    def _rate(self, topic: Topic, earlier: Mapping[str, Topic], before: Look | None) -> float | None:
        known = earlier.get(topic.topic_name)
        if before is None or known is None or known.epoch != topic.epoch:
            return None
        return max(0, topic.given - known.given) / max(self.at - before.at, 0.001)


@click.command()
@click.argument("topics", nargs=-1, callback=topic_names, metavar="[TOPIC]...")
@click.option("--watch", "watches", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--interval",
    "interval_seconds",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How long from one look to the next.",
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N looks.")
@url_option
def stats(
    topics: Sequence[str], interval_seconds: float, count: int | None, address: Address, *, watches: bool
) -> None:
    """Show a relay's numbers and those of its topics (the first 1,000 by name), or of TOPICs: messages
    stored, messages a second, subscribers of this relay. The busiest come first.

    A table on a terminal, elsewhere a JSON object a line for each look.

    \b
    Examples:
      pulsar-relay stats
      pulsar-relay stats --watch
      pulsar-relay stats jobs results --watch --interval 0.5
    """
    if count is not None and not watches:
        raise click.UsageError("--count goes with --watch")
    looks = count if watches else 1
    with suppress(KeyboardInterrupt, BrokenPipeError):
        try:
            asyncio.run(_watch(address, topics, looks, interval_seconds))
        except ClientError as error:
            raise FailedError(error) from error


async def _watch(address: Address, topics: Sequence[str], looks: int | None, interval_seconds: float) -> None:
    http = HttpClient(address)
    console = Console()
    before: Look | None = None
    try:
        with Live(console=console, auto_refresh=False, transient=False) as live:
            screen = _Screen(live) if console.is_terminal else _Lines(interval_seconds)
            while looks is None or looks > 0:
                began = time.monotonic()
                try:
                    look = await _look(http, topics)
                except ClientError as error:
                    # What was there once is restarted maybe.
                    if before is None or not error.is_retryable:
                        raise
                    screen.tell(error)
                else:
                    screen.show(look, look.rates(before))
                    before = look
                looks = None if looks is None else looks - 1
                if looks != 0:
                    await asyncio.sleep(max(0.0, began + interval_seconds - time.monotonic()))
    finally:
        http.close()


class _Screen:
    """A table that is drawn anew, on a terminal."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._shown = Group()

    def show(self, look: Look, rates: Mapping[str, float | None]) -> None:
        self._shown = _shown(look, rates)
        self._live.update(self._shown, refresh=True)

    def tell(self, error: ClientError) -> None:
        told = Text(f"{error.code}: {error.message} What was there before:", style="red")
        self._live.update(Group(told, self._shown), refresh=True)


class _Lines:
    """A line for each look, on standard output; what breaks, on standard error."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds

    def show(self, look: Look, rates: Mapping[str, float | None]) -> None:
        click.echo(_line(look, rates))

    def tell(self, error: ClientError) -> None:
        interrupted(error, self._interval_seconds)


async def _look(http: HttpClient, names: Sequence[str]) -> Look:
    answer = await http.request("GET", http.address.url("/stats"), timeout_seconds=REQUEST_SECONDS)
    gate = asyncio.Semaphore(ASKED_AT_ONCE)
    at = time.monotonic()
    found = await asyncio.gather(
        *[_topic(http, name, gate, may_be_gone=not names) for name in names or await _names(http)]
    )
    return Look(at, answer.read(dict[str, int]), [topic for topic in found if topic is not None])


async def _names(http: HttpClient) -> list[str]:
    url = http.address.url("/api/v1/topics", {"limit": str(MOST_TOPICS)})
    answer = await http.request("GET", url, timeout_seconds=REQUEST_SECONDS)
    return [name.topic_name for name in answer.read(list[_Name])]


async def _topic(http: HttpClient, name: str, gate: asyncio.Semaphore, *, may_be_gone: bool) -> Topic | None:
    async with gate:
        url = http.address.url(topic_path(name))
        try:
            answer = await http.request("GET", url, timeout_seconds=REQUEST_SECONDS)
        except ClientError as error:
            if may_be_gone and error.code == "topic_not_found":
                return None
            raise
        return answer.read(Topic)


def _shown(look: Look, rates: Mapping[str, float | None]) -> Group:
    table = Table("topic", box=None, pad_edge=False, header_style="bold")
    for column in ("stored", "ever", "a second", "subscribers"):
        table.add_column(column, justify="right")
    busiest = sorted(look.topics, key=lambda topic: (-(rates[topic.topic_name] or 0), topic.topic_name))
    for topic in busiest[:ROWS]:
        rate = rates[topic.topic_name]
        cells = (f"{topic.length:,}", f"{topic.given:,}", "-" if rate is None else f"{rate:,.1f}")
        table.add_row(Text(topic.topic_name), *cells, f"{topic.subscribers:,}")
    told = "  ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in look.relay.items())
    rest = len(look.topics) - ROWS
    more = [Text(f"... and {rest} more", style="dim")] if rest > 0 else []
    return Group(Text(told, style="dim"), table, *more)


def _line(look: Look, rates: Mapping[str, float | None]) -> str:
    topics = [
        {
            "topic_name": topic.topic_name,
            "length": topic.length,
            "last_id": topic.last_id,
            "messages_a_second": rates[topic.topic_name],
            "subscribers": topic.subscribers,
        }
        for topic in look.topics
    ]
    return json.dumps({**look.relay, "topics": topics})
