"""The address of the WebSocket: how a request becomes one, or is refused in HTTP."""

from __future__ import annotations

import re
from typing import Any

from tornado.iostream import StreamClosedError

from pulsar_relay.errors import RelayError
from pulsar_relay.web.detaching import hand_over, take_socket
from pulsar_relay.web.handler import ApiHandler
from pulsar_relay.web.handshake import VERSION, read_headers, refuse_unless_upgrade, upgrade_response
from pulsar_relay.web.websocket import RelayWebSocket, SocketParts


class PlainUpgrade:
    """Accepts, from the bytes of a request's head, what can be accepted. All else is for Tornado to read, and
    for `UpgradeHandler` to refuse.
    """

    def __init__(self, path: str, sockets: SocketParts) -> None:
        # A query means nothing here. Tokens of clients that know other relays may be in it.
        self._line = re.compile(rb"GET " + re.escape(path.encode()) + rb"(?:\?[!-~]*)? HTTP/1\.1\r\n")
        self._sockets = sockets

    def __call__(self, head: bytes, unread: bytes) -> RelayWebSocket | None:
        """See `Upgrade`."""
        if self._line.match(head) is None:
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
        except RelayError:
            return None
        return RelayWebSocket(self._sockets, beginning=upgrade_response(headers), unread=unread)


class UpgradeHandler(ApiHandler):
    """GET /ws, for requests that Tornado has read."""

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
        try:
            connection, unread = take_socket(self.detach())
        except StreamClosedError:
            return
        response = upgrade_response(headers)
        await hand_over(connection, RelayWebSocket(self.sockets, beginning=response, unread=unread))
