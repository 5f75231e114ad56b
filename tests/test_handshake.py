"""The opening handshake, as values. What it is on the wire, the WebSocket's tests tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders
from websockets.headers import build_subprotocol
from websockets.typing import Subprotocol
from websockets.utils import accept_key

from pulsar_relay.errors import RelayError
from pulsar_relay.web.handshake import read_headers, refuse_unless_upgrade, upgrade_response

ASKED = {
    "host": "relay.example:8080",
    "upgrade": "WebSocket",
    "connection": "keep-alive, Upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def test_headers_are_found_in_a_plain_mapping_and_in_tornados() -> None:
    refuse_unless_upgrade(ASKED, "HTTP/1.1")
    refuse_unless_upgrade(HTTPHeaders(ASKED), "HTTP/1.1")
    assert upgrade_response(ASKED) == upgrade_response(HTTPHeaders(ASKED))


def head_of(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in ("GET /ws HTTP/1.1", *lines, "")).encode("latin-1")


def test_the_headers_of_a_plain_request_are_read() -> None:
    lines = [f"{name.title()}:  {value}\t" for name, value in ASKED.items()]
    assert read_headers(head_of(*lines)) == ASKED


@pytest.mark.parametrize(
    "line",
    [
        "Host: another",
        " folded",
        "no colon",
        "With Space: a",
        ": a",
        "X-Control: \x00",
        "X-Return: a\rb",
        "Content-Length: 0",
        "Transfer-Encoding: chunked",
        "Expect: 100-continue",
    ],
)
def test_headers_that_could_be_read_in_two_ways_are_left_alone(line: str) -> None:
    assert read_headers(head_of("Host: a", "X-Other: b")) == {"host": "a", "x-other": "b"}
    assert read_headers(head_of("Host: a", line)) is None


@pytest.mark.parametrize("lines", [[], ["Host:"], ["Host: a b"], ["Host: a/b"]])
def test_without_a_host_it_is_no_plain_request(lines: list[str]) -> None:
    assert read_headers(head_of(*lines)) is None


@given(st.lists(st.sampled_from([*ASKED, "x-a", "X-A", "origin"]).map(lambda name: f"{name}: b"), max_size=6))
def test_what_is_read_tornado_reads_the_same(lines: list[str]) -> None:
    head = head_of("Host: relay.example", *lines)
    headers = read_headers(head)
    theirs = HTTPHeaders.parse(head.decode("latin-1").partition("\r\n")[2])
    if headers is not None:
        assert HTTPHeaders(headers) == theirs
    else:
        names = [line.partition(":")[0].lower() for line in ("host:", *lines)]
        assert len(set(names)) < len(names)


@pytest.mark.parametrize("missing", sorted(ASKED.keys() - {"host"}))
def test_without_one_of_its_headers_it_is_none(missing: str) -> None:
    headers = {name: value for name, value in ASKED.items() if name != missing}
    with pytest.raises(RelayError):
        refuse_unless_upgrade(headers, "HTTP/1.1")


def test_it_begins_with_http_1_1() -> None:
    with pytest.raises(RelayError) as refused:
        refuse_unless_upgrade(ASKED, "HTTP/1.0")
    assert refused.value.code == "bad_request"


@pytest.mark.parametrize(
    ("headers", "may_open"),
    [
        ({}, True),
        ({"origin": "http://relay.example:8080"}, True),
        ({"origin": "http://RELAY.example:8080"}, True),
        ({"origin": "http://relay.example"}, False),
        ({"origin": ""}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://relay.example:8080", "sec-fetch-site": "cross-site"}, False),
        ({"origin": "https://else.example", "sec-fetch-site": "same-origin"}, True),
        ({"origin": "https://else.example", "x-forwarded-host": "else.example"}, True),
        ({"sec-fetch-site": ""}, False),
    ],
)
def test_only_pages_of_the_relays_own_address_may_open_one(headers: dict[str, str], may_open: bool) -> None:
    if may_open:
        refuse_unless_upgrade({**ASKED, **headers}, "HTTP/1.1")
        return
    with pytest.raises(RelayError) as refused:
        refuse_unless_upgrade({**ASKED, **headers}, "HTTP/1.1")
    assert refused.value.code == "origin_not_allowed"


def test_the_answer_is_the_one_that_the_clients_key_asks_for() -> None:
    head = upgrade_response(ASKED).decode()
    assert head.startswith("HTTP/1.1 101 ") and head.endswith("\r\n\r\n")
    assert f"\r\nSec-WebSocket-Accept: {accept_key(ASKED['sec-websocket-key'])}\r\n" in head


@pytest.mark.parametrize(
    ("offered", "is_agreed"), [(["bearer"], True), (["chat", "bearer"], True), (["bearers"], False)]
)
def test_of_the_subprotocols_bearer_is_agreed_to(offered: list[str], is_agreed: bool) -> None:
    value = build_subprotocol([Subprotocol(name) for name in offered])
    head = upgrade_response({**ASKED, "sec-websocket-protocol": value})
    assert (b"\r\nSec-WebSocket-Protocol: bearer\r\n" in head) is is_agreed
