"""A connection of the relay's own: what it answers, in which order, within which limits, and how it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from pulsar_relay.web import stage
from pulsar_relay.web.endpoint import Answer, Request
from pulsar_relay.web.front import FrontServer
from pulsar_relay.web.poll import WaitingPoll
from pulsar_relay.web.publish import PublishEndpoints
from tests.conditions import WAIT_SECONDS, until
from tests.quiet_logs import quiet_logs as quiet_logs
from tests.raw_http import RawConnection, RawResponse, request_bytes
from tests.small_relays import by_either
from tests.valkeys import TIMEOUT_SCALE
from tests.workers import RunningWorker

MakeRelay = Callable[..., RunningWorker]
PUBLISH = "/api/v1/messages"
POLL = "/messages/poll"


def front_of(relay: RunningWorker) -> FrontServer:
    return relay.worker._front


def own(relay: RunningWorker) -> int:
    """Connections that no request has taken to Tornado."""
    count: int = relay.call(lambda: len(front_of(relay)._own_connections))
    return count


def message(topic: str, payload: object = 1) -> bytes:
    return json.dumps({"topic": topic, "payload": payload}).encode()


def polling(topic: str, **fields: Any) -> bytes:
    return json.dumps({"topics": [topic], "timeout": 60, **fields}).encode()


def active_waiters(relay: RunningWorker) -> int:
    count: int = relay.call(lambda: relay.worker.waiters.active)
    return count


# ----------------------------------------------------------------------------------------------- what it does


def _asked(topic: str) -> list[tuple[str, str, bytes | None, dict[str, str]]]:
    bulk = b'{"messages": [%b, {"topic": ""}]}' % message(topic)
    cursors = json.dumps({"topics": [topic], "since": {topic: "0-0"}}).encode()
    history = f"/api/v1/topics/{topic}/messages"
    return [
        ("POST", PUBLISH, message(topic), {}),
        ("POST", PUBLISH, message(topic), {"Idempotency_Key": "k"}),
        ("POST", PUBLISH, b"", {}),
        ("POST", PUBLISH, b"{", {}),
        ("POST", PUBLISH, message(topic), {"Content_Type": "text/plain"}),
        ("POST", PUBLISH, message(topic), {"Content_Encoding": "gzip"}),
        ("POST", PUBLISH, message(topic), {"Idempotency_Key": "x" * 256}),
        ("POST", PUBLISH + "/bulk", bulk, {}),
        ("POST", PUBLISH + "/bulk?atomic=true", bulk, {}),
        ("POST", PUBLISH + "/bulk?atomic=perhaps", bulk, {}),
        ("POST", POLL, cursors, {}),
        ("POST", POLL, b'{"topics": []}', {}),
        ("GET", f"/api/v1/poll?topics={topic}&since={topic}:0-0&timeout=1", None, {}),
        ("GET", f"/api/v1/poll?topics={topic}&timeout=1", None, {"Cookie": "a=1; relay_cursor=forged.x"}),
        ("GET", "/api/v1/poll", None, {}),
        ("GET", history + "?limit=2&order=desc", None, {}),
        ("GET", history + "?order=up", None, {}),
        ("GET", "/api/v1/topics/never/messages", None, {}),
    ]


def _shape(answer: RawResponse, topic: str) -> tuple[int, list[str], dict[str, str], str]:
    """What does not change from one answer to the next: ids and times are zeroes here."""
    names = list(answer.headers)
    fixed = {name: value for name, value in answer.headers.items() if name not in ("date", "content-length")}
    if "set-cookie" in fixed:
        fixed["set-cookie"] = re.sub(r"[\w:-]+\.[\w-]+;", "…;", fixed["set-cookie"])
    return answer.status, names, fixed, re.sub(r"\d", "0", answer.body.decode().replace(topic, "T"))


def test_its_answers_are_those_that_tornado_gives(relay: RunningWorker, topic: str) -> None:
    mine, tornados = f"{topic}-a", f"{topic}-b"
    with RawConnection(relay.ports.api) as plain, RawConnection(relay.ports.api) as unusual:
        assert unusual.request("GET", "/health").status == 200
        before = own(relay)
        for ours, theirs in zip(_asked(mine), _asked(tornados), strict=True):
            method, path, body, headers = ours
            answer = plain.request(method, path, body, **headers)
            method, path, body, headers = theirs
            expected = unusual.request(method, path, body, TE="trailers", **headers)
            assert _shape(answer, mine) == _shape(expected, tornados), ours
            assert int(answer.headers["content-length"]) == len(answer.body)
        assert own(relay) == before, "neither has changed sides"


def test_its_answers_carry_the_time(relay: RunningWorker, topic: str) -> None:
    with RawConnection(relay.ports.api) as connection:
        date = connection.request("POST", PUBLISH, message(topic)).headers["date"]
    told = time.mktime(time.strptime(date, "%a, %d %b %Y %H:%M:%S GMT")) - time.timezone
    assert abs(told - time.time()) < 5


def test_clients_that_keep_their_connection_never_meet_tornado(relay: RunningWorker, topic: str) -> None:
    before = own(relay)
    with requests.Session() as session:
        for _ in range(3):
            body = {"topic": topic, "payload": 1}
            assert session.post(relay.url + PUBLISH, json=body, timeout=WAIT_SECONDS).status_code == 201
            body = {"topics": [topic], "since": {topic: "0-0"}}
            assert session.post(relay.url + POLL, json=body, timeout=WAIT_SECONDS).status_code == 200
            history = f"{relay.url}/api/v1/topics/{topic}/messages"
            assert session.get(history, timeout=WAIT_SECONDS).status_code == 200
        assert own(relay) == before + 1


def test_a_connection_comes_back_from_tornado_with_the_next_plain_request(
    make_relay: MakeRelay, topic: str
) -> None:
    relay = make_relay()
    with RawConnection(relay.ports.api) as connection:
        for _ in range(5):
            assert connection.request("POST", PUBLISH, message(topic)).status == 201
            assert own(relay) == 1
            for _ in range(2):
                assert connection.request("GET", "/health").status == 200
                assert own(relay) == 0
            answer = connection.request("POST", PUBLISH, message(topic), TE="trailers")
            assert answer.status == 201 and own(relay) == 0
            assert relay.call(lambda: front_of(relay).connection_count) == 1
        assert connection.request("POST", PUBLISH, b"x" * (1 << 20)).status == 422
        assert own(relay) == 1
    until(lambda: relay.call(lambda: front_of(relay).connection_count) == 0, "it counts no more")
    assert relay.call(lambda: len(front_of(relay)._guards)) == 0


def test_an_answer_on_a_connection_that_came_back_does_not_wait_for_anything(
    make_relay: MakeRelay, topic: str
) -> None:
    relay = make_relay()
    with RawConnection(relay.ports.api) as connection:
        assert connection.request("GET", "/health").status == 200
        assert connection.request("POST", PUBLISH, message(topic)).status == 201

        def no_delay() -> bool:
            (one,) = front_of(relay)._own_connections
            options = one._transport.get_extra_info("socket")
            return bool(options.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        assert relay.call(no_delay)


def test_a_connection_that_comes_back_is_not_refused_by_the_cap(make_relay: MakeRelay, topic: str) -> None:
    relay = make_relay(server={"max_connections": 1})
    with RawConnection(relay.ports.api) as connection:
        for _ in range(3):
            assert connection.request("GET", "/health").status == 200
            assert connection.request("POST", PUBLISH, message(topic)).status == 201


def test_a_client_that_says_it_is_its_last_request_is_let_go(relay: RunningWorker, topic: str) -> None:
    with RawConnection(relay.ports.api) as connection:
        answer = connection.request("POST", PUBLISH, message(topic), Connection="close")
        assert (answer.status, answer.headers["connection"]) == (201, "close")
        assert connection.rest() == b""


def test_a_bug_is_500_and_the_connection_goes_on(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, topic: str
) -> None:
    async def fail(self: PublishEndpoints, request: Request) -> Answer:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(PublishEndpoints, "one", fail)
    relay = make_relay()
    with RawConnection(relay.ports.api) as connection:
        answer = connection.request("POST", PUBLISH + "?token=another-secret", message(topic))
        assert (answer.status, answer.error) == (500, "internal_error")
        assert b"secret" not in answer.body and answer.headers["retry-after"] == "1"
        assert connection.request("POST", PUBLISH + "/bulk", b"{}").status == 422
    assert [record.getMessage() for record in caplog.records] == [f"POST {PUBLISH} failed"]
    caplog.clear()


# ------------------------------------------------------------------------------------- however the bytes come


@given(st.data())
@settings(max_examples=40)
def test_requests_are_answered_however_their_bytes_are_split(relay: RunningWorker, data: Any) -> None:
    """Plain ones, and those between that go to Tornado."""
    body = message("split", "ä" * 40)
    known = [
        (request_bytes("POST", PUBLISH, body), 201),
        (request_bytes("GET", "/api/v1/topics/split/messages?limit=1"), 200),
        (request_bytes("POST", POLL, b'{"topics": ["split"], "since": {"split": "0-0"}, "limit": 1}'), 200),
        (request_bytes("POST", PUBLISH + "/bulk", b"[]"), 422),
        (request_bytes("GET", "/health"), 200),
        (request_bytes("POST", PUBLISH, body, TE="trailers"), 201),
        (request_bytes("GET", "/nowhere"), 404),
    ]
    chosen = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=6))
    parts = [part for part, _ in chosen]
    expected = [status for _, status in chosen]
    everything = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(everything)), max_size=6)))
    with RawConnection(relay.ports.api) as connection:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for begin, end in zip([0, *cuts], [*cuts, len(everything)], strict=True):
            connection.send(everything[begin:end])
            # So that the pieces arrive apart: whoever answers this has read what came before.
            requests.get(f"{relay.url}/health", timeout=WAIT_SECONDS)
        assert [connection.response().status for _ in expected] == expected


def test_a_body_of_many_megabytes_is_taken(relay: RunningWorker, topic: str) -> None:
    payload = "x" * (900 * 1024)
    with RawConnection(relay.ports.api) as connection:
        body = b'{"messages": [%b]}' % b", ".join([message(topic, payload)] * 12)
        answer = connection.request("POST", PUBLISH + "/bulk", body)
        assert answer.json()["summary"] == {"total": 12, "accepted": 12, "rejected": 0}
        answer = connection.request("GET", f"/api/v1/topics/{topic}/messages?limit=1")
        assert answer.json()["messages"][0]["payload"] == payload


def test_requests_sent_ahead_are_answered_in_order_and_one_at_a_time(
    relay: RunningWorker, topic: str
) -> None:
    with RawConnection(relay.ports.api) as connection:
        connection.send(b"".join(request_bytes("POST", PUBLISH, message(topic, n)) for n in range(500)))
        assert [connection.response().status for _ in range(500)] == [201] * 500
        history = connection.request("GET", f"/api/v1/topics/{topic}/messages?limit=500&order=asc").json()
    assert [each["payload"] for each in history["messages"]] == list(range(500))


def test_a_request_sent_behind_a_poll_waits_for_its_answer(relay: RunningWorker, topic: str) -> None:
    before = active_waiters(relay)
    with RawConnection(relay.ports.api) as connection, RawConnection(relay.ports.api) as other:
        connection.send(request_bytes("POST", POLL, polling(topic)))
        connection.send(request_bytes("POST", PUBLISH, message(topic, "behind")))
        until(lambda: active_waiters(relay) > before, "the poll waits")
        assert other.request("POST", PUBLISH, message(topic, "first")).status == 201
        answer = connection.response()
        assert [each["payload"] for each in answer.json()["messages"]] == ["first"]
        assert connection.response().status == 201


def test_no_more_is_read_from_a_client_that_sends_far_ahead(relay: RunningWorker, topic: str) -> None:
    before = active_waiters(relay)
    with RawConnection(relay.ports.api) as connection, RawConnection(relay.ports.api) as other:
        connection.send(request_bytes("POST", POLL, polling(topic)))
        until(lambda: active_waiters(relay) > before, "the poll waits")
        one = request_bytes("POST", PUBLISH, message(topic, "x" * 20_000))
        count = 1000
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(connection.send, one * count)
            until(lambda: relay.call(lambda: _is_paused(relay)), "reading has stopped")
            held = relay.call(lambda: max(len(each._input) for each in front_of(relay)._own_connections))
            assert held < 1 << 20 and not sending.done()
            assert other.request("POST", PUBLISH, message(topic)).status == 201
            assert connection.response().status == 200
            for _ in range(count):
                assert connection.response().status == 201
            sending.result(WAIT_SECONDS)


def _is_paused(relay: RunningWorker) -> bool:
    return any(each._is_paused for each in front_of(relay)._own_connections)


def _unsent_bytes(relay: RunningWorker) -> int:
    connections = front_of(relay)._own_connections
    return max((each._transport.get_write_buffer_size() for each in connections), default=0)


def test_a_client_that_does_not_read_its_answers_is_not_given_more_of_them(
    relay: RunningWorker, topic: str
) -> None:
    big = message(topic, "x" * 900_000)
    with RawConnection(relay.ports.api) as other:
        for _ in range(3):
            assert other.request("POST", PUBLISH, big).status == 201
    page = request_bytes("GET", f"/api/v1/topics/{topic}/messages")
    with RawConnection(relay.ports.api, receive_buffer_bytes=4096) as connection:
        connection.send(page * 50)
        waiting = until(lambda: relay.call(lambda: _unsent_bytes(relay)), "an answer waits to leave")
        assert waiting < 1_000_000
        assert relay.call(lambda: front_of(relay).answering_count) == 1
        assert [len(connection.response().json()["messages"]) for _ in range(50)] == [1] * 50


# ------------------------------------------------------------------------------------------------- its limits


def test_a_head_that_drips_is_cut_off(make_relay: MakeRelay) -> None:
    relay = make_relay(server={"header_timeout_seconds": 0.2, "idle_timeout_seconds": 3600.0})
    started = time.monotonic()
    with RawConnection(relay.ports.api) as connection:
        connection.send(f"POST {PUBLISH} HTTP/1.1\r\n".encode())
        connection.socket.settimeout(0.01)
        with pytest.raises((ConnectionError, AssertionError)):  # noqa: PT012
            while time.monotonic() < started + WAIT_SECONDS:
                connection.send(b"X: y\r\n")
                try:
                    assert connection.socket.recv(1)
                except TimeoutError:
                    continue
    assert time.monotonic() - started < 5 * TIMEOUT_SCALE


def test_the_time_for_the_first_head_runs_on_when_tornado_takes_over(make_relay: MakeRelay) -> None:
    relay = make_relay(server={"header_timeout_seconds": 0.6, "idle_timeout_seconds": 3600.0})
    started = time.monotonic()
    with RawConnection(relay.ports.api) as connection:
        until(lambda: time.monotonic() > started + 0.4, "most of the time has gone")
        connection.send(b"GET /health HTTP/1.1\r\n")
        assert connection.rest() == b""
    assert 0.55 < time.monotonic() - started < 0.95 * TIMEOUT_SCALE


def test_a_connection_is_closed_when_it_was_idle_for_its_time_after_each_answer(
    make_relay: MakeRelay, topic: str
) -> None:
    relay = make_relay(server={"header_timeout_seconds": 600.0, "idle_timeout_seconds": 1.0})
    with RawConnection(relay.ports.api) as connection:
        for _ in range(3):
            assert connection.request("POST", PUBLISH, message(topic)).status == 201
            answered = time.monotonic()
            until(lambda: time.monotonic() > answered + 0.4, "a part of the time has gone")  # noqa: B023
        assert connection.rest() == b""
        assert 0.95 < time.monotonic() - answered < 5 * TIMEOUT_SCALE


def test_a_body_has_its_own_time_though_the_idle_one_is_longer(make_relay: MakeRelay, topic: str) -> None:
    relay = make_relay(server={"body_timeout_seconds": 0.1, "idle_timeout_seconds": 3600.0})
    with RawConnection(relay.ports.api) as connection:
        assert connection.request("POST", PUBLISH, message(topic)).status == 201
        connection.send(request_bytes("POST", PUBLISH, message(topic))[:-1])
        answer = connection.response()
        assert (answer.status, answer.error) == (408, "request_timeout")
        assert answer.headers["connection"] == "close"
        assert connection.rest() == b""
    until(lambda: relay.call(lambda: front_of(relay).connection_count) == 0, "it counts no more")


def test_a_poll_that_waits_longer_than_all_time_limits_is_answered(make_relay: MakeRelay, topic: str) -> None:
    relay = make_relay(
        server={"header_timeout_seconds": 0.1, "body_timeout_seconds": 0.1, "idle_timeout_seconds": 1.0}
    )
    with RawConnection(relay.ports.api) as connection:
        assert connection.request("POST", POLL, polling(topic, timeout=1.5)).status == 200
        assert connection.request("POST", PUBLISH, message(topic)).status == 201


def test_limits_that_are_reloaded_hold_from_the_next_request_on(make_relay: MakeRelay, topic: str) -> None:
    relay = make_relay()
    with RawConnection(relay.ports.api) as connection:
        assert connection.request("POST", PUBLISH, message(topic, "x" * 2000)).status == 201
        settings_ = relay.worker._settings
        changed = _with_server(settings_, max_body_bytes=1024)
        relay.call(lambda: relay.worker.reload(changed))
        assert connection.request("POST", PUBLISH, message(topic)).status == 201
        assert connection.request("POST", PUBLISH, message(topic, "x" * 2000)).error == "body_too_large"


def _with_server(settings_: Any, **values: Any) -> Any:
    return dataclasses.replace(settings_, server=dataclasses.replace(settings_.server, **values))


# ---------------------------------------------------------------------------------------------------- its end


@pytest.mark.parametrize("path", [POLL, "/api/v1/poll"])
@by_either
def test_a_client_that_goes_away_while_its_poll_waits_frees_its_subscriber(
    relay: RunningWorker, topic: str, path: str, headers: dict[str, str]
) -> None:
    before = active_waiters(relay)
    subscribers = relay.call(lambda: relay.worker.relay.connections["poll"])
    with RawConnection(relay.ports.api) as connection:
        if path == POLL:
            connection.send(request_bytes("POST", path, polling(topic), **headers))
        else:
            connection.send(request_bytes("GET", f"{path}?topics={topic}&timeout=60", **headers))
        until(lambda: active_waiters(relay) == before + 1, "the poll waits")
    until(lambda: active_waiters(relay) == before, "the poll has ended")
    assert relay.call(lambda: relay.worker.relay.connections["poll"]) == subscribers


def test_a_client_that_goes_away_at_any_byte_leaves_nothing_behind(make_relay: MakeRelay, topic: str) -> None:
    relay = make_relay()
    whole = request_bytes("POST", POLL, polling(topic))
    for end in range(0, len(whole) + 1, 7):
        with RawConnection(relay.ports.api) as connection:
            connection.send(whole[:end])
            if end % 2:
                connection.socket.shutdown(socket.SHUT_WR)
                assert connection.rest() == b""
    until(lambda: relay.call(lambda: front_of(relay).connection_count) == 0, "all have gone")
    until(lambda: active_waiters(relay) == 0, "no poll waits")


def test_what_was_asked_is_carried_out_though_the_client_has_gone(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_end, done = threading.Event(), threading.Event(), threading.Event()

    async def take_long(self: PublishEndpoints, request: Request) -> Answer:
        began.set()
        await asyncio.to_thread(may_end.wait, WAIT_SECONDS)
        done.set()
        return Answer(200, b"{}")

    monkeypatch.setattr(PublishEndpoints, "one", take_long)
    relay = make_relay()
    with RawConnection(relay.ports.api) as connection:
        connection.send(request_bytes("POST", PUBLISH, b"{}"))
        assert began.wait(WAIT_SECONDS)
    until(lambda: relay.call(lambda: front_of(relay).connection_count) == 0, "the client has gone")
    may_end.set()
    assert done.wait(WAIT_SECONDS)


def test_a_relay_that_stops_answers_who_waits_and_says_it_is_the_last_answer(
    make_relay: MakeRelay, topic: str
) -> None:
    relay = make_relay()
    with RawConnection(relay.ports.api) as idle, RawConnection(relay.ports.api) as waiting:
        assert idle.request("POST", PUBLISH, message(topic)).status == 201
        waiting.send(request_bytes("POST", POLL, polling(topic)))
        until(lambda: active_waiters(relay) == 1, "the poll waits")
        relay.stop()
        answer = waiting.response()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert idle.rest() == waiting.rest() == b""


def test_a_poll_that_no_topic_answers_delays_stopping_not_beyond_the_deadline(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    monkeypatch.setattr(WaitingPoll, "go_away", lambda self: None)
    relay = make_relay(server={"shutdown_deadline_seconds": 0.2})
    with RawConnection(relay.ports.api) as connection:
        connection.send(request_bytes("POST", POLL, polling(topic)))
        until(lambda: active_waiters(relay) == 1, "the poll waits")
        started = time.monotonic()
        relay.stop()
        assert time.monotonic() - started < 5 * TIMEOUT_SCALE
        assert connection.rest() == b""


def test_a_request_that_was_on_its_way_when_the_relay_stops_is_answered(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    monkeypatch.setattr(stage, "HEARING_SECONDS", WAIT_SECONDS)
    relay = make_relay()
    with (
        RawConnection(relay.ports.api) as one,
        RawConnection(relay.ports.api) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        for connection in (one, other):
            assert connection.request("POST", PUBLISH, message(topic)).status == 201
        stopping = pool.submit(relay.stop)
        until(lambda: not relay.worker.relay.is_accepting, "the relay is stopping")
        answer = one.request("POST", PUBLISH, message(topic))
        assert (answer.status, answer.error) == (503, "shutting_down")
        assert answer.headers["connection"] == "close"
        answer = other.request("GET", "/health")
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        stopping.result(WAIT_SECONDS)


def test_a_farewell_is_heard_by_a_client_that_is_still_sending(make_relay: MakeRelay) -> None:
    relay = make_relay(server={"body_timeout_seconds": 0.1})
    with RawConnection(relay.ports.api) as connection:
        connection.send(
            request_bytes("POST", PUBLISH, Content_Type="application/json", Content_Length="9999")
        )
        answer = connection.response()
        connection.send(b"x" * 100)
        assert answer.error == "request_timeout"
        assert connection.rest() == b""
