"""FrontServer: the server around endpoints and handlers.

A connection begins as a `Connection` of the relay's own, which answers the requests that come in thousands;
with a request of another kind it is handed to Tornado's HTTP server, which this is, until one of those comes
again. Both hold to the same limits. Connections beyond the cap get a 503 instead of an accept loop that
spins. On stopping, who is being answered gets the whole answer.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from tornado import httputil
from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application

from pulsar_relay.settings import ServerSettings
from pulsar_relay.supervision.listening import BACKLOG
from pulsar_relay.web.connection import Connection, find_plain
from pulsar_relay.web.detaching import hand_over
from pulsar_relay.web.endpoint import Endpoints
from pulsar_relay.web.farewell import Farewells
from pulsar_relay.web.handover import READ_BYTES, HandedStream
from pulsar_relay.web.head import END
from pulsar_relay.web.request_guard import RequestGuard
from pulsar_relay.web.stage import Stage

HEADER_SLACK = 2
"""Headers up to this many times the limit are read, so that they can be answered 431; larger ones are cut."""
MOST_FAREWELLS = 128
"""Connections that are told why they end at the same time; half of the descriptors kept in reserve."""


class FrontServer(HTTPServer):
    """Serves an application under `ServerSettings`. `max_connections` is the effective cap."""

    def initialize(  # type: ignore[override]  # Tornado's way to take constructor arguments
        self,
        application: Application,
        endpoints: Endpoints,
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
        self.endpoints = endpoints
        self.is_stopping = False
        self._max_connections = max_connections
        # Tornado forgets a connection when it becomes a WebSocket.
        self._upgraded_connections = upgraded_connections
        self._connections_of_tornado = 0
        self._guards: dict[object, RequestGuard] = {}
        self._own_connections: set[Connection] = set()
        self._returning: set[asyncio.Task[None]] = set()
        self._listeners: list[asyncio.Server] = []
        self.farewells = Farewells(MOST_FAREWELLS)
        self._is_changed = asyncio.Event()
        self._deadline = 0.0

    async def accept_from(self, sockets: Iterable[socket.socket]) -> None:
        """Take the connections that come to these sockets, which are the server's from now on."""
        loop = asyncio.get_running_loop()
        for one in sockets:
            listener = await loop.create_server(lambda: Connection(self), sock=one, backlog=BACKLOG)
            self._listeners.append(listener)

    def reload(
        self,
        application: Application,
        endpoints: Endpoints,
        settings: ServerSettings,
        max_connections: int,
    ) -> None:
        """Requests that come from now on are answered by these, within these limits. WebSockets and streams
        that are open go on as they began.
        """
        self.request_callback = application
        self.endpoints = endpoints
        self.conn_params.max_header_size = HEADER_SLACK * settings.max_header_bytes
        self.limits = settings
        self._max_connections = max_connections
        for server_conn, guard in self._guards.items():
            guard.renew(partial(HTTPServer.start_request, self, server_conn))

    @property
    def connection_count(self) -> int:
        plain = len(self._own_connections) + len(self._returning) + self._connections_of_tornado
        return plain + self._upgraded_connections()

    @property
    def answering_count(self) -> int:
        """Requests that have come in and whose answer has not left for the kernel yet."""
        return sum(each.stage is Stage.ANSWERING for each in self._in_stages())

    def _in_stages(self) -> Iterator[Connection | RequestGuard]:
        return itertools.chain(self._own_connections, self._guards.values())

    # What its own connections tell

    def admit(self, connection: Connection, *, is_new: bool) -> bool:
        if is_new and self.connection_count >= self._max_connections:
            return False
        self._own_connections.add(connection)
        self._is_changed.set()
        return True

    def leave(self, connection: Connection) -> None:
        self._own_connections.discard(connection)
        self._is_changed.set()

    def adopt(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        self._connections_of_tornado += 1
        self.handle_stream(stream, address)

    # What the streams tell that were handed to Tornado

    def takes(self, data: bytes) -> bool:
        end = data.find(END) + len(END)
        return (
            end >= len(END)
            and not self.is_stopping
            and find_plain(data[:end], self.endpoints, self.limits) is not None
        )

    def take_back(self, connected: socket.socket, data: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self._take_back(connected, data))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _take_back(self, connected: socket.socket, data: bytes) -> None:
        # Tornado leaves it off between two answers.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await hand_over(connected, Connection(self, data))
        except OSError:
            connected.close()

    # What Tornado tells of those it was handed

    def start_request(
        self, server_conn: object, request_conn: httputil.HTTPConnection
    ) -> httputil.HTTPMessageDelegate:
        # Called as soon as the request may come, for the first time right after the hand-over.
        assert isinstance(request_conn, HTTP1Connection)
        stream = request_conn.stream
        assert isinstance(stream, HandedStream)
        is_first = server_conn not in self._guards
        deadline = asyncio.get_running_loop().time() + self.limits.idle_timeout_seconds
        inner = super().start_request(server_conn, request_conn)
        guard = RequestGuard(self, inner, request_conn, stream.deadline if is_first else deadline)
        self._guards[server_conn] = guard
        self._is_changed.set()
        return guard

    def on_close(self, server_conn: object) -> None:
        self._connections_of_tornado -= 1
        guard = self._guards.pop(server_conn, None)
        if guard is not None:
            guard.release()
        self._is_changed.set()
        super().on_close(server_conn)

    def stop(self) -> None:
        """Accept no more connections, and let those there are end with their next answer."""
        self.is_stopping = True
        self.conn_params.no_keep_alive = True
        for listener in self._listeners:
            listener.close()
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
        for connection in list(self._own_connections):
            connection.close()
        await super().close_all_connections()

    async def _heard_and_answered(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            until = max((each.heard_until for each in self._in_stages()), default=0.0)
            is_hearing = until > loop.time()
            # It takes a turn of the loop to change sides.
            is_moving = self._returning or self._connections_of_tornado > len(self._guards)
            if not is_hearing and not is_moving and not self.answering_count:
                return
            self._is_changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until if is_hearing else None):
                    await self._is_changed.wait()
