"""FrontServer: Tornado's HTTP server with the limits it does not have of its own.

A body that is too large is answered 413 in the relay's error shape, chunked or not, and the connection is not cut before the client
had a chance to read that; a first request that does not come is not waited for as long as one on a connection that has proved useful;
connections beyond the cap get a 503 instead of an accept loop that spins.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from typing import Any

from tornado import httputil
from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application

from pulsar_relay.errors import RelayError, render
from pulsar_relay.settings import ServerSettings

DRAINED_BYTES = 64 * 1024 * 1024
"""How much of a refused body is read and thrown away so that the client, busy sending, gets to read the answer."""


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
            idle_connection_timeout=settings.idle_timeout_seconds,
            body_timeout=settings.body_timeout_seconds,
            max_header_size=settings.max_header_bytes,
            max_body_size=settings.max_body_bytes + DRAINED_BYTES,
            max_buffer_size=settings.max_body_bytes + DRAINED_BYTES,
            chunk_size=256 * 1024,
            decompress_request=False,
        )
        self._limits = settings
        self._max_connections = max_connections
        # Tornado forgets a connection when it becomes a WebSocket.
        self._upgraded_connections = upgraded_connections

    @property
    def connection_count(self) -> int:
        return len(self._connections) + self._upgraded_connections()

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if self.connection_count >= self._max_connections:
            stream.write(_bare_response(RelayError("too_many_connections"))).add_done_callback(
                lambda done: (done.cancelled() or done.exception(), stream.close())
            )
            return
        # Its own copy: the time this connection has for its headers changes with its first request.
        self.conn_params = copy.copy(self.conn_params)
        self.conn_params.header_timeout = self._limits.header_timeout_seconds
        super().handle_stream(stream, address)

    def start_request(
        self, server_conn: object, request_conn: httputil.HTTPConnection
    ) -> httputil.HTTPMessageDelegate:
        assert isinstance(server_conn, HTTP1ServerConnection)
        server_conn.params.header_timeout = self._limits.idle_timeout_seconds
        inner = super().start_request(server_conn, request_conn)
        assert isinstance(request_conn, HTTP1Connection)
        return BodyGuard(inner, request_conn, self._limits.max_body_bytes)


class BodyGuard(httputil.HTTPMessageDelegate):
    """Stands between the connection and the handler until the body is known to be small enough."""

    def __init__(
        self, inner: httputil.HTTPMessageDelegate, connection: HTTP1Connection, max_bytes: int
    ) -> None:
        self._inner = inner
        self._connection = connection
        self._max_bytes = max_bytes
        self._received_bytes = 0
        self._is_refused = False
        self._is_finished = False

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> Awaitable[None] | None:
        declared = headers.get("Content-Length", "0")
        length = int(declared) if declared.isascii() and declared.isdigit() else 0
        if length <= self._max_bytes:
            return self._inner.headers_received(start_line, headers)
        self._refuse()
        if length > self._max_bytes + DRAINED_BYTES or headers.get("Expect", "").lower() == "100-continue":
            self._finish()
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self._received_bytes += len(chunk)
        if self._is_refused:
            if self._received_bytes > self._max_bytes + DRAINED_BYTES:
                self._finish()
            return None
        if self._received_bytes > self._max_bytes:
            self._refuse()
            self._inner.on_connection_close()
            return None
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        if self._is_refused:
            self._finish()
        else:
            self._inner.finish()

    def on_connection_close(self) -> None:
        if not self._is_refused:
            self._inner.on_connection_close()

    def _refuse(self) -> None:
        self._is_refused = True
        status, headers, body = render(RelayError("body_too_large"))
        line = httputil.ResponseStartLine("", status, httputil.responses.get(status, "Unknown"))
        response_headers = httputil.HTTPHeaders(
            {**headers, "Content-Length": str(len(body)), "Connection": "close"}
        )
        self._connection.write_headers(line, response_headers, body)

    def _finish(self) -> None:
        if not self._is_finished:
            self._is_finished = True
            self._connection.finish()


def _bare_response(error: RelayError) -> bytes:
    status, headers, body = render(error)
    lines = [f"HTTP/1.1 {status} {httputil.responses.get(status, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
