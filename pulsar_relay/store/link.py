"""Link: one connection to Valkey, for one life. It is opened, used and lost; who needs another opens another.

Replies are parsed by libvalkey where the loop hands their bytes over, and go to whoever asked in the same
call: no task reads, nothing waits in between, and a reply that has not all arrived is the parser's affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import socket
import ssl
import struct
import termios
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import libvalkey
from libvalkey import ReplyError

from actors.ports import StoreError
from pulsar_relay import __version__
from pulsar_relay.settings import ValkeySettings
from pulsar_relay.store.identity import Admission, Severable
from pulsar_relay.store.refusals import TOO_MANY_CLIENTS, crowded, refusal

logger = logging.getLogger(__name__)

Word = str | bytes | int | float
"""One word of a command."""

GREETING_SECONDS = 0.05
KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}
"""Seconds, seconds, probes: an idle connection that a firewall forgot is noticed within a minute."""
SHUT_OUT = ("NOAUTH", f"ERR {TOO_MANY_CLIENTS}")
"""How errors begin that are about the connection, whatever was asked."""
_INCOMPLETE = object()


def pack(words: tuple[Word, ...]) -> bytes:
    """A command as Valkey reads it."""
    return libvalkey.pack_command(words)


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

    place: Place
    connect_timeout_seconds: float
    command_timeout_seconds: float
    path: str | None = None
    """Of a Unix socket; it wins over the place."""
    tls: ssl.SSLContext | None = None
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
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
        path = unix_socket or (str(settings.unix_socket) if settings.unix_socket else None)
        return cls(
            (settings.host or "localhost", settings.port),
            settings.connect_timeout_seconds,
            settings.command_timeout_seconds,
            path,
            ssl.create_default_context(cafile=settings.tls_ca) if settings.tls and path is None else None,
            settings.db,
            settings.username,
            settings.password,
            identity,
        )

    def at(self, place: Place) -> Endpoint:
        """The same of the server there."""
        return replace(self, place=place, locator=None)

    def introduction(self) -> list[tuple[Word, ...]]:
        """The commands a new connection begins with."""
        commands: list[tuple[Word, ...]] = []
        if self.username:
            commands.append(("AUTH", self.username, self.password or ""))
        elif self.password:
            commands.append(("AUTH", self.password))
        commands.append(("CLIENT", "SETINFO", "LIB-NAME", "pulsar-relay"))
        commands.append(("CLIENT", "SETINFO", "LIB-VER", __version__))
        if self.db:
            commands.append(("SELECT", self.db))
        return commands

    async def connect(self, protocol: asyncio.Protocol) -> None:
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        if self.path is not None:
            await loop.create_unix_connection(lambda: protocol, self.path)
            return
        host, port = self.place
        try:
            transport, _ = await loop.create_connection(lambda: protocol, host, port, ssl=self.tls)
        except UnicodeError as error:
            raise OSError(f"{host!r} is no host name") from error
        own = transport.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            own.setsockopt(socket.IPPROTO_TCP, option, value)

    async def greeting(self) -> str:
        """What the server says on a new connection before it is asked anything; nothing, if all is well.

        One with too many clients says so and hangs up, mostly before it was written to; who began by writing
        saw a failed write only.
        """
        heard = b""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(GREETING_SECONDS):
                if self.path is not None:
                    reader, writer = await asyncio.open_unix_connection(self.path)
                else:
                    reader, writer = await asyncio.open_connection(*self.place)
                try:
                    heard = await reader.readline()
                finally:
                    writer.close()
        return heard.decode("utf-8", "replace")


class Link(asyncio.Protocol):
    """Made open by `Link.open`. `on_reply` gets each reply, and each message of a subscription, in order; an
    error Valkey answers with comes as what `told` makes of it. `on_lost` is called once when the link ends
    without `close`; no reply follows.

    None of them may raise.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._replies = libvalkey.Reader(notEnoughData=_INCOMPLETE)
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_reply: Callable[[Any], None] = _ignore
        self._on_lost: Callable[[], None] = _ignore
        self._told: Callable[[ReplyError], Exception] = refusal

    @classmethod
    async def open(
        cls,
        endpoint: Endpoint,
        on_reply: Callable[[Any], None],
        on_lost: Callable[[], None],
        told: Callable[[ReplyError], Exception] = refusal,
    ) -> Link:
        """Connect, authenticate, and see that it is the right store; StoreError (with a known outcome) if
        that fails or takes too long.
        """
        locator, identity = endpoint.locator, endpoint.identity
        link = cls()
        place: Place | None = None
        try:
            async with asyncio.timeout(endpoint.connect_timeout_seconds):
                if locator is not None:
                    place = await locator.primary()
                    endpoint = endpoint.at(place)
                await link._introduce(endpoint, is_located=locator is not None)
        except OSError as error:
            link.close()
            is_crowded = link._transport is not None and TOO_MANY_CLIENTS in await endpoint.greeting()
            raise (crowded() if is_crowded else StoreError("store_unavailable")) from error
        except BaseException:
            link.close()
            raise
        link._on_reply, link._on_lost, link._told = on_reply, on_lost, told
        if identity is not None:
            identity.watch(link)
        if locator is not None and place is not None:
            locator.watch(link, place)
        return link

    async def _introduce(self, endpoint: Endpoint, *, is_located: bool) -> None:
        dialogue = _Dialogue(self)
        self._on_reply, self._on_lost, self._told = dialogue.on_reply, dialogue.on_lost, _as_it_is
        await endpoint.connect(self)
        commands = endpoint.introduction()
        replies = await dialogue.say(*commands)
        for words, reply in zip(commands, replies, strict=True):
            # Not every server knows CLIENT SETINFO, and not every user may say it.
            if isinstance(reply, ReplyError) and (words[0] != "CLIENT" or str(reply).startswith(SHUT_OUT)):
                raise refusal(reply)
        if is_located:
            await _expect_primary(dialogue.ask)
        if endpoint.identity is not None:
            await endpoint.identity.admit(dialogue.ask)
        dialogue.end()

    @property
    def untaken_bytes(self) -> int:
        """How much of what was written has not arrived on the other side, as far as this side knows."""
        assert self._transport is not None
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
        transport = self._transport
        # uvloop raises RuntimeError in that moment.
        if transport is not None and not transport.is_closing():
            transport.writelines(commands)

    def pause(self) -> None:
        """Take no more replies, but for those that are here by now: the others wait on the server's side."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """End it at once; what is unsent is dropped. `on_lost` will not be called. May be called again."""
        self._on_lost = self._on_reply = _ignore
        self.sever()

    def sever(self) -> None:
        """End it at once, as if the connection had been lost: `on_lost` will be called."""
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Returns when nothing of it is left."""
        await asyncio.wait([self._closed])

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._replies.feed(data)
        parsed = self._replies.gets
        try:
            while (reply := parsed()) is not _INCOMPLETE:
                self._on_reply(self._told(reply) if type(reply) is ReplyError else reply)
        except libvalkey.ProtocolError as error:
            logger.warning("link: what came is no reply (%s)", error)
            self.sever()

    def connection_lost(self, error: Exception | None) -> None:
        logger.debug("link: lost (%s)", error)
        self._closed.set_result(None)
        self._on_lost()


