"""WebSocket: one connection that subscribes, publishes and acknowledges, in JSON text frames.

Frames from the client are read one after the other. What is sent to it are ready bytes: a batch is one
write of frames that all subscribers of the topic share.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from actors.ports import Notice
from actors.protocol import Acknowledge, Published, Subscribe, Unsubscribe, Wanted
from actors.stream import Batch, MessageId
from pulsar_relay import frames, wire
from pulsar_relay.accounts.user import READ
from pulsar_relay.errors import ERRORS, RelayError
from pulsar_relay.frames import FrameReader
from pulsar_relay.limits.limiter import Limiter
from pulsar_relay.limits.seats import Seat
from pulsar_relay.relay import Relay
from pulsar_relay.settings import SubscriberSettings
from pulsar_relay.web.caller import ANYBODY, Caller
from pulsar_relay.web.connections import OpenConnections
from pulsar_relay.web.frame_parser import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    FrameParser,
    FramingError,
    close_frame,
    control_frame,
    is_proper_close,
)
from pulsar_relay.web.gate import Gate
from pulsar_relay.web.heartbeat import Heartbeats
from pulsar_relay.web.perimeter import Perimeter
from pulsar_relay.web.publish import Publisher, published_json
from pulsar_relay.web.receiving import ReceivingConnection

logger = logging.getLogger(__name__)

INVALID_TEXT = 1007
"""The close code that the WebSocket protocol has for texts that are not UTF-8."""
FRAMES_AT_ONCE = 100
"""Of one connection; then others have their turn."""
REFUSED_BYTES = 64 * 1024 * 1024
"""How much a peer that broke the protocol may send on, so that it gets to read why it is closed."""

Charged = frames.PublishFrame | frames.SubscribeFrame

_PING = control_frame(PING)


@dataclass(frozen=True, slots=True)
class SocketParts:
    """What the WebSockets of a worker share."""

    relay: Relay
    limits: SubscriberSettings
    reader: FrameReader
    publisher: Publisher
    connections: OpenConnections
    heartbeats: Heartbeats
    gate: Gate
    limiter: Limiter
    encode: Callable[[Sequence[Any]], bytes]
    """Makes the frames of a batch, for the owner of its topic."""
    encode_full: Callable[[Sequence[Any]], bytes]
    """The same for others."""
    perimeter: Perimeter


class WebSocketSink:
    """Writes frames to one connection's outbox."""

    __slots__ = ("_connection", "_encode", "_outbox", "_session_id")

    def __init__(self, connection: RelayWebSocket, encode: Callable[[Sequence[Any]], bytes]) -> None:
        self._connection = connection
        self._outbox = connection.outbox
        self._encode = encode
        self._session_id = f"sess_{secrets.token_hex(6)}"

    def deliver(self, batch: Batch) -> bool:
        return self._outbox.write(batch.encoded(self._encode))

    def notify(self, notice: Notice) -> None:
        self._connection.send(wire.notice_frame(notice, self._told(notice.topic)))

    def subscribed(self, cursors: Mapping[str, MessageId], epochs: Mapping[str, str], ref: object) -> None:
        told = self._told
        confirmed = frames.subscribed(
            {told(topic): cursor for topic, cursor in cursors.items()},
            {told(topic): epoch for topic, epoch in epochs.items()},
            ref,
        )
        self._connection.send({**confirmed, "session_id": self._session_id})

    def unsubscribed(self, topics: Sequence[str], ref: object) -> None:
        self._connection.send(frames.unsubscribed(list(map(self._told, topics)), ref))

    def acknowledged(self, topic: str, message_id: MessageId, ref: object) -> None:
        self._connection.send(frames.acknowledged(self._told(topic), message_id, ref))

    def _told(self, topic: str) -> str:
        return self._connection.caller.told(topic)

    def refuse(self, code: str, detail: str, ref: object) -> None:
        self._connection.send(frames.error(RelayError(code, detail), ref))

    def complete(self, cursors: Mapping[str, MessageId], has_more: bool, failure: str | None) -> None:
        raise AssertionError("a WebSocket is no long-poll")

    def taken_over(self) -> None:
        self._connection.close("taken_over", "; another connection uses this client_id")

    def fail(self) -> None:
        self._connection.close("subscriber_failed")


