"""Publishing over HTTP: one message or many, once under each key, and what is answered when the store is
away.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from actors.protocol import Published
from pulsar_relay.errors import ERRORS, RelayError
from pulsar_relay.message_reader import PublishRequest
from pulsar_relay.relay import Relay
from pulsar_relay.web.publish import Publisher, digest_of
from tests.conditions import WAIT_SECONDS, until
from tests.quiet_logs import quiet_logs as quiet_logs
from tests.raw_http import RawConnection, request_bytes
from tests.valkeys import RealValkey
from tests.workers import RunningWorker

MakeRelay = Callable[..., RunningWorker]


def publish(relay: RunningWorker, body: Any, key: str | None = None) -> requests.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return requests.post(f"{relay.url}/api/v1/messages", json=body, headers=headers, timeout=WAIT_SECONDS)


def bulk(relay: RunningWorker, messages: Any, key: str | None = None, query: str = "") -> requests.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    address = f"{relay.url}/api/v1/messages/bulk{query}"
    return requests.post(address, json={"messages": messages}, headers=headers, timeout=WAIT_SECONDS)


def history(relay: RunningWorker, topic: str) -> list[Any]:
    """The payloads of all messages of a topic, oldest first."""
    address = f"{relay.url}/api/v1/topics/{topic}/messages?order=asc&limit=1000"
    answer = requests.get(address, timeout=WAIT_SECONDS)
    return [] if answer.status_code == 404 else [message["payload"] for message in answer.json()["messages"]]


def messages(topic: str, *payloads: Any) -> list[dict[str, Any]]:
    return [{"topic": topic, "payload": payload} for payload in payloads]


def ids(answer: requests.Response) -> list[str]:
    assert answer.status_code == 207, answer.text
    return [result["message_id"] for result in answer.json()["results"]]


# ------------------------------------------------------------------------------------------------ one message


def test_a_message_is_answered_when_it_is_in_the_stream(
    relay: RunningWorker, relay_valkey: RealValkey, topic: str
) -> None:
    answer = publish(relay, {"topic": topic, "payload": {"a": 1}, "metadata": {"k": "v"}})
    assert answer.status_code == 201
    assert answer.json().keys() == {"message_id", "topic", "timestamp"}
    entries: Any = relay_valkey.command("XRANGE", f"topic:{topic}:stream", "-", "+")
    assert [entry_id.decode() for entry_id, _ in entries] == [answer.json()["message_id"]]
    assert entries[0][1][b"payload"] == b'{"a": 1}'
    assert answer.json()["timestamp"].endswith("Z")


def test_a_read_right_after_a_publish_finds_it(relay: RunningWorker, topic: str) -> None:
    for number in range(50):
        message_id = publish(relay, {"topic": topic, "payload": number}).json()["message_id"]
        address = f"{relay.url}/api/v1/topics/{topic}"
        newest = requests.get(f"{address}/messages?limit=1", timeout=WAIT_SECONDS).json()["messages"][0]
        assert (newest["message_id"], newest["payload"]) == (message_id, number)
        assert requests.get(address, timeout=WAIT_SECONDS).json()["length"] == number + 1


def test_a_message_whose_time_is_over_is_given_to_nobody(relay: RunningWorker, topic: str) -> None:
    publish(relay, {"topic": topic, "payload": "short", "ttl": 1})
    publish(relay, {"topic": topic, "payload": "long", "ttl": 3600})
    assert history(relay, topic) == ["short", "long"]
    until(lambda: history(relay, topic) == ["long"], "the first is over")
    body = {"topics": [topic], "since": {topic: "0-0"}, "timeout": 1}
    answer = requests.post(f"{relay.url}/messages/poll", json=body, timeout=WAIT_SECONDS).json()  # type: ignore[arg-type]
    assert [message["payload"] for message in answer["messages"]] == ["long"]


# ------------------------------------------------------------------------------------------------------- keys


def test_a_repeated_publish_is_answered_as_the_first_and_stored_once(
    relay: RunningWorker, topic: str
) -> None:
    body = {"topic": topic, "payload": [1, 2]}
    first = publish(relay, body, "key")
    for _ in range(3):
        again = publish(relay, body, "key")
        assert (again.status_code, again.json()) == (201, first.json())
    assert publish(relay, body, "other").json() != first.json()
    assert publish(relay, body).json() != first.json()
    assert history(relay, topic) == [[1, 2]] * 3


def test_publishes_at_the_same_time_under_one_key_are_one(relay: RunningWorker, topic: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        body = {"topic": topic, "payload": 1}
        answers = list(pool.map(lambda _: publish(relay, body, "key"), range(32)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["message_id"] for answer in answers}) == 1
    assert history(relay, topic) == [1]


@pytest.mark.parametrize(
    "other", [{"payload": 2}, {"payload": 1, "metadata": {"a": "b"}}, {"payload": 1, "ttl": 60}]
)
def test_a_key_used_for_another_message_is_422_and_stores_nothing(
    relay: RunningWorker, topic: str, other: dict[str, Any]
) -> None:
    publish(relay, {"topic": topic, "payload": 1}, "key")
    answer = publish(relay, {"topic": topic, **other}, "key")
    assert (answer.status_code, answer.json()["error"]) == (422, "idempotency_conflict")
    assert answer.json()["retry"] is False
    assert history(relay, topic) == [1]


def test_a_key_is_the_same_for_a_single_message_and_for_a_request_of_many(
    relay: RunningWorker, topic: str
) -> None:
    first = publish(relay, {"topic": topic, "payload": 1}, "key").json()["message_id"]
    assert ids(bulk(relay, messages(topic, 1), "key")) == [first]
    conflict = bulk(relay, messages(topic, 1, 2), "key")
    assert (conflict.status_code, conflict.json()["error"]) == (422, "idempotency_conflict")
    second = ids(bulk(relay, messages(topic, 3), "other"))[0]
    assert publish(relay, {"topic": topic, "payload": 3}, "other").json()["message_id"] == second
    assert history(relay, topic) == [1, 3]


requests_ = st.builds(
    PublishRequest,
    st.just("t"),
    st.sampled_from([b"1", b"11", b'"1"', b"[]"]),
    st.sampled_from([None, 1, 11]),
    st.sampled_from([None, b"{}", b'{"1":"1"}']),
)


@given(st.lists(requests_, max_size=3), st.lists(requests_, max_size=3))
def test_a_digest_is_the_same_exactly_for_the_same_messages(
    one: list[PublishRequest], other: list[PublishRequest]
) -> None:
    def told(published: list[PublishRequest]) -> list[tuple[Any, ...]]:
        return [(request.payload, request.metadata or b"", request.ttl_seconds) for request in published]

    assert (digest_of(one) == digest_of(other)) == (told(one) == told(other))


# ------------------------------------------------------------------------------------------------------- many


def test_results_stand_in_the_order_of_the_request(relay: RunningWorker, topic: str) -> None:
    topics = [f"{topic}-{number % 3}" for number in range(30)]
    answer = bulk(relay, [{"topic": name, "payload": index} for index, name in enumerate(topics)])
    results = answer.json()["results"]
    assert answer.status_code == 207
    assert [result["topic"] for result in results] == topics
    assert {result["status"] for result in results} == {"accepted"}
    assert answer.json()["summary"] == {"total": 30, "accepted": 30, "rejected": 0}
    for number in range(3):
        name = f"{topic}-{number}"
        assert history(relay, name) == list(range(number, 30, 3))
        address = f"{relay.url}/api/v1/topics/{name}/messages?order=asc&limit=100"
        stored = requests.get(address, timeout=WAIT_SECONDS).json()["messages"]
        told = [result["message_id"] for result in results if result["topic"] == name]
        assert [message["message_id"] for message in stored] == told


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_wrong_message_is_rejected_with_its_reason_and_the_others_are_stored(
    relay: RunningWorker, topic: str, position: int
) -> None:
    items = messages(topic, "a", "b")
    items.insert(position, {"topic": topic, "payload": 1, "ttl": -1})
    answer = bulk(relay, items)
    assert answer.status_code == 207
    wrong = answer.json()["results"][position]
    assert (wrong["status"], wrong["code"], wrong["message_id"]) == ("rejected", "invalid_request", None)
    assert wrong["topic"] == topic
    assert "ttl" in wrong["error"]
    assert answer.json()["summary"] == {"total": 3, "accepted": 2, "rejected": 1}
    assert history(relay, topic) == ["a", "b"]


def test_a_request_in_which_all_is_wrong_is_still_answered_for_each(relay: RunningWorker) -> None:
    answer = bulk(relay, [{}, 1, None, "x", {"topic": "a"}])
    assert answer.status_code == 207
    assert answer.json()["summary"] == {"total": 5, "accepted": 0, "rejected": 5}
    assert [result["topic"] for result in answer.json()["results"]] == [None, None, None, None, "a"]


def test_lines_are_stored_but_those_that_are_cut_off(relay: RunningWorker, topic: str) -> None:
    lines = "".join(f'{{"topic":"{topic}","payload":{number}}}\n' for number in range(5))
    answer = requests.post(
        f"{relay.url}/api/v1/messages/bulk",
        data=lines[:-5],
        headers={"Content-Type": "application/x-ndjson", "Idempotency-Key": "lines"},
        timeout=WAIT_SECONDS,
    )
    assert answer.json()["summary"] == {"total": 5, "accepted": 4, "rejected": 1}
    assert answer.json()["results"][4]["code"] == "invalid_json"
    assert history(relay, topic) == [0, 1, 2, 3]


def test_a_thousand_messages_are_taken_and_one_more_refused(relay: RunningWorker, topic: str) -> None:
    answer = bulk(relay, messages(topic, *range(1000)))
    assert answer.json()["summary"] == {"total": 1000, "accepted": 1000, "rejected": 0}
    refused = bulk(relay, messages(f"{topic}-2", *range(1001)))
    assert (refused.status_code, refused.json()["error"]) == (422, "bulk_too_large")
    assert history(relay, topic) == list(range(1000))
    assert history(relay, f"{topic}-2") == []


def test_all_or_nothing_stores_nothing_if_one_is_wrong(relay: RunningWorker, topic: str) -> None:
    items = [*messages(topic, 1), {"topic": topic}]
    answer = bulk(relay, items, query="?atomic=true")
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_request")
    assert answer.json()["detail"][0]["loc"] == ["body", "messages", 1, "payload"]
    two = [*messages(topic, 1), *messages(f"{topic}-2", 2)]
    answer = bulk(relay, two, query="?atomic=true")
    assert (answer.status_code, answer.json()["error"]) == (422, "atomic_needs_one_topic")
    assert history(relay, topic) == []
    assert len(ids(bulk(relay, messages(topic, 1, 2, 3), query="?atomic=yes"))) == 3
    assert history(relay, topic) == [1, 2, 3]


def test_a_repeated_request_of_many_is_answered_as_the_first(relay: RunningWorker, topic: str) -> None:
    items = [*messages(topic, 1, 2), {"topic": "no!"}, *messages(f"{topic}-2", 3)]
    first = bulk(relay, items, "key")
    assert bulk(relay, items, "key").json() == first.json()
    assert history(relay, topic) == [1, 2]
    assert history(relay, f"{topic}-2") == [3]


# ------------------------------------------------------------------------------------- what the store answers


def failing(monkeypatch: pytest.MonkeyPatch, codes: dict[str, str]) -> None:
    """Have publishes to these topics end in these errors."""
    real = Relay.publish

    async def publish(self: Relay, topic: str, *arguments: Any) -> Published:
        if topic in codes:
            raise RelayError(codes[topic])
        return await real(self, topic, *arguments)

    monkeypatch.setattr(Relay, "publish", publish)


@pytest.mark.parametrize("key", [None, "key"])
def test_a_request_that_the_store_took_nothing_of_is_503(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch, topic: str, key: str | None
) -> None:
    relay = make_relay()
    failing(monkeypatch, {"a": "store_unavailable", "b": "store_full"})
    answer = bulk(relay, [*messages("a", 1), *messages("b", 2), {"topic": "no!"}], key)
    assert (answer.status_code, answer.json()["error"]) == (503, "store_unavailable")
    assert answer.headers["Retry-After"] == "1"


def test_what_can_be_repeated_is_not_hidden_behind_what_cannot(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = make_relay()
    failing(monkeypatch, {"a": "idempotency_conflict", "b": "store_busy"})
    answer = bulk(relay, [*messages("a", 1), *messages("b", 2)], "key")
    assert (answer.status_code, answer.json()["error"]) == (503, "store_busy")
    failing(monkeypatch, {"a": "idempotency_conflict", "b": "idempotency_conflict"})
    answer = bulk(relay, [*messages("a", 1), *messages("b", 2)], "key")
    assert (answer.status_code, answer.json()["error"]) == (422, "idempotency_conflict")


def test_a_request_that_half_succeeded_says_so_unless_it_can_be_repeated_safely(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    relay = make_relay()
    failing(monkeypatch, {"a": "store_unavailable"})
    items = [*messages(topic, 1), *messages("a", 2)]
    answer = bulk(relay, items)
    assert answer.status_code == 207
    assert [(result["status"], result["code"]) for result in answer.json()["results"]] == [
        ("accepted", None),
        ("rejected", "store_unavailable"),
    ]
    # With a key the client sends it again, and then only what is missing is stored.
    assert bulk(relay, items, "key").status_code == 503
    monkeypatch.undo()
    assert bulk(relay, items, "key").json()["summary"]["accepted"] == 2
    assert history(relay, topic) == [1, 1]


def test_a_conflict_in_one_topic_does_not_stop_the_others(relay: RunningWorker, topic: str) -> None:
    publish(relay, {"topic": topic, "payload": 1}, "key")
    answer = bulk(relay, [*messages(topic, 2), *messages(f"{topic}-2", 3)], "key")
    assert answer.status_code == 207
    assert [result["code"] for result in answer.json()["results"]] == ["idempotency_conflict", None]


def test_while_valkey_is_away_publishes_are_503_and_afterwards_their_repetition_is_stored_once(
    make_relay: MakeRelay,
    make_valkey: Callable[..., RealValkey],
    caplog: pytest.LogCaptureFixture,
    topic: str,
) -> None:
    valkey = make_valkey()
    valkey.start()
    relay = make_relay(valkey.socket_path, storage={"publish_deadline_seconds": 0.3})
    assert publish(relay, {"topic": topic, "payload": 0}).status_code == 201
    valkey.stop()
    for answer in (
        publish(relay, {"topic": topic, "payload": 1}, "key"),
        bulk(relay, messages(topic, 1), "key"),
    ):
        assert answer.status_code == 503
        assert ERRORS[answer.json()["error"]].is_retryable
        assert answer.headers["Retry-After"]
    valkey.start()
    until(lambda: publish(relay, {"topic": topic, "payload": 1}, "key").status_code == 201, "valkey is back")
    assert bulk(relay, messages(topic, 1), "key").status_code == 207
    assert history(relay, topic) == [0, 1]
    assert all(record.name.startswith("pulsar_relay.store") for record in caplog.records)
    caplog.clear()


def test_a_publisher_that_hangs_up_does_not_call_its_message_back(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    may_go, began = threading.Event(), threading.Event()
    real = Publisher.publish_all

    async def publish_later(self: Publisher, *arguments: Any) -> Published:
        began.set()
        await asyncio.to_thread(may_go.wait, WAIT_SECONDS)
        return await real(self, *arguments)

    relay = make_relay()
    monkeypatch.setattr(Publisher, "publish_all", publish_later)
    with RawConnection(relay.ports.api) as connection:
        body = b'{"topic":"%b","payload":1}' % topic.encode()
        connection.send(request_bytes("POST", "/api/v1/messages", body))
        assert began.wait(WAIT_SECONDS)
    may_go.set()
    until(lambda: history(relay, topic) == [1], "it is stored all the same")


def test_a_publish_is_timed_from_being_understood_to_being_stored(relay: RunningWorker, topic: str) -> None:
    latency = relay.worker.metrics.publish_latency
    before, sum_before = latency.count, latency.sum_seconds
    publish(relay, {"topic": topic, "payload": 1})
    publish(relay, {"topic": "no!", "payload": 1})
    bulk(relay, messages(topic, *range(10)))
    assert latency.count - before == 2
    assert 0 < latency.sum_seconds - sum_before < WAIT_SECONDS
