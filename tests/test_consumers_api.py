"""Named clients over HTTP: acknowledging on any transport, who is behind, and what is delivered again."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from pulsar_relay import answers
from tests.conditions import WAIT_SECONDS, until
from tests.relays import RelayProcess
from tests.talks import Talk
from tests.test_sse import EventSource, publish
from tests.valkeys import RealValkey
from tests.workers import RunningWorker

Relays = tuple[RunningWorker, RunningWorker]


@pytest.fixture
def relays(relay: RunningWorker, make_relay: Callable[..., RunningWorker]) -> Relays:
    """Two over one Valkey."""
    return relay, make_relay()


def address(relay: RunningWorker, client_id: str) -> str:
    return f"{relay.url}/api/v1/consumers/{quote(client_id, safe='')}"


def acknowledge(relay: RunningWorker, client_id: str, **body: Any) -> requests.Response:
    return requests.post(f"{address(relay, client_id)}/ack", json=body, timeout=WAIT_SECONDS)


def describe(relay: RunningWorker, client_id: str) -> dict[str, Any]:
    answer = requests.get(address(relay, client_id), timeout=WAIT_SECONDS)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert answers.ConsumerAnswer().validate(found) == {}
    return found


def poll_acked(relay: RunningWorker, topic: str, client_id: str, **fields: Any) -> list[dict[str, Any]]:
    body = {"topics": [topic], "since": {topic: "acked"}, "client_id": client_id, "timeout": 1, **fields}
    answer = requests.post(f"{relay.url}/messages/poll", json=body, timeout=WAIT_SECONDS)
    assert answer.status_code == 200, answer.text
    messages: list[dict[str, Any]] = answer.json()["messages"]
    return messages


def given(messages: list[dict[str, Any]]) -> list[tuple[Any, bool]]:
    """Payloads, and whether they are marked as redelivered."""
    return [(message["payload"], message.get("redelivered", False)) for message in messages]


# -------------------------------------------------------------------------------------------- acknowledging


def test_an_acknowledgement_is_stored_on_any_worker_and_moves_forward_only(
    relays: Relays, topic: str
) -> None:
    ids = publish(relays[0], topic, 1, 2, 3)
    answer = acknowledge(relays[0], topic, topic=topic, message_id=ids[1])
    assert (answer.status_code, answer.json()) == (200, {"client_id": topic, "cursors": {topic: ids[1]}})
    assert answers.AcknowledgeAnswer().validate(answer.json()) == {}
    assert acknowledge(relays[1], topic, topic=topic, message_id=ids[0]).json()["cursors"] == {topic: ids[1]}
    assert given(poll_acked(relays[1], topic, topic)) == [(3, False)]


def test_a_polls_cursors_acknowledge_several_topics_at_once(relays: Relays, topic: str) -> None:
    other = f"{topic}-2"
    publish(relays[0], topic, 1, 2)
    publish(relays[1], other, 3)
    query = {"topics": f"{topic},{other}", "since": "acked", "client_id": topic, "timeout": "1"}
    polled = requests.get(f"{relays[0].url}/api/v1/poll", query, timeout=WAIT_SECONDS).json()
    assert sorted(message["payload"] for message in polled["messages"]) == [1, 2, 3]
    stored = acknowledge(relays[1], topic, cursors=polled["cursors"])
    assert stored.json()["cursors"] == polled["cursors"]
    again = requests.get(f"{relays[1].url}/api/v1/poll", query, timeout=WAIT_SECONDS).json()
    assert again["messages"] == []


def test_an_id_the_topic_never_gave_is_refused_alike_on_both_ways(relay: RunningWorker, topic: str) -> None:
    (first,) = publish(relay, topic, 1)
    milliseconds, number = map(int, first.split("-"))
    ahead = f"{milliseconds}-{number + 1}"
    answer = acknowledge(relay, topic, topic=topic, message_id=ahead)
    assert (answer.status_code, answer.json()["error"]) == (422, "ahead_of_stream")
    both = acknowledge(relay, topic, cursors={topic: first, f"{topic}-never": first})
    assert (both.status_code, both.json()["error"]) == (422, "ahead_of_stream")
    with Talk(relay.ws_url) as talk:
        talk.subscribe(topic, client_id=topic)
        refused = talk.ask("ack", "error", message_id=ahead, ref=1)
        assert (refused["code"], refused["ref"], refused["retry"]) == ("ahead_of_stream", 1, False)
    assert given(poll_acked(relay, topic, topic)) == [(1, False)]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"topic": "t", "message_id": "msg_0123456789ab"}, "invalid_cursor"),
        ({"topic": "t", "message_id": "1-x"}, "invalid_cursor"),
        ({"topic": "t", "message_id": ""}, "invalid_cursor"),
        ({"topic": "t", "message_id": "99999999999999999999-1"}, "invalid_cursor"),
        ({"cursors": {"t": "earliest"}}, "invalid_cursor"),
        ({"cursors": {"t": None}}, "invalid_cursor"),
        ({"topic": "t"}, "invalid_request"),
        ({"message_id": "1-1"}, "invalid_request"),
        ({"topic": "not a name", "message_id": "1-1"}, "invalid_request"),
        ({"cursors": {"not a name": "1-1"}}, "invalid_request"),
        ({"cursors": {}}, "invalid_request"),
        ({"cursors": {f"t{n}": "0-0" for n in range(100_000)}}, "invalid_request"),
        ({"cursors": ["1-1"]}, "invalid_request"),
        ({"cursors": {"t": "0-0"}, "topic": "t", "message_id": "0-0"}, "invalid_request"),
        ({"topic": "t", "message_id": 7}, "invalid_request"),
        ({}, "invalid_request"),
        ([], "invalid_request"),
    ],
)
def test_what_acknowledges_nothing_is_refused_by_name(relay: RunningWorker, body: Any, code: str) -> None:
    answer = requests.post(f"{address(relay, 'c-bad')}/ack", json=body, timeout=WAIT_SECONDS)
    assert (answer.status_code, answer.json()["error"]) == (422, code)
    assert requests.get(address(relay, "c-bad"), timeout=WAIT_SECONDS).status_code == 404


def test_a_name_can_be_any_text_of_255_characters_and_no_longer(relay: RunningWorker, topic: str) -> None:
    (first,) = publish(relay, topic, 1)
    for name in ("a/b", "100%", "\u00e9 \U0001f600", "x" * 255):
        assert acknowledge(relay, name, topic=topic, message_id=first).json()["client_id"] == name
        assert describe(relay, name)["client_id"] == name
    assert acknowledge(relay, "x" * 256, topic=topic, message_id=first).status_code == 422
    assert requests.get(address(relay, "x" * 256), timeout=WAIT_SECONDS).status_code == 404


def test_whoever_listens_may_acknowledge_by_http(relays: Relays, topic: str) -> None:
    with EventSource(relays[0], f"topics={topic}&since=acked&client_id={topic}") as stream:
        assert stream.event()[0] == "subscribed"
        ids = publish(relays[1], topic, 1, 2)
        assert [stream.event()[1]["payload"] for _ in ids] == [1, 2]
        assert acknowledge(relays[1], topic, topic=topic, message_id=ids[0]).status_code == 200
        # The stream goes on: who acknowledges so takes nothing over.
        publish(relays[1], topic, 3)
        assert stream.event()[1]["payload"] == 3
    with EventSource(relays[1], f"topics={topic}&since=acked&client_id={topic}") as stream:
        assert stream.event()[1]["cursors"] == {topic: ids[0]}
        assert stream.event()[1]["payload"] == 2


# --------------------------------------------------------------------------------------------------- how far


def test_a_consumers_lag_is_exact_and_its_connection_is_seen(relays: Relays, topic: str) -> None:
    ids = publish(relays[0], topic, *range(10))
    with Talk(relays[0].ws_url) as talk:
        talk.subscribe(topic, offset="acked", client_id=topic)
        talk.messages(10)
        talk.ask("ack", "acknowledged", message_id=ids[3])
        found = describe(relays[1], topic)
        assert found["connected"] is True
        assert 0 <= found["idle_seconds"] < WAIT_SECONDS
        place = found["topics"][topic]
        assert (place["cursor"], place["lag_messages"], place["lost_messages"]) == (ids[3], 6, 0)
        assert place["lag_seconds"] >= 0
        assert place["messages_to_loss"] > 0 and place["seconds_to_loss"] > 0
        until(lambda: describe(relays[1], topic)["topics"][topic]["delivered"] == ids[9], "it is marked")
        talk.ask("ack", "acknowledged", message_id=ids[9])
        place = describe(relays[1], topic)["topics"][topic]
        assert (place["lag_messages"], place["lag_seconds"], place["seconds_to_loss"]) == (0, 0, None)
    until(lambda: not describe(relays[1], topic)["connected"], "it is gone")


def test_what_was_lost_before_it_was_acknowledged_is_told(relay: RunningWorker, topic: str) -> None:
    ids = publish(relay, topic, *range(5))
    acknowledge(relay, topic, topic=topic, message_id=ids[1])
    assert requests.delete(f"{relay.url}/api/v1/topics/{topic}", timeout=WAIT_SECONDS).status_code == 204
    place = describe(relay, topic)["topics"][topic]
    assert (place["lag_messages"], place["lost_messages"], place["lag_seconds"]) == (3, 3, None)
    publish(relay, topic, 5)
    place = describe(relay, topic)["topics"][topic]
    assert (place["lag_messages"], place["lost_messages"]) == (4, 3)


def test_expired_messages_count_as_lag(relay: RunningWorker, topic: str) -> None:
    (first,) = publish(relay, topic, 1)
    body = {"topic": topic, "payload": 2, "ttl": 1}
    requests.post(f"{relay.url}/api/v1/messages", json=body, timeout=WAIT_SECONDS)
    acknowledge(relay, topic, topic=topic, message_id=first)

    def is_expired() -> bool:
        history = f"{relay.url}/api/v1/topics/{topic}/messages"
        return len(requests.get(history, timeout=WAIT_SECONDS).json()["messages"]) == 1

    until(is_expired, "it is expired")
    assert describe(relay, topic)["topics"][topic]["lag_messages"] == 1


def test_a_consumer_nobody_heard_of_is_not_found(relay: RunningWorker) -> None:
    for method in ("GET", "DELETE"):
        answer = requests.request(method, address(relay, "nobody"), timeout=WAIT_SECONDS)
        assert (answer.status_code, answer.json()["error"]) == (404, "consumer_not_found")


def test_a_dead_consumer_is_found_in_the_list_and_dropped_a_living_one_is_not(
    make_valkey: Callable[..., RealValkey], make_relay: Callable[..., RunningWorker]
) -> None:
    relay = make_relay(make_valkey().start().socket_path)
    listing = f"{relay.url}/api/v1/consumers"
    (first,) = publish(relay, "t", 1)
    for name in ("dead", "late"):
        acknowledge(relay, name, topic="t", message_id=first)
    with Talk(relay.ws_url) as talk:
        talk.subscribe("t", client_id="alive")
        page = requests.get(listing, {"limit": "2"}, timeout=WAIT_SECONDS)
        assert answers.ConsumerEntry(many=True).validate(page.json()) == {}
        assert [(one["client_id"], one["connected"]) for one in page.json()] == [
            ("alive", True),
            ("dead", False),
        ]
        rest = requests.get(relay.url + page.links["next"]["url"], timeout=WAIT_SECONDS)
        assert [one["client_id"] for one in rest.json()] == ["late"] and "next" not in rest.links
        refused = requests.delete(address(relay, "alive"), timeout=WAIT_SECONDS)
        assert (refused.status_code, refused.json()["error"]) == (409, "consumer_connected")
        assert requests.delete(address(relay, "dead"), timeout=WAIT_SECONDS).status_code == 204
    assert [one["client_id"] for one in requests.get(listing, timeout=WAIT_SECONDS).json()] == [
        "alive",
        "late",
    ]


# ------------------------------------------------------------------------------------------- delivered again


def test_what_was_given_and_not_acknowledged_is_marked_on_every_transport(relays: Relays, topic: str) -> None:
    ids = publish(relays[0], topic, 1, 2, 3)
    assert given(poll_acked(relays[0], topic, topic, limit=2)) == [(1, False), (2, False)]
    # A poll's answer leaves after its mark is stored: the next one finds it, on whichever worker.
    assert given(poll_acked(relays[1], topic, topic)) == [(1, True), (2, True), (3, False)]
    acknowledge(relays[0], topic, topic=topic, message_id=ids[0])
    with Talk(relays[0].ws_url) as talk:
        talk.subscribe(topic, offset="acked", client_id=topic)
        assert given([talk.hear("message") for _ in range(2)]) == [(2, True), (3, True)]
        publish(relays[1], topic, 4)
        assert given([talk.hear("message")]) == [(4, False)]
    until(lambda: not describe(relays[1], topic)["connected"], "its end is stored")
    with EventSource(relays[1], f"topics={topic}&since=acked&client_id={topic}") as stream:
        assert stream.event()[0] == "subscribed"
        assert given([stream.event()[1] for _ in range(3)]) == [(2, True), (3, True), (4, True)]


def test_who_reads_along_without_a_name_gets_no_marks(relays: Relays, topic: str) -> None:
    publish(relays[0], topic, 1)
    assert given(poll_acked(relays[0], topic, topic)) == [(1, False)]
    with Talk(relays[0].ws_url) as nameless, Talk(relays[0].ws_url) as named:
        nameless.subscribe(topic, offset="earliest")
        named.subscribe(topic, offset="acked", client_id=topic)
        assert "redelivered" not in nameless.hear("message")
        assert named.hear("message")["redelivered"] is True
        publish(relays[1], topic, 2)
        assert nameless.hear("message") == named.hear("message")


def test_a_named_client_that_acknowledges_each_message_sees_each_once_across_workers(
    relays: Relays, topic: str
) -> None:
    ids = publish(relays[0], topic, *range(20))
    seen: list[str] = []
    for relay in itertools.cycle(relays):
        messages = poll_acked(relay, topic, topic, limit=3)
        if not messages:
            break
        assert not any(message.get("redelivered") for message in messages)
        seen += [message["message_id"] for message in messages]
        assert acknowledge(relay, topic, topic=topic, message_id=seen[-1]).status_code == 200
    assert seen == ids


# ----------------------------------------------------------------------------------------------- after a kill


def test_a_killed_relays_clients_are_not_connected_and_go_on_where_they_acknowledged(
    tmp_path: Path,
) -> None:
    process = RelayProcess(tmp_path).start()
    try:
        ids = publish(process, "t", *range(5))  # type: ignore[arg-type]  # it has a url too
        with Talk(process.ws_url) as talk:
            talk.subscribe("t", offset="acked", client_id="c")
            talk.messages(5)
            talk.ask("ack", "acknowledged", message_id=ids[1])
            until(lambda: _standing(process)["topics"]["t"]["delivered"] == ids[4], "it is marked")
            assert _standing(process)["connected"] is True
            process.kill()
        process.start()
        assert _standing(process)["connected"] is False
        assert _standing(process)["topics"]["t"]["lag_messages"] == 3
        with Talk(process.ws_url) as talk:
            assert talk.subscribe("t", offset="acked", client_id="c")["cursors"] == {"t": ids[1]}
            assert given([talk.hear("message") for _ in range(3)]) == [(2, True), (3, True), (4, True)]
    finally:
        process.close()


def _standing(process: RelayProcess) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{process.url}/api/v1/consumers/c", timeout=WAIT_SECONDS).json()
    return found
