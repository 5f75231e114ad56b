"""Connection: one HTTP/1.1 connection that asks for endpoints, in a plain way.

It reads a request whole, has it answered, writes the answer, and only then looks at what follows. The first
request that is anything else, another address, a strange head, a body too large, goes to Tornado as it came,
and with it the connection, which comes back with the next one that is plain.

     ┌──────────────────────────── answer has left ◀────────────────────────────┐
     ▼                                                                          │
  AWAITED ── head ──▶ RECEIVING ── body ──▶ ANSWERING ── answer, written ───────┤
     │                    │                     │                               │
     └── handed over, closed, late, or the client is gone ──▶ GONE ◀── said to be the last
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, Protocol

from tornado.escape import parse_qs_bytes
from tornado.iostream import IOStream

from pulsar_relay.errors import RelayError
from pulsar_relay.loading import Query
from pulsar_relay.settings import ServerSettings
from pulsar_relay.web.endpoint import Answer, Endpoints, Request, Route, respond
from pulsar_relay.web.farewell import Farewells
from pulsar_relay.web.handover import Home, hand_over
from pulsar_relay.web.head import END, Head, read_head, read_target
from pulsar_relay.web.response import bare_response, response
from pulsar_relay.web.stage import Stage, heard_until

AHEAD_BYTES = 64 * 1024
"""Beyond this nothing more is read from a client that sends requests without waiting for answers."""
FAREWELL_SECONDS = 2.0
FAREWELL_BYTES = 1024 * 1024

_NEVER = math.inf
_NO_QUERY: Query = {}


class Front(Home, Protocol):
    """What a connection needs of the server it belongs to."""

    limits: ServerSettings
    endpoints: Endpoints
    farewells: Farewells
    is_stopping: bool
    """Whether each connection ends with its next answer."""

    def admit(self, connection: Connection, *, is_new: bool) -> bool:
        """Count the connection; False for a new one if there are as many as there may be."""

    def leave(self, connection: Connection) -> None:
        """The connection is closed, or somebody else's. May be called again."""

    def adopt(self, stream: IOStream, address: Any) -> None:
        """Have Tornado serve what was a connection."""


def find_plain(data: bytes, endpoints: Endpoints, limits: ServerSettings) -> tuple[Head, Route, str] | None:
    """What the head `data` asks for, with the route's open part; None if that is Tornado's."""
    head = read_head(data)
    if head is None or len(data) > limits.max_header_bytes or head.body_bytes > limits.max_body_bytes:
        return None
    if not endpoints.perimeter.admits_any_host and not endpoints.perimeter.admits_host(head.host):
        return None
    found = endpoints.find(head.target)
    return None if found is None else (head, *found)