class _Dialogue:
    """Questions and answers on a link that nobody has yet. Raises OSError where the link is lost."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._heard: asyncio.Queue[Any] = asyncio.Queue()

    def on_reply(self, reply: Any) -> None:
        self._heard.put_nowait(reply)

    def on_lost(self) -> None:
        self._heard.put_nowait(ConnectionResetError("the server hung up"))

    async def say(self, *commands: tuple[Word, ...]) -> list[Any]:
        """The replies to commands that are sent together, errors among them."""
        self._link.write([pack(words) for words in commands])
        return [await self._next() for _ in commands]

    async def ask(self, *words: Word) -> Any:
        """One command; StoreError where Valkey refuses it."""
        (reply,) = await self.say(words)
        if isinstance(reply, ReplyError):
            raise refusal(reply) from reply
        return reply

    def end(self) -> None:
        """The link is somebody's from now on, if it still is one."""
        if not self._heard.empty():
            raise ConnectionResetError("the server hung up, or spoke out of turn")

    async def _next(self) -> Any:
        reply = await self._heard.get()
        if isinstance(reply, OSError):
            raise reply
        return reply


async def _expect_primary(ask: Callable[..., Awaitable[Any]]) -> None:
    """A server that has just begun to be one, or is none any more, says so itself."""
    if (await ask("ROLE"))[0] != b"master":
        raise StoreError("store_unavailable", "the server that should be the primary is a replica")


def _as_it_is(error: ReplyError) -> Exception:
    return error


def _ignore(*_: object) -> None:
    pass
