"""A way back in for an operator who is locked out: `users recover`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click

from pulsar_relay.accounts.audit import Actor, AuditRecord, Deed, Kind
from pulsar_relay.accounts.passwords import Passwords, default_hasher
from pulsar_relay.accounts.user import UserPatch
from pulsar_relay.accounts.users import Users
from pulsar_relay.cli.audited import tell_audit
from pulsar_relay.cli.opened_store import StoreFailedError, with_store
from pulsar_relay.cli.passwords import read_password
from pulsar_relay.cli.settings import load_settings, settings_options
from pulsar_relay.errors import RelayError
from pulsar_relay.settings import Settings
from pulsar_relay.store.client import Client


@click.command()
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
        with_store(settings, lambda client: _recover_user(client, settings, username, text))
    except RelayError as error:
        wrong = "; ".join(f"{one.loc[-1]} {one.message}" for one in error.errors or ())
        raise StoreFailedError(f"{error.code}: {wrong or error.message}") from error
    click.echo(f"{username} is an admin and can log in", err=True)


async def _recover_user(client: Client, settings: Settings, username: str, text: str) -> None:
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
