"""The server as a whole: requests in a row, the number of connections, its own bugs, and its end."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from websockets.sync.client import connect

from pulsar_relay.web import front, stage
from pulsar_relay.web.endpoint import Answer, Request
from pulsar_relay.web.front import FrontServer
from pulsar_relay.web.handler import EndpointHandler
from pulsar_relay.web.publish import PublishEndpoints
from tests.conditions import WAIT_SECONDS, until
from tests.quiet_logs import quiet_logs as quiet_logs
from tests.raw_http import RawConnection, request_bytes
from tests.small_relays import PATH, UNUSUAL, body_of, by_either
from tests.small_relays import small as small
from tests.valkeys import TIMEOUT_SCALE
from tests.workers import RunningWorker

MakeRelay = Callable[..., RunningWorker]


def front_of(relay: RunningWorker) -> FrontServer:
    server = relay.worker._servers[0]
    assert isinstance(server, FrontServer)
    return server


# ------------------------------------------------------------------------------------------ requests in a row


def test_requests_sent_all_at_once_are_answered_in_order(small: RunningWorker, topic: str) -> None:
    body = body_of(topic, 200)
    requests_ = [
        request_bytes("POST", PATH, body),
        request_bytes("GET", "/nowhere"),
        request_bytes("GET", "/health"),
    ]
    with RawConnection(small.ports.api) as connection:
        connection.send(b"".join(requests_ * 50))
        for _ in range(50):
            assert [connection.response().status for _ in requests_] == [201, 404, 200]


def test_a_client_of_http_1_0_is_answered_and_let_go(small: RunningWorker) -> None:
    with RawConnection(small.ports.api) as connection:
        connection.send(b"GET /health HTTP/1.0\r\n\r\n")
        assert connection.response().status == 200
        assert connection.rest() == b""


# -------------------------------------------------------------------------------------- number of connections


def test_a_connection_beyond_the_cap_is_503_and_there_is_room_again_when_one_leaves(
    make_relay: MakeRelay,
) -> None:
    relay = make_relay(server={"max_connections": 3})
    held = [RawConnection(relay.ports.api) for _ in range(3)]
    for connection in held:
        assert connection.request("GET", "/health").status == 200
    with RawConnection(relay.ports.api) as connection:
        # Its request is in the socket when the answer is written: closing at once would reset the connection.
        connection.send(request_bytes("GET", "/health"))
        answer = connection.response()
        assert (answer.status, answer.error) == (503, "too_many_connections")
        assert answer.headers["retry-after"] == "5"
        assert connection.rest() == b""
    held.pop().socket.close()
    until(lambda: relay.call(lambda: front_of(relay).connection_count) == 2, "the connection counted as gone")
    with RawConnection(relay.ports.api) as connection:
        assert connection.request("GET", "/health").status == 200
    for connection in held:
        connection.socket.close()


def test_sockets_count_as_connections(make_relay: MakeRelay) -> None:
    relay = make_relay(server={"max_connections": 3})
    with connect(relay.ws_url), connect(relay.ws_url):
        until(lambda: relay.call(lambda: front_of(relay).connection_count) == 2, "both counted once")
        with RawConnection(relay.ports.api) as third, RawConnection(relay.ports.api) as fourth:
            assert third.request("GET", "/health").status == 200
            assert fourth.request("GET", "/health").error == "too_many_connections"


def test_a_storm_of_connections_beyond_the_cap_costs_no_more_than_its_answers(make_relay: MakeRelay) -> None:
    relay = make_relay(server={"max_connections": 2})
    with RawConnection(relay.ports.api) as one, RawConnection(relay.ports.api) as two:
        assert one.request("GET", "/health").status == two.request("GET", "/health").status == 200
        storm = [RawConnection(relay.ports.api) for _ in range(front.MOST_FAREWELLS * 2)]
        assert one.request("GET", "/health").status == 200
        until(
            lambda: relay.call(lambda: len(front_of(relay).farewells)) <= front.MOST_FAREWELLS,
            "no more farewells than there may be",
        )
        assert relay.call(lambda: front_of(relay).connection_count) == 2
        for connection in storm:
            connection.socket.close()
        until(lambda: relay.call(lambda: len(front_of(relay).farewells)) == 0, "the farewells ended")


# ----------------------------------------------------------------------------------------------- its own bugs


def test_a_handler_that_cannot_be_made_is_answered_500_and_logged_once(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, topic: str
) -> None:
    def fail(self: EndpointHandler, **parts: object) -> None:
        raise ZeroDivisionError("a secret")

    relay = make_relay()
    monkeypatch.setattr(EndpointHandler, "initialize", fail)
    with RawConnection(relay.ports.api) as connection:
        answer = connection.request("POST", PATH, body_of(topic, 200), **UNUSUAL)
    assert (answer.status, answer.error) == (500, "internal_error")
    assert b"secret" not in answer.body and b"Zero" not in answer.body
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]
    caplog.clear()


# ---------------------------------------------------------------------------------------------------- the end


@by_either
def test_a_request_under_way_is_answered_before_the_relay_stops(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    began, may_end = threading.Event(), threading.Event()

    async def answer_much(self: PublishEndpoints, request: Request) -> Answer:
        began.set()
        await asyncio.to_thread(may_end.wait, WAIT_SECONDS)
        # More than a socket takes at once: what is on its way counts too.
        return Answer(200, b'{"answer":"' + b"x" * (16 << 20) + b'"}')

    monkeypatch.setattr(PublishEndpoints, "one", answer_much)
    relay = make_relay()
    with RawConnection(relay.ports.api) as connection, ThreadPoolExecutor(1) as pool:
        connection.send(request_bytes("POST", PATH, b"{}", **headers))
        assert began.wait(WAIT_SECONDS)
        stopping = pool.submit(relay.stop)
        until(lambda: not relay.worker.relay.is_accepting, "the relay is stopping")
        may_end.set()
        answer = connection.response()
        assert answer.status == 200 and len(answer.body) > 16 << 20
        stopping.result(WAIT_SECONDS)
        assert connection.rest() == b""


@by_either
def test_an_idle_connection_does_not_delay_stopping_and_a_busy_one_not_beyond_the_deadline(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    began = threading.Event()

    async def take_an_hour(self: PublishEndpoints, request: Request) -> Answer:
        began.set()
        await asyncio.sleep(3600)
        return Answer(200, b"{}")

    monkeypatch.setattr(PublishEndpoints, "one", take_an_hour)
    relay = make_relay(server={"shutdown_deadline_seconds": 0.2})
    with RawConnection(relay.ports.api) as idle, RawConnection(relay.ports.api) as busy:
        assert idle.request("GET", "/health").status == 200
        busy.send(request_bytes("POST", PATH, b"{}", **headers))
        assert began.wait(WAIT_SECONDS)
        started = time.monotonic()
        relay.stop()
        assert time.monotonic() - started < 5 * TIMEOUT_SCALE
        assert idle.rest() == busy.rest() == b""


def test_a_connection_is_kept_alive_for_the_next_request_until_the_relay_stops(make_relay: MakeRelay) -> None:
    relay = make_relay()
    with RawConnection(relay.ports.api) as connection:
        assert "connection" not in connection.request("GET", "/health").headers
        relay.call(front_of(relay).stop)
        assert connection.request("GET", "/health").headers["connection"] == "close"
        assert connection.rest() == b""


def test_who_was_answered_a_moment_ago_is_heard_once_more_when_the_relay_stops(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "HEARING_SECONDS", WAIT_SECONDS)
    relay = make_relay()
    with RawConnection(relay.ports.api) as connection, ThreadPoolExecutor(1) as pool:
        assert connection.request("GET", "/health").status == 200
        stopping = pool.submit(relay.stop)
        until(lambda: not relay.worker.relay.is_accepting, "the relay is stopping")
        answer = connection.request("POST", PATH, b'{"topic": "t", "payload": 1}')
        assert (answer.status, answer.error) == (503, "shutting_down")
        assert answer.headers["connection"] == "close"
        stopping.result(WAIT_SECONDS)


def test_a_client_that_hangs_up_in_the_middle_of_a_request_leaves_nothing_behind(
    small: RunningWorker,
) -> None:
    for part in (
        b"",
        b"GET /hea",
        b"POST /api/v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{",
    ):
        with RawConnection(small.ports.api) as connection:
            connection.send(part)
            connection.socket.shutdown(socket.SHUT_WR)
            assert connection.rest() == b""
    until(lambda: small.call(lambda: front_of(small).connection_count) == 0, "all counted as gone")
    assert small.call(lambda: len(front_of(small)._guards)) == 0


def test_requests_as_clients_send_them_are_answered(small: RunningWorker, topic: str) -> None:
    with requests.Session() as session:
        for number in range(3):
            answer = session.post(
                small.url + PATH, json={"topic": topic, "payload": number}, timeout=WAIT_SECONDS
            )
            assert answer.status_code == 201
