"""FrameProtocol: Tornado's WebSocket protocol, but for how it ends a connection and what it makes of a
text.

Tornado drops a peer that breaks the protocol without a word; here it is told the close code, and given time
to read it. And Tornado decodes each text, which our reader would only encode again: it gets the bytes.
"""

from __future__ import annotations

import struct
from asyncio import Future
from collections.abc import Awaitable
from typing import Any, Protocol, cast

from tornado.iostream import IOStream
from tornado.websocket import WebSocketProtocol13

from pulsar_relay.errors import ERRORS
from pulsar_relay.web.farewell import Farewells

PROTOCOL_ERROR = 1002
TOO_LARGE = ERRORS["frame_too_large"].close_code

FAREWELL_SECONDS = 5.0
FAREWELL_BYTES = 64 * 1024 * 1024

_TEXT, _CLOSE = 0x1, 0x8


class TakesText(Protocol):
    def on_text(self, text: bytes) -> Awaitable[None]:
        """A text frame, not yet known to be UTF-8. The next frame is read when this has returned."""


class FrameProtocol(WebSocketProtocol13):
    """One upgraded connection; `handler` is a WebSocketHandler that also `TakesText`."""

    _is_parting = False

    def __init__(self, handler: Any, params: Any, farewells: Farewells) -> None:
        super().__init__(handler, False, params)
        self._farewells = farewells

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        super().close(code, "frame_too_large" if code == TOO_LARGE else reason)

    def cut(self) -> None:
        """Close the socket at once; the close frame, if one was sent, may still arrive."""
        super()._abort()

    def _abort(self) -> None:
        """Called by Tornado for a peer that breaks the protocol, and in the end for every connection."""
        stream = cast("IOStream | None", self.stream)
        if self._is_parting:
            return
        if stream is None or stream.closed() or stream.reading():
            # Gone; or it was sent a close frame seconds ago, and the loop still waits for the answer.
            super()._abort()
            return
        self._is_parting = True
        if not self.server_terminated:
            self.close(PROTOCOL_ERROR, "protocol_error")
        self.client_terminated = True
        self._farewells.say(stream, b"", seconds=FAREWELL_SECONDS, max_bytes=FAREWELL_BYTES)

    def _handle_message(self, opcode: int, data: bytes) -> Future[None] | None:
        if opcode == _TEXT:
            return self._run_callback(cast(TakesText, self.handler).on_text, data)
        if opcode == _CLOSE and not is_proper_close(data):
            # Tornado answers with the code it was sent; this one it may not send.
            data = struct.pack(">H", PROTOCOL_ERROR)
        return super()._handle_message(opcode, data)


def is_proper_close(data: bytes) -> bool:
    if not data:
        return True
    code = int.from_bytes(data[:2], "big") if len(data) >= 2 else 0
    try:
        data[2:].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) or 3000 <= code <= 4999
