"""Of all connections that present a client's name the last one has it: two relays, three transports."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import requests
import valkey as valkey_client

from tests.conditions import WAIT_SECONDS, until
from tests.talks import Talk
from tests.test_sse import EventSource, publish
from tests.valkeys import RealValkey
from tests.workers import RunningWorker

TAKEN_OVER = 4003


@pytest.fixture
def relays(
    relay: RunningWorker, make_relay: Callable[..., RunningWorker]
) -> tuple[RunningWorker, RunningWorker]:
    """Two over one Valkey."""
    return relay, make_relay()


def polling(
    pool: ThreadPoolExecutor, relay: RunningWorker, topic: str, client_id: str
) -> Future[requests.Response]:
    """A poll that waits in a thread, once it is counted."""
    query = {"topics": topic, "since": "acked", "client_id": client_id, "timeout": "60"}
    answer = pool.submit(requests.get, f"{relay.url}/api/v1/poll", query, timeout=90)
    stats = f"{relay.url}/messages/poll/stats"
    until(
        lambda: f"-/{topic}" in requests.get(stats, timeout=WAIT_SECONDS).json()["topic_subscriber_counts"],
        "the poll waits",
    )
    return answer


@pytest.mark.parametrize("second", [0, 1], ids=["same worker", "another worker"])
def test_the_later_connection_takes_over_and_the_older_is_told(
    relays: tuple[RunningWorker, RunningWorker], topic: str, second: int
) -> None:
    publish(relays[0], topic, 1, 2)
    with Talk(relays[0].ws_url) as older, Talk(relays[second].ws_url) as later:
        older.subscribe(topic, offset="earliest", client_id=topic)
        assert older.messages(2) == [1, 2]
        later.subscribe(topic, offset="earliest", client_id=topic)
        code, reason = older.closing()
        assert code == TAKEN_OVER
        assert reason == "taken_over; another connection uses this client_id"
        assert later.messages(2) == [1, 2]
        publish(relays[0], topic, 3)
        assert later.messages(1) == [3]


def test_a_connection_is_not_deposed_by_its_own_requests(
    relays: tuple[RunningWorker, RunningWorker], topic: str
) -> None:
    ids = publish(relays[0], topic, 1, 2)
    with Talk(relays[0].ws_url) as talk:
        for _ in range(3):
            talk.say("subscribe", topics=[topic, f"{topic}-2"], offset="acked", client_id=topic)
        for _ in range(3):
            while talk.hear()["type"] != "subscribed":
                pass
        talk.say("ack", topic=topic, message_id=ids[1], ref="a")
        while (frame := talk.hear())["type"] == "message":
            pass
        assert frame["type"] == "acknowledged"


def test_a_waiting_poll_that_is_superseded_is_answered_409_and_not_to_be_repeated(
    relays: tuple[RunningWorker, RunningWorker], topic: str
) -> None:
    with ThreadPoolExecutor(2) as pool:
        older = polling(pool, relays[0], topic, topic)
        later = polling(pool, relays[1], topic, topic)
        answer = older.result(WAIT_SECONDS)
        assert answer.status_code == 409
        assert answer.json()["error"] == "taken_over"
        assert answer.json()["retry"] is False and "Retry-After" not in answer.headers
        publish(relays[0], topic, 1)
        assert [message["payload"] for message in later.result(WAIT_SECONDS).json()["messages"]] == [1]


def test_a_stream_that_is_superseded_says_so_and_ends(
    relays: tuple[RunningWorker, RunningWorker], topic: str
) -> None:
    query = f"topics={topic}&since=acked&client_id={topic}"
    with EventSource(relays[0], query) as older:
        assert older.event()[0] == "subscribed"
        with Talk(relays[1].ws_url) as later:
            later.subscribe(topic, offset="acked", client_id=topic)
            name, data = older.event()
            assert name == "taken_over"
            assert (data["code"], data["retry"]) == ("taken_over", False)
            assert older.retry == 60_000
            assert list(older.lines) == []
            # The event ended it, and not the other way round.
            later.ask("ping", "pong")


def test_a_poll_after_a_poll_deposes_nobody(relays: tuple[RunningWorker, RunningWorker], topic: str) -> None:
    publish(relays[0], topic, 1)
    for turn in range(6):
        body = {"topics": [topic], "since": {topic: "acked"}, "client_id": topic, "timeout": 1}
        answer = requests.post(f"{relays[turn % 2].url}/messages/poll", json=body, timeout=WAIT_SECONDS)
        assert answer.status_code == 200, answer.text
        assert [message["payload"] for message in answer.json()["messages"]] == [1]


def test_two_names_do_not_touch_each_other(relay: RunningWorker, topic: str) -> None:
    with Talk(relay.ws_url) as one, Talk(relay.ws_url) as two:
        one.subscribe(topic, client_id=f"{topic} 1")
        two.subscribe(topic, client_id=f"{topic} 2")
        publish(relay, topic, 1)
        assert one.messages(1) == two.messages(1) == [1]


# --------------------------------------------------------------------------------- when the news is not heard


def deafen(relay: RunningWorker) -> None:
    """Have a relay miss all announcements of claims, as if pub/sub had lost them."""
    feed: Any = relay.worker._feed

    def replace() -> None:
        feed._on_claimed = lambda client_id, generation: None

    relay.call(replace)


def test_a_deposed_connection_that_heard_nothing_is_refused_its_next_acknowledgement(
    relays: tuple[RunningWorker, RunningWorker], topic: str
) -> None:
    ids = publish(relays[0], topic, 1, 2)
    deafen(relays[1])
    with Talk(relays[1].ws_url) as older, Talk(relays[0].ws_url) as later:
        older.subscribe(topic, offset="earliest", client_id=topic)
        assert older.messages(2) == [1, 2]
        later.subscribe(topic, offset="earliest", client_id=topic)
        older.say("ack", message_id=ids[1], ref="late")
        refused = older.hear("error")
        assert (refused["code"], refused["ref"]) == ("taken_over", "late")
        assert older.close_code() == TAKEN_OVER
    with Talk(relays[0].ws_url) as talk:
        assert talk.subscribe(topic, offset="acked", client_id=topic)["cursors"] == {topic: "0-0"}


def test_a_deposed_connection_that_heard_nothing_cannot_subscribe_to_more(
    relays: tuple[RunningWorker, RunningWorker], topic: str
) -> None:
    deafen(relays[1])
    with Talk(relays[1].ws_url) as older, Talk(relays[0].ws_url) as later:
        older.subscribe(topic, client_id=topic)
        later.subscribe(topic, client_id=topic)
        older.say("subscribe", topics=[f"{topic}-2"])
        assert older.close_code() == TAKEN_OVER
        later.ask("ping", "pong")


def test_news_lost_with_the_feeds_connection_is_made_up_for(
    make_valkey: Callable[..., RealValkey], make_relay: Callable[..., RunningWorker], topic: str
) -> None:
    socket_path = make_valkey().start().socket_path
    one, two = make_relay(socket_path), make_relay(socket_path)
    deafen(two)
    with Talk(two.ws_url) as older, Talk(one.ws_url) as later:
        older.subscribe(topic, client_id=topic)
        later.subscribe(topic, client_id=topic)
        with valkey_client.Valkey(unix_socket_path=socket_path) as admin:
            admin.client_kill_filter(_type="pubsub")
        assert older.close_code() == TAKEN_OVER
        later.ask("ping", "pong")


def test_two_clients_with_one_name_that_both_come_back_are_each_told_every_time(
    relays: tuple[RunningWorker, RunningWorker], topic: str
) -> None:
    before = relays[0].worker.relay.counters.takeovers
    talks = [Talk(relays[0].ws_url)]
    talks[0].subscribe(topic, client_id=topic)
    for turn in range(1, 6):
        talks.append(Talk(relays[turn % 2].ws_url))
        talks[-1].subscribe(topic, client_id=topic)
        assert talks[-2].close_code() == TAKEN_OVER
    talks[-1].ask("ping", "pong")
    for talk in talks:
        talk.close()
    counters = [relay.worker.relay.counters.takeovers for relay in relays]
    assert counters[0] - before + counters[1] == 5


# ------------------------------------------------------------------------------------------------- the name


def test_a_connection_has_one_name(relay: RunningWorker, topic: str) -> None:
    with Talk(relay.ws_url) as talk:
        talk.subscribe(topic, client_id=topic)
        refused = talk.ask("subscribe", "error", topics=[topic], client_id="another", ref=1)
        assert (refused["code"], refused["ref"]) == ("client_id_changed", 1)
        talk.subscribe(topic, client_id=topic)


def test_who_has_no_name_leaves_nothing_behind(
    make_valkey: Callable[..., RealValkey], make_relay: Callable[..., RunningWorker]
) -> None:
    socket_path = make_valkey().start().socket_path
    relay = make_relay(socket_path)
    publish(relay, "t", 1)
    with Talk(relay.ws_url) as talk:
        talk.subscribe("t", offset="earliest")
        assert talk.messages(1) == [1]
    requests.get(f"{relay.url}/api/v1/poll?topics=t&since=earliest", timeout=WAIT_SECONDS)
    with EventSource(relay, "topics=t&since=earliest") as stream:
        assert [stream.event()[0] for _ in range(2)] == ["subscribed", "message"]
    relay.stop()
    with valkey_client.Valkey(unix_socket_path=socket_path) as admin:
        keys = {key.decode() for key in admin.keys("*")}
    assert not [key for key in keys if key.startswith("client:") or key == "relay:consumers"]


@pytest.mark.parametrize("query", ["since=acked", "since=acked&client_id=", "since=earliest&client_id="])
@pytest.mark.parametrize("path", ["/api/v1/poll", "/api/v1/stream"])
def test_the_acknowledged_place_of_nobody_is_refused(
    relay: RunningWorker, topic: str, path: str, query: str
) -> None:
    answer = requests.get(f"{relay.url}{path}?topics={topic}&{query}", timeout=WAIT_SECONDS)
    assert answer.status_code == 422
    assert answer.json()["error"] == ("invalid_request" if "client_id=" in query else "client_id_required")


def test_the_acknowledged_place_of_nobody_is_refused_in_a_body(relay: RunningWorker, topic: str) -> None:
    body = {"topics": [topic], "since": {topic: "acked"}}
    answer = requests.post(f"{relay.url}/messages/poll", json=body, timeout=WAIT_SECONDS)
    assert (answer.status_code, answer.json()["error"]) == (422, "client_id_required")
