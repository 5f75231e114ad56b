"""The address of the WebSocket: how a request becomes one, or is refused in HTTP."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs

from tornado.iostream import StreamClosedError

from pulsar_relay.accounts.user import READ
from pulsar_relay.errors import RelayError
from pulsar_relay.limits.seats import Seat
from pulsar_relay.web.caller import Caller
from pulsar_relay.web.detaching import hand_over, take_socket
from pulsar_relay.web.gate import Gate, bearer
from pulsar_relay.web.handler import ApiHandler
from pulsar_relay.web.handshake import (
    VERSION,
    offered_token,
    read_headers,
    refuse_unless_upgrade,
    upgrade_response,
)
from pulsar_relay.web.perimeter import Headers
from pulsar_relay.web.websocket import RelayWebSocket, SocketParts


class PlainUpgrade:
    """Accepts, from the bytes of a request's head, what can be accepted. All else is for Tornado to read, and
    for `UpgradeHandler` to refuse.
    """

    def __init__(self, path: str, sockets: SocketParts, gate: Gate) -> None:
        self._line = re.compile(rb"GET " + re.escape(path.encode()) + rb"(?:\?([!-~]*))? HTTP/1\.1\r\n")
        self._sockets = sockets
        self._gate = gate

    def __call__(self, head: bytes, unread: bytes, peer: str) -> RelayWebSocket | None:
        """See `Upgrade`."""
        line = self._line.match(head)
        if line is None:
            return None
        headers = read_headers(head)
        perimeter = self._sockets.perimeter
        if (
            headers is None
            or not self._sockets.relay.is_accepting
            or not perimeter.admits_host(headers["host"])
        ):
            return None
        try:
            refuse_unless_upgrade(headers, "HTTP/1.1", perimeter)
            address = peer
            if perimeter.has_proxies:
                address = perimeter.address(peer, (headers.get(perimeter.proxies.header, ""),))
            caller = self._gate.recall(shown_by(headers, (line[1] or b"").decode("ascii")), address)
            if caller is None:
                return None
            caller.require_user()
            caller.require(READ)
            seat = self._seat(caller.counted_as)
        except RelayError:
            return None
        if seat is None:
            return None
        beginning = upgrade_response(headers)
        return RelayWebSocket(self._sockets, caller, seat, beginning=beginning, unread=unread)

    def _seat(self, who: str | None) -> Seat | None:
        """None where it is for `UpgradeHandler` to wait for, or to refuse. RelayError `rate_limited`."""
        limiter = self._sockets.limiter
        return None if limiter.charge_now("read", who) is None else limiter.take_connection_now(who)


def shown_by(headers: Headers, query: str) -> str | None:
    """The token that a client shows which opens a WebSocket or an event stream. Browsers let a page set no
    header on either; on an EventSource there is nothing but the address.
    """
    shown = bearer(headers.get("authorization")) or offered_token(headers)
    if shown is None and "access_token=" in query:
        found = parse_qs(query, max_num_fields=100).get("access_token")
        shown = found[0] if found else None
    return shown


class UpgradeHandler(ApiHandler):
    """GET /ws, for requests that Tornado has read. Not for who has not signed in: what they may read they can
    poll.
    """

    is_public = True

    def initialize(self, sockets: SocketParts) -> None:
        self.sockets = sockets

    def set_default_headers(self) -> None:
        super().set_default_headers()
        # In a refusal it tells what would be understood.
        self.set_header("Sec-WebSocket-Version", VERSION)

    async def get(self, *args: Any, **kwargs: Any) -> None:
        headers = self.request.headers
        refuse_unless_upgrade(headers, self.request.version, self.sockets.perimeter)
        if not self.sockets.relay.is_accepting:
            raise RelayError("shutting_down")
        caller = await self.gate.admit(shown_by(headers, self.request.query), self.client_address)
        caller.require_user()
        caller.require(READ)
        await self.limiter.charge("read", caller.counted_as)
        seat = await self.limiter.take_connection(caller.counted_as)
        try:
            await self._begin(caller, seat)
        except StreamClosedError:
            seat.leave()
        except BaseException:
            seat.leave()
            raise

    async def _begin(self, caller: Caller, seat: Seat) -> None:
        connection, unread = take_socket(self.detach())
        beginning = upgrade_response(self.request.headers)
        await hand_over(
            connection, RelayWebSocket(self.sockets, caller, seat, beginning=beginning, unread=unread)
        )
