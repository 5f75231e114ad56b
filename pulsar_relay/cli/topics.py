"""`topics`: the list of them, what is stored of one, and its end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pulsar_relay.cli.connection import FailedError, topic_names, url_option
from pulsar_relay.client.address import Address, topic_path
from pulsar_relay.client.errors import ClientError
from pulsar_relay.client.frames import one_line
from pulsar_relay.client.http import Answer, HttpClient

REQUEST_SECONDS = 30.0
PAGE_TOPICS = 1000


def _name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        topic_names(context, parameter, value)
    return value


@click.command()
@click.argument("name", required=False, callback=_name)
@click.option("--delete", "is_delete", is_flag=True, help="Delete topic NAME with all its messages.")
@click.option("--yes", "is_sure", is_flag=True, help="Delete without asking.")
@url_option
def topics(name: str | None, address: Address, *, is_delete: bool, is_sure: bool) -> None:
    """List all topics, or tell what is stored of topic NAME, or delete it.

    A table on a terminal, elsewhere a JSON object a line.

    \b
    Examples:
      pulsar-relay topics
      pulsar-relay topics jobs
      pulsar-relay topics --delete jobs
    """
    if (is_delete or is_sure) and name is None:
        raise click.UsageError("name the topic to delete")
    if is_sure and not is_delete:
        raise click.UsageError("--yes goes with --delete")
    if is_delete and not is_sure:
        click.confirm(f"Delete topic {name!r} and all its messages, for good?", abort=True, err=True)
    try:
        asyncio.run(_run(address, name, is_delete=is_delete))
    except ClientError as error:
        raise FailedError(error) from error


async def _run(address: Address, name: str | None, *, is_delete: bool) -> None:
    http = HttpClient(address)
    try:
        if name is None:
            await _print_all(http)
        elif is_delete:
            await http.request("DELETE", address.url(topic_path(name)), timeout_seconds=REQUEST_SECONDS)
            click.echo(f"topic {name} is deleted", err=True)
        else:
            answer = await http.request("GET", address.url(topic_path(name)), timeout_seconds=REQUEST_SECONDS)
            _print_one(answer)
    finally:
        http.close()


async def _pages(http: HttpClient) -> AsyncGenerator[list[msgspec.Raw]]:
    """The relay's list, page by page."""
    url: str | None = http.address.url("/api/v1/topics", {"limit": str(PAGE_TOPICS)})
    while url is not None:
        answer = await http.request("GET", url, timeout_seconds=REQUEST_SECONDS)
        yield answer.read(list[msgspec.Raw])
        url = None if answer.next_path is None else http.url_of(answer.next_path)


async def _print_all(http: HttpClient) -> None:
    if not sys.stdout.isatty():
        async for page in _pages(http):
            for raw in page:
                click.echo(one_line(bytes(raw)))
        return
    rows = [msgspec.json.decode(raw, type=dict[str, object]) async for page in _pages(http) for raw in page]
    if not rows:
        click.echo("There are no topics yet: a topic is made by its first message.", err=True)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in rows[0]:
        table.add_column(column.removeprefix("topic_"))
    for row in rows:
        table.add_row(*(Text(_shown(row.get(column))) for column in rows[0]))
    Console().print(table)


def _print_one(answer: Answer) -> None:
    fields = answer.read(dict[str, object])
    if not sys.stdout.isatty():
        click.echo(one_line(answer.body))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for field, value in fields.items():
        table.add_row(Text(field, style="bold"), Text(_shown(value)))
    Console().print(table)


def _shown(value: object) -> str:
    return "-" if value is None else str(value)
