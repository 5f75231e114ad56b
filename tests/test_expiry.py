"""A message whose time to live has passed is given to nobody, on any path, and is no gap either."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.conditions import WAIT_SECONDS, until
from tests.talks import Talk
from tests.valkeys import RealValkey
from tests.workers import RunningWorker

SHORT = "short"
LASTING = "lasting"

Read = Callable[[RunningWorker, str, str, str], list[dict[str, Any]]]
"""What a reader that begins after a cursor is given, up to the message with an id, notices among it."""


def _publish(relay: RunningWorker, topic: str, *kinds: str) -> list[str]:
    """One message a kind, in one step: their ids."""
    messages = [{"topic": topic, "payload": kind, **({"ttl": 1} if kind == SHORT else {})} for kind in kinds]
    body = {"messages": messages}
    answer = requests.post(f"{relay.url}/api/v1/messages/bulk", json=body, timeout=WAIT_SECONDS).json()
    return [result["message_id"] for result in answer["results"]]


def _describe(relay: RunningWorker, topic: str) -> dict[str, Any]:
    answer: dict[str, Any] = requests.get(f"{relay.url}/api/v1/topics/{topic}", timeout=WAIT_SECONDS).json()
    return answer


def _poll(relay: RunningWorker, since: Mapping[str, str], **fields: Any) -> dict[str, Any]:
    body = {"topics": list(since), "since": since, **fields}
    answer: dict[str, Any] = requests.post(
        f"{relay.url}/messages/poll", json=body, timeout=WAIT_SECONDS
    ).json()
    return answer


def _by_poll(relay: RunningWorker, topic: str, cursor: str, last: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while cursor != last:
        answer = _poll(relay, {topic: cursor}, limit=2)
        assert answer["messages"] or answer["cursors"][topic] != cursor
        found += answer.get("notices", [])
        found += answer["messages"]
        cursor = answer["cursors"][topic]
    return found


def _by_websocket(relay: RunningWorker, topic: str, cursor: str, last: str) -> list[dict[str, Any]]:
    with Talk(relay.ws_url) as talk:
        talk.subscribe(topic, offset=cursor)
        return _heard(talk, last)


def _heard(talk: Talk, last: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while not found or found[-1].get("message_id") != last:
        found.append(talk.hear())
    return found


def _by_stream(relay: RunningWorker, topic: str, cursor: str, last: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    query = {"topics": topic, "since": cursor}
    address = f"{relay.url}/api/v1/stream"
    with requests.get(address, params=query, stream=True, timeout=WAIT_SECONDS) as answer:
        for line in answer.iter_lines(chunk_size=None):
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                if event["type"] != "subscribed":
                    found.append(event)
                if event.get("message_id") == last:
                    return found
    raise AssertionError("the stream ended")


def _history(relay: RunningWorker, topic: str, cursor: str, order: str) -> Iterator[dict[str, Any]]:
    address = f"{relay.url}/api/v1/topics/{topic}/messages"
    query = {"cursor": cursor, "order": order, "limit": "2"}
    while True:
        page = requests.get(address, params=query, timeout=WAIT_SECONDS).json()
        yield from page["messages"]
        if not page["has_more"]:
            return
        query["cursor"] = page["next_cursor"]


def _by_ascent(relay: RunningWorker, topic: str, cursor: str, last: str) -> list[dict[str, Any]]:
    return list(_history(relay, topic, cursor, "asc"))


def _by_descent(relay: RunningWorker, topic: str, cursor: str, last: str) -> list[dict[str, Any]]:
    place = _place(cursor)
    down = _history(relay, topic, "", "desc")
    return [message for message in down if _place(message["message_id"]) > place][::-1]


def _place(cursor: str) -> tuple[int, ...]:
    return tuple(map(int, cursor.split("-")))


READERS: Sequence[Read] = (_by_poll, _by_websocket, _by_stream, _by_ascent, _by_descent)


def _read_by_all(relay: RunningWorker, topic: str, cursors: Sequence[str], last: str) -> list[list[str]]:
    """For each cursor and reader: the ids it was given, or a notice's kind in its place."""
    return [
        [item.get("message_id", item["type"]) for item in read(relay, topic, cursor, last)]
        for cursor in cursors
        for read in READERS
    ]


def _until_expired(relay: RunningWorker, topic: str, ids: Sequence[str]) -> None:
    def living() -> set[str]:
        return {message["message_id"] for message in _history(relay, topic, "", "asc")}

    until(lambda: not living() & set(ids), "the short-lived have expired")


@pytest.fixture
def unix_socket(make_valkey: Callable[..., RealValkey]) -> str:
    """A Valkey that no other relay looks after, or has."""
    return make_valkey().start().socket_path


@pytest.fixture(params=["hot", "cold"])
def reading(
    request: pytest.FixtureRequest, unix_socket: str, make_relay: Callable[..., RunningWorker]
) -> RunningWorker:
    """A relay that serves pages from memory, or one that reads the stream for each."""
    return make_relay(unix_socket, hot_buffer={"max_messages": 1000 if request.param == "hot" else 0})


