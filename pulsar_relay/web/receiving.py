"""ReceivingConnection: what a WebSocket and an event stream are alike in, once HTTP has handed them over."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import ClassVar, cast

from actors.ports import Sink
from actors.protocol import Drained
from pulsar_relay.limits.seats import Seat
from pulsar_relay.relay import Relay, Subscriber
from pulsar_relay.settings import SubscriberSettings
from pulsar_relay.web.caller import Caller
from pulsar_relay.web.connections import OpenConnections
from pulsar_relay.web.outbox import Outbox

FAREWELL_SECONDS = 5.0
"""How long a peer may take over the end: to read what was written, and to answer a close frame."""


class ReceivingConnection(asyncio.Protocol, ABC):
    """One client's connection: its socket, its outbox, its subscriber; and a guest, as long as it receives.

    `beginning` is what is written first, `unread` what the client sent behind its request; `seat` is the
    caller's, until it receives no more.
    """

    __slots__ = (
        "_beginning",
        "_connections",
        "_end_timer",
        "_limits",
        "_relay",
        "_seat",
        "_transport",
        "_unread",
        "caller",
        "has_left",
        "outbox",
        "subscriber",
    )

    outbox_type: ClassVar[type[Outbox]] = Outbox
    outbox: Outbox
    subscriber: Subscriber
    _transport: asyncio.Transport

    def __init__(
        self,
        relay: Relay,
        limits: SubscriberSettings,
        connections: OpenConnections,
        caller: Caller,
        seat: Seat,
        *,
        beginning: bytes,
        unread: bytes,
    ) -> None:
        self._relay = relay
        self._limits = limits
        self._connections = connections
        self.caller = caller
        self._seat = seat
        self._beginning = beginning
        self._unread = unread
        self._end_timer: asyncio.TimerHandle | None = None
        self.has_left = False
        """It receives no more; the socket may be open for a moment yet."""

    @abstractmethod
    def begin(self) -> None:
        """The connection is open, and `beginning` on its way."""

    @abstractmethod
    def go_away(self) -> None:
        """See `Leaving`."""

    @abstractmethod
    def topics_read(self) -> Collection[str]:
        """See `Guest`, as the next two."""

    @abstractmethod
    def warn(self, expires_at: float) -> None:
        """See `topics_read`."""

    @abstractmethod
    def shut_out(self, code: str) -> None:
        """See `topics_read`."""

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        limits = self._limits
        self.outbox = self.outbox_type(
            self._transport,
            self,
            high_bytes=limits.outbox_high_bytes,
            low_bytes=limits.outbox_low_bytes,
            stall_seconds=limits.stall_limit_seconds,
        )
        if not self._relay.is_accepting:
            # The relay was told to stop just now, and has told all others.
            self.has_left = True
            self._seat.leave()
            self._transport.close()
            return
        self._transport.write(self._beginning)
        self._connections.add(self)
        self._connections.socket_count += 1
        self.begin()
        if not self.has_left:
            self.caller.enter(self)
        unread, self._beginning, self._unread = self._unread, b"", b""
        if unread:
            self.data_received(unread)

    def pause_writing(self) -> None:
        self.outbox.pause_writing()

    def resume_writing(self) -> None:
        self.outbox.resume_writing()

    def eof_received(self) -> None:
        """Who ends its direction is gone: the transport closes when this returns."""
        self.leave()
        self.end_soon()

    def connection_lost(self, error: Exception | None) -> None:
        if self._end_timer is not None:
            self._end_timer.cancel()
        self.leave()
        if self._connections.discard(self):
            self._connections.socket_count -= 1

    # What the outbox tells

    def on_drained(self) -> None:
        self.subscriber.tell(Drained())

    @abstractmethod
    def on_stalled(self) -> None:
        """See `OutboxOwner`."""

    # The end

    def open_subscriber(self, sink: Sink, transport_name: str) -> None:
        self.subscriber = self._relay.open_subscriber(sink, transport_name)

    def leave(self) -> None:
        """Receive no more. May be called again."""
        if not self.has_left:
            self.has_left = True
            self.caller.leave(self)
            self._seat.leave()
            self.outbox.close()
            self.subscriber.disconnect()

    def end_soon(self) -> None:
        """Have the socket closed in `FAREWELL_SECONDS`, whatever has not gone out by then."""
        if self._end_timer is None:
            loop = asyncio.get_running_loop()
            self._end_timer = loop.call_later(FAREWELL_SECONDS, self._transport.abort)
