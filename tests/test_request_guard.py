"""A request that Tornado reads, held to limits of size and time; what those are told who run into them."""

from __future__ import annotations

import json
import re
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pulsar_relay.web import request_guard
from tests.conditions import WAIT_SECONDS
from tests.quiet_logs import quiet_logs as quiet_logs
from tests.raw_http import RawConnection, chunked, request_bytes
from tests.small_relays import LIMIT, PATH, body_of, by_either
from tests.small_relays import small as small
from tests.valkeys import TIMEOUT_SCALE
from tests.workers import RunningWorker

MakeRelay = Callable[..., RunningWorker]


# --------------------------------------------------------------------------------------------- size of bodies


@by_either
def test_a_body_at_the_limit_is_taken_and_one_byte_more_is_413(
    small: RunningWorker, topic: str, headers: dict[str, str]
) -> None:
    with RawConnection(small.ports.api) as connection:
        assert connection.request("POST", PATH, body_of(topic, LIMIT), **headers).status == 201
        answer = connection.request("POST", PATH, body_of(topic, LIMIT + 1))
        assert (answer.status, answer.error) == (413, "body_too_large")
        assert answer.headers["connection"] == "close"
        assert connection.rest() == b""


def test_a_chunked_body_at_the_limit_is_taken_and_one_byte_more_is_413(
    small: RunningWorker, topic: str
) -> None:
    for size, status in ((LIMIT, 201), (LIMIT + 1, 413)):
        body = body_of(topic, size)
        parts = [body[start : start + 1000] for start in range(0, size, 1000)]
        with RawConnection(small.ports.api) as connection:
            head = request_bytes("POST", PATH, Content_Type="application/json", Transfer_Encoding="chunked")
            connection.send(head + chunked(*parts))
            answer = connection.response()
            assert answer.status == status
            if status == 413:
                assert answer.error == "body_too_large"
                assert connection.rest() == b""


@pytest.mark.parametrize("is_chunked", [False, True], ids=["whole", "chunked"])
def test_a_client_that_sends_everything_before_it_reads_gets_the_413(
    small: RunningWorker, is_chunked: bool
) -> None:
    block = b"x" * (1 << 20)
    with RawConnection(small.ports.api) as connection:
        if is_chunked:
            connection.send(
                request_bytes("POST", PATH, Content_Type="application/json", Transfer_Encoding="chunked")
            )
            for _ in range(24):
                connection.send(b"%x\r\n%b\r\n" % (len(block), block))
            connection.send(b"0\r\n\r\n")
        else:
            connection.send(
                request_bytes("POST", PATH, Content_Type="application/json", Content_Length=str(24 << 20))
            )
            for _ in range(24):
                connection.send(block)
        answer = connection.response()
        assert (answer.status, answer.error) == (413, "body_too_large")
        assert connection.rest() == b""


@pytest.mark.parametrize("length", ["9" * 18, "9" * 19, "9" * 4000, "0" * 100 + "9" * 5])
def test_a_length_beyond_all_measure_is_413(make_relay: MakeRelay, length: str) -> None:
    relay = make_relay(server={"max_body_bytes": LIMIT, "body_timeout_seconds": 0.1})
    with RawConnection(relay.ports.api) as connection:
        connection.send(request_bytes("POST", PATH, Content_Length=length))
        assert connection.response().error == "body_too_large"
        assert connection.rest() == b""


def test_a_refused_body_without_end_is_cut_off(small: RunningWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_guard, "DRAINED_BYTES", 1 << 20)
    block = b"x" * (1 << 16)
    sent = 0
    with RawConnection(small.ports.api) as connection:
        connection.send(
            request_bytes("POST", PATH, Content_Type="application/json", Transfer_Encoding="chunked")
        )
        with pytest.raises(OSError):  # noqa: PT012  # it takes some blocks until the socket is full
            while sent < 1 << 30:
                connection.send(b"%x\r\n%b\r\n" % (len(block), block))
                sent += len(block)
    assert sent < 1 << 26