def peer_of(transport: asyncio.BaseTransport) -> str:
    """The address of who has connected; of a Unix socket's peer there is none."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""


class Connection(asyncio.Protocol):
    """Made by a `Front` for each connection that comes, or comes back, with the beginning of its next request
    as `returned`.
    """

    __slots__ = (
        "_argument",
        "_closes",
        "_deadline",
        "_fires_at",
        "_front",
        "_head",
        "_input",
        "_is_full",
        "_is_paused",
        "_loop",
        "_missing_bytes",
        "_parts",
        "_peer",
        "_route",
        "_since",
        "_task",
        "_timer",
        "_transport",
        "stage",
    )

    _transport: asyncio.Transport
    _peer: str
    _head: Head
    _route: Route
    _argument: str

    def __init__(self, front: Front, returned: bytes = b"") -> None:
        self.stage = Stage.AWAITED
        self._front = front
        self._loop = asyncio.get_running_loop()
        self._input = returned
        self._parts: list[bytes] = []
        self._missing_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._closes = False
        self._is_paused = False
        self._is_full = False
        self._since = 0.0
        self._deadline = _NEVER
        self._fires_at = _NEVER
        self._timer: asyncio.TimerHandle | None = None

    @property
    def heard_until(self) -> float:
        return heard_until(self.stage, self._since)

    def close(self) -> None:
        """At once, whatever it is about."""
        self._transport.abort()
        self._leave()

    # What the transport tells

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._peer = peer_of(transport)
        is_new = not self._input
        if not self._front.admit(self, is_new=is_new):
            self._part(RelayError("too_many_connections"))
            return
        # Paused as soon as anything has to wait, so that an answer counts as written once it has left.
        transport.set_write_buffer_limits(0)
        self._since = self._loop.time()
        limits = self._front.limits
        self._watch(self._since + (limits.header_timeout_seconds if is_new else limits.idle_timeout_seconds))
        if not is_new:
            self._read()

    def data_received(self, data: bytes) -> None:
        if self.stage is Stage.AWAITED:
            self._input += data
            self._read()
        elif self.stage is Stage.RECEIVING:
            self._receive(data)
        elif self.stage is Stage.ANSWERING:
            self._input += data
            if len(self._input) > AHEAD_BYTES and not self._is_paused:
                self._is_paused = True
                self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        if self.stage is Stage.ANSWERING and self._task is None:
            self._answered()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    # A request

    def _read(self) -> None:
        data = self._input
        end = data.find(END) + len(END)
        if end < len(END):
            if not self._may_be_plain(data):
                self._hand_over()
            return
        limits = self._front.limits
        found = find_plain(data[:end], self._front.endpoints, limits)
        if found is None:
            if not self._upgrade(end):
                self._hand_over()
            return
        head, self._route, self._argument = found
        self._head = head
        end_of_body = end + head.body_bytes
        if end_of_body <= len(data):
            self._input = data[end_of_body:]
            self._begin(data[end:end_of_body])
            return
        self.stage = Stage.RECEIVING
        self._input = b""
        self._parts = [data[end:]]
        self._missing_bytes = end_of_body - len(data)
        self._watch(self._loop.time() + limits.body_timeout_seconds)

    def _may_be_plain(self, data: bytes) -> bool:
        """Whether the beginning of a head may go on to be one that is read here."""
        if len(data) > self._front.limits.max_header_bytes:
            return False
        if b"\n" not in data:
            return True
        target = read_target(data)
        return target is not None and self._front.endpoints.find(target) is not None

    def _receive(self, data: bytes) -> None:
        missing = self._missing_bytes
        if len(data) < missing:
            self._parts.append(data)
            self._missing_bytes = missing - len(data)
            return
        self._input = data[missing:]
        self._parts.append(data[:missing])
        body = b"".join(self._parts)
        self._parts = []
        self._missing_bytes = 0
        self._begin(body)

    def _begin(self, body: bytes) -> None:
        self.stage = Stage.ANSWERING
        self._deadline = _NEVER
        head = self._head
        query: Query = parse_qs_bytes(head.query, keep_blank_values=True) if head.query else _NO_QUERY
        perimeter, address = self._front.endpoints.perimeter, self._peer
        if perimeter.has_proxies:
            address = perimeter.address(address, (head.headers.get(perimeter.proxies.header, ""),))
        request = Request(head.target.decode("ascii"), self._argument, query, head.headers, body, address)
        self._task = self._loop.create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        answer = await respond(self._route.endpoint, request)
        self._task = None
        if self.stage is Stage.ANSWERING:
            self._write(answer)

    def _write(self, answer: Answer) -> None:
        self._closes = self._front.is_stopping or not self._head.keeps_alive
        pieces = response(answer, closes=self._closes)
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        else:
            self._transport.writelines(pieces)
        if not self._is_full:
            self._answered()

    def _answered(self) -> None:
        """The answer has left."""
        if self._closes:
            self._transport.close()
            self._leave()
            return
        self.stage = Stage.AWAITED
        self._since = self._loop.time()
        self._watch(self._since + self._front.limits.idle_timeout_seconds)
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        if self._input:
            self._read()

    # Time

    def _watch(self, deadline: float) -> None:
        # Later is the rule, and needs nothing: the timer looks again when it fires.
        self._deadline = deadline
        if self._timer is None or deadline < self._fires_at:
            if self._timer is not None:
                self._timer.cancel()
            self._fires_at = deadline
            self._timer = self._loop.call_at(deadline, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        if self._deadline > self._loop.time():
            if self._deadline != _NEVER:
                self._watch(self._deadline)
        elif self.stage is Stage.RECEIVING:
            self._part(RelayError("request_timeout"))
        else:
            # Nothing came, or half a head.
            self.close()

    # The end

    def _hand_over(self) -> None:
        address = self._transport.get_extra_info("peername")
        stream = self._let_go(self._input, self._deadline)
        if stream is not None:
            self._front.adopt(stream, address)

    def _part(self, error: RelayError) -> None:
        stream = self._let_go(b"", 0.0)
        if stream is not None:
            words = bare_response(error)
            self._front.farewells.say(stream, words, seconds=FAREWELL_SECONDS, max_bytes=FAREWELL_BYTES)

    def _upgrade(self, end: int) -> bool:
        """Leave the connection to another protocol than HTTP; False if that is not what is asked."""
        if end > self._front.limits.max_header_bytes:
            return False
        protocol = self._front.endpoints.upgrade(self._input[:end], self._input[end:], self._peer)
        if protocol is None:
            return False
        self._leave()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        return True

    def _let_go(self, rest: bytes, deadline: float) -> IOStream | None:
        """The connection as a stream that is somebody else's; None if it is broken already."""
        self._leave()
        try:
            return hand_over(self._transport, rest, deadline, self._front)
        except OSError:
            self._transport.abort()
            return None

    def _leave(self) -> None:
        self.stage = Stage.GONE
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None and self._route.ends_with_client:
            self._task.cancel()
        self._front.leave(self)
