"""What the commands that talk to a relay share: which one, and how failures are shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

from pulsar_relay.client.address import Address
from pulsar_relay.client.errors import ClientError, UnreachableError

# Not RELAY_URL: variables with that prefix are the relay's own settings, and it refuses one it does not know.
URL_VARIABLE = "PULSAR_RELAY_URL"
DEFAULT_URL = "http://127.0.0.1:8080"

_Decorated = TypeVar("_Decorated", bound=Callable[..., object])


def _address(context: click.Context, parameter: click.Parameter, value: str) -> Address:
    return parse_address(value)


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
            else ""
        )
        super().__init__("\n".join(filter(None, (f"{error.code}: {error.message}", cure, *more))))

    def show(self, file: object = None) -> None:
        click.echo(self.message, err=True)


def url_option(function: _Decorated) -> _Decorated:
    return click.option(
        "--url",
        "address",
        callback=_address,
        metavar="URL",
        default=DEFAULT_URL,
        show_default=True,
        envvar=URL_VARIABLE,
        show_envvar=True,
        help="Where the relay is.",
    )(function)


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
