"""`users`: who has an account, for admins; and the way back in for who has lost the last of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pulsar_relay.accounts.audit import Actor, AuditRecord, Deed, Kind
from pulsar_relay.accounts.passwords import Passwords, default_hasher
from pulsar_relay.accounts.user import PERMISSIONS, UserPatch
from pulsar_relay.accounts.users import Users
from pulsar_relay.cli.account_calls import AccountCalls, Fields, call, part
from pulsar_relay.cli.audited import tell_audit
from pulsar_relay.cli.connection import url_option
from pulsar_relay.cli.opened_store import StoreFailedError, with_store
from pulsar_relay.cli.passwords import read_password
from pulsar_relay.cli.rows import show_row, show_rows
from pulsar_relay.cli.settings import load_settings, settings_options
from pulsar_relay.client.address import Address
from pulsar_relay.errors import RelayError
from pulsar_relay.settings import Settings
from pulsar_relay.store.client import Client

COLUMNS = ("username", "permissions", "is_active", "email", "created_at", "user_id")

_permissions = click.option(
    "--permission",
    "permissions",
    multiple=True,
    type=click.Choice(PERMISSIONS),
    help="What the user may do; may be repeated. None implies another.",
)
_email = click.option("--email", metavar="TEXT", help="For people; nothing is sent to it.")


@click.group()
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


@users.command()
@click.argument("username")
@settings_options
def recover(username: str, file: Path | None, assignments: Sequence[str], **flags: str | bool | None) -> None:
    """Make USERNAME an admin who can log in, with a new password: for an operator who is locked out. It is
    asked for, or read from standard input.

    Works on the store itself and asks no relay, so it needs no login, but access to Valkey. Takes the options
    of `serve`. Relays that run go by it at once.

    \b
    Examples:
      pulsar-relay users recover admin
    """
    settings = load_settings(file, assignments, flags).settings
    text = read_password(f"New password of {username}", is_new=True)
    try:
        with_store(settings, lambda client: _recover(client, settings, username, text))
    except RelayError as error:
        wrong = "; ".join(f"{one.loc[-1]} {one.message}" for one in error.errors or ())
        raise StoreFailedError(f"{error.code}: {wrong or error.message}") from error
    click.echo(f"{username} is an admin and can log in", err=True)


async def _recover(client: Client, settings: Settings, username: str, text: str) -> None:
    async def settle() -> None:
        """Relays hear of it by themselves."""

    passwords = Passwords(default_hasher())
    try:
        users = Users(client, passwords, lambda: time.time_ns() // 1_000_000, settle)
        user = await users.find_by_name(username)
        if user is None:
            raise RelayError("user_not_found")
        permissions = dict.fromkeys(("admin", *user.permissions))
        patch = UserPatch(password=text, is_active=True, permissions=tuple(permissions))
        changed = await users.patch(user.user_id, patch)
        record = AuditRecord(
            deed=Deed.RECOVER_USER,
            actor=Actor(),
            kind=Kind.USER,
            target=user.user_id,
            fields=("password", "permissions", "is_active"),
            permissions=changed.permissions,
        )
        await tell_audit(client, settings, [record])
    finally:
        passwords.close()
