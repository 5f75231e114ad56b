"""FrontServer: Tornado's HTTP server with the limits it does not have of its own, and answers for those who
run into them.

A body or header that is too large, or comes too slowly, is answered in the relay's error shape, and the
connection is not cut before the client had a chance to read that. Connections beyond the cap get a 503
instead of an accept loop that spins. On stopping, who is being answered gets the whole answer.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from http import HTTPStatus
from typing import Any

from tornado import httputil
from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application

from pulsar_relay.errors import RelayError, render
from pulsar_relay.settings import ServerSettings
from pulsar_relay.web.farewell import Farewells

logger = logging.getLogger(__name__)

DRAINED_BYTES = 64 * 1024 * 1024
"""How much of a refused body is read and thrown away, so that the client, busy sending, gets to read the
answer."""
READ_BYTES = 64 * 1024
"""Read from a socket at once. More makes each small request dearer: a buffer of this size is made for it."""
HEADER_SLACK = 2
"""Headers up to this many times the limit are read, so that they can be answered 431; larger ones are cut."""
MOST_FAREWELLS = 128
"""Connections that are told why they end at the same time; half of the descriptors kept in reserve."""
HEARING_SECONDS = 0.2
"""A stopping server still hears who was answered, or connected, less than this ago: the next request may be
on its way, and a connection that is closed under it leaves its outcome unknown."""
FAREWELL_SECONDS = 2.0
FAREWELL_BYTES = 1024 * 1024

_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class FrontServer(HTTPServer):
    """Serves an application under `ServerSettings`. `max_connections` is the effective cap."""

    def initialize(  # type: ignore[override]  # Tornado's way to take constructor arguments
        self,
        application: Application,
        settings: ServerSettings,
        max_connections: int,
        upgraded_connections: Callable[[], int],
    ) -> None:
        super().initialize(
            application,
            max_header_size=HEADER_SLACK * settings.max_header_bytes,
            # Bodies and WebSocket frames are bounded where they are read.
            max_body_size=sys.maxsize,
            max_buffer_size=sys.maxsize,
            chunk_size=READ_BYTES,
            decompress_request=False,
        )
        # The guards watch the time. Tornado's timeouts cost more, and end in silence.
        self.conn_params.header_timeout = None
        self.limits = settings
        self._max_connections = max_connections
        # Tornado forgets a connection when it becomes a WebSocket.
        self._upgraded_connections = upgraded_connections
        self._plain_connections = 0
        self._guards: dict[object, RequestGuard] = {}
        self.farewells = Farewells(MOST_FAREWELLS)
        self._is_changed = asyncio.Event()
        self._deadline = 0.0

    def reload(self, application: Application, settings: ServerSettings, max_connections: int) -> None:
        """Requests that come from now on are answered by this application, within these limits. WebSockets
        and streams that are open go on as they began.
        """
        self.request_callback = application
        self.conn_params.max_header_size = HEADER_SLACK * settings.max_header_bytes
        self.limits = settings
        self._max_connections = max_connections
        for server_conn, guard in self._guards.items():
            guard.renew(partial(HTTPServer.start_request, self, server_conn))

    @property
    def connection_count(self) -> int:
        return self._plain_connections + self._upgraded_connections()

    @property
    def answering_count(self) -> int:
        """Requests that have come in and whose answer has not left for the kernel yet."""
        return sum(guard.stage is Stage.ANSWERING for guard in self._guards.values())

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if self.connection_count >= self._max_connections:
            words = _bare_response(RelayError("too_many_connections"))
            self.farewells.say(stream, words, seconds=FAREWELL_SECONDS, max_bytes=FAREWELL_BYTES)
            return
        self._plain_connections += 1
        super().handle_stream(stream, address)

    def start_request(
        self, server_conn: object, request_conn: httputil.HTTPConnection
    ) -> httputil.HTTPMessageDelegate:
        # Called as soon as the request may come, for the first time right after the connection.
        assert isinstance(request_conn, HTTP1Connection)
        limits = self.limits
        is_first = server_conn not in self._guards
        seconds = limits.header_timeout_seconds if is_first else limits.idle_timeout_seconds
        inner = super().start_request(server_conn, request_conn)
        guard = RequestGuard(self, inner, request_conn, seconds)
        self._guards[server_conn] = guard
        self._is_changed.set()
        return guard

    def on_close(self, server_conn: object) -> None:
        self._plain_connections -= 1
        guard = self._guards.pop(server_conn, None)
        if guard is not None:
            guard.release()
        self._is_changed.set()
        super().on_close(server_conn)

    def stop(self) -> None:
        """Accept no more connections, and let those there are end with their next answer."""
        self.conn_params.no_keep_alive = True
        self._deadline = asyncio.get_running_loop().time() + self.limits.shutdown_deadline_seconds
        super().stop()

    async def close_all_connections(self) -> None:
        """Close what is idle; what is being answered, or may be asking, as soon as that is done, at latest
        `server.shutdown_deadline` after `stop`.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._deadline):
                await self._heard_and_answered()
        self.farewells.cut_short()
        await super().close_all_connections()

    async def _heard_and_answered(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            until = max((guard.heard_until for guard in self._guards.values()), default=0.0)
            is_hearing = until > loop.time()
            if not is_hearing and not self.answering_count:
                return
            self._is_changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until if is_hearing else None):
                    await self._is_changed.wait()


