"""`users`: who has an account, for admins; and the way back in for who has lost the last of them."""

from __future__ import annotations

import importlib
from typing import Any

import click

from pulsar_relay.accounts.user import PERMISSIONS
from pulsar_relay.cli.account_calls import AccountCalls, Fields, call, part
from pulsar_relay.cli.connection import url_option
from pulsar_relay.cli.passwords import read_password
from pulsar_relay.cli.rows import show_row, show_rows
from pulsar_relay.client.address import Address

COLUMNS = ("username", "permissions", "is_active", "email", "created_at", "user_id")

_permissions = click.option(
    "--permission",
    "permissions",
    multiple=True,
    type=click.Choice(PERMISSIONS),
    help="What the user may do; may be repeated. None implies another.",
)
_email = click.option("--email", metavar="TEXT", help="For people; nothing is sent to it.")


class Users(click.Group):
    """Imports `recover`, which works on the store itself and loads much, when it is called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "recover"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "recover":
            return super().get_command(ctx, cmd_name)
        command = importlib.import_module("pulsar_relay.cli.recovery").recover
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Users)
def users() -> None:
    """Users: who has an account. For admins. USER is a name or an id. Tables on a terminal, elsewhere a JSON
    object a line.
    """


@users.command(name="list")
@url_option
def list_all(address: Address) -> None:
    """List all users, by name."""
    rows = call(address, lambda calls: calls.list("/auth/users"))
    show_rows(rows, COLUMNS, "There are no users.")


@users.command()
@click.argument("username")
@_permissions
@_email
@url_option
def add(username: str, address: Address, permissions: tuple[str, ...], email: str | None) -> None:
    """Make user USERNAME. The password is asked for, or read from standard input.

    \b
    Examples:
      pulsar-relay users add galaxy --permission read --permission write
      pulsar-relay users add galaxy --permission write < password
    """
    password = read_password(f"Password of {username}", is_new=True)
    body = {"username": username, "password": password, "email": email, "permissions": permissions}
    show_row(call(address, lambda calls: calls.ask("POST", "/auth/register", body)).read(Fields))


@users.command(name="set")
@click.argument("user")
@_permissions
@click.option("--no-permission", "takes_all", is_flag=True, help="The user may do nothing any more.")
@click.option("--open/--close", "is_active", default=None, help="Whether the user may log in.")
@_email
@url_option
def change(
    user: str,
    address: Address,
    permissions: tuple[str, ...],
    email: str | None,
    *,
    takes_all: bool,
    is_active: bool | None,
) -> None:
    """Change USER: the permissions there are to be, the address, whether the account is open.

    What is taken away ends at once what the user has open.

    \b
    Examples:
      pulsar-relay users set galaxy --permission read
      pulsar-relay users set galaxy --close
    """
    if permissions and takes_all:
        raise click.UsageError("--permission and --no-permission exclude each other")
    body: dict[str, Any] = {}
    if permissions or takes_all:
        body["permissions"] = permissions
    if email is not None:
        body["email"] = email or None
    if is_active is not None:
        body["is_active"] = is_active
    if not body:
        raise click.UsageError("say what is to change")
    show_row(_change(address, user, body))


@users.command()
@click.argument("user")
@url_option
def password(user: str, address: Address) -> None:
    """Give USER another password, which is asked for, or read from standard input. All that the user has open
    ends.
    """
    _change(address, user, {"password": read_password(f"New password of {user}", is_new=True)})
    click.echo(f"{user} has another password", err=True)


def _change(address: Address, user: str, body: Fields) -> Fields:
    async def work(calls: AccountCalls) -> Fields:
        path = f"/auth/users/{await calls.user_id(user)}"
        return (await calls.ask("PATCH", path, body)).read(Fields)

    return call(address, work)


@users.command()
@click.argument("user")
@click.option("--yes", "is_sure", is_flag=True, help="Delete without asking.")
@url_option
def delete(user: str, address: Address, *, is_sure: bool) -> None:
    """Delete USER with all sessions, keys, grants, and topics with their messages."""
    if not is_sure:
        click.confirm(f"Delete {user!r} and all their topics, for good?", abort=True, err=True)

    async def work(calls: AccountCalls) -> None:
        await calls.ask("DELETE", f"/auth/users/{part(await calls.user_id(user))}")

    call(address, work)
    click.echo(f"{user} is deleted", err=True)
