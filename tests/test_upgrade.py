"""How a request becomes a WebSocket, by its bytes alone. On the wire, the WebSocket's tests show it."""

from __future__ import annotations

import pytest

from pulsar_relay.web.handshake import upgrade_response
from pulsar_relay.web.upgrade import PlainUpgrade
from pulsar_relay.web.websocket import RelayWebSocket
from tests.workers import RunningWorker

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HEADERS = (
    "Host: relay.example",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {KEY}",
)


def head_of(line: str = "GET /ws HTTP/1.1", *more: str) -> bytes:
    return "".join(f"{each}\r\n" for each in (line, *HEADERS, *more, "")).encode("latin-1")


@pytest.fixture
def upgrade(relay: RunningWorker) -> PlainUpgrade:
    found = relay.worker._front.endpoints.upgrade
    assert isinstance(found, PlainUpgrade)
    return found


@pytest.mark.parametrize("line", ["GET /ws HTTP/1.1", "GET /ws?token=a%20b HTTP/1.1", "GET /ws? HTTP/1.1"])
def test_a_plain_request_is_accepted_with_what_follows_it(upgrade: PlainUpgrade, line: str) -> None:
    accepted = upgrade(head_of(line), b"what follows", "")
    assert isinstance(accepted, RelayWebSocket)
    assert accepted._beginning == upgrade_response({"sec-websocket-key": KEY})
    assert accepted._unread == b"what follows"


@pytest.mark.parametrize(
    "line",
    [
        "GET / HTTP/1.1",
        "GET /wss HTTP/1.1",
        "GET /ws/ HTTP/1.1",
        "GET /WS HTTP/1.1",
        "POST /ws HTTP/1.1",
        "GET /ws HTTP/1.0",
        "GET  /ws HTTP/1.1",
        "GET /ws?a b HTTP/1.1",
        "GET /ws?\xe4 HTTP/1.1",
        "GET http://relay.example/ws HTTP/1.1",
    ],
)
def test_another_request_remains_one_of_http(upgrade: PlainUpgrade, line: str) -> None:
    assert upgrade(head_of(line), b"", "") is None


@pytest.mark.parametrize(
    "more", ["Host: twice", "Content-Length: 1", "Origin: https://else.example", "Upgrade: twice", " folded"]
)
def test_what_is_to_be_refused_is_refused_in_http(upgrade: PlainUpgrade, more: str) -> None:
    assert upgrade(head_of("GET /ws HTTP/1.1", more), b"", "") is None