class Stage(Enum):
    """How far a request has come."""

    AWAITED = auto()
    RECEIVING = auto()
    ANSWERING = auto()
    REFUSED = auto()


class RequestGuard(httputil.HTTPMessageDelegate):
    """Stands between a connection and the application while one request comes in: until it is known to be
    small enough and came quickly enough.
    """

    def __init__(
        self,
        server: FrontServer,
        inner: httputil.HTTPMessageDelegate,
        connection: HTTP1Connection,
        wait_seconds: float,
    ) -> None:
        self.stage = Stage.AWAITED
        self._server = server
        self._inner = inner
        self._connection = connection
        self._limits = server.limits
        self._received_bytes = 0
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        self._timer: asyncio.TimerHandle | None = loop.call_later(wait_seconds, self._on_late)

    @property
    def heard_until(self) -> float:
        """Until when a stopping server listens to this connection, in the loop's time; 0 if it has heard."""
        return self._since + HEARING_SECONDS if self.stage in (Stage.AWAITED, Stage.RECEIVING) else 0.0

    def renew(self, start: Callable[[HTTP1Connection], httputil.HTTPMessageDelegate]) -> None:
        """The server was reloaded: if nothing of the request has come yet, it is one of those from now on."""
        if self.stage is Stage.AWAITED:
            self._inner = start(self._connection)
            self._limits = self._server.limits

    # What Tornado tells

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, httputil.RequestStartLine)
        self.release()
        self.stage = Stage.RECEIVING
        if _size(start_line, headers) > self._limits.max_header_bytes:
            self._part(RelayError("headers_too_large"))
            return None
        if ("Content-Length" in headers or "Transfer-Encoding" in headers) and not self._expect_body(headers):
            return None
        try:
            return self._inner.headers_received(start_line, headers)
        except httputil.HTTPInputError:
            # HTTP, but no request that could be meant for us: without a host, with thousands of parameters.
            self._part(RelayError("bad_request"))
            return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self._received_bytes += len(chunk)
        if self.stage is Stage.REFUSED:
            if self._received_bytes > self._limits.max_body_bytes + DRAINED_BYTES:
                self._connection.close()
            return None
        if self._received_bytes > self._limits.max_body_bytes:
            self._refuse(RelayError("body_too_large"))
            return None
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        self.release()
        if self.stage is Stage.REFUSED:
            self._connection.close()
            return
        self.stage = Stage.ANSWERING
        try:
            self._inner.finish()
        except Exception:
            # A handler that cannot even be made. Nobody above would give the client an answer.
            logger.exception("request: failed before its handler began")
            self._refuse(RelayError("internal_error"))
            self._connection.close()

    def on_connection_close(self) -> None:
        self.release()
        if self.stage is not Stage.REFUSED:
            self._inner.on_connection_close()

    def release(self) -> None:
        """Watch the time no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Limits

    def _expect_body(self, headers: httputil.HTTPHeaders) -> bool:
        """Watch the body that follows. False: the request is refused before it came."""
        limits = self._limits
        if headers.get("Content-Type", "").startswith(_FORMS):
            # Tornado would parse it, and no handler of ours takes a form: to them it is any other wrong type.
            headers["Content-Type"] = "application/octet-stream"
        waits = headers.get("Expect", "").lower() == "100-continue"
        if waits:
            headers["Expect"] = "100-continue"  # the spelling that Tornado knows
        if not _declares_more(headers, limits.max_body_bytes):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(limits.body_timeout_seconds, self._on_late)
            return True
        error = RelayError("body_too_large")
        if waits:
            self._part(error)
        else:
            self._part(error, seconds=limits.body_timeout_seconds, max_bytes=DRAINED_BYTES)
        return False

    def _on_late(self) -> None:
        self._timer = None
        if self.stage is Stage.RECEIVING:
            self._refuse(RelayError("request_timeout"))
        # Else nothing came, or half a header, or a refused body without end.
        self._connection.close()

    # Refusing

    def _part(
        self, error: RelayError, *, seconds: float = FAREWELL_SECONDS, max_bytes: int = FAREWELL_BYTES
    ) -> None:
        """Refuse a request of which only the headers were read, and take its connection from Tornado."""
        self.stage = Stage.REFUSED
        stream = self._connection.detach()
        self._server.farewells.say(stream, _bare_response(error), seconds=seconds, max_bytes=max_bytes)

    def _refuse(self, error: RelayError) -> None:
        """Refuse a request whose body is being read; the rest of that is thrown away."""
        self.stage = Stage.REFUSED
        self._inner.on_connection_close()
        # An answer of this size goes into the socket at once: it may be closed right after.
        stream = self._connection.stream
        if not stream.closed():
            stream.write(_bare_response(error))


def _declares_more(headers: httputil.HTTPHeaders, max_bytes: int) -> bool:
    """Whether the body's length is told, and beyond; what is no length Tornado refuses."""
    declared = headers.get("Content-Length", "").lstrip("0")
    is_number = declared.isascii() and declared.isdigit()
    # The length of the number first: Python does not read one of thousands of digits.
    return is_number and (len(declared) > 18 or int(declared) > max_bytes)


def _size(start_line: httputil.RequestStartLine, headers: httputil.HTTPHeaders) -> int:
    """About the bytes they took on the wire."""
    size = sum([len(name) + len(value) + 4 for name, value in headers.get_all()])
    return size + len(start_line.method) + len(start_line.path) + 12


def _bare_response(error: RelayError) -> bytes:
    status, headers, body = render(error)
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
