"""The head of a plain request: what is read is read as Tornado would, and what is not plain is not read."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders, HTTPInputError, HTTPServerRequest, parse_request_start_line

from pulsar_relay.web.endpoint import HEADERS
from pulsar_relay.web.head import END, MOST_PARAMETERS, REMEMBERED_BYTES, Head, read_head, read_target

LINE = b"POST /api/v1/messages HTTP/1.1\r\n"
OLD_LINE = LINE.replace(b"1.1", b"1.0")
HOST = b"Host: a\r\n"
LENGTH = b"Content-Length: 5\r\n"


def head_of(*lines: bytes, first: bytes = LINE) -> bytes:
    return first + b"".join(lines) + b"\r\n"


def as_tornado_reads(data: bytes) -> tuple[HTTPServerRequest, HTTPHeaders]:
    """Raises HTTPInputError."""
    line, _, block = data.decode("latin-1").partition("\r\n")
    headers = HTTPHeaders.parse(block)
    return HTTPServerRequest(headers=headers, start_line=parse_request_start_line(line)), headers


# ----------------------------------------------------------------------------------------------- what is read


def test_the_head_of_a_publish_is_read() -> None:
    data = head_of(
        b"hOsT: 127.0.0.1:8080\r\n",
        b"Content-Length:  12 \r\n",
        b"CONTENT-TYPE:application/json; charset=utf-8\t\r\n",
        b"Idempotency-Key: \xe4 b\r\n",
        b"X-Other: anything\r\n",
        b"Connection: Keep-Alive\r\n",
        first=b"POST /api/v1/messages/bulk?atomic=true&a=%20 HTTP/1.1\r\n",
    )
    assert read_head(data) == Head(
        target=b"POST /api/v1/messages/bulk",
        query=b"atomic=true&a=%20",
        headers={"content-type": "application/json; charset=utf-8", "idempotency-key": "ä b"},
        body_bytes=12,
        keeps_alive=True,
        host="127.0.0.1:8080",
    )


def test_a_head_without_more_than_a_host_is_read() -> None:
    data = head_of(HOST, first=b"GET /api/v1/poll HTTP/1.1\r\n")
    assert read_head(data) == Head(b"GET /api/v1/poll", b"", {}, 0, keeps_alive=True, host="a")


@pytest.mark.parametrize("value", [b"close", b"Close", b" CLOSE "])
def test_a_client_may_say_that_it_is_its_last_request(value: bytes) -> None:
    head = read_head(head_of(HOST, LENGTH, b"Connection:" + value + b"\r\n"))
    assert head is not None and not head.keeps_alive


@pytest.mark.parametrize("lines", [[], [b"Connection: close\r\n"]])
def test_a_client_of_http_1_0_asks_once(lines: list[bytes]) -> None:
    head = read_head(head_of(HOST, LENGTH, *lines, first=OLD_LINE))
    assert head is not None and not head.keeps_alive
    assert read_head(head_of(HOST, LENGTH, b"Connection: keep-alive\r\n", first=OLD_LINE)) is None


def test_the_target_is_known_once_the_first_line_is_there() -> None:
    data = head_of(HOST, first=b"GET /api/v1/poll?topics=a HTTP/1.1\r\n")
    line_end = data.index(b"\r\n") + 2
    assert [read_target(data[:end]) for end in range(line_end)] == [None] * line_end
    assert {read_target(data[:end]) for end in range(line_end, len(data))} == {b"GET /api/v1/poll"}


# ------------------------------------------------------------------------------------------- what is not read


@pytest.mark.parametrize(
    "line",
    [
        b"PUT /api/v1/messages HTTP/1.1\r\n",
        b"post /api/v1/messages HTTP/1.1\r\n",
        b"POST /api/v1/messages HTTP/1.2\r\n",
        b"POST /api/v1/messages HTTP/2.0\r\n",
        b"POST /api/v1/messages HTTP/1.1 \r\n",
        b"POST /api/v1/messages HTTP/1.1\n",
        b"POST  /api/v1/messages HTTP/1.1\r\n",
        b" POST /api/v1/messages HTTP/1.1\r\n",
        b"\r\nPOST /api/v1/messages HTTP/1.1\r\n",
        b"POST http://a/api/v1/messages HTTP/1.1\r\n",
        b"POST /api/v1/m\xc3\xa4 HTTP/1.1\r\n",
        b"POST /api/v1/messages?a b HTTP/1.1\r\n",
        b"POST * HTTP/1.1\r\n",
        b"POST /\x00 HTTP/1.1\r\n",
        b"",
    ],
)
def test_a_first_line_that_is_not_plain_is_not_read(line: bytes) -> None:
    assert read_head(head_of(HOST, LENGTH, first=line)) is None
    assert read_target(head_of(HOST, first=line)) is None


@pytest.mark.parametrize(
    "lines",
    [
        [LENGTH],
        [HOST],
        [LENGTH, HOST, HOST],
        [LENGTH, b"Host:\r\n"],
        [LENGTH, b"Host: a,b\r\n"],
        [LENGTH, b"Host: a b\r\n"],
        [LENGTH, b"Host: a/b\r\n"],
        [HOST, b"Content-Length: 5\r\n", b"Content-Length: 5\r\n"],
        [HOST, b"Content-Length: 5, 5\r\n"],
        [HOST, b"Content-Length: +5\r\n"],
        [HOST, b"Content-Length: -5\r\n"],
        [HOST, b"Content-Length: 0x5\r\n"],
        [HOST, b"Content-Length: 5_0\r\n"],
        [HOST, b"Content-Length: \xb2\r\n"],
        [HOST, b"Content-Length:\r\n"],
        [HOST, b"Content-Length: " + b"9" * 4000 + b"\r\n"],
        [LENGTH, HOST, b"Transfer-Encoding: chunked\r\n"],
        [HOST, b"transfer-encoding: identity\r\n", b"Content-Length: 5\r\n"],
        [LENGTH, HOST, b"Transfer-Encoding : chunked\r\n"],
        [LENGTH, HOST, b"Expect: 100-continue\r\n"],
        [LENGTH, HOST, b"Upgrade: websocket\r\n"],
        [LENGTH, HOST, b"TE: trailers\r\n"],
        [LENGTH, HOST, b"Trailer: a\r\n"],
        [LENGTH, HOST, b"Connection: keep-alive, Upgrade\r\n"],
        [LENGTH, HOST, b"Connection: close\r\n", b"Connection: close\r\n"],
        [LENGTH, HOST, b"Connection:\r\n"],
        [LENGTH, HOST, b"Cookie: a=1\r\n", b"Cookie: b=1\r\n"],
        [LENGTH, HOST, b"Idempotency-Key: a\r\n", b"Idempotency-Key: a\r\n"],
        [LENGTH, HOST, b"X: a\r\n folded\r\n"],
        [LENGTH, HOST, b" X: a\r\n"],
        [LENGTH, b" Host: a\r\n"],
        [LENGTH, HOST, b"X : a\r\n"],
        [LENGTH, HOST, b"X\r\n"],
        [LENGTH, HOST, b": a\r\n"],
        [LENGTH, HOST, b"X: a\x00b\r\n"],
        [LENGTH, HOST, b"X: a\rb\r\n"],
        [HOST, b"X: a\nContent-Length: 5\r\n"],
        [LENGTH, HOST, b"X: a\n"],
        [LENGTH, HOST, b"X: \x7f\r\n"],
        [LENGTH, HOST, b"X\xe4: a\r\n"],
        [LENGTH, HOST, b'"X": a\r\n'],
    ],
)
def test_headers_that_are_not_plain_are_not_read(lines: list[bytes]) -> None:
    assert read_head(head_of(*lines)) is None


@pytest.mark.parametrize(
    "block", [b"X:" + b" " * 60_000 + b"\x00", (b"a" * 30 + b":" + b" " * 30 + b"\r\n") * 1000 + b"\x00"]
)
def test_what_is_not_plain_is_known_after_one_pass(block: bytes) -> None:
    # A pattern that goes back and tries again would need minutes for these.
    assert read_head(head_of(HOST, LENGTH, block)) is None


def test_a_get_with_a_body_is_not_read() -> None:
    line = b"GET /api/v1/poll HTTP/1.1\r\n"
    assert read_head(head_of(HOST, first=line)) is not None
    assert read_head(head_of(HOST, b"Content-Length: 0\r\n", first=line)) is None


def test_a_query_of_many_parameters_is_not_read() -> None:
    few, many = (b"&".join([b"a=1"] * count) for count in (MOST_PARAMETERS, MOST_PARAMETERS + 1))
    assert read_head(head_of(HOST, first=b"GET /api/v1/poll?" + few + b" HTTP/1.1\r\n")) is not None
    assert read_head(head_of(HOST, first=b"GET /api/v1/poll?" + many + b" HTTP/1.1\r\n")) is None


def test_a_long_head_is_read_as_a_short_one() -> None:
    data = head_of(HOST, LENGTH, b"X: " + b"x" * REMEMBERED_BYTES + b"\r\n")
    assert read_head(data) == read_head(head_of(HOST, LENGTH)) is not None


# ----------------------------------------------------------------------------------- as Tornado would read it

_NAMES = st.sampled_from(
    [
        "Host",
        "Content-Length",
        "Content-Type",
        "Cookie",
        "Connection",
        "X",
        "Transfer-Encoding",
        "x y",
        "Ä",
        "",
    ]
)
_VALUES = st.one_of(
    st.sampled_from(["a", "5", "05", "close", "keep-alive", "a:80", "[::1]:80", "relay_cursor=1.2"]),
    st.text(st.characters(max_codepoint=255), max_size=6),
)
_ENDS = st.sampled_from(["\r\n"] * 8 + ["\n", "\r", "\r\n ", "", "\r\n\r\n"])
_TARGETS = st.one_of(
    st.sampled_from(["/api/v1/messages", "/api/v1/poll?topics=a&since=%20+1", "/?", "/a??b", "/%61", "*"]),
    st.text(st.characters(max_codepoint=255), max_size=6).map("/".__add__),
)


@st.composite
def _heads(draw: st.DrawFn) -> bytes:
    method = draw(st.sampled_from(["GET", "POST", "PUT", "GET "]))
    version = draw(st.sampled_from(["HTTP/1.1"] * 6 + ["HTTP/1.0", "HTTP/1.1 ", "http/1.1"]))
    text = f"{method} {draw(_TARGETS)} {version}{draw(_ENDS)}"
    if draw(st.integers(0, 5)):
        text += "Host: a\r\n"
    if (method == "POST") ^ (not draw(st.integers(0, 5))):
        text += "Content-Length: 12\r\n"
    for _ in range(draw(st.integers(0, 4))):
        text += f"{draw(_NAMES)}:{draw(st.sampled_from(['', ' ', chr(9)]))}{draw(_VALUES)}{draw(_ENDS)}"
    return (text + "\r\n").encode("latin-1")


@given(_heads())
@example(head_of(HOST, b"Content-Length: 007\r\n"))
@example(head_of(HOST, LENGTH, b"Cookie: \xe4=\xff\r\n"))
def test_whatever_is_read_tornado_reads_the_same(data: bytes) -> None:
    head = read_head(data)
    if head is None:
        return
    request, headers = as_tornado_reads(data)
    assert head.target == f"{request.method} {request.path}".encode("latin-1")
    assert head.query == request.query.encode("latin-1")
    assert head.headers == {name: headers[name] for name in HEADERS if name in headers}
    assert head.body_bytes == int(headers.get("Content-Length", "0"))
    assert ("Content-Length" in headers) == (request.method == "POST")
    connection = headers.get("Connection", "").lower()
    assert head.keeps_alive == (request.version == "HTTP/1.1" and connection != "close")
    assert request.version == "HTTP/1.1" or connection != "keep-alive"
    assert not {"Transfer-Encoding", "Expect", "Upgrade"} & set(headers)
    # Its end is where Tornado sees it, too.
    ends = re.search(rb"\r?\n\r?\n", data)
    assert ends is not None and ends.end() == len(data) and data.endswith(END)


@given(_heads())
def test_what_tornado_refuses_is_not_read(data: bytes) -> None:
    try:
        as_tornado_reads(data)
    except HTTPInputError:
        assert read_head(data) is None


@given(_heads(), st.data())
def test_a_plain_head_in_part_is_seen_as_one(data: bytes, draws: Any) -> None:
    head = read_head(data)
    if head is not None:
        end = draws.draw(st.integers(data.index(b"\n") + 1, len(data)))
        assert read_target(data[:end]) == head.target
