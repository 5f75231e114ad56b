"""`keys`: API keys, for programs that cannot log in."""

from __future__ import annotations

import click

from pulsar_relay.accounts.api_key import ACTIONS
from pulsar_relay.cli.account_calls import AccountCalls, Fields, call, part
from pulsar_relay.cli.connection import url_option
from pulsar_relay.cli.rows import show_row, show_rows
from pulsar_relay.client.address import Address

PATH = "/auth/keys"
COLUMNS = ("key_id", "name", "actions", "topics", "created_at", "expires_at", "last_used_at")

_user = click.option("--user", metavar="USER", help="Another user's, for admins: a name or an id.")


@click.group()
def keys() -> None:
    """API keys: for programs that cannot log in. Tables on a terminal, elsewhere a JSON object a line."""


@keys.command(name="list")
@_user
@url_option
def list_all(address: Address, user: str | None) -> None:
    """List your keys, the oldest first. Their texts nobody can tell again."""

    async def work(calls: AccountCalls) -> list[Fields]:
        return await calls.list(PATH, await calls.whose(user))

    show_rows(call(address, work), COLUMNS, "There are no keys.")


@keys.command()
@click.argument("name")
@click.option(
    "--action", "actions", multiple=True, required=True, type=click.Choice(ACTIONS), help="What it is for."
)
@click.option(
    "--topic",
    "topics",
    multiple=True,
    required=True,
    metavar="TOPIC",
    help="Which topics it is for: a name, a beginning such as `jobs_*`, or `*`. May be repeated.",
)
@click.option("--expires", metavar="TIME", help="How long it is good: 90d. Without it, until it is revoked.")
@url_option
def add(
    name: str, address: Address, actions: tuple[str, ...], topics: tuple[str, ...], expires: str | None
) -> None:
    """Make a key of yours, and print it with its text, `key`: that is told this once.

    \b
    Examples:
      pulsar-relay keys add "ci of galaxy" --action write --topic 'jobs_*' --expires 90d
    """
    body = {"name": name, "actions": actions, "topics": topics, "expires_in": expires}
    show_row(call(address, lambda calls: calls.ask("POST", PATH, body)).read(Fields))


@keys.command()
@click.argument("key_id", metavar="ID")
@_user
@url_option
def revoke(key_id: str, address: Address, user: str | None) -> None:
    """Revoke key ID, at once. What was let in with it ends."""

    async def work(calls: AccountCalls) -> None:
        await calls.ask("DELETE", f"{PATH}/{part(key_id)}", query=await calls.whose(user))

    call(address, work)
    click.echo(f"key {key_id} is revoked", err=True)
