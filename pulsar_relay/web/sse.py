"""Server-Sent Events: one-way streams over plain HTTP."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tornado.httputil import format_timestamp
from tornado.iostream import StreamClosedError

from actors.ports import Notice
from actors.protocol import Subscribe
from actors.stream import Batch, MessageId
from pulsar_relay import frames, wire
from pulsar_relay.accounts.user import READ
from pulsar_relay.cursors import encode_positions
from pulsar_relay.errors import RelayError
from pulsar_relay.limits.seats import Seat
from pulsar_relay.relay import Relay
from pulsar_relay.requests import RequestReader, StreamRequest
from pulsar_relay.settings import SubscriberSettings
from pulsar_relay.web.beginnings import beginnings
from pulsar_relay.web.caller import ANYBODY, Caller
from pulsar_relay.web.connections import OpenConnections
from pulsar_relay.web.detaching import hand_over, take_socket
from pulsar_relay.web.handler import ApiHandler
from pulsar_relay.web.outbox import Outbox
from pulsar_relay.web.receiving import ReceivingConnection
from pulsar_relay.web.upgrade import shown_by

logger = logging.getLogger(__name__)

RECONNECT_MILLISECONDS = 2000
DEPOSED_MILLISECONDS = 60_000

_HEAD = (
    "HTTP/1.1 200 OK\r\n"
    "Content-Type: text/event-stream; charset=utf-8\r\n"
    "Cache-Control: no-store\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "X-Accel-Buffering: no\r\n"
    "Connection: close\r\n"
)


class UnchunkedOutbox(Outbox):
    """For HTTP/1.0, which a proxy in its default settings may speak: the same events without the chunks
    around them.
    """

    __slots__ = ()

    def write(self, data: bytes) -> bool:
        return super().write(data[data.index(b"\r\n") + 2 : -2])


@dataclass(frozen=True, slots=True)
class StreamParts:
    """What the event streams of a worker share."""

    relay: Relay
    limits: SubscriberSettings
    reader: RequestReader
    connections: OpenConnections
    encode: Callable[[Sequence[Any]], bytes]
    """Makes the events of a batch, for the owner of its topic."""
    encode_full: Callable[[Sequence[Any]], bytes]
    """The same for others."""


class EventSink:
    """Writes events to one response; with several topics an event's id carries the position in all."""

    __slots__ = ("_encode", "_outbox", "_positions", "_stream", "_topics")

    def __init__(
        self, stream: EventStream, topics: Sequence[str], encode: Callable[[Sequence[Any]], bytes]
    ) -> None:
        self._stream = stream
        self._outbox = stream.outbox
        self._topics = topics
        self._positions: dict[str, MessageId] = {}
        self._encode = encode

    def deliver(self, batch: Batch) -> bool:
        if len(self._topics) == 1:
            return self._outbox.write(batch.encoded(self._encode))
        self._positions[batch.topic] = batch.last
        prefix = self._stream.caller.prefix
        return self._outbox.write(wire.sse_events_with(batch.messages, self._position(), prefix))

    def notify(self, notice: Notice) -> None:
        told = wire.notice_frame(notice, self._stream.caller.told(notice.topic))
        self._outbox.write(wire.sse_event("notice", wire.json_text(told), None))

    def subscribed(self, cursors: Mapping[str, MessageId], epochs: Mapping[str, str], ref: object) -> None:
        self._positions.update(cursors)
        name = self._stream.caller.told
        value = {
            "type": "subscribed",
            "cursors": {name(topic): str(cursor) for topic, cursor in cursors.items()},
            "epochs": {name(topic): epoch for topic, epoch in epochs.items()},
        }
        # With an id: a client that is cut off before its first message comes back to the same place.
        self._outbox.write(wire.sse_event("subscribed", wire.json_text(value), self._position()))

    def _position(self) -> str:
        if len(self._topics) == 1:
            return str(self._positions[self._topics[0]])
        # By the names that the client comes back with.
        name = self._stream.caller.told
        return encode_positions({name(topic): self._positions[topic] for topic in self._topics})

    def refuse(self, code: str, detail: str, ref: object) -> None:
        self._stream.end()

    def taken_over(self) -> None:
        # An EventSource comes back whatever it is told; at least not at once.
        self._outbox.write(wire.sse_retry(DEPOSED_MILLISECONDS))
        self._stream.end_with("taken_over")

    def fail(self) -> None:
        self._stream.end()

    def complete(self, cursors: Mapping[str, MessageId], has_more: bool, failure: str | None) -> None:
        raise AssertionError("a stream is no long-poll")

    # A stream's topics are fixed by its request, and there is nobody to acknowledge.

    def unsubscribed(self, topics: Sequence[str], ref: object) -> None: ...

    def acknowledged(self, topic: str, message_id: MessageId, ref: object) -> None: ...


