"""`sessions`: where somebody is logged in."""

from __future__ import annotations

import click

from pulsar_relay.cli.account_calls import AccountCalls, Fields, call, part
from pulsar_relay.cli.connection import url_option
from pulsar_relay.cli.rows import show_rows
from pulsar_relay.client.address import Address

PATH = "/auth/sessions"
COLUMNS = ("jti", "client_hint", "issued_at", "last_used_at", "expires_at")

_user = click.option("--user", metavar="USER", help="Another user's, for admins: a name or an id.")


@click.group()
def sessions() -> None:
    """Sessions: where somebody is logged in. Tables on a terminal, elsewhere a JSON object a line."""


@sessions.command(name="list")
@_user
@url_option
def list_all(address: Address, user: str | None) -> None:
    """List your sessions, the one used last first, at most a thousand."""

    async def work(calls: AccountCalls) -> list[Fields]:
        return await calls.list(PATH, await calls.whose(user))

    show_rows(call(address, work), COLUMNS, "There are no sessions.")


@sessions.command()
@click.argument("jti", metavar="ID", required=False)
@click.option("--all", "is_all", is_flag=True, help="All of them, with access tokens and what is open.")
@_user
@url_option
def revoke(jti: str | None, address: Address, user: str | None, *, is_all: bool) -> None:
    """End session ID, or all of them. An access token that a session gave is good until it expires, unless
    all are ended.
    """
    if (jti is None) != is_all:
        raise click.UsageError("name the session, or say --all")

    async def work(calls: AccountCalls) -> None:
        path = PATH if jti is None else f"{PATH}/{part(jti)}"
        await calls.ask("DELETE", path, query=await calls.whose(user))

    call(address, work)
    click.echo("all sessions are ended" if jti is None else f"session {jti} is ended", err=True)
