"""`logout`: the end of a login, at the relay and here."""

from __future__ import annotations

import asyncio

import click

from pulsar_relay.cli.connection import FailedError, login_at, url_option
from pulsar_relay.client.address import Address
from pulsar_relay.client.errors import ClientError


@click.command()
@url_option
def logout(address: Address) -> None:
    """End the login at a relay: its tokens are worth nothing any more, and are forgotten here."""
    try:
        username = asyncio.run(login_at(address).end())
    except ClientError as error:
        raise FailedError(error) from error
    if username is None:
        click.echo(f"nobody is logged in at {address.shown}", err=True)
    else:
        click.echo(f"{username} is logged out at {address.shown}", err=True)
