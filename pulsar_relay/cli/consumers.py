"""`consumers`: the clients with a name, how far they are behind, and their end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pulsar_relay.cli.connection import FailedError, url_option
from pulsar_relay.client.address import Address, consumer_path
from pulsar_relay.client.errors import ClientError
from pulsar_relay.client.frames import one_line
from pulsar_relay.client.http import Answer, HttpClient

T = TypeVar("T")

REQUEST_SECONDS = 30.0
PAGE_CONSUMERS = 1000
PATH = "/api/v1/consumers"


@click.group()
def consumers() -> None:
    """Clients with a name (`client_id`), whose place the relay keeps. Tables on a terminal, elsewhere a JSON
    object a line.
    """


@consumers.command(name="list")
@url_option
def list_all(address: Address) -> None:
    """List all that are kept: whether they are connected, and since when they were not heard of."""
    rows = _run(_all(address))
    if not sys.stdout.isatty():
        for row in rows:
            click.echo(one_line(bytes(row)))
        return
    if not rows:
        click.echo("There are no clients with a name: one is kept when it first presents its `client_id`.")
        return
    found = [msgspec.json.decode(row, type=dict[str, object]) for row in rows]
    Console().print(_table(list(found[0]), [list(row.values()) for row in found]))


@consumers.command()
@click.argument("name")
@url_option
def show(name: str, address: Address) -> None:
    """Show NAME's place in each topic: how far it is behind, what it has lost, and what it is about to lose.

    \b
    Examples:
      pulsar-relay consumers show worker-1
    """
    answer = _run(_ask(address, "GET", name))
    if not sys.stdout.isatty():
        click.echo(one_line(answer.body))
        return
    fields = answer.read(dict[str, object])
    topics = msgspec.convert(fields.pop("topics"), dict[str, dict[str, object]])
    console = Console()
    for field, value in fields.items():
        console.print(Text(f"{field}: {_shown(value)}"))
    if topics:
        columns = ["topic", *next(iter(topics.values()))]
        console.print(_table(columns, [[topic, *place.values()] for topic, place in topics.items()]))


@consumers.command()
@click.argument("name")
@click.option("--yes", "is_sure", is_flag=True, help="Delete without asking.")
@url_option
def delete(name: str, address: Address, *, is_sure: bool) -> None:
    """Delete what is kept of NAME: it begins anew when it comes back. It must not be connected."""
    if not is_sure:
        click.confirm(f"Delete the places of {name!r} in all topics, for good?", abort=True, err=True)
    _run(_ask(address, "DELETE", name))
    click.echo(f"the places of {name} are deleted", err=True)


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except ClientError as error:
        raise FailedError(error) from error


async def _ask(address: Address, method: str, name: str) -> Answer:
    http = HttpClient(address)
    try:
        return await http.request(method, address.url(consumer_path(name)), timeout_seconds=REQUEST_SECONDS)
    finally:
        http.close()


async def _all(address: Address) -> list[msgspec.Raw]:
    http = HttpClient(address)
    rows: list[msgspec.Raw] = []
    url: str | None = address.url(PATH, {"limit": str(PAGE_CONSUMERS)})
    try:
        while url is not None:
            answer = await http.request("GET", url, timeout_seconds=REQUEST_SECONDS)
            rows += answer.read(list[msgspec.Raw])
            url = None if answer.next_path is None else http.url_of(answer.next_path)
    finally:
        http.close()
    return rows


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(_shown(value)) for value in row))
    return table


def _shown(value: object) -> str:
    return "-" if value is None else str(value)