class UserSocketSink(WebSocketSink):
    """The same for a user, who may read topics of others, too."""

    __slots__ = ("_encode_full", "_prefix")

    def __init__(self, connection: RelayWebSocket, parts: SocketParts) -> None:
        super().__init__(connection, parts.encode)
        self._encode_full = parts.encode_full
        self._prefix = connection.caller.prefix

    def deliver(self, batch: Batch) -> bool:
        is_own = batch.topic.startswith(self._prefix)
        return self._outbox.write(batch.encoded(self._encode if is_own else self._encode_full))


class RelayWebSocket(ReceivingConnection):
    """A WebSocket from its opening handshake, whose answer is `beginning`, to the end of its socket."""

    __slots__ = (
        "_charging",
        "_heard",
        "_is_going_away",
        "_is_held",
        "_parser",
        "_parts",
        "_publishing",
        "_refused_bytes",
        "_renewing",
        "_topics",
    )

    def __init__(
        self, parts: SocketParts, caller: Caller, seat: Seat, *, beginning: bytes, unread: bytes
    ) -> None:
        super().__init__(
            parts.relay, parts.limits, parts.connections, caller, seat, beginning=beginning, unread=unread
        )
        self._parts = parts
        self._parser = FrameParser(parts.limits.max_frame_bytes)
        self._topics: set[str] = set()
        self._publishing = 0
        self._charging: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._heard = 0
        self._is_held = False
        self._is_going_away = False
        self._refused_bytes: int | None = None
        """What came since the peer's last frame that counts; None as long as its frames are read."""

    def begin(self) -> None:
        parts = self._parts
        is_user = self.caller is not ANYBODY
        sink = UserSocketSink(self, parts) if is_user else WebSocketSink(self, parts.encode)
        self.open_subscriber(sink, "websocket")
        self._parts.heartbeats.watch(self)

    def send(self, frame: Any) -> None:
        """One frame, as a JSON value or as JSON text."""
        self.outbox.write_soon(wire.websocket_frame(wire.json_text(frame)))

    def connection_lost(self, error: Exception | None) -> None:
        self._refused_bytes = 0
        super().connection_lost(error)

    @property
    def _is_deaf(self) -> bool:
        return self._refused_bytes is not None

    # ---------------------------------------------------------------------------------------------- frames in

    def data_received(self, data: bytes) -> None:
        # Of a long frame each part that arrives counts.
        self._heard += 1
        if self._refused_bytes is not None:
            self._refused_bytes += len(data)
            if self._refused_bytes > REFUSED_BYTES:
                self._transport.abort()
            return
        self._parser.feed(data)
        if self._is_held:
            # It was held before it had begun to read.
            self._transport.pause_reading()
        else:
            self._read()

    def _read(self) -> None:
        """Take the frames that have come, as far as that is possible now."""
        try:
            for _ in range(FRAMES_AT_ONCE):
                frame = self._parser.next()
                if frame is None:
                    return
                self._take(*frame)
                if self._is_deaf:
                    return
                if self._is_busy():
                    self._hold()
                    return
        except FramingError as error:
            self._refuse(error)
        else:
            self._hold()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            self._answer_close(payload)
        elif self.has_left:
            return
        elif opcode == TEXT:
            self._take_text(payload)
        elif opcode == PING:
            self.outbox.write(control_frame(PONG, payload))
        elif opcode == PONG:
            self._parts.heartbeats.answered(self)
        else:
            assert opcode == BINARY, opcode
            self.send(frames.error(RelayError("binary_frame"), None))

    def _take_text(self, text: bytes) -> None:
        ref: object = None
        try:
            frame = self._parts.reader.read(text)
            ref = frame.ref
            self._obey(frame)
        except frames.FrameError as error:
            if error.code == "invalid_encoding":
                self._close_with(INVALID_TEXT, error.code)
            else:
                self.send(frames.error(error, error.ref))
        except RelayError as error:
            self.send(frames.error(error, ref))
        except Exception:
            # A bug; it ends this connection in the way clients know, and no other.
            logger.exception("websocket: a frame failed")
            self.close("internal_error")

    def _obey(self, frame: frames.Frame) -> None:
        if isinstance(frame, frames.PublishFrame):
            self._charge("publish", frame)
        elif isinstance(frame, frames.AckFrame):
            topic = None if frame.topic is None else self.caller.inside(frame.topic)
            self.subscriber.tell(Acknowledge(topic, frame.message_id, frame.ref))
        elif isinstance(frame, frames.SubscribeFrame):
            self._charge("read", frame)
        elif isinstance(frame, frames.UnsubscribeFrame):
            left = tuple(map(self.caller.inside, frame.topics))
            self._topics.difference_update(left)
            self.subscriber.tell(Unsubscribe(left, frame.ref))
        elif isinstance(frame, frames.AuthenticateFrame):
            self._begin_renewal(frame)
        else:
            self.send(frames.pong(frame.ref))

    # ----------------------------------------------------------------------------------- what costs something

    def _charge(self, rate: str, frame: Charged) -> None:
        """Carry the frame out, if its sender has not asked for too much."""
        who = self.caller.counted_as
        if self._parts.limiter.charge_now(rate, who) is not None:
            self._carry_out(frame)
        else:
            self._charging = asyncio.get_running_loop().create_task(self._wait_for_charge(rate, who, frame))

    async def _wait_for_charge(self, rate: str, who: str | None, frame: Charged) -> None:
        """No other frame is read meanwhile: they are carried out in the order they came."""
        try:
            await self._parts.limiter.charge(rate, who)
            if not self.has_left:
                self._carry_out(frame)
        except RelayError as error:
            self.send(frames.error(error, frame.ref))
        except Exception:
            logger.exception("websocket: a frame failed")
            self.close("internal_error")
        finally:
            self._charging = None
            self._go_on()

    def _carry_out(self, frame: Charged) -> None:
        if isinstance(frame, frames.PublishFrame):
            self._begin_publish(frame)
        else:
            self._subscribe(frame)

    def _subscribe(self, frame: frames.SubscribeFrame) -> None:
        wanted, client_id = frame.wanted, frame.client_id
        if self.caller is not ANYBODY:
            wanted = reached(wanted, self.caller)
            client_id = None if client_id is None else self.caller.client(client_id)
        topics = self._topics | {one.topic for one in wanted}
        if len(topics) > self._limits.max_topics:
            raise RelayError("too_many_subscriptions")
        self._topics = topics
        self.subscriber.tell(Subscribe(wanted, frame.ref, client_id))

    def _begin_publish(self, frame: frames.PublishFrame) -> None:
        """Publishes of one connection run at the same time, in the order they came."""
        if self._is_going_away:
            raise RelayError("shutting_down")
        self._publishing += 1
        told = partial(self._on_published, frame.ref)
        try:
            self._parts.publisher.publish_then(self.caller, frame.request, frame.idempotency_key, told)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is told
            told(error)

    def _on_published(self, ref: object, outcome: Published | Exception) -> None:
        self._publishing -= 1
        if isinstance(outcome, Published):
            self.send(frames.published(published_json(outcome, self.caller), ref))
        elif isinstance(outcome, RelayError):
            self.send(frames.error(outcome, ref))
        else:
            # A bug; the client waits for an answer to this frame, and gets one.
            logger.error("websocket: a publish failed", exc_info=outcome)
            self.send(frames.error(RelayError("internal_error"), ref))
        self._go_on()
        if self._is_going_away and not self._publishing:
            self._close_going_away()

    # ------------------------------------------------------------------------------------- who it belongs to

    def topics_read(self) -> set[str]:
        return self._topics

    def warn(self, expires_at: float) -> None:
        self.send(frames.token_expiring(expires_at))

    def shut_out(self, code: str) -> None:
        self.close(code)

    def _begin_renewal(self, frame: frames.AuthenticateFrame) -> None:
        if self.caller.principal is None:
            raise RelayError("unknown_frame")
        if self._renewing is not None:
            raise RelayError("overloaded", "The token before this one is still being looked at.")
        self._renewing = asyncio.get_running_loop().create_task(self._renew(frame))

    async def _renew(self, frame: frames.AuthenticateFrame) -> None:
        """Go on as the same user with another token."""
        try:
            caller = await self._parts.gate.admit(frame.token, "")
            if caller.scope != self.caller.scope:
                raise RelayError("another_user")
            caller.require(READ)
        except RelayError as error:
            self.send(frames.error(error, frame.ref))
        except Exception:
            logger.exception("websocket: a token could not be looked at")
            self.close("internal_error")
        else:
            if not self.has_left:
                self._go_on_as(caller)
                assert caller.principal is not None
                self.send(frames.authenticated(caller.principal.expires_at, frame.ref))
        finally:
            self._renewing = None

    def _go_on_as(self, caller: Caller) -> None:
        self.caller.leave(self)
        self.caller = caller
        caller.enter(self)

    # -------------------------------------------------------------------------------------------- being held

    def _is_busy(self) -> bool:
        """Who does not read its replies, or publishes faster than the store takes it, is read no further."""
        is_full = self.outbox.is_full or self._publishing >= self._limits.max_inflight_publishes
        return (is_full or self._charging is not None) and not self.has_left

    def _hold(self) -> None:
        self._is_held = True
        self._transport.pause_reading()

    def _go_on(self) -> None:
        """Read on, if it was held and needs not be held any more."""
        if not self._is_held or self._is_deaf or self._is_busy():
            return
        self._is_held = False
        self._heard += 1  # it may have spoken all the time
        self._read()
        if not self._is_held:
            self._transport.resume_reading()

    def on_drained(self) -> None:
        super().on_drained()
        self._go_on()

    # ---------------------------------------------------------------------------------------------- heartbeat

    def ping(self) -> None:
        self.outbox.write(_PING)

    def life(self) -> object:
        return self._heard

    def hold(self) -> object:
        return self.outbox.progress() if self._is_held or self.outbox.size_bytes else None

    def on_silence(self) -> None:
        self.close("ping_timeout")
        # Nobody will answer it. It may still arrive.
        self._transport.close()

    # ------------------------------------------------------------------------------------------------ the end

    def go_away(self) -> None:
        """Close, as soon as the publishes under way are answered; the relay takes no new ones by now."""
        self._is_going_away = True
        if not self._publishing:
            self._close_going_away()

    def _close_going_away(self) -> None:
        self.close("going_away", f"; retry_ms={self._connections.reconnect_milliseconds()}")

    def on_stalled(self) -> None:
        logger.info("websocket: closed, nothing read for %s s", self._limits.stall_limit_seconds)
        # The close frame waits behind what the peer does not read, as long as a farewell may take.
        self.close("slow_subscriber")

    def close(self, code: str, hint: str = "") -> None:
        """Tell why, and give the peer a moment to answer. What it was told first counts."""
        close_code = ERRORS[code].close_code
        assert close_code is not None
        self._close_with(close_code, code + hint)

    def _close_with(self, close_code: int, reason: str) -> None:
        if self.has_left:
            return
        # First: after a close frame there is no other.
        self.leave()
        self._transport.write(close_frame(close_code, reason))
        self.end_soon()
        self._go_on()

    def _answer_close(self, payload: bytes) -> None:
        """The peer closes, or answers our close frame: nothing it sends after that counts."""
        self._refused_bytes = 0
        if not self.has_left:
            self.leave()
            answer = payload[:2] if is_proper_close(payload) else PROTOCOL_ERROR.to_bytes(2, "big")
            self._transport.write(control_frame(CLOSE, answer))
        self._transport.close()
        self.end_soon()

    def _refuse(self, error: FramingError) -> None:
        """A socket closed with unread bytes in it resets the connection, and the peer may lose what it was
        told just before: so end our direction, and read on for a moment.
        """
        self._refused_bytes = 0
        self._close_with(error.close_code, str(error))
        self._transport.write_eof()

    def leave(self) -> None:
        super().leave()
        self._parts.heartbeats.forget(self)


def reached(wanted: Sequence[Wanted], caller: Caller) -> tuple[Wanted, ...]:
    """The same topics by their names inside, each once. Raises RelayError where the caller may not read."""
    found = {topic: one for one in wanted if (topic := caller.reach(one.topic, READ))}
    return tuple(replace(one, topic=topic) for topic, one in found.items())
