"""FrameProtocol: what of Tornado it stands on. How it behaves on the wire, the WebSocket's tests tell."""

from __future__ import annotations

import inspect

import pytest
from tornado.websocket import WebSocketProtocol13

from pulsar_relay.web.websocket_protocol import FrameProtocol, is_proper_close


@pytest.mark.parametrize("name", ["_abort", "_handle_message", "close"])
def test_what_is_overridden_is_there_and_takes_the_same(name: str) -> None:
    """These are private to Tornado. Should it change them, then here and not in production."""
    ours = inspect.signature(getattr(FrameProtocol, name)).parameters
    theirs = inspect.signature(getattr(WebSocketProtocol13, name)).parameters
    assert list(ours) == list(theirs)


def test_tornado_still_ends_a_broken_connection_through_what_is_overridden() -> None:
    receiving = inspect.getsource(WebSocketProtocol13._receive_frame)
    assert "self._abort()" in receiving and "self._handle_message(" in receiving
    assert 'self.close(1009, "message too big")' in receiving


@pytest.mark.parametrize(
    ("data", "is_proper"),
    [
        (b"", True),
        (b"\x03\xe8", True),
        (b"\x03\xe8" + "tschüß".encode(), True),
        (b"\x0b\xb8", True),
        (b"\x13\x87", True),
        (b"\x03", False),
        (b"\x03\xe7", False),
        (b"\x03\xec", False),
        (b"\x03\xed", False),
        (b"\x03\xee", False),
        (b"\x03\xf7", False),
        (b"\x0b\xb7", False),
        (b"\x13\x88", False),
        (b"\x03\xe8\xff", False),
    ],
)
def test_a_close_frame_has_a_code_that_may_be_sent_and_a_reason_in_utf_8(
    data: bytes, is_proper: bool
) -> None:
    assert is_proper_close(data) is is_proper
