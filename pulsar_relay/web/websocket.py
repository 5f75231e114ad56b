"""WebSocket: one connection that subscribes, publishes and acknowledges, in JSON text frames.

Frames from the client are read one after the other. What is sent to it are ready bytes: a batch is one
write of frames that all subscribers of the topic share.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from tornado.websocket import WebSocketHandler, WebSocketProtocol

from actors.ports import Notice
from actors.protocol import Acknowledge, Drained, Subscribe, Unsubscribe
from actors.stream import Batch, MessageId
from pulsar_relay import frames, wire
from pulsar_relay.errors import ERRORS, RelayError
from pulsar_relay.frames import FrameReader
from pulsar_relay.relay import Relay, Subscriber
from pulsar_relay.settings import Settings
from pulsar_relay.web.connections import OpenConnections
from pulsar_relay.web.farewell import Farewells
from pulsar_relay.web.handler import ApiHandler
from pulsar_relay.web.heartbeat import Heartbeat
from pulsar_relay.web.outbox import Outbox
from pulsar_relay.web.publish import Publisher, published_json
from pulsar_relay.web.websocket_protocol import FrameProtocol

logger = logging.getLogger(__name__)

VERSION = "13"
PING_FRAME = b"\x89\x00"
INVALID_TEXT = 1007
"""The close code that the WebSocket protocol has for texts that are not UTF-8."""


class WebSocketSink:
    """Writes frames to one connection's outbox."""

    def __init__(
        self,
        outbox: Outbox,
        encode: Callable[[Sequence[Any]], bytes],
        close: Callable[..., None],
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

    def taken_over(self) -> None:
        self._close("taken_over", "; another connection uses this client_id")

    def fail(self) -> None:
        self._close("subscriber_failed")


class RelayWebSocket(WebSocketHandler, ApiHandler):
    """GET /ws"""

    subscriber: Subscriber
    outbox: Outbox
    sink: WebSocketSink
    protocol: FrameProtocol
    heartbeat: Heartbeat
    leaving: asyncio.Task[None]

    def initialize(
        self,
        relay: Relay,
        settings: Settings,
        frames: FrameReader,
        publisher: Publisher,
        connections: OpenConnections,
        farewells: Farewells,
        encode: Callable[[Sequence[Any]], bytes],
    ) -> None:
        self.relay = relay
        self.limits = settings.subscriber
        self.reader = frames
        self.publisher = publisher
        self.connections = connections
        self.farewells = farewells
        self.encode = encode
        self.topics: set[str] = set()
        self.publishes: set[asyncio.Task[None]] = set()
        self.heard_count = 0
        self.is_held = False
        self.is_closing = False

    # -------------------------------------------------------------------------------------------- the upgrade

    def set_default_headers(self) -> None:
        super().set_default_headers()
        # In a refusal it tells what would be understood.
        self.set_header("Sec-WebSocket-Version", VERSION)

    async def get(self, *args: Any, **kwargs: Any) -> None:
        self._refuse_unless_upgrade()
        if not self.relay.is_accepting:
            raise RelayError("shutting_down")
        self.clear_header("Sec-WebSocket-Version")
        await super().get(*args, **kwargs)

    def _refuse_unless_upgrade(self) -> None:
        headers = self.request.headers
        tokens = [token.strip().lower() for token in headers.get("Connection", "").split(",")]
        if headers.get("Upgrade", "").lower() != "websocket" or "upgrade" not in tokens:
            raise RelayError("upgrade_required")
        if headers.get("Sec-WebSocket-Version") != VERSION:
            raise RelayError("bad_request", f"The version of WebSocket spoken here is {VERSION}.")
        if not headers.get("Sec-WebSocket-Key") or self.request.version != "HTTP/1.1":
            raise RelayError("bad_request", "A WebSocket begins with HTTP/1.1 and a Sec-WebSocket-Key.")
        if not self._comes_from_here():
            raise RelayError(
                "bad_request", "Browsers may open a WebSocket only from a page of the relay's own address."
            )

    def _comes_from_here(self) -> bool:
        """False for a page of another site: its browser would lend it this user's way to the relay.

        Browsers say so themselves, or name the page's address. Behind a proxy `Host` may be the relay's and
        not the one that the browser knows; a page can set neither that nor `X-Forwarded-Host`.
        """
        headers = self.request.headers
        site = headers.get("Sec-Fetch-Site")
        if site is not None:
            return site in ("same-origin", "none")
        origin = headers.get("Origin")
        if origin is None:
            return True  # no browser
        hosts = (headers.get("Host", ""), headers.get("X-Forwarded-Host", ""))
        return urlsplit(origin).netloc.lower() in {host.lower() for host in hosts if host}

    def check_origin(self, origin: str) -> bool:
        # Whoever comes this far was let in above.
        return True

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return "bearer" if "bearer" in subprotocols else None

    def get_compression_options(self) -> dict[str, Any] | None:
        # Compressing per connection would undo the sharing of ready frames.
        return None

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        plain = super().get_websocket_protocol()
        assert plain is not None
        self.protocol = FrameProtocol(self, plain.params, self.farewells)  # type: ignore[attr-defined]
        return self.protocol

    def open(self, *args: str, **kwargs: str) -> None:
        limits, stream = self.limits, self.protocol.stream
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
        self.heartbeat = Heartbeat(
            limits.ping_interval_seconds,
            limits.ping_timeout_seconds,
            limits.stall_limit_seconds,
            ping=lambda: self.outbox.write(PING_FRAME),
            # Of a long frame each part that arrives counts.
            life=lambda: (self.heard_count, stream._read_buffer_size),
            hold=lambda: self.outbox.taken_bytes if self.is_held or self.outbox.size_bytes else None,
            on_silence=self._on_silence,
        )

    # ---------------------------------------------------------------------------------------------- frames in

    def on_text(self, text: bytes) -> Awaitable[None] | None:
        """The next frame is read when what is returned is done."""
        self.heard_count += 1
        if self.is_closing:
            return None
        ref: object = None
        try:
            frame = self.reader.read(text)
            ref = frame.ref
            self._obey(frame)
        except frames.FrameError as error:
            if error.code == "invalid_encoding":
                self._close_with(INVALID_TEXT, error.code)
            else:
                self.sink.send(frames.error(error, error.ref))
        except RelayError as error:
            self.sink.send(frames.error(error, ref))
        except Exception:
            # A bug; it ends this connection in the way clients know, and no other.
            logger.exception("websocket: a frame failed")
            self._close("internal_error")
        return self._hold_if_busy()

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        """Binary frames; texts go to `on_text`."""
        self.heard_count += 1
        self.sink.send(frames.error(RelayError("binary_frame"), None))
        return self._hold_if_busy()

    def on_ping(self, data: bytes) -> None:
        self.heard_count += 1

    def on_pong(self, data: bytes) -> None:
        self.heard_count += 1

    def _obey(self, frame: frames.Frame) -> None:
        if isinstance(frame, frames.PublishFrame):
            self._begin_publish(frame)
        elif isinstance(frame, frames.AckFrame):
            self.subscriber.tell(Acknowledge(frame.topic, frame.message_id, frame.ref))
        elif isinstance(frame, frames.SubscribeFrame):
            topics = self.topics | {wanted.topic for wanted in frame.wanted}
            if len(topics) > self.limits.max_topics:
                raise RelayError("too_many_subscriptions")
            self.topics = topics
            self.subscriber.tell(Subscribe(frame.wanted, frame.ref, frame.client_id))
        elif isinstance(frame, frames.UnsubscribeFrame):
            self.topics.difference_update(frame.topics)
            self.subscriber.tell(Unsubscribe(frame.topics, frame.ref))
        else:
            self.sink.send(frames.pong(frame.ref))

    def _begin_publish(self, frame: frames.PublishFrame) -> None:
        """Publishes of one connection run at the same time, in the order they came."""
        task = asyncio.get_running_loop().create_task(self._publish(frame))
        self.publishes.add(task)
        task.add_done_callback(self.publishes.discard)

    async def _publish(self, frame: frames.PublishFrame) -> None:
        try:
            published = await self.publisher.publish(frame.request, frame.idempotency_key)
        except RelayError as error:
            self.sink.send(frames.error(error, frame.ref))
        except Exception:
            # A bug; the client waits for an answer to this frame, and gets one.
            logger.exception("websocket: a publish failed")
            self.sink.send(frames.error(RelayError("internal_error"), frame.ref))
        else:
            self.sink.send(frames.published(published_json(published, 0), frame.ref))

    def _hold_if_busy(self) -> Awaitable[None] | None:
        """Who does not read its replies, or publishes faster than the store takes it, is read no further."""
        if self.outbox.is_full or len(self.publishes) >= self.limits.max_inflight_publishes:
            return self._hold()
        return None

    async def _hold(self) -> None:
        self.is_held = True
        try:
            await self.outbox.drained()
            while len(self.publishes) >= self.limits.max_inflight_publishes:
                await asyncio.wait(self.publishes, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.is_held = False
            self.heard_count += 1  # it may have spoken all the time

    # ------------------------------------------------------------------------------------------------ the end

    def go_away(self) -> None:
        """Close, as soon as the publishes under way are answered; the relay takes no new ones by now."""
        self.leaving = asyncio.get_running_loop().create_task(self._go_away())

    async def _go_away(self) -> None:
        if self.publishes:
            await asyncio.wait(self.publishes)
        self._close("going_away", f"; retry_ms={self.connections.reconnect_milliseconds()}")

    def on_close(self) -> None:
        self.is_closing = True
        self.connections.discard(self)
        self._leave()

    def _on_drained(self) -> None:
        self.subscriber.tell(Drained())

    def _on_stalled(self) -> None:
        logger.info("websocket: closed, nothing read for %s s", self.limits.stall_limit_seconds)
        # The close frame waits behind what the peer does not read; Tornado gives it five seconds.
        self._close("slow_subscriber")

    def _on_silence(self) -> None:
        self._close("ping_timeout")
        self.protocol.cut()

    def _close(self, code: str, hint: str = "") -> None:
        close_code = ERRORS[code].close_code
        assert close_code is not None
        self._close_with(close_code, code + hint)

    def _close_with(self, close_code: int, reason: str) -> None:
        if not self.is_closing:
            self.is_closing = True
            # First: after a close frame there is no other.
            self._leave()
            self.close(close_code, reason)

    def _leave(self) -> None:
        self.heartbeat.stop()
        self.outbox.close()
        self.subscriber.disconnect()
