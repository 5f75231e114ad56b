"""`login`: with a name and a password, kept for all commands that talk to this relay."""

from __future__ import annotations

import asyncio

import click

from pulsar_relay.cli.connection import FailedError, login_at, refuse_open, url_option
from pulsar_relay.cli.passwords import read_password
from pulsar_relay.client.address import Address
from pulsar_relay.client.errors import ClientError


@click.command()
@click.argument("username")
@url_option
def login(username: str, address: Address) -> None:
    """Log in as USERNAME. The password is asked for, or read from standard input.

    What the relay gives for it is kept in a file that is yours alone, and renewed by the commands that use
    it: several may run at the same time. An API key, if there is one, goes before it.

    \b
    Examples:
      pulsar-relay login admin
      pulsar-relay login admin --url https://relay.example.org < password
    """
    refuse_open(address)
    try:
        asyncio.run(login_at(address).begin(username, read_password(f"Password of {username}")))
    except ClientError as error:
        raise FailedError(error) from error
    click.echo(f"{username} is logged in at {address.shown}", err=True)
