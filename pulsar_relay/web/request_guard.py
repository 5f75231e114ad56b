"""RequestGuard: a request that Tornado reads, held to the limits that Tornado does not have.

A body or header that is too large, or comes too slowly, is answered in the relay's error shape, and the
connection is not cut before the client had a chance to read that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from tornado import httputil
from tornado.http1connection import HTTP1Connection

from pulsar_relay.errors import RelayError
from pulsar_relay.settings import ServerSettings
from pulsar_relay.web.connection import FAREWELL_BYTES, FAREWELL_SECONDS
from pulsar_relay.web.endpoint import Endpoints
from pulsar_relay.web.farewell import Farewells
from pulsar_relay.web.form import MULTIPART, URL_ENCODED
from pulsar_relay.web.response import bare_response
from pulsar_relay.web.stage import Stage, heard_until

logger = logging.getLogger(__name__)

DRAINED_BYTES = 64 * 1024 * 1024
"""How much of a refused body is read and thrown away, so that the client, busy sending, gets to read the
answer."""


class GuardedServer(Protocol):
    """What a guard needs of the server whose requests it guards."""

    limits: ServerSettings
    farewells: Farewells
    endpoints: Endpoints


class RequestGuard(httputil.HTTPMessageDelegate):
    """Stands between a connection and the application while one request comes in: until it is known to be
    small enough and came quickly enough.
    """

    def __init__(
        self,
        server: GuardedServer,
        inner: httputil.HTTPMessageDelegate,
        connection: HTTP1Connection,
        deadline: float,
    ) -> None:
        self.stage = Stage.AWAITED
        self._server = server
        self._inner = inner
        self._connection = connection
        self._limits = server.limits
        self._received_bytes = 0
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        self._timer: asyncio.TimerHandle | None = loop.call_at(deadline, self._on_late)

    @property
    def heard_until(self) -> float:
        return heard_until(self.stage, self._since)

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
        if not self._server.endpoints.perimeter.admits_host(headers.get("Host", "")):
            self._part(RelayError("host_not_allowed"))
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
        content_type = headers.get("Content-Type", "")
        if content_type.startswith((URL_ENCODED, MULTIPART)):
            # Tornado would parse it, whoever it is for. Who takes a form reads it, and knows its type also
            # with the capital by which Tornado does not.
            headers["Content-Type"] = content_type[0].upper() + content_type[1:]
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
        self._server.farewells.say(stream, bare_response(error), seconds=seconds, max_bytes=max_bytes)

    def _refuse(self, error: RelayError) -> None:
        """Refuse a request whose body is being read; the rest of that is thrown away."""
        self.stage = Stage.REFUSED
        self._inner.on_connection_close()
        # An answer of this size goes into the socket at once: it may be closed right after.
        stream = self._connection.stream
        if not stream.closed():
            stream.write(bare_response(error))


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
