"""`grants`: what others may do with one's own topics."""

from __future__ import annotations

import click

from pulsar_relay.accounts.api_key import ACTIONS
from pulsar_relay.accounts.user import EVERYBODY, SIGNED_IN
from pulsar_relay.cli.account_calls import AccountCalls, Fields, call, part
from pulsar_relay.cli.connection import topic_names, url_option
from pulsar_relay.cli.rows import show_rows
from pulsar_relay.client.address import Address, topic_path
from pulsar_relay.client.errors import RefusedError

COLUMNS = ("grantee", "username", "actions")
NOTHING = "Nobody else may do anything with it."


@click.group()
def grants() -> None:
    """What others may do with your topics. GRANTEE is a user's name or id, `users` for all who have an
    account, or `public` for who has none, too. Tables on a terminal, elsewhere a JSON object a line.
    """


@grants.command(name="list")
@click.argument("topic", callback=topic_names)
@url_option
def list_all(topic: str, address: Address) -> None:
    """List who may do what with TOPIC."""
    show_rows(call(address, lambda calls: _of(calls, topic)), COLUMNS, NOTHING)


@grants.command()
@click.argument("topic", callback=topic_names)
@click.argument("grantee")
@click.option(
    "--action",
    "actions",
    multiple=True,
    type=click.Choice(ACTIONS),
    default=("read",),
    show_default=True,
    help="What they may do, and nothing else. May be repeated.",
)
@url_option
def add(topic: str, grantee: str, address: Address, actions: tuple[str, ...]) -> None:
    """Let GRANTEE read or write TOPIC, in place of what they might before.

    \b
    Examples:
      pulsar-relay grants add jobs pulsar --action read --action write
      pulsar-relay grants add news public
    """
    whom = "to" if grantee in (EVERYBODY, SIGNED_IN) else "username"
    body = {whom: grantee, "actions": actions}
    answer = call(address, lambda calls: calls.ask("POST", f"{topic_path(topic)}/permissions", body))
    show_rows(answer.read(Fields)["permissions"], COLUMNS, NOTHING)


@grants.command()
@click.argument("topic", callback=topic_names)
@click.argument("grantee")
@url_option
def revoke(topic: str, grantee: str, address: Address) -> None:
    """Take back what GRANTEE may do with TOPIC, at once."""

    async def work(calls: AccountCalls) -> None:
        for one in await _of(calls, topic):
            if grantee in (one["grantee"], one["username"]):
                await calls.ask("DELETE", f"{topic_path(topic)}/permissions/{part(one['grantee'])}")
                return
        raise RefusedError("grant_not_found", f"nothing is granted to {grantee!r}.", is_retryable=False)

    call(address, work)
    click.echo(f"{grantee} may do nothing with {topic} any more", err=True)


async def _of(calls: AccountCalls, topic: str) -> list[Fields]:
    answer = await calls.ask("GET", f"{topic_path(topic)}/permissions")
    found: list[Fields] = answer.read(Fields)["permissions"]
    return found