def test_a_client_that_asks_first_is_told_413_instead_of_100(small: RunningWorker, topic: str) -> None:
    with RawConnection(small.ports.api) as connection:
        connection.send(request_bytes("POST", PATH, Content_Length=str(LIMIT + 1), Expect="100-continue"))
        assert connection.response().error == "body_too_large"
        assert connection.rest() == b""


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
def test_a_client_that_asks_first_is_told_to_go_on(small: RunningWorker, topic: str, expect: str) -> None:
    body = body_of(topic, 100)
    with RawConnection(small.ports.api) as connection:
        head = request_bytes(
            "POST", PATH, Content_Type="application/json", Content_Length=str(len(body)), Expect=expect
        )
        connection.send(head)
        assert connection.response(has_body=False).status == 100
        connection.send(body)
        assert connection.response().status == 201


def test_what_follows_a_body_that_was_longer_than_announced_is_no_part_of_it(
    small: RunningWorker, topic: str
) -> None:
    body = body_of(topic, 100)
    with RawConnection(small.ports.api) as connection:
        connection.send(request_bytes("POST", PATH, body) + b"and more\r\n\r\n")
        assert connection.response().status == 201
        assert re.match(rb"HTTP/1.1 400 ", connection.rest())


def test_a_refused_body_is_not_held_in_memory(relay: RunningWorker) -> None:
    """With the default limit of 32 MiB: 60 MiB are sent at the same time by four clients."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    block = b"x" * (1 << 20)

    def send() -> int:
        with RawConnection(relay.ports.api) as connection:
            length = str(60 << 20)
            connection.send(
                request_bytes("POST", PATH, Content_Type="application/json", Content_Length=length)
            )
            for _ in range(60):
                connection.send(block)
            return connection.response().status

    with ThreadPoolExecutor(4) as pool:
        assert [future.result() for future in [pool.submit(send) for _ in range(4)]] == [413] * 4
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 32


# -------------------------------------------------------------------------------------------- size of headers


def test_headers_beyond_the_limit_are_431(small: RunningWorker) -> None:
    with RawConnection(small.ports.api) as connection:
        answer = connection.request("GET", "/health", X_Long="x" * LIMIT)
        assert (answer.status, answer.error) == (431, "headers_too_large")
        assert connection.rest() == b""


def test_an_address_beyond_the_limit_is_431(small: RunningWorker) -> None:
    with RawConnection(small.ports.api) as connection:
        assert connection.request("GET", "/health?" + "x" * LIMIT).error == "headers_too_large"


def test_headers_far_beyond_the_limit_end_the_connection(small: RunningWorker) -> None:
    with RawConnection(small.ports.api) as connection, pytest.raises(OSError):  # noqa: PT012
        for _ in range(1000):
            connection.send(b"GET /health HTTP/1.1\r\nX-Long: " + b"x" * (1 << 16))
        connection.response()


# ------------------------------------------------------------------------------------- requests that are none


def test_a_request_without_a_host_is_400(small: RunningWorker) -> None:
    with RawConnection(small.ports.api) as connection:
        connection.send(b"GET /health HTTP/1.1\r\n\r\n")
        answer = connection.response()
        assert (answer.status, answer.error) == (400, "bad_request")
        assert connection.rest() == b""


def test_a_query_of_thousands_of_parameters_is_400(relay: RunningWorker) -> None:
    with RawConnection(relay.ports.api) as connection:
        answer = connection.request("GET", "/health?" + "&".join(f"a{n}=1" for n in range(2000)))
        assert (answer.status, answer.error) == (400, "bad_request")


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /api/v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /api/v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
        b"POST /api/v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: \xc2\xb2\r\n\r\n",
        b"POST /api/v1/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST /api/v1/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n",
        b"POST /api/v1/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
        b"GET /health HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"hello\r\n\r\n",
    ],
)
def test_what_two_servers_could_read_differently_is_refused(small: RunningWorker, head: bytes) -> None:
    with RawConnection(small.ports.api) as connection:
        connection.send(head)
        assert re.match(rb"HTTP/1.1 400 ", connection.rest())


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=a"]
)
def test_a_form_is_refused_unread(small: RunningWorker, content_type: str) -> None:
    # More fields than Tornado's own reader of forms takes: it would answer something else.
    body = b"&".join(b"a=" for _ in range(1200))
    with RawConnection(small.ports.api) as connection:
        answer = connection.request("POST", PATH, body, Content_Type=content_type)
        assert (answer.status, answer.error) == (422, "unsupported_media_type")
        assert connection.request("GET", "/health").status == 200


# ------------------------------------------------------------------------------------------------------- time


def test_a_connection_that_sends_no_request_is_closed_after_the_header_time(make_relay: MakeRelay) -> None:
    relay = make_relay(server={"header_timeout_seconds": 0.1, "idle_timeout_seconds": 3600.0})
    with RawConnection(relay.ports.api) as connection:
        assert connection.rest() == b""


def test_a_request_whose_headers_drip_is_cut_off(make_relay: MakeRelay) -> None:
    relay = make_relay(server={"header_timeout_seconds": 0.2, "idle_timeout_seconds": 3600.0})
    started = time.monotonic()
    with RawConnection(relay.ports.api) as connection:
        connection.send(b"GET /health HTTP/1.1\r\n")
        connection.socket.settimeout(0.01)
        with pytest.raises((ConnectionError, AssertionError)):  # noqa: PT012
            while time.monotonic() < started + WAIT_SECONDS:
                connection.send(b"X: y\r\n")
                try:
                    assert connection.socket.recv(1)
                except TimeoutError:
                    continue
    assert time.monotonic() - started < 5 * TIMEOUT_SCALE


@by_either
def test_a_body_that_drips_is_408(make_relay: MakeRelay, headers: dict[str, str]) -> None:
    relay = make_relay(server={"body_timeout_seconds": 0.1})
    with RawConnection(relay.ports.api) as connection:
        connection.send(request_bytes("POST", PATH, Content_Length="100", **headers))
        connection.send(b'{"topic":')
        answer = connection.response()
        assert (answer.status, answer.error) == (408, "request_timeout")
        assert connection.rest() == b""


def test_a_refused_body_that_drips_is_cut_off(make_relay: MakeRelay) -> None:
    relay = make_relay(server={"body_timeout_seconds": 0.2, "max_body_bytes": LIMIT})
    with RawConnection(relay.ports.api) as connection:
        connection.send(
            request_bytes("POST", PATH, Content_Type="application/json", Content_Length=str(1 << 40)) + b"{"
        )
        assert connection.response().error == "body_too_large"
        assert connection.rest() == b""


def test_an_idle_connection_is_closed_after_its_own_time(make_relay: MakeRelay) -> None:
    relay = make_relay(server={"header_timeout_seconds": 600.0, "idle_timeout_seconds": 1.0})
    with RawConnection(relay.ports.api) as connection:
        assert connection.request("GET", "/health").status == 200
        started = time.monotonic()
        assert connection.rest() == b""
        assert 0.5 < time.monotonic() - started < 10 * TIMEOUT_SCALE


def test_a_poll_that_waits_longer_than_all_time_limits_is_answered(make_relay: MakeRelay, topic: str) -> None:
    relay = make_relay(
        server={"header_timeout_seconds": 0.1, "body_timeout_seconds": 0.1, "idle_timeout_seconds": 1.0}
    )
    body = json.dumps({"topics": [topic], "timeout": 1.5}).encode()
    with RawConnection(relay.ports.api) as connection:
        assert connection.request("POST", "/messages/poll", body).status == 200
        assert connection.request("GET", "/health").status == 200
