"""Link: one connection to Valkey, for one life. It is opened, used and lost; who needs another opens another.

valkey-py's connection does what differs between servers (sockets, TLS, authentication, the parser). Its
client and its pool are not used: they wait for each answer before they send the next command, and make
several tasks and timers for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import logging
import socket
import ssl
import struct
import termios
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import libvalkey
from valkey.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from valkey.asyncio.connection import AbstractConnection
from valkey.exceptions import ValkeyError

from actors.ports import StoreError
from pulsar_relay import __version__
from pulsar_relay.settings import ValkeySettings
from pulsar_relay.store.identity import Admission, Severable
from pulsar_relay.store.refusals import ANSWERS, TOO_MANY_CLIENTS, crowded, refusal, unreachable

logger = logging.getLogger(__name__)

Word = str | bytes | int | float
"""One word of a command."""

READ_BYTES = 256 * 1024
GREETING_SECONDS = 0.05
ENDING_SECONDS = 1.0
"""More than an aborted transport needs to tell its reader."""
KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}
"""Seconds, seconds, probes: an idle connection that a firewall forgot is noticed within a minute."""


def pack(words: tuple[Word, ...]) -> bytes:
    """A command as Valkey reads it."""
    return libvalkey.pack_command(words)


class _TlsConnection(SSLConnection):
    """One with the given context: valkey-py's own checks no host name, reads the system's certificates for
    each connection anew, and trusts them beside the file it is given."""

    def __init__(self, *, tls: ssl.SSLContext, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.ssl_context.context = tls


Place = tuple[str, int]
"""Host and port."""


class Locator(Protocol):
    """Who knows which server is the primary."""

    async def primary(self) -> Place:
        """StoreError if nobody can tell."""

    def watch(self, link: Severable, place: Place) -> None:
        """The link is severed when the primary is another one."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where Valkey is, how to get in, and how long to wait for it.

    With an `identity`, a connection is opened only to the store that has it. With a `locator` it is asked at
    each connection where that is, and only a primary will do.
    """

    connection_class: type[AbstractConnection]
    connect_timeout_seconds: float
    command_timeout_seconds: float
    arguments: dict[str, Any] = field(repr=False)
    identity: Admission | None = None
    locator: Locator | None = None

    @classmethod
    def of(
        cls,
        settings: ValkeySettings,
        unix_socket: str | None = None,
        identity: Admission | None = None,
    ) -> Endpoint:
        """The endpoint the settings name; `unix_socket` (the embedded server's) wins over them."""
        arguments: dict[str, Any] = {
            "db": settings.db,
            "username": settings.username,
            "password": settings.password,
            "lib_name": "pulsar-relay",
            "lib_version": __version__,
            "socket_read_size": READ_BYTES,
            # Deadlines are kept elsewhere: those of valkey-py cost a task for each command.
            "socket_timeout": None,
            "socket_connect_timeout": settings.connect_timeout_seconds,
        }
        path = unix_socket or (str(settings.unix_socket) if settings.unix_socket else None)
        kind: type[AbstractConnection]
        if path is not None:
            kind = UnixDomainSocketConnection
            arguments |= {"path": path}
        else:
            kind = Connection
            arguments |= {
                "host": settings.host or "localhost",
                "port": settings.port,
                "socket_keepalive": True,
                "socket_keepalive_options": KEEPALIVE,
            }
            if settings.tls:
                kind = _TlsConnection
                arguments["tls"] = ssl.create_default_context(cafile=settings.tls_ca)
        return cls(
            kind, settings.connect_timeout_seconds, settings.command_timeout_seconds, arguments, identity
        )

    def at(self, place: Place) -> Endpoint:
        """The same of the server there."""
        host, port = place
        return replace(self, arguments=self.arguments | {"host": host, "port": port}, locator=None)

    async def greeting(self) -> str:
        """What the server says on a new connection before it is asked anything; nothing, if all is well.

        One with too many clients says so and hangs up, mostly before it was written to; who began by writing
        saw a failed write only.
        """
        heard = b""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(GREETING_SECONDS):
                where = self.arguments
                if "path" in where:
                    reader, writer = await asyncio.open_unix_connection(where["path"])
                else:
                    reader, writer = await asyncio.open_connection(where["host"], where["port"])
                try:
                    heard = await reader.readline()
                finally:
                    writer.close()
        return heard.decode("utf-8", "replace")


class Link:
    """Made open by `Link.open`. `on_reply` gets each reply, and each message of a subscription, in order; an
    error Valkey answers with comes as a StoreError. `on_lost` is called once when the link ends without
    `close`; no reply follows.

    Neither may raise.
    """

    def __init__(
        self, connection: AbstractConnection, on_reply: Callable[[Any], None], on_lost: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._on_reply = on_reply
        self._on_lost = on_lost
        # valkey-py has no way to send without waiting until the kernel has taken it all.
        writer: asyncio.StreamWriter = cast(Any, connection)._writer
        self._transport: asyncio.WriteTransport = writer.transport
        self._reader = asyncio.get_running_loop().create_task(self._read(), name="valkey link")

    @classmethod
    async def open(
        cls, endpoint: Endpoint, on_reply: Callable[[Any], None], on_lost: Callable[[], None]
    ) -> Link:
        """Connect, authenticate, and see that it is the right store; StoreError (with a known outcome) if
        that fails or takes too long.
        """
        locator, identity = endpoint.locator, endpoint.identity
        connection: AbstractConnection | None = None
        place: Place | None = None
        try:
            async with asyncio.timeout(endpoint.connect_timeout_seconds):
                if locator is not None:
                    place = await locator.primary()
                    endpoint = endpoint.at(place)
                connection = endpoint.connection_class(**endpoint.arguments)
                await connection.connect()
                if locator is not None:
                    await _expect_primary(connection)
                if identity is not None:
                    await identity.admit(functools.partial(_ask, connection))
        except (ValkeyError, OSError) as error:
            await _abandon(connection)
            told = unreachable(error)
            if told.code == "store_unavailable" and connection is not None:
                told = crowded() if TOO_MANY_CLIENTS in await endpoint.greeting() else told
            raise told from error
        except BaseException:
            await _abandon(connection)
            raise
        link = cls(connection, on_reply, on_lost)
        if identity is not None:
            identity.watch(link)
        if locator is not None and place is not None:
            locator.watch(link, place)
        return link

    @property
    def untaken_bytes(self) -> int:
        """How much of what was written has not arrived on the other side, as far as this side knows."""
        unsent = self._transport.get_write_buffer_size()
        with contextlib.suppress(OSError, ValueError):
            # What the kernel took and the other side has not acknowledged. Not every system tells, and a
            # socket that is closed has no descriptor.
            descriptor = self._transport.get_extra_info("socket").fileno()
            unsent += struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))[0]
        return unsent

    def write(self, commands: Sequence[bytes]) -> None:
        """Send packed commands. Returns at once. What is written to a link that is lost goes nowhere, also in
        the moment before `on_lost` says so.
        """
        # uvloop raises RuntimeError in that moment.
        if not self._transport.is_closing():
            self._transport.writelines(commands)

    def close(self) -> None:
        """End it at once; what is unsent is dropped. `on_lost` will not be called. May be called again."""
        self._on_lost = self._on_reply = _ignore
        # Not by cancelling the reader: one that had no time to begin would not clean up.
        self._transport.abort()
        # The loop holds the transport, and who asked has let go of the link: what reads must not be collected
        # before it has heard of the end.
        self._reader.get_loop().call_later(ENDING_SECONDS, _ignore, self)

    def sever(self) -> None:
        """End it at once, as if the connection had been lost: `on_lost` will be called."""
        self._transport.abort()

    async def wait_closed(self) -> None:
        """Returns when nothing of it is left."""
        await asyncio.wait([self._reader])

    async def _read(self) -> None:
        read = self._connection.read_response
        try:
            while True:
                try:
                    reply = await read(disconnect_on_error=False)
                except ANSWERS as error:
                    reply = refusal(error)
                self._on_reply(reply)
        except (ValkeyError, OSError) as error:
            logger.debug("link: lost (%s)", error)
        finally:
            self._transport.abort()
            self._on_lost()
            await _abandon(self._connection)


async def _ask(connection: AbstractConnection, *words: Word) -> Any:
    """One command on a connection that is not a link yet; StoreError where Valkey refuses it."""
    await connection.send_command(*words)
    try:
        return await connection.read_response(disconnect_on_error=False)
    except ANSWERS as error:
        raise refusal(error) from error


async def _expect_primary(connection: AbstractConnection) -> None:
    """A server that has just begun to be one, or is none any more, says so itself."""
    if (await _ask(connection, "ROLE"))[0] != b"master":
        raise StoreError("store_unavailable", "the server that should be the primary is a replica")


def _ignore(*_: object) -> None:
    pass


async def _abandon(connection: AbstractConnection | None) -> None:
    if connection is None:
        return
    with contextlib.suppress(ValkeyError, OSError):
        await connection.disconnect(nowait=True)
