"""The connection to Valkey: made from the settings, and what its errors mean to a publisher.

Definite refusals (nothing was stored, nothing will be) are told apart from unknown outcomes (the command was sent, the answer never
came): the first are answered at once, the second are repeated with the same token.
"""

from __future__ import annotations

from collections.abc import Awaitable
from importlib import resources
from typing import Any, TypeVar, cast

from valkey.asyncio import BlockingConnectionPool, Connection, SSLConnection, UnixDomainSocketConnection, Valkey
from valkey.backoff import NoBackoff
from valkey.asyncio.retry import Retry
from valkey.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    MaxConnectionsError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
    ValkeyError,
)

from actors.protocol import StoreError
from pulsar_relay.settings import ValkeySettings

T = TypeVar("T")

_REFUSALS = {
    "OOM": "store_full",
    "MISCONF": "store_read_only",
    "NOREPLICAS": "store_read_only",
    "READONLY": "store_read_only",
    "LOADING": "store_loading",
    "BUSY": "store_busy",
    "CLUSTERDOWN": "store_unavailable",
    "MASTERDOWN": "store_unavailable",
    "TRYAGAIN": "store_unavailable",
    "NOAUTH": "store_denied",
    "WRONGPASS": "store_denied",
    "NOPERM": "store_denied",
    "WRONGTYPE": "store_damaged",
}


def make_client(settings: ValkeySettings, unix_socket: str | None = None) -> Valkey:
    """A client with a pool of its own; `unix_socket` (the embedded server's) wins over the settings. Connects on first use.

    valkey-py's own retries are off: it cannot know which commands may be repeated.
    """
    common: dict[str, Any] = {
        "db": settings.db,
        "username": settings.username,
        "password": settings.password,
        "socket_timeout": settings.command_timeout_seconds,
        "socket_connect_timeout": settings.connect_timeout_seconds,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "health_check_interval": 0,
    }
    path = unix_socket or (str(settings.unix_socket) if settings.unix_socket else None)
    if path is not None:
        common |= {"connection_class": UnixDomainSocketConnection, "path": path}
    else:
        common |= {
            "connection_class": SSLConnection if settings.tls else Connection,
            "host": settings.host or "localhost",
            "port": settings.port,
            "socket_keepalive": True,
        }
        if settings.tls and settings.tls_ca is not None:
            common["ssl_ca_certs"] = str(settings.tls_ca)
    pool = BlockingConnectionPool(
        max_connections=settings.pool_size, timeout=settings.command_timeout_seconds, **common
    )
    return Valkey(connection_pool=pool)


def explain(error: BaseException) -> StoreError:
    """The row of the error table for what valkey-py raised. Texts of Valkey stay out of it: they can carry keys and values."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, MaxConnectionsError):
        return StoreError("overloaded", "all connections to the store are in use")
    if isinstance(error, OutOfMemoryError):
        return StoreError("store_full")
    if isinstance(error, ReadOnlyError):
        return StoreError("store_read_only")
    if isinstance(error, BusyLoadingError):
        return StoreError("store_loading")
    if isinstance(error, AuthenticationError | AuthorizationError):
        return StoreError("store_denied")
    if isinstance(error, TimeoutError | ConnectionError | OSError):
        if "max number of clients" in str(error):
            return StoreError("store_unavailable", "the store accepts no more connections")
        return StoreError("store_unavailable", is_outcome_unknown=True)
    if isinstance(error, ResponseError):
        return StoreError(_refusal_code(str(error)))
    return StoreError("store_error", is_outcome_unknown=True)


def _refusal_code(text: str) -> str:
    # An error raised inside a script is quoted: "OOM command not allowed ... script: <sha>, on @user_script:1."
    for word in text.replace(":", " ").split()[:3]:
        if word in _REFUSALS:
            return _REFUSALS[word]
    return "store_error"


class Script:
    """One of the `.lua` files beside this module. `sha` is known before the server knows the script."""

    def __init__(self, name: str) -> None:
        self.text = resources.files("pulsar_relay.store").joinpath(f"{name}.lua").read_text("utf-8")
        self._sha: str | None = None

    async def run(self, client: Valkey, keys: list[str], args: list[Any]) -> Any:
        """Run it; loads it first where the server has forgotten it (a restart, a failover, SCRIPT FLUSH).

        Raises StoreError. A script that was not known has not run, so the repetition doubles nothing.
        """
        try:
            if self._sha is None:
                self._sha = await self._load(client)
            try:
                return await _awaited(client.evalsha(self._sha, len(keys), *keys, *args))
            except NoScriptError:
                self._sha = await self._load(client)
                return await _awaited(client.evalsha(self._sha, len(keys), *keys, *args))
        except (ValkeyError, OSError) as error:
            raise explain(error) from error

    async def _load(self, client: Valkey) -> str:
        # SCRIPT LOAD and not EVAL: scripts that came by EVAL are evicted when there are many.
        return cast(str, (await _awaited(client.script_load(self.text))))


async def _awaited(answer: Awaitable[T] | T) -> T:
    # valkey-py shares its command methods between its two clients, so their types allow both.
    return await cast(Awaitable[T], answer)


async def command(client: Valkey, *words: Any) -> Any:
    """Run one command; raises StoreError."""
    try:
        return await client.execute_command(*words)
    except (ValkeyError, OSError) as error:
        raise explain(error) from error
