"""Server-Sent Events: one-way streams over plain HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.ioloop import PeriodicCallback

from actors.protocol import Drained, Notice, Start, Subscribe, Wanted
from actors.stream import Batch, MessageId
from pulsar_relay import wire
from pulsar_relay.errors import RelayError
from pulsar_relay.cursors import encode_positions, place
from pulsar_relay.relay import Subscriber
from pulsar_relay.requests import RequestReader, StreamRequest
from pulsar_relay.web.handler import ApiHandler
from pulsar_relay.web.outbox import Outbox

logger = logging.getLogger(__name__)

RECONNECT_MILLISECONDS = 2000


class UnchunkedOutbox(Outbox):
    """For HTTP/1.0, which a proxy in its default settings may speak: the same events without the chunks around them."""

    __slots__ = ()

    def write(self, data: bytes) -> bool:
        return super().write(data[data.index(b"\r\n") + 2 : -2])


class EventSink:
    """Writes events to one response. With several topics an event's id carries the position in all of them."""

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

    def comment(self, text: str) -> None:
        self._outbox.write(wire.sse_comment(text))

    def send(self, name: str, data: bytes) -> None:
        self._outbox.write(wire.sse_event(name, data, self._event_id()))

    def deliver(self, batch: Batch) -> bool:
        if len(self._topics) == 1:
            return self._outbox.write(batch.encoded(self._encode))
        self._positions[batch.topic] = batch.last
        return self._outbox.write(wire.sse_events_with(batch.messages, self._event_id() or ""))

    def _event_id(self) -> str | None:
        if not self._positions:
            return None
        if len(self._topics) == 1:
            return str(self._positions[self._topics[0]])
        return encode_positions({topic: self._positions[topic] for topic in self._topics})

    def notify(self, notice: Notice) -> None:
        self._outbox.write(wire.sse_event("notice", wire.json_text(wire.notice_frame(notice)), None))

    def subscribed(self, cursors: Mapping[str, MessageId], epochs: Mapping[str, str], ref: object) -> None:
        self._positions.update(cursors)
        value = {
            "type": "subscribed",
            "cursors": {topic: str(cursor) for topic, cursor in cursors.items()},
            "epochs": epochs,
        }
        self.send("subscribed", wire.json_text(value))

    def refuse(self, code: str, detail: str, ref: object) -> None:
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

    subscriber: Subscriber | None = None
    outbox: Outbox | None = None
    sink: EventSink

    def initialize(
        self,
        reader: RequestReader,
        encode: Callable[[Sequence[Any]], bytes],
        **kwargs: Any,
    ) -> None:
        super().initialize(**kwargs)
        self.reader = reader
        self.encode = encode

    async def get(self) -> None:
        last_event_id = self.request.headers.get("Last-Event-ID")
        request = self.reader.stream_query(self.request.query_arguments, last_event_id)
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        if not self.relay.is_accepting:
            raise RelayError("shutting_down")
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")
        await self.flush()
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open(request, connection)
        keepalive = PeriodicCallback(
            self._keep_alive, self.limits.subscriber.keepalive_interval_seconds * 1000
        )
        keepalive.start()
        try:
            await self._closed
        finally:
            keepalive.stop()
            self._close()

    def _open(self, request: StreamRequest, connection: HTTP1Connection) -> None:
        limits = self.limits.subscriber
        outbox_type = Outbox if self.request.version == "HTTP/1.1" else UnchunkedOutbox
        self.outbox = outbox_type(
            connection.stream,
            high_bytes=limits.outbox_high_bytes,
            low_bytes=limits.outbox_low_bytes,
            stall_seconds=limits.stall_limit_seconds,
            on_drained=self._on_drained,
            on_stalled=self._on_stalled,
        )
        connection.stream.set_nodelay(True)
        self.sink = EventSink(self.outbox, request.topics, self.encode, self.go_away)
        self.outbox.write(wire.sse_retry(RECONNECT_MILLISECONDS))
        self.subscriber = self.relay.open_subscriber(self.sink, "sse")
        self.connections.add(self)
        self.subscriber.tell(Subscribe(_wanted(request)))

    def _keep_alive(self) -> None:
        self.sink.comment("")

    def _on_drained(self) -> None:
        if self.subscriber is not None:
            self.subscriber.tell(Drained())

    def _on_stalled(self) -> None:
        logger.info("sse: closed, nothing read for %s s", self.limits.subscriber.stall_limit_seconds)
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        connection.close()
        self.on_connection_close()

    def on_connection_close(self) -> None:
        self._end()

    def go_away(self) -> None:
        """End the response: the client's EventSource comes back by itself, with its last event id."""
        self._end()

    def _end(self) -> None:
        if not self._closed.done():
            self._closed.set_result(None)

    def _close(self) -> None:
        self.connections.discard(self)
        if self.outbox is not None:
            self.outbox.close()
        if self.subscriber is not None:
            self.subscriber.disconnect()


def _wanted(request: StreamRequest) -> tuple[Wanted, ...]:
    since = request.since or {}
    return tuple(
        Wanted(topic, place(since[topic]) if topic in since else Start.LATEST)
        for topic in dict.fromkeys(request.topics)
    )