def test_an_expired_message_is_given_to_nobody_and_is_no_gap(
    reading: RunningWorker, unix_socket: str, make_relay: Callable[..., RunningWorker], topic: str
) -> None:
    sweeping = make_relay(unix_socket, storage={"trim_interval_seconds": 0.1})
    kinds = [SHORT, SHORT, LASTING, SHORT, SHORT, SHORT, LASTING, SHORT, LASTING]
    ids = _publish(reading, topic, *kinds)
    cursors = ["0-0", *ids[:-1]]
    with Talk(reading.ws_url) as live:
        live.subscribe(topic, offset="0-0")
        assert {item["type"] for item in _heard(live, ids[-1])} == {"message"}
        # Fills the cache of pages that readers share; they will come with the same cursors.
        _read_by_all(reading, topic, ["0-0"], ids[-1])
        short = [message_id for message_id, kind in zip(ids, kinds, strict=True) if kind == SHORT]
        lasting = [message_id for message_id in ids if message_id not in short]
        _until_expired(reading, topic, short)
        until(lambda: _describe(reading, topic)["first_id"] == lasting[0], "the old end was trimmed")
        expected = [
            [message_id for message_id in lasting if _place(message_id) > _place(cursor)]
            for cursor in cursors
            for _ in READERS
        ]
        for relay in (reading, sweeping):
            assert _read_by_all(relay, topic, cursors, ids[-1]) == expected
        # Somebody who was there all the time goes on.
        more = _publish(sweeping, topic, LASTING, SHORT, LASTING)
        assert [item["message_id"] for item in _heard(live, more[-1])] == more
    for relay in (reading, sweeping):
        counters = relay.worker.relay.counters
        assert (counters.gaps, counters.resets, counters.unannounced_gaps) == (0, 0, 0)


def test_a_poll_that_finds_only_expired_messages_waits_and_has_no_more(
    reading: RunningWorker, topic: str
) -> None:
    ids = _publish(reading, topic, LASTING, SHORT, SHORT, SHORT)
    _until_expired(reading, topic, ids[1:])
    answer = _poll(reading, {topic: "0-0"}, limit=1)
    assert [message["message_id"] for message in answer["messages"]] == ids[:1]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_poll, reading, answer["cursors"], limit=1, timeout=WAIT_SECONDS)
        until(lambda: topic in reading.worker.waiters.topics, "the poll waits")
        (newest,) = _publish(reading, topic, LASTING)
        answer = waiting.result(WAIT_SECONDS)
    assert [message["message_id"] for message in answer["messages"]] == [newest]
    assert (answer["has_more"], answer["cursors"]) == (False, {topic: newest})
    assert "notices" not in answer


def test_memory_does_not_promise_more_where_all_that_follows_has_expired(
    relay: RunningWorker, topic: str
) -> None:
    ids = _publish(relay, topic, LASTING, SHORT, SHORT)
    _until_expired(relay, topic, ids[1:])
    assert not _poll(relay, {topic: "0-0"}, limit=1)["has_more"]
    _publish(relay, topic, LASTING)
    assert _poll(relay, {topic: "0-0"}, limit=1)["has_more"]


def test_the_newest_message_is_the_newest_that_lives(relay: RunningWorker, topic: str) -> None:
    ids = _publish(relay, topic, LASTING, LASTING, SHORT)
    _until_expired(relay, topic, ids[2:])
    address = f"{relay.url}/api/v1/topics/{topic}/messages?limit=1&order=desc"
    page = requests.get(address, timeout=WAIT_SECONDS).json()
    assert [message["message_id"] for message in page["messages"]] == [ids[1]]


def test_what_expires_while_a_slow_subscriber_is_served_from_its_cursor_is_not_given_to_it(
    make_relay: Callable[..., RunningWorker], topic: str
) -> None:
    relay = make_relay(subscriber={"outbox_high_bytes": 64 * 1024, "outbox_low_bytes": 1024})
    counters = relay.worker.relay.counters
    with Talk(relay.ws_url, max_queue=1) as slow:
        slow.subscribe(topic)
        large = "x" * 100_000
        sent = 0
        while counters.lagging_subscribers == 0:
            assert sent < 1000
            _publish(relay, topic, *[large] * 10)
            sent += 10
        short = _publish(relay, topic, *[SHORT] * 50)
        (last,) = _publish(relay, topic, LASTING)
        _until_expired(relay, topic, short)
        received = [item.get("payload", item["type"]) for item in _heard(slow, last)]
    assert received == [large] * sent + [LASTING]
    assert counters.unannounced_gaps == 0


def test_what_expires_while_a_poll_waits_for_another_topic_is_not_in_its_answer(
    make_valkey: Callable[..., RealValkey], make_relay: Callable[..., RunningWorker]
) -> None:
    server = make_valkey().start()
    relay = make_relay(server.socket_path)
    _publish(relay, "slow", LASTING)
    (kept,) = _publish(relay, "quick", LASTING)
    _poll(relay, {"quick": "0-0"})
    _publish(relay, "quick", SHORT)
    expires = time.time() + 1
    with ThreadPoolExecutor(1) as pool:
        server.pause()
        try:
            # The one topic is in memory, the other must be read.
            polling = pool.submit(_poll, relay, {"quick": kept, "slow": "0-0"})
            until(lambda: "quick" in relay.worker.waiters.topics, "the poll waits")
            until(lambda: time.time() > expires, "the message has expired")
        finally:
            server.resume()
        answer = polling.result(WAIT_SECONDS)
    assert SHORT not in [message["payload"] for message in answer["messages"]]


def test_a_topic_of_short_lived_messages_is_emptied_to_its_newest(
    unix_socket: str, make_relay: Callable[..., RunningWorker], topic: str
) -> None:
    relay = make_relay(unix_socket, storage={"trim_interval_seconds": 0.1})
    trimmed = relay.worker.relay.counters.trimmed_messages
    ids = _publish(relay, topic, *[SHORT] * 500)
    until(lambda: _describe(relay, topic)["length"] == 1, "what has expired is gone")
    assert _describe(relay, topic)["last_id"] == ids[-1]
    assert relay.worker.relay.counters.trimmed_messages >= trimmed + 499
