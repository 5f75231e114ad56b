"""WebSocket: one connection that subscribes, publishes and acknowledges, in JSON text frames.

Frames from the client are read one after the other. What is sent to it are ready bytes: a batch is one write of frames that all
subscribers of the topic share.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tornado.ioloop import IOLoop
from tornado.websocket import WebSocketHandler

from actors.protocol import Acknowledge, Drained, Notice, Subscribe, Unsubscribe
from actors.stream import Batch, MessageId
from pulsar_relay import frames, wire
from pulsar_relay.errors import ERRORS, RelayError
from pulsar_relay.frames import FrameReader
from pulsar_relay.relay import Relay, Subscriber
from pulsar_relay.settings import Settings
from pulsar_relay.web.connections import OpenConnections
from pulsar_relay.web.handler import ApiHandler
from pulsar_relay.web.outbox import Outbox
from pulsar_relay.web.publish import Publisher, published_json

logger = logging.getLogger(__name__)


class WebSocketSink:
    """Writes frames to one connection's outbox."""

    def __init__(
        self,
        outbox: Outbox,
        encode: Callable[[Sequence[Any]], bytes],
        close: Callable[[str], None],
    ) -> None:
        self._outbox = outbox
        self._encode = encode
        self._close = close
        self._session_id = f"sess_{secrets.token_hex(6)}"

    def send(self, frame: Any) -> None:
        """One reply, as a JSON value or as JSON text."""
        self._outbox.write(wire.websocket_frame(wire.json_text(frame)))

    def deliver(self, batch: Batch) -> bool:
        return self._outbox.write(batch.encoded(self._encode))

    def notify(self, notice: Notice) -> None:
        self.send(wire.notice_frame(notice))

    def subscribed(self, cursors: Mapping[str, MessageId], epochs: Mapping[str, str], ref: object) -> None:
        self.send({**frames.subscribed(cursors, epochs, ref), "session_id": self._session_id})

    def unsubscribed(self, topics: Sequence[str], ref: object) -> None:
        self.send(frames.unsubscribed(topics, ref))

    def acknowledged(self, topic: str, message_id: MessageId, ref: object) -> None:
        self.send(frames.acknowledged(topic, message_id, ref))

    def refuse(self, code: str, detail: str, ref: object) -> None:
        self.send(frames.error(RelayError(code, detail), ref))

    def complete(self, cursors: Mapping[str, MessageId], has_more: bool, failure: str | None) -> None:
        raise AssertionError("a WebSocket is no long-poll")

    def fail(self) -> None:
        self._close("subscriber_failed")


