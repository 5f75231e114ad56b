"""The address of the WebSocket: refuses in HTTP what cannot be, and hands the connection over."""

from __future__ import annotations

from typing import Any

from tornado.iostream import StreamClosedError

from pulsar_relay.errors import RelayError
from pulsar_relay.web.detaching import hand_over, take_socket
from pulsar_relay.web.handler import ApiHandler
from pulsar_relay.web.handshake import VERSION, refuse_unless_upgrade, upgrade_response
from pulsar_relay.web.websocket import RelayWebSocket, SocketParts


class UpgradeHandler(ApiHandler):
    """GET /ws"""

    def initialize(self, sockets: SocketParts) -> None:
        self.sockets = sockets

    def set_default_headers(self) -> None:
        super().set_default_headers()
        # In a refusal it tells what would be understood.
        self.set_header("Sec-WebSocket-Version", VERSION)

    async def get(self, *args: Any, **kwargs: Any) -> None:
        headers = self.request.headers
        refuse_unless_upgrade(headers, self.request.version)
        if not self.sockets.relay.is_accepting:
            raise RelayError("shutting_down")
        try:
            connection, unread = take_socket(self.detach())
        except StreamClosedError:
            return
        response = upgrade_response(headers)
        await hand_over(connection, RelayWebSocket(self.sockets, beginning=response, unread=unread))
