"""The long-poll: where it begins, when it is answered, and that nothing is lost between two of them."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import requests

from actors.stream import Batch, Message
from actors.subscriber import SubscriberActor
from pulsar_relay.web.poll import PollSink, Waiters
from tests.conditions import WAIT_SECONDS, until
from tests.quiet_logs import quiet_logs as quiet_logs
from tests.raw_http import RawConnection, request_bytes
from tests.scripted_store import START_MS, nth
from tests.valkeys import TIMEOUT_SCALE, RealValkey
from tests.workers import RunningWorker

MakeRelay = Callable[..., RunningWorker]
PATH = "/messages/poll"


@pytest.fixture
def loop_future() -> Iterator[asyncio.Future[None]]:
    with asyncio.Runner() as runner:
        yield runner.get_loop().create_future()


def publish(relay: RunningWorker, topic: str, *payloads: Any) -> list[str]:
    messages = [{"topic": topic, "payload": payload} for payload in payloads]
    address = f"{relay.url}/api/v1/messages/bulk"
    answer = requests.post(address, json={"messages": messages}, timeout=WAIT_SECONDS)
    return [result["message_id"] for result in answer.json()["results"]]


def poll(relay: RunningWorker, *topics: str, session: Any = requests, **fields: Any) -> dict[str, Any]:
    body = {"topics": list(topics), "timeout": 1, **fields}
    answer = session.post(relay.url + PATH, json=body, timeout=WAIT_SECONDS)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def payloads(answer: dict[str, Any]) -> list[Any]:
    return [message["payload"] for message in answer["messages"]]


def waiting(relay: RunningWorker, *topics: str, **fields: Any) -> tuple[ThreadPoolExecutor, Future[Any]]:
    """A poll in a thread of its own, once it waits."""
    name = f"-/{topics[-1]}"
    before = waiting_topics(relay).get(name, 0)
    pool = ThreadPoolExecutor(1)
    future = pool.submit(poll, relay, *topics, **{"timeout": 60, **fields})
    until(lambda: waiting_topics(relay).get(name, 0) > before, "the poll waits")
    return pool, future


def stats(relay: RunningWorker) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{relay.url}{PATH}/stats", timeout=WAIT_SECONDS).json()
    return found


def waiting_topics(relay: RunningWorker) -> dict[str, int]:
    found: dict[str, int] = stats(relay)["topic_subscriber_counts"]
    return found


def waiters(relay: RunningWorker) -> int:
    return int(stats(relay)["active_waiters"])


def poll_once(relay: RunningWorker, session: requests.Session, *topics: str) -> list[Any]:
    """A poll without cursors that does not wait long: the payloads of what there is of `topics`.

    It asks for one topic more, which gets a message as soon as it waits.
    """
    bell = f"bell-{next(_bells)}"
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(poll, relay, *topics, bell, session=session, timeout=60)
        until(lambda: future.done() or f"-/{bell}" in waiting_topics(relay), "the poll waits")
        if not future.done():
            publish(relay, bell, "ring")
        return [payload for payload in payloads(future.result(WAIT_SECONDS)) if payload != "ring"]


_bells = itertools.count()


# -------------------------------------------------------------------------------------------- when it answers


def test_a_poll_without_messages_is_answered_empty_at_its_time_with_its_cursors(
    relay: RunningWorker, topic: str
) -> None:
    [newest] = publish(relay, topic, 1)
    started = time.monotonic()
    answer = poll(relay, topic, "never-" + topic[:200])
    assert 0.95 < time.monotonic() - started < 1.5 * TIMEOUT_SCALE
    assert answer == {
        "messages": [],
        "has_more": False,
        "cursors": {topic: newest, "never-" + topic[:200]: "0-0"},
    }


@pytest.mark.parametrize("timeout", [0, -5, "0.5"])
def test_a_shorter_time_is_a_second(relay: RunningWorker, topic: str, timeout: Any) -> None:
    started = time.monotonic()
    assert poll(relay, topic, timeout=timeout)["messages"] == []
    assert 0.95 < time.monotonic() - started < 1.5 * TIMEOUT_SCALE


@pytest.mark.parametrize("timeout", [3600, None])
def test_a_longer_time_is_the_longest_and_none_the_usual_one(
    make_relay: MakeRelay, topic: str, timeout: Any
) -> None:
    relay = make_relay(poll={"max_timeout_seconds": 1.2, "default_timeout_seconds": 1.2})
    started = time.monotonic()
    assert poll(relay, topic, timeout=timeout)["messages"] == []
    assert 1.1 < time.monotonic() - started < 1.8 * TIMEOUT_SCALE


def test_a_waiting_poll_is_answered_by_the_first_message(relay: RunningWorker, topic: str) -> None:
    pool, future = waiting(relay, "a-" + topic, topic)
    with pool:
        [message_id] = publish(relay, topic, "now")
        answer = future.result(WAIT_SECONDS)
    assert payloads(answer) == ["now"]
    assert answer["cursors"] == {"a-" + topic: "0-0", topic: message_id}
    assert answer["has_more"] is False


def test_messages_of_twenty_topics_come_by_time_and_ascending_in_each(
    relay: RunningWorker, topic: str
) -> None:
    topics = [f"{topic}-{number}" for number in range(20)]
    for round_ in range(3):
        for name in topics:
            publish(relay, name, round_)
    answer = poll(relay, *topics, since=dict.fromkeys(topics, "0-0"))
    ids = [tuple(map(int, message["message_id"].split("-"))) for message in answer["messages"]]
    assert len(ids) == 60 and ids == sorted(ids)
    for name in topics:
        mine = [message for message in answer["messages"] if message["topic"] == name]
        assert [message["payload"] for message in mine] == [0, 1, 2]
        assert answer["cursors"][name] == mine[-1]["message_id"]


def test_twenty_one_topics_are_refused(relay: RunningWorker) -> None:
    body: dict[str, Any] = {"topics": [f"t{number}" for number in range(21)]}
    assert requests.post(relay.url + PATH, json=body, timeout=WAIT_SECONDS).status_code == 422


def test_a_topic_named_twice_is_returned_once(relay: RunningWorker, topic: str) -> None:
    publish(relay, topic, 1)
    assert payloads(poll(relay, topic, topic, since={topic: "0-0"})) == [1]


def test_at_most_the_limit_of_each_topic_comes_and_the_rest_is_announced(
    relay: RunningWorker, topic: str
) -> None:
    other = "b-" + topic
    publish(relay, topic, *range(10))
    publish(relay, other, *range(2))
    seen: dict[str, list[int]] = {topic: [], other: []}
    cursors = {topic: "0-0", other: "0-0"}
    has_more = True
    while has_more:
        answer = poll(relay, topic, other, since=cursors, limit=3)
        assert len(answer["messages"]) <= 6
        for message in answer["messages"]:
            seen[message["topic"]].append(message["payload"])
        has_more, cursors = answer["has_more"], answer["cursors"]
    assert seen == {topic: list(range(10)), other: [0, 1]}


def test_a_limit_above_the_highest_is_the_highest(make_relay: MakeRelay, topic: str) -> None:
    relay = make_relay(poll={"max_limit_messages": 5, "default_limit_messages": 2})
    publish(relay, topic, *range(10))
    assert payloads(poll(relay, topic, since={topic: "0-0"}, limit=10**9)) == list(range(5))
    assert payloads(poll(relay, topic, since={topic: "0-0"})) == [0, 1]


# -------------------------------------------------------------------------------------------- where it begins


def test_a_cursor_begins_after_itself(relay: RunningWorker, topic: str) -> None:
    ids = publish(relay, topic, 1, 2, 3)
    assert payloads(poll(relay, topic, since={topic: ids[0]})) == [2, 3]
    pool, future = waiting(relay, topic, since={topic: ids[2]})
    with pool:
        publish(relay, topic, 4)
        assert payloads(future.result(WAIT_SECONDS)) == [4]


@pytest.mark.parametrize("since", [None, {}])
def test_a_first_poll_begins_now(relay: RunningWorker, topic: str, since: Any) -> None:
    publish(relay, topic, "before")
    pool, future = waiting(relay, topic, since=since)
    with pool:
        publish(relay, topic, "after")
        assert payloads(future.result(WAIT_SECONDS)) == ["after"]


def test_a_topic_that_others_have_cursors_beside_begins_where_the_oldest_of_them_was(
    relay: RunningWorker, topic: str
) -> None:
    new = "new-" + topic
    [ancient] = publish(relay, new, "ancient")
    cursor = ancient
    while cursor.split("-")[0] == ancient.split("-")[0]:  # in a later millisecond
        [cursor] = publish(relay, topic, "seen")
    publish(relay, new, "missed")
    answer = poll(relay, topic, new, since={topic: cursor})
    assert payloads(answer) == ["missed"]
    assert "notices" not in answer
    # A cursor of a topic that is not asked for tells the same.
    assert payloads(poll(relay, new, since={topic: cursor})) == ["missed"]
    assert payloads(poll(relay, new, since={"unrelated": "x"})) == ["ancient", "missed"]


def test_a_break_is_told_with_the_messages_after_it(
    relay: RunningWorker, caplog: pytest.LogCaptureFixture, topic: str
) -> None:
    publish(relay, topic, 1)
    foreign = poll(relay, topic, since={topic: "msg_1"})
    assert payloads(foreign) == [1]
    assert [(notice["type"], notice["reason"]) for notice in foreign["notices"]] == [
        ("reset", "unknown_cursor")
    ]
    requests.delete(f"{relay.url}/api/v1/topics/{topic}", timeout=WAIT_SECONDS)
    publish(relay, topic, 2)
    gap = poll(relay, topic, since={topic: "1-0"})
    assert payloads(gap) == [2]
    assert [(notice["type"], notice["lost"]) for notice in gap["notices"]] == [("gap", 1)]
    assert {record.name for record in caplog.records} <= {"actors.topic"}
    caplog.clear()


# ------------------------------------------------------------------------------------------------- the cookie


def test_nothing_is_lost_between_two_polls_of_a_client_that_keeps_no_cursors(
    relay: RunningWorker, topic: str
) -> None:
    with requests.Session() as session:
        assert poll_once(relay, session, topic) == []
        publish(relay, topic, 1, 2)
        assert poll_once(relay, session, topic) == [1, 2]
        publish(relay, topic, 3)
        assert payloads(poll(relay, topic, session=session, limit=1)) == [3]
        assert poll_once(relay, session, topic) == []


def test_the_cookie_keeps_the_places_of_topics_of_other_polls(relay: RunningWorker, topic: str) -> None:
    one, two = "one-" + topic, "two-" + topic
    with requests.Session() as session:
        poll_once(relay, session, one)
        poll_once(relay, session, two)
        publish(relay, one, 1)
        publish(relay, two, 2)
        assert poll_once(relay, session, two) == [2]
        assert poll_once(relay, session, one, two) == [1]


def test_a_cursor_counts_more_than_the_cookie_and_leaves_it_alone(relay: RunningWorker, topic: str) -> None:
    with requests.Session() as session:
        poll_once(relay, session, topic)
        publish(relay, topic, 1, 2)
        cookies = session.cookies.get_dict()
        assert payloads(poll(relay, topic, session=session, since={topic: "0-0"})) == [1, 2]
        assert session.cookies.get_dict() == cookies
        # Another topic's cursor says nothing of this one; the cookie does.
        assert payloads(poll(relay, topic, session=session, since={"other": "0-0"})) == [1, 2]


@pytest.mark.parametrize(
    "spoil", [lambda value: value[::-1], lambda value: "9" + value, lambda value: "x"], ids=["a", "b", "c"]
)
def test_a_spoiled_cookie_is_none(relay: RunningWorker, topic: str, spoil: Callable[[str], str]) -> None:
    with requests.Session() as session:
        poll_once(relay, session, topic)
        [(name, value)] = session.cookies.get_dict().items()
        publish(relay, topic, 1)
        session.cookies.set(name, spoil(str(value)))
        assert poll_once(relay, session, topic) == []
    with requests.Session() as session:
        session.cookies.set(name, value)
        assert poll_once(relay, session, topic) == [1]


def test_the_cookie_is_for_this_relay_and_no_script(relay: RunningWorker, topic: str) -> None:
    address = f"{relay.url}/api/v1/poll?topics={topic}&timeout=1"
    answer = requests.get(address, timeout=WAIT_SECONDS)
    attributes = {part.strip().split("=")[0].lower() for part in answer.headers["Set-Cookie"].split(";")}
    assert attributes == {"relay_cursor", "httponly", "path", "samesite"}
    publish(relay, topic, 1)
    answer = requests.get(f"{address}&since=earliest", timeout=WAIT_SECONDS)
    assert "Set-Cookie" not in answer.headers


def test_every_message_is_seen_once_by_clients_with_cookies_while_others_publish(
    relay: RunningWorker, topic: str
) -> None:
    count, is_over = 100, threading.Event()

    def receive() -> list[int]:
        seen: list[int] = []
        with requests.Session() as session:
            poll_once(relay, session, topic)
            ready.release()
            while len(seen) < count and not is_over.is_set():
                seen += payloads(poll(relay, topic, session=session, timeout=5, limit=7))
        return seen

    ready = threading.Semaphore(0)
    with ThreadPoolExecutor(8) as pool:
        receiving = [pool.submit(receive) for _ in range(4)]
        for _ in receiving:
            assert ready.acquire(timeout=WAIT_SECONDS)
        publishing = [pool.submit(publish, relay, topic, number) for number in range(count)]
        for future in publishing:
            future.result(WAIT_SECONDS)
        try:
            seen = [future.result(WAIT_SECONDS) for future in receiving]
        finally:
            is_over.set()
    assert all(sorted(one) == list(range(count)) for one in seen)
    assert all(one == seen[0] for one in seen)


# -------------------------------------------------------------------------------------- clients that are gone


@pytest.mark.parametrize("ending", ["close", "abort", "half-close"])
def test_a_client_that_goes_is_no_waiter_any_more(make_relay: MakeRelay, topic: str, ending: str) -> None:
    relay = make_relay()
    inside = relay.worker.relay
    actors = relay.call(lambda: len(inside.base.population.cells))
    body = json.dumps({"topics": [topic], "timeout": 60}).encode()
    connections = [RawConnection(relay.ports.api) for _ in range(100)]
    for connection in connections:
        connection.send(request_bytes("POST", PATH, body))
    until(lambda: waiters(relay) == 100, "all polls wait")
    counts = stats(relay)
    assert counts["topic_subscriber_counts"] == {f"-/{topic}": 100}
    assert counts["subscribed_topics"] == 1
    started = time.monotonic()
    for connection in connections:
        if ending == "abort":
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        elif ending == "half-close":
            connection.socket.shutdown(socket.SHUT_WR)
        connection.socket.close()
    until(lambda: waiters(relay) == 0, "nobody waits")
    assert time.monotonic() - started < 1.0 * TIMEOUT_SCALE
    counts = stats(relay)
    assert counts == {"active_waiters": 0, "subscribed_topics": 0, "topic_subscriber_counts": {}}
    assert len(relay.worker.connections) == 0
    assert inside.connections["poll"] == 0
    until(lambda: relay.call(lambda: len(inside.base.population.cells)) <= actors + 1, "no actor is left")


def test_a_message_for_a_client_that_is_gone_is_there_for_its_next_poll(
    relay: RunningWorker, topic: str
) -> None:
    [cursor] = publish(relay, topic, "before")
    body = json.dumps({"topics": [topic], "timeout": 60, "since": {topic: cursor}}).encode()
    before = waiters(relay)
    with RawConnection(relay.ports.api) as connection:
        connection.send(request_bytes("POST", PATH, body))
        until(lambda: waiters(relay) > before, "the poll waits")
    publish(relay, topic, "kept")
    assert payloads(poll(relay, topic, since={topic: cursor})) == ["kept"]


def test_many_polls_leave_nothing_behind(make_relay: MakeRelay, topic: str) -> None:
    relay = make_relay()
    inside = relay.worker.relay
    publish(relay, topic, 1)
    poll(relay, topic, since={topic: "0-0"})
    actors = relay.call(lambda: len(inside.base.population.cells))
    with requests.Session() as session:
        for _ in range(300):
            assert payloads(poll(relay, topic, session=session, since={topic: "0-0"})) == [1]
    assert relay.call(lambda: len(inside.base.population.cells)) == actors
    assert inside.connections["poll"] == 0
    assert relay.call(lambda: len(relay.worker.connections)) == 0


# ---------------------------------------------------------------------------------------------------- trouble


def test_a_stopping_relay_answers_waiting_polls_at_once(make_relay: MakeRelay, topic: str) -> None:
    relay = make_relay()
    [cursor] = publish(relay, topic, 1)
    polls = [waiting(relay, topic) for _ in range(5)]
    started = time.monotonic()
    relay.stop()
    assert time.monotonic() - started < 2 * TIMEOUT_SCALE
    for pool, future in polls:
        answer = future.result(WAIT_SECONDS)
        assert answer == {"messages": [], "has_more": False, "cursors": {topic: cursor}}
        pool.shutdown()


def test_a_poll_of_a_stopping_relay_is_503(make_relay: MakeRelay, topic: str) -> None:
    relay = make_relay()
    relay.worker.relay.is_accepting = False
    body: dict[str, Any] = {"topics": [topic]}
    answer = requests.post(relay.url + PATH, json=body, timeout=WAIT_SECONDS)
    assert (answer.status_code, answer.json()["error"]) == (503, "shutting_down")
    assert answer.headers["Retry-After"] == "1"
    assert waiters(relay) == 0


def test_a_poll_of_a_topic_that_cannot_be_read_is_503_at_its_time(
    make_relay: MakeRelay,
    make_valkey: Callable[..., RealValkey],
    caplog: pytest.LogCaptureFixture,
    topic: str,
) -> None:
    valkey = make_valkey()
    valkey.start()
    relay = make_relay(valkey.socket_path)
    valkey.stop()
    body: dict[str, Any] = {"topics": [topic], "timeout": 1}
    answer = requests.post(relay.url + PATH, json=body, timeout=WAIT_SECONDS)
    assert (answer.status_code, answer.json()["error"]) == (503, "store_unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert all(record.name.startswith("pulsar_relay.store") for record in caplog.records)
    caplog.clear()


def test_a_poll_is_answered_soon_after_its_time_although_valkey_hangs(
    make_relay: MakeRelay,
    make_valkey: Callable[..., RealValkey],
    caplog: pytest.LogCaptureFixture,
    topic: str,
) -> None:
    valkey = make_valkey()
    valkey.start()
    relay = make_relay(valkey.socket_path, valkey={"command_timeout_seconds": 0.3})
    publish(relay, topic, 1)
    newest = poll(relay, topic, since={topic: "0-0"})["cursors"][topic]
    valkey.pause()
    try:
        for body, status in (
            ({"topics": [topic], "since": {topic: newest}}, 200),
            ({"topics": [topic, "never-seen"]}, 503),
            ({"topics": ["never-seen-either"], "since": {"never-seen-either": "1-1"}}, 503),
        ):
            started = time.monotonic()
            json_: dict[str, Any] = {**body, "timeout": 1}
            answer = requests.post(relay.url + PATH, json=json_, timeout=WAIT_SECONDS)
            assert (answer.status_code, body) == (status, body)
            assert time.monotonic() - started < 1 + 4 * TIMEOUT_SCALE
    finally:
        valkey.resume()
    assert waiters(relay) == 0
    caplog.clear()


def test_a_failed_subscriber_is_a_500_and_logged_once(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, topic: str
) -> None:
    def fail(self: SubscriberActor, subscribe: Any) -> None:
        raise ZeroDivisionError("a secret")

    relay = make_relay()
    monkeypatch.setattr(SubscriberActor, "on_subscribe", fail)
    body: dict[str, Any] = {"topics": [topic], "timeout": 60}
    answer = requests.post(relay.url + PATH, json=body, timeout=WAIT_SECONDS)
    assert (answer.status_code, answer.json()["error"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert len([record for record in caplog.records if record.exc_info]) == 1
    assert waiters(relay) == 0
    caplog.clear()


# ----------------------------------------------------------------------------------------------- the counting


def test_waiters_are_counted_by_topic() -> None:
    waiters_ = Waiters()
    waiters_.enter(["a", "b"], "me")
    waiters_.enter(["a"], "you")
    assert dict(waiters_.scopes) == {"me": 1, "you": 1}
    assert (waiters_.active, dict(waiters_.topics)) == (2, {"a": 2, "b": 1})
    waiters_.leave(["a", "b"], "me")
    assert dict(waiters_.scopes) == {"you": 1}
    assert (waiters_.active, dict(waiters_.topics)) == (1, {"a": 1})
    waiters_.leave(["a"], "you")
    assert dict(waiters_.scopes) == {}
    assert (waiters_.active, dict(waiters_.topics)) == (0, {})


# What is answered


def numbered(*numbers: int, topic: str = "t") -> list[Message]:
    return [Message(topic, nth(n), str(nth(n)), nth(n - 1), b"%d" % n) for n in numbers]


def test_polls_that_are_given_the_same_batch_share_its_bytes(loop_future: asyncio.Future[None]) -> None:
    batch = Batch("t", numbered(1, 2, 3))
    one, other = PollSink(loop_future), PollSink(loop_future)
    for sink in (one, other):
        sink.deliver(batch)
    assert one.items(START_MS) is other.items(START_MS)
    assert [each["message_id"] for each in json.loads(b"[%b]" % one.items(START_MS))] == [
        message.id_text for message in batch.messages
    ]


def test_topics_are_interleaved_by_time_without_what_has_expired(loop_future: asyncio.Future[None]) -> None:
    sink = PollSink(loop_future)
    odd, even = numbered(1, 3, 5, 7, topic="odd"), numbered(2, 4, 6, 8, topic="even")
    odd[1].expires_at_ms = START_MS
    for topic, messages in (("odd", odd), ("even", even)):
        sink.deliver(Batch(topic, messages))
    found = json.loads(b"[%b]" % sink.items(START_MS))
    assert [each["topic"] for each in found] == ["odd", "even", "even", "odd", "even", "odd", "even"]
    assert PollSink(loop_future).items(START_MS) == b""
