"""Server-Sent Events: one-way streams over plain HTTP."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.iostream import IOStream, StreamClosedError

from actors.ports import Notice
from actors.protocol import Drained, Subscribe
from actors.stream import Batch, MessageId
from pulsar_relay import frames, wire
from pulsar_relay.cursors import encode_positions
from pulsar_relay.errors import RelayError
from pulsar_relay.relay import Relay, Subscriber
from pulsar_relay.requests import RequestReader, StreamRequest
from pulsar_relay.settings import Settings
from pulsar_relay.web.beginnings import beginnings
from pulsar_relay.web.connections import OpenConnections
from pulsar_relay.web.handler import ApiHandler
from pulsar_relay.web.outbox import Outbox

logger = logging.getLogger(__name__)

RECONNECT_MILLISECONDS = 2000
DEPOSED_MILLISECONDS = 60_000


class UnchunkedOutbox(Outbox):
    """For HTTP/1.0, which a proxy in its default settings may speak: the same events without the chunks
    around them.
    """

    __slots__ = ()

    def write(self, data: bytes) -> bool:
        return super().write(data[data.index(b"\r\n") + 2 : -2])


class EventSink:
    """Writes events to one response; with several topics an event's id carries the position in all."""

    def __init__(
        self,
        outbox: Outbox,
        topics: Sequence[str],
        encode: Callable[[Sequence[Any]], bytes],
        end: Callable[[], None],
    ) -> None:
        self._outbox = outbox
        self._topics = topics
        self._positions: dict[str, MessageId] = {}
        self._encode = encode
        self._end = end

    def deliver(self, batch: Batch) -> bool:
        if len(self._topics) == 1:
            return self._outbox.write(batch.encoded(self._encode))
        self._positions[batch.topic] = batch.last
        return self._outbox.write(wire.sse_events_with(batch.messages, self._position()))

    def notify(self, notice: Notice) -> None:
        self._outbox.write(wire.sse_event("notice", wire.json_text(wire.notice_frame(notice)), None))

    def subscribed(self, cursors: Mapping[str, MessageId], epochs: Mapping[str, str], ref: object) -> None:
        self._positions.update(cursors)
        told = {topic: str(cursor) for topic, cursor in cursors.items()}
        value = {"type": "subscribed", "cursors": told, "epochs": epochs}
        # With an id: a client that is cut off before its first message comes back to the same place.
        self._outbox.write(wire.sse_event("subscribed", wire.json_text(value), self._position()))

    def _position(self) -> str:
        if len(self._topics) == 1:
            return str(self._positions[self._topics[0]])
        return encode_positions({topic: self._positions[topic] for topic in self._topics})

    def refuse(self, code: str, detail: str, ref: object) -> None:
        self._end()

    def taken_over(self) -> None:
        # An EventSource comes back whatever it is told; at least not at once.
        self._outbox.write(wire.sse_retry(DEPOSED_MILLISECONDS))
        told = frames.error(RelayError("taken_over"), None)
        self._outbox.write(wire.sse_event("taken_over", wire.json_text(told), None))
        self._end()

    def fail(self) -> None:
        self._end()

    def complete(self, cursors: Mapping[str, MessageId], has_more: bool, failure: str | None) -> None:
        raise AssertionError("a stream is no long-poll")

    # A stream's topics are fixed by its request, and there is nobody to acknowledge.

    def unsubscribed(self, topics: Sequence[str], ref: object) -> None: ...

    def acknowledged(self, topic: str, message_id: MessageId, ref: object) -> None: ...


class StreamHandler(ApiHandler):
    """GET /api/v1/stream"""

    subscriber: Subscriber
    outbox: Outbox
    keepalive: asyncio.TimerHandle

    def initialize(
        self,
        relay: Relay,
        settings: Settings,
        reader: RequestReader,
        connections: OpenConnections,
        encode: Callable[[Sequence[Any]], bytes],
    ) -> None:
        self.relay = relay
        self.limits = settings.subscriber
        self.reader = reader
        self.connections = connections
        self.encode = encode
        self.is_chunked = self.request.version == "HTTP/1.1"
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def get(self) -> None:
        last_event_id = self.request.headers.get("Last-Event-ID")
        request = self.reader.stream_query(self.request.query_arguments, last_event_id)
        if not self.relay.is_accepting:
            raise RelayError("shutting_down")
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        self._begin(connection.stream)
        self._subscribe(request)
        await self.ended
        self._leave()
        if not self.is_chunked:
            with suppress(StreamClosedError):
                await self.finish()
            connection.close()

    def _begin(self, stream: IOStream) -> None:
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        self.set_header("X-Accel-Buffering", "no")
        if not self.is_chunked:
            # Nothing but the connection's end will tell where this response ends.
            self.request.headers["Connection"] = "close"
        # The headers are the first bytes in the stream's buffer; what follows needs not wait for them.
        self.flush()
        limits = self.limits
        self.outbox = (Outbox if self.is_chunked else UnchunkedOutbox)(
            stream,
            high_bytes=limits.outbox_high_bytes,
            low_bytes=limits.outbox_low_bytes,
            stall_seconds=limits.stall_limit_seconds,
            on_drained=self._on_drained,
            on_stalled=self._on_stalled,
        )
        if not stream.closed():
            stream.set_nodelay(True)
            _give_up_after(stream.socket, limits.stall_limit_seconds)
        self.outbox.write(wire.sse_retry(RECONNECT_MILLISECONDS))
        self._keep_alive_later()

    def _subscribe(self, request: StreamRequest) -> None:
        sink = EventSink(self.outbox, request.topics, self.encode, self._end)
        self.subscriber = self.relay.open_subscriber(sink, "sse")
        self.connections.add(self)
        wanted = beginnings(request.topics, request.since, {})
        self.subscriber.tell(Subscribe(wanted, client_id=request.client_id))

    def _keep_alive_later(self) -> None:
        seconds = self.limits.keepalive_interval_seconds
        self.keepalive = asyncio.get_running_loop().call_later(seconds, self._keep_alive)

    def _keep_alive(self) -> None:
        if not self.outbox.is_full:
            self.outbox.write(wire.sse_comment(""))
        self._keep_alive_later()

    def _on_drained(self) -> None:
        self.subscriber.tell(Drained())

    def _on_stalled(self) -> None:
        logger.info("sse: closed, nothing read for %s s", self.limits.stall_limit_seconds)
        self.request.connection.close()  # type: ignore[union-attr]
        self._end()

    def on_connection_close(self) -> None:
        self._end()

    def go_away(self) -> None:
        """End the response: the client's EventSource comes back by itself, with its last event id."""
        self.outbox.write(wire.sse_retry(self.connections.reconnect_milliseconds()))
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _leave(self) -> None:
        self.keepalive.cancel()
        self.connections.discard(self)
        self.outbox.close()
        self.subscriber.disconnect()


def _give_up_after(connection: socket.socket, seconds: float) -> None:
    """Have the kernel drop a peer that has acknowledged nothing for so long. A client of a stream says
    nothing by itself, and one whose machine is gone would be written to for a quarter of an hour. Later than
    the outbox would, which tells who was cut off and why.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT") and connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int((seconds + 1) * 1000))
