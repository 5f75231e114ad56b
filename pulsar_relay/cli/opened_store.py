"""The store for commands that work on it directly: the configured Valkey, or the embedded server's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import click

from actors.ports import StoreError
from pulsar_relay.errors import ERRORS
from pulsar_relay.settings import Settings
from pulsar_relay.store.client import Client, make_client
from pulsar_relay.store.embedded import DataDirectoryInUseError, EmbeddedValkey, EmbeddedValkeyError

T = TypeVar("T")


class StoreFailedError(click.ClickException):
    """The store cannot be worked on; exit code 1, unless the command says otherwise."""


def with_store(
    settings: Settings, work: Callable[[Client], Awaitable[T]], *, makes_directory: bool = False
) -> T:
    """Open the store, do the work and close it again. Raises StoreFailedError.

    The embedded server is run for the time being, unless a relay runs it. With `makes_directory` its
    directory may be new.
    """

    async def run() -> T:
        async with _unix_socket(settings, makes_directory=makes_directory) as unix_socket:
            client = make_client(settings.valkey, unix_socket)
            try:
                return await work(client)
            finally:
                await client.aclose()

    try:
        return asyncio.run(run())
    except StoreError as error:
        raise StoreFailedError(f"{error.code}: {ERRORS[error.code].message}") from error
    except EmbeddedValkeyError as error:
        raise StoreFailedError(str(error)) from error


@asynccontextmanager
async def _unix_socket(settings: Settings, *, makes_directory: bool) -> AsyncIterator[str | None]:
    """Where the embedded server listens; None: the store is an external one."""
    embedded = EmbeddedValkey.of(settings)
    if embedded is None:
        yield None
        return
    if not makes_directory and not settings.embedded.data_dir.is_dir():
        raise EmbeddedValkeyError(
            f"there is no store in {settings.embedded.data_dir}: set `embedded.data_dir`, or `valkey.host`"
        )
    try:
        await embedded.start()
    except DataDirectoryInUseError:
        yield embedded.socket_path
        return
    try:
        yield embedded.socket_path
    finally:
        await embedded.stop()
