"""`topics`: the list of them, what is stored of one, how it is made and changed, and its end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Mapping

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
DEFAULT = "default"
"""Said in the place of a limit: none of its own."""


def _name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        topic_names(context, parameter, value)
    return value


@click.command()
@click.argument("name", required=False, callback=_name)
@click.option("--create", "is_create", is_flag=True, help="Make topic NAME.")
@click.option("--change", "is_change", is_flag=True, help="Change topic NAME.")
@click.option("--description", metavar="TEXT", help="What the topic is for.")
@click.option("--retention", metavar="TIME", help="How long it keeps a message: 24h.")
@click.option("--max-messages", metavar="COUNT", help="How many messages it keeps.")
@click.option("--delete", "is_delete", is_flag=True, help="Delete topic NAME with all its messages.")
@click.option("--yes", "is_sure", is_flag=True, help="Delete without asking.")
@url_option
def topics(
    name: str | None,
    address: Address,
    *,
    is_create: bool,
    is_change: bool,
    is_delete: bool,
    is_sure: bool,
    **terms: str | None,
) -> None:
    """List all topics, or tell what is stored of topic NAME, or make, change or delete it.

    A table on a terminal, elsewhere a JSON object a line.

    \b
    Examples:
      pulsar-relay topics
      pulsar-relay topics jobs
      pulsar-relay topics --create sensors --retention 10m --max-messages 600
      pulsar-relay topics --change sensors --retention default
      pulsar-relay topics --delete jobs

    With --change, `default` gives a limit back to the relay's settings.
    """
    said = {field: value for field, value in terms.items() if value is not None}
    if name is None and (is_create or is_change or is_delete or is_sure or said):
        raise click.UsageError("name the topic")
    _check_usage(said, is_create=is_create, is_change=is_change, is_delete=is_delete)
    if is_sure and not is_delete:
        raise click.UsageError("--yes goes with --delete")
    if is_delete and not is_sure:
        click.confirm(f"Delete topic {name!r} and all its messages, for good?", abort=True, err=True)
    try:
        if is_create or is_change:
            assert name is not None
            asyncio.run(_say(address, name, said, is_new=is_create))
        else:
            asyncio.run(_run(address, name, is_delete=is_delete))
    except ClientError as error:
        raise FailedError(error) from error


def _check_usage(said: Mapping[str, str], *, is_create: bool, is_change: bool, is_delete: bool) -> None:
    if is_create + is_change + is_delete > 1:
        raise click.UsageError("--create, --change and --delete exclude each other")
    if said and not (is_create or is_change):
        raise click.UsageError("a topic's description and limits go with --create or --change")
    if is_create and DEFAULT in (said.get("retention"), said.get("max_messages")):
        raise click.UsageError(f"{DEFAULT} goes with --change: what is not given is the relay's anyway")


async def _say(address: Address, name: str, said: Mapping[str, str], *, is_new: bool) -> None:
    """Make or change the topic, and print what it is then."""
    body: dict[str, str | None] = {
        field: None if value == DEFAULT and field != "description" else value for field, value in said.items()
    }
    http = HttpClient(address)
    try:
        if is_new:
            method, url = "POST", address.url("/api/v1/topics")
            body["topic_name"] = name
        else:
            method, url = "PUT", address.url(topic_path(name))
        text = msgspec.json.encode(body)
        answer = await http.request(method, url, timeout_seconds=REQUEST_SECONDS, body=text)
        _print_one(answer)
    finally:
        http.close()


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
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, shown in parts:
            table.add_row(Text(f"{field} {part}".rstrip(), style="bold"), Text(_shown(shown)))
    Console().print(table)


def _shown(value: object) -> str:
    return "-" if value is None else str(value)