class RelayWebSocket(WebSocketHandler):
    """GET /ws"""

    subscriber: Subscriber | None = None
    sink: WebSocketSink
    outbox: Outbox | None = None

    def initialize(
        self,
        relay: Relay,
        settings: Settings,
        frames: FrameReader,
        publisher: Publisher,
        connections: OpenConnections,
        encode: Callable[[Sequence[Any]], bytes],
    ) -> None:
        self.relay = relay
        self.limits = settings
        self.reader = frames
        self.publisher = publisher
        self.connections = connections
        self.encode = encode
        self.topics: set[str] = set()
        self.publishes: set[asyncio.Task[None]] = set()

    def set_default_headers(self) -> None:
        self.clear_header("Server")

    write_error = ApiHandler.write_error
    log_exception = ApiHandler.log_exception
    allowed_methods = classmethod(lambda cls: ["GET"])

    async def get(self, *args: Any, **kwargs: Any) -> None:
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            raise RelayError("upgrade_required")
        if not self.relay.is_accepting:
            raise RelayError("shutting_down")
        await super().get(*args, **kwargs)

    def check_origin(self, origin: str) -> bool:
        # Who may connect from a browser is decided by the same rule as for HTTP, and without accounts that is the address bound to.
        return super().check_origin(origin)

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return "bearer" if "bearer" in subprotocols else None

    def open(self, *args: str, **kwargs: str) -> None:
        stream = self.ws_connection.stream  # type: ignore[union-attr]
        limits = self.limits.subscriber
        self.outbox = Outbox(
            stream,
            high_bytes=limits.outbox_high_bytes,
            low_bytes=limits.outbox_low_bytes,
            stall_seconds=limits.stall_limit_seconds,
            on_drained=self._on_drained,
            on_stalled=self._on_stalled,
        )
        stream.set_nodelay(True)
        self.sink = WebSocketSink(self.outbox, self.encode, self._close)
        self.subscriber = self.relay.open_subscriber(self.sink, "websocket")
        self.connections.add(self)

    async def on_message(self, message: str | bytes) -> None:
        ref: object = None
        try:
            if isinstance(message, bytes):
                raise RelayError("binary_frame")
            frame = self.reader.read(message.encode("utf-8"))
            ref = frame.ref
            await self._obey(frame)
        except frames.FrameError as error:
            self.sink.send(frames.error(error, error.ref))
        except RelayError as error:
            self.sink.send(frames.error(error, ref))

    async def _obey(self, frame: frames.Frame) -> None:
        assert self.subscriber is not None
        if isinstance(frame, frames.SubscribeFrame):
            topics = self.topics | {wanted.topic for wanted in frame.wanted}
            if len(topics) > self.limits.subscriber.max_topics:
                raise RelayError("too_many_subscriptions")
            self.topics = topics
            self.subscriber.tell(Subscribe(frame.wanted, frame.ref, frame.client_id))
        elif isinstance(frame, frames.UnsubscribeFrame):
            self.topics.difference_update(frame.topics)
            self.subscriber.tell(Unsubscribe(frame.topics, frame.ref))
        elif isinstance(frame, frames.AckFrame):
            self.subscriber.tell(Acknowledge(frame.topic, frame.message_id, frame.ref))
        elif isinstance(frame, frames.PublishFrame):
            await self._begin_publish(frame)
        else:
            self.sink.send(frames.pong(frame.ref))

    async def _begin_publish(self, frame: frames.PublishFrame) -> None:
        """Publishes of one connection run at the same time, in the order they came; at its limit the connection is read no further."""
        while len(self.publishes) >= self.limits.subscriber.max_inflight_publishes:
            await asyncio.wait(self.publishes, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.get_running_loop().create_task(self._publish(frame))
        self.publishes.add(task)
        task.add_done_callback(self.publishes.discard)

    async def _publish(self, frame: frames.PublishFrame) -> None:
        try:
            published = await self.publisher.publish(frame.request, frame.idempotency_key)
        except RelayError as error:
            self.sink.send(frames.error(error, frame.ref))
        else:
            self.sink.send(frames.published(published_json(published, 0), frame.ref))

    def on_close(self) -> None:
        self.connections.discard(self)
        if self.outbox is not None:
            self.outbox.close()
        if self.subscriber is not None:
            self.subscriber.disconnect()

    def go_away(self) -> None:
        self._close("going_away")

    def _on_drained(self) -> None:
        if self.subscriber is not None:
            self.subscriber.tell(Drained())

    def _on_stalled(self) -> None:
        logger.info("websocket: closed, nothing read for %s s", self.limits.subscriber.stall_limit_seconds)
        self._close("slow_subscriber")
        # The close frame waits behind what the peer does not read. It gets the time of a ping, not for ever.
        IOLoop.current().call_later(self.limits.subscriber.ping_timeout_seconds, self._abort)

    def _abort(self) -> None:
        if self.ws_connection is not None:
            self.ws_connection._abort()

    def _close(self, code: str) -> None:
        self.close(ERRORS[code].close_code, code)

    def get_compression_options(self) -> dict[str, Any] | None:
        # Compressing per connection would undo the sharing of ready frames.
        return None