class EventStream(ReceivingConnection):
    """The response to one request, from its head, which is `beginning`, to the end of its socket."""

    __slots__ = ("_encode", "_keepalive", "_request")

    last_chunk: ClassVar[bytes] = b"0\r\n\r\n"
    _keepalive: asyncio.TimerHandle

    def __init__(
        self,
        parts: StreamParts,
        request: StreamRequest,
        caller: Caller,
        seat: Seat,
        *,
        beginning: bytes,
        unread: bytes,
    ) -> None:
        super().__init__(
            parts.relay, parts.limits, parts.connections, caller, seat, beginning=beginning, unread=unread
        )
        topics = request.topics
        # Of one topic all messages have the same names; of several each has the one that fits it.
        is_own = len(topics) > 1 or topics[0].startswith(caller.prefix)
        self._encode = parts.encode if is_own else parts.encode_full
        self._request = request

    def begin(self) -> None:
        self.outbox.write(wire.sse_retry(RECONNECT_MILLISECONDS))
        self._keep_alive_later()
        request = self._request
        self.open_subscriber(EventSink(self, request.topics, self._encode), "sse")
        wanted = beginnings(request.topics, request.since, {})
        self.subscriber.tell(Subscribe(wanted, client_id=request.client_id))

    def _keep_alive_later(self) -> None:
        seconds = self._limits.keepalive_interval_seconds
        self._keepalive = asyncio.get_running_loop().call_later(seconds, self._keep_alive)

    def _keep_alive(self) -> None:
        if not self.outbox.is_full:
            self.outbox.write(wire.sse_comment(""))
        self._keep_alive_later()

    def data_received(self, data: bytes) -> None:
        """The client has said all it has to say: the connection is for one response, and its head says so."""

    def on_stalled(self) -> None:
        logger.info("sse: closed, nothing read for %s s", self._limits.stall_limit_seconds)
        self.leave()
        self._transport.abort()

    def go_away(self) -> None:
        """End the response: the client's EventSource comes back by itself, with its last event id."""
        self.outbox.write(wire.sse_retry(self._connections.reconnect_milliseconds()))
        self.end()

    def topics_read(self) -> Sequence[str]:
        return self._request.topics

    def warn(self, expires_at: float) -> None:
        told = frames.token_expiring(expires_at)
        self.outbox.write(wire.sse_event("token_expiring", wire.json_text(told), None))

    def shut_out(self, code: str) -> None:
        self.end_with(code)

    def end_with(self, code: str) -> None:
        """Say why, in an event of that name, and end."""
        if not self.has_left:
            told = frames.error(RelayError(code), None)
            self.outbox.write(wire.sse_event(code, wire.json_text(told), None))
            self.end()

    def end(self) -> None:
        """End the response. May be called again."""
        if not self.has_left:
            self.leave()
            self._transport.write(self.last_chunk)
            self._transport.close()
            self.end_soon()

    def leave(self) -> None:
        if not self.has_left:
            self._keepalive.cancel()
        super().leave()


class UnchunkedEventStream(EventStream):
    """For HTTP/1.0: nothing but the connection's end tells where the response ends."""

    __slots__ = ()

    outbox_type = UnchunkedOutbox
    last_chunk = b""


class StreamHandler(ApiHandler):
    """GET /api/v1/stream"""

    is_public = True

    def initialize(self, streams: StreamParts) -> None:
        self.streams = streams

    async def get(self) -> None:
        streams = self.streams
        shown = shown_by(self.request.headers, self.request.query)
        caller = await self.gate.admit(shown, self.client_address)
        if caller.principal is not None:
            caller.require(READ)
        request = self._asked(caller)
        if not streams.relay.is_accepting:
            raise RelayError("shutting_down")
        told = (await self.limiter.charge("read", caller.counted_as)).headers
        seat = await self.limiter.take_connection(caller.counted_as)
        try:
            await self._begin(request, caller, seat, told)
        except StreamClosedError:
            seat.leave()
        except BaseException:
            seat.leave()
            raise

    async def _begin(
        self, request: StreamRequest, caller: Caller, seat: Seat, limits: Mapping[str, str]
    ) -> None:
        streams = self.streams
        connection, unread = take_socket(self.detach())
        _give_up_after(connection, streams.limits.stall_limit_seconds)
        told = [*limits.items(), *self.perimeter.told_to_page(self.request.headers.get("Origin"))]
        is_chunked = self.request.version == "HTTP/1.1"
        beginning = _head(told, is_chunked=is_chunked)
        make = EventStream if is_chunked else UnchunkedEventStream
        await hand_over(connection, make(streams, request, caller, seat, beginning=beginning, unread=unread))

    def _asked(self, caller: Caller) -> StreamRequest:
        last_event_id = self.request.headers.get("Last-Event-ID")
        try:
            request = self.streams.reader.stream_query(self.request.query_arguments, last_event_id)
            return request if caller is ANYBODY else reached(request, caller)
        except RelayError as error:
            if caller is ANYBODY or caller.principal is not None or error.kind.is_retryable:
                raise
            # As at the gate: whatever is wrong with the request, first of all it is nobody's.
            raise RelayError("unauthenticated") from None


def reached(request: StreamRequest, caller: Caller) -> StreamRequest:
    """The request with the names that things have inside. Raises RelayError where the caller may not read."""
    topics = list(dict.fromkeys([caller.reach(name, READ) for name in request.topics]))
    since = request.since and {caller.inside(name): cursor for name, cursor in request.since.items()}
    client_id = None if request.client_id is None else caller.client(request.client_id)
    return StreamRequest(topics, since, client_id)


def _head(told: Iterable[tuple[str, str]], *, is_chunked: bool) -> bytes:
    chunked = "Transfer-Encoding: chunked\r\n" if is_chunked else ""
    lines = "".join([f"{name}: {value}\r\n" for name, value in told])
    return f"{_HEAD}Date: {format_timestamp(time.time())}\r\n{lines}{chunked}\r\n".encode("latin-1")


def _give_up_after(connection: socket.socket, seconds: float) -> None:
    """Have the kernel drop a peer that has acknowledged nothing for so long. A client of a stream says
    nothing by itself, and one whose machine is gone would be written to for a quarter of an hour. Later than
    the outbox would, which tells who was cut off and why.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT") and connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int((seconds + 1) * 1000))
