"""What the commands that talk to a relay share: which one, what is shown there, and how failures are told."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import click

from pulsar_relay.client.address import Address
from pulsar_relay.client.credentials import ShownKey
from pulsar_relay.client.errors import ClientError, UnreachableError
from pulsar_relay.client.login import Login, needs_login
from pulsar_relay.client.login_file import LoginFile, default_path

# Not RELAY_URL: variables with that prefix are the relay's own settings, and it refuses one it does not know.
URL_VARIABLE = "PULSAR_RELAY_URL"
KEY_VARIABLE = "PULSAR_RELAY_API_KEY"
INSECURE_VARIABLE = "PULSAR_RELAY_ALLOW_INSECURE"
DEFAULT_URL = "http://127.0.0.1:8080"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_Decorated = TypeVar("_Decorated", bound=Callable[..., object])


def _address(context: click.Context, parameter: click.Parameter, value: str) -> Address:
    address = parse_address(value)
    key: str | None = context.meta.get(KEY_VARIABLE)
    if key is not None:
        refuse_open(address)
        return replace(address, credentials=ShownKey(key))
    return replace(address, credentials=login_at(address))


def _note_key(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value and not (value.isascii() and value.isprintable() and " " not in value):
        raise click.BadParameter("is no API key")
    # For `_address`, which comes after what is eager.
    context.meta[KEY_VARIABLE] = value or None


def login_at(address: Address) -> Login:
    return Login(address, LoginFile(default_path(os.environ)))


def refuse_open(address: Address) -> None:
    """Raises click.UsageError where what is shown could be read on its way."""
    is_near = address.host_and_port[0] in _LOOPBACK
    if not (address.is_secure or is_near or os.environ.get(INSECURE_VARIABLE) == "1"):
        raise click.UsageError(
            f"{address.shown} is not https: whoever is in between could read it. "
            f"Set {INSECURE_VARIABLE}=1 if nobody is."
        )


def parse_address(value: str) -> Address:
    """Raises click.BadParameter."""
    try:
        return Address.parse(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} {error}; a relay's URL looks like {DEFAULT_URL}") from error


class FailedError(click.ClickException):
    """The command failed: `code: message` on standard error, exit code 1."""

    def __init__(self, error: ClientError, *more: str) -> None:
        cure = (
            f"Start one with `pulsar-relay serve`, or name another with --url or {URL_VARIABLE}."
            if isinstance(error, UnreachableError)
            else f"Log in with `pulsar-relay login`, or give an API key in {KEY_VARIABLE}."
            if needs_login(error)
            else ""
        )
        super().__init__("\n".join(filter(None, (f"{error.code}: {error.message}", cure, *more))))

    def show(self, file: object = None) -> None:
        click.echo(self.message, err=True)


def url_option(function: _Decorated) -> _Decorated:
    """Add --url, as the argument `address` with the credentials for it, and --api-key."""
    key = click.option(
        "--api-key",
        callback=_note_key,
        is_eager=True,
        expose_value=False,
        metavar="KEY",
        envvar=KEY_VARIABLE,
        show_envvar=True,
        help="API key to show in place of a login. In the environment nobody else sees it.",
    )
    url = click.option(
        "--url",
        "address",
        callback=_address,
        metavar="URL",
        default=DEFAULT_URL,
        show_default=True,
        envvar=URL_VARIABLE,
        show_envvar=True,
        help="Where the relay is.",
    )
    return url(key(function))


def topic_names(
    context: click.Context, parameter: click.Parameter, value: str | tuple[str, ...]
) -> str | tuple[str, ...]:
    """Refuse what would not even arrive as a name. What names there can be is for the relay to say."""
    for name in (value,) if isinstance(value, str) else value:
        # Commas and colons stand between names in a query.
        if not name.isprintable() or "," in name or ":" in name:
            raise click.BadParameter(f"{name!r} cannot be the name of a topic")
    return value


def interrupted(error: ClientError, seconds: float) -> None:
    """Tell that something broke and when it is tried again."""
    click.echo(f"{error.code}: {error.message} Trying again in {seconds:.1f} s.", err=True)
