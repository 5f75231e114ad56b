"""Topics over HTTP: the list, how one is made and changed, what is stored of it, its history, its end."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from websockets.sync.client import connect

from pulsar_relay import answers
from tests.conditions import until
from tests.valkeys import RealValkey
from tests.workers import RunningWorker

WAIT_SECONDS = 20


def _get(relay: RunningWorker, path: str, **query: Any) -> requests.Response:
    return requests.get(relay.url + path, params=query, timeout=WAIT_SECONDS)


def _publish(relay: RunningWorker, topic: str, *payloads: Any, **fields: Any) -> list[str]:
    messages = [{"topic": topic, "payload": payload, **fields} for payload in payloads]
    body = {"messages": messages}
    answer = requests.post(f"{relay.url}/api/v1/messages/bulk", json=body, timeout=WAIT_SECONDS).json()
    return [result["message_id"] for result in answer["results"]]


def _delete(relay: RunningWorker, topic: str) -> requests.Response:
    return requests.delete(f"{relay.url}/api/v1/topics/{topic}", timeout=WAIT_SECONDS)


def _pages(relay: RunningWorker, topic: str, **query: Any) -> Iterator[list[dict[str, Any]]]:
    cursor = ""
    while True:
        page = _get(relay, f"/api/v1/topics/{topic}/messages", cursor=cursor, **query).json()
        assert not answers.HistoryAnswer().validate(page)
        yield page["messages"]
        if not page["has_more"]:
            return
        cursor = page["next_cursor"]


@pytest.fixture
def alone(make_valkey: Callable[..., RealValkey], make_relay: Callable[..., RunningWorker]) -> RunningWorker:
    """A relay whose Valkey holds nothing else."""
    return make_relay(make_valkey().start().socket_path)


def test_topics_are_listed_in_order_and_a_link_leads_through_all_pages(alone: RunningWorker) -> None:
    names = sorted(f"topic-{number}" for number in range(25))
    for name in reversed(names):
        _publish(alone, name, 1)
    listed: list[str] = []
    path, sizes = "/api/v1/topics?limit=10", []
    while path:
        answer = _get(alone, path)
        sizes.append(len(answer.json()))
        listed += [entry["topic_name"] for entry in answer.json()]
        link = re.fullmatch(r'<(.*)>; rel="next"', answer.headers.get("Link", ""))
        path = link[1] if link else ""
    assert listed == names
    assert sizes == [10, 10, 5]


def test_a_topic_is_described(relay: RunningWorker, topic: str) -> None:
    ids = _publish(relay, topic, 1, 2, 3)
    told = _get(relay, f"/api/v1/topics/{topic}").json()
    assert not answers.TopicAnswer().validate(told)
    assert (told["length"], told["first_id"], told["last_id"]) == (3, ids[0], ids[2])
    assert told["epoch"]


def test_history_is_read_back_whole_in_either_direction(relay: RunningWorker, topic: str) -> None:
    ids = _publish(relay, topic, *range(1000))
    upward = [
        message["message_id"] for page in _pages(relay, topic, order="asc", limit=77) for message in page
    ]
    downward = [message["message_id"] for page in _pages(relay, topic, limit=130) for message in page]
    assert upward == ids
    assert downward == ids[::-1]


def test_the_newest_message_is_there_at_once(relay: RunningWorker, topic: str) -> None:
    for number in range(20):
        _publish(relay, topic, number)
        page = _get(relay, f"/api/v1/topics/{topic}/messages", limit=1, order="desc").json()
        assert [message["payload"] for message in page["messages"]] == [number]


def test_a_large_limit_counts_as_the_largest(relay: RunningWorker, topic: str) -> None:
    _publish(relay, topic, 1)
    assert _get(relay, f"/api/v1/topics/{topic}/messages", limit=10**9).json()["limit"] == 1000


@pytest.mark.parametrize(
    ("query", "status"), [({"order": "up"}, 400), ({"limit": 0}, 400), ({"limit": "many"}, 422)]
)
def test_a_wrong_question_about_history_is_refused(
    relay: RunningWorker, topic: str, query: dict[str, Any], status: int
) -> None:
    _publish(relay, topic, 1)
    assert _get(relay, f"/api/v1/topics/{topic}/messages", **query).status_code == status


@pytest.mark.parametrize("path", ["", "/messages"])
def test_a_topic_that_never_was_is_not_found(relay: RunningWorker, topic: str, path: str) -> None:
    answer = _get(relay, f"/api/v1/topics/{topic}{path}")
    assert (answer.status_code, answer.json()["error"]) == (404, "topic_not_found")


def test_asking_for_a_topic_does_not_make_it(relay: RunningWorker, topic: str) -> None:
    _get(relay, f"/api/v1/topics/{topic}")
    requests.post(f"{relay.url}/messages/poll", json={"topics": [topic], "timeout": 1}, timeout=WAIT_SECONDS)
    assert _get(relay, f"/api/v1/topics/{topic}").status_code == 404


def test_a_deleted_topic_is_gone_with_its_messages_and_comes_back_with_higher_ids(
    relay: RunningWorker, topic: str
) -> None:
    before = _publish(relay, topic, 1, 2)
    deleted = _delete(relay, topic)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert _get(relay, f"/api/v1/topics/{topic}").status_code == 404
    assert topic not in {entry["topic_name"] for entry in _get(relay, "/api/v1/topics", limit=1000).json()}
    assert _delete(relay, topic).status_code == 404
    after = _publish(relay, topic, 3)
    assert [message["message_id"] for page in _pages(relay, topic) for message in page] == after
    assert [int(text.split("-")[1]) for text in (*before, *after)] == [1, 2, 3]


def test_an_expired_message_is_given_to_nobody(relay: RunningWorker, topic: str) -> None:
    _publish(relay, topic, "short", ttl=1)
    lasting = _publish(relay, topic, "long")
    deadline = time.monotonic() + WAIT_SECONDS

    def history() -> list[str]:
        return [message["message_id"] for page in _pages(relay, topic) for message in page]

    while history() != lasting:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    poll = {"topics": [topic], "since": {topic: ""}}
    answer = requests.post(f"{relay.url}/messages/poll", json=poll, timeout=WAIT_SECONDS).json()
    assert [message["message_id"] for message in answer["messages"]] == lasting


def _create(relay: RunningWorker, **body: Any) -> requests.Response:
    return requests.post(f"{relay.url}/api/v1/topics", json=body, timeout=WAIT_SECONDS)


def _change(relay: RunningWorker, topic: str, **body: Any) -> requests.Response:
    return requests.put(f"{relay.url}/api/v1/topics/{topic}", json=body, timeout=WAIT_SECONDS)


def test_a_topic_is_made_listed_published_to_and_deleted(relay: RunningWorker, topic: str) -> None:
    made = _create(relay, topic_name=topic, description="d", max_messages=2, retention="24h", unknown=1)
    assert made.status_code == 201
    told = made.json()
    assert not answers.TopicAnswer().validate(told)
    assert (told["topic_name"], told["description"], told["length"]) == (topic, "d", 0)
    assert (told["max_messages"], told["retention"]) == (2, 86400)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", told["created_at"])
    assert _get(relay, f"/api/v1/topics/{topic}").json() == told
    assert topic in {entry["topic_name"] for entry in _get(relay, "/api/v1/topics", limit=1000).json()}
    assert _get(relay, f"/api/v1/topics/{topic}/messages").json()["messages"] == []
    ids = _publish(relay, topic, 1, 2, 3)
    after = _get(relay, f"/api/v1/topics/{topic}").json()
    assert (after["length"], after["first_id"], after["last_id"]) == (2, ids[1], ids[2])
    assert (after["epoch"], after["created_at"]) == (told["epoch"], told["created_at"])
    assert _delete(relay, topic).status_code == 204
    assert _delete(relay, topic).status_code == 404
    assert _change(relay, topic, description="x").status_code == 404
    _publish(relay, topic, 4, 5, 6)
    anew = _get(relay, f"/api/v1/topics/{topic}").json()
    assert (anew["length"], anew["description"], anew["max_messages"], anew["retention"]) == (
        3,
        None,
        None,
        None,
    )


@pytest.mark.parametrize("is_published", [False, True])
def test_a_topic_that_exists_is_not_made_again(
    relay: RunningWorker, topic: str, *, is_published: bool
) -> None:
    if is_published:
        _publish(relay, topic, 1)
    else:
        _create(relay, topic_name=topic)
    again = _create(relay, topic_name=topic, max_messages=1)
    assert (again.status_code, again.json()["error"]) == (409, "topic_exists")
    assert _get(relay, f"/api/v1/topics/{topic}").json()["max_messages"] is None


def test_a_topic_that_was_made_is_subscribed_to_like_any_other(relay: RunningWorker, topic: str) -> None:
    _create(relay, topic_name=topic)
    with connect(relay.ws_url) as socket:
        socket.send(json.dumps({"type": "subscribe", "topics": [topic], "offset": "earliest"}))
        subscribed = json.loads(socket.recv(WAIT_SECONDS))
        assert subscribed["epochs"] == {topic: _get(relay, f"/api/v1/topics/{topic}").json()["epoch"]}
        ids = _publish(relay, topic, 1, 2)
        received = [json.loads(socket.recv(WAIT_SECONDS)) for _ in ids]
    assert [(frame["type"], frame["message_id"]) for frame in received] == [("message", id_) for id_ in ids]


def test_a_topic_that_is_made_under_its_subscribers_is_no_break(relay: RunningWorker, topic: str) -> None:
    with connect(relay.ws_url) as socket:
        socket.send(json.dumps({"type": "subscribe", "topics": [topic]}))
        socket.recv(WAIT_SECONDS)
        assert _create(relay, topic_name=topic).status_code == 201
        (first,) = _publish(relay, topic, 1)
        frame = json.loads(socket.recv(WAIT_SECONDS))
    assert (frame["type"], frame["message_id"]) == ("message", first)


def test_what_is_changed_is_told_and_the_rest_stays(relay: RunningWorker, topic: str) -> None:
    _publish(relay, topic, 1)
    expected: dict[str, Any] = {"description": None, "max_messages": None, "retention": None}
    default = {"max_messages": 1_000_000, "retention": 86400}
    for change, changed in (
        ({"description": "one"}, {"description": "one"}),
        ({}, {}),
        ({"description": None, "max_messages": 5}, {"max_messages": 5}),
        ({"retention": 90}, {"retention": 90}),
        ({"retention": "1500ms", "max_messages": "7"}, {"retention": 1.5, "max_messages": 7}),
        ({"max_messages": None}, {"max_messages": None}),
        ({"description": "", "retention": 1.25}, {"description": "", "retention": 1.25}),
        ({"retention": None, "max_messages": 10**9}, {"retention": None, "max_messages": 10**9}),
    ):
        told = _change(relay, topic, **change).json()
        expected |= changed
        assert not answers.TopicAnswer().validate(told)
        assert {field: told[field] for field in expected} == expected
        assert told["effective"] == {name: expected[name] or default[name] for name in default}
        assert _get(relay, f"/api/v1/topics/{topic}").json() == told
        # What is answered can be sent back as it is.
        assert _change(relay, topic, **told).json() == told


def test_a_lowered_limit_is_kept_by_what_is_read_from_memory_too(
    make_valkey: Callable[..., RealValkey], make_relay: Callable[..., RunningWorker]
) -> None:
    socket_path = make_valkey().start().socket_path
    relays = [make_relay(socket_path, storage={"trim_interval_seconds": 0.1}) for _ in range(2)]
    poll = {"topics": ["t"], "since": {"t": ""}}

    def given(relay: RunningWorker) -> list[str]:
        answer = requests.post(f"{relay.url}/messages/poll", json=poll, timeout=WAIT_SECONDS).json()
        return [message["message_id"] for message in answer["messages"]]

    ids = _publish(relays[0], "t", *range(20))
    assert [given(relay) for relay in relays] == [ids, ids]
    _change(relays[0], "t", max_messages=3)
    for relay in relays:
        until(lambda relay=relay: given(relay) == ids[-3:], "memory follows")  # type: ignore[misc]
    _change(relays[1], "t", retention=1)
    for relay in relays:
        until(lambda relay=relay: given(relay) == ids[-1:], "memory follows")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("max_messages", value) for value in (0, -1, 1.5, "many", 10**9 + 1, [], {}, 10**30)),
        *(
            ("retention", value)
            for value in ("", "a while", "24", 0.5, 0, -1, "-1h", "3651d", True, [], "1h1h")
        ),
        *(("retention", value) for value in (1e300, 10**30, "9" * 5000, 1.00001, "24 h", "inf")),
        *(("description", value) for value in ("x" * 501, 5, [], True)),
        *(("topic_name", value) for value in ("", "a b", "--", None, 5, "x" * 256)),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(
    relay: RunningWorker, topic: str, field: str, value: Any
) -> None:
    if (field, value) == ("retention", "24"):
        assert _create(relay, topic_name=topic, retention=value).json()["retention"] == 24
        return
    refused = [_create(relay, **({"topic_name": topic} | {field: value}))]
    if field != "topic_name":
        _publish(relay, topic, 1)
        refused.append(_change(relay, topic, **{field: value}))
    for answer in refused:
        assert answer.status_code == 422, answer.text
        assert [wrong["loc"] for wrong in answer.json()["detail"]] == [["body", field]]


def test_a_new_topic_needs_a_name_and_a_body_that_is_json(relay: RunningWorker, topic: str) -> None:
    assert _create(relay).json()["detail"][0]["loc"] == ["body", "topic_name"]
    for method, path in (("POST", ""), ("PUT", f"/{topic}")):
        for body in (b"", b"[]", b"{"):
            answer = requests.request(
                method,
                f"{relay.url}/api/v1/topics{path}",
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=WAIT_SECONDS,
            )
            assert answer.status_code == 422
        answer = requests.request(
            method, f"{relay.url}/api/v1/topics{path}", data=b"{}", timeout=WAIT_SECONDS
        )
        assert answer.json()["error"] == "unsupported_media_type"


def test_the_topic_of_the_statistics_name_is_made_and_changed_too(alone: RunningWorker) -> None:
    assert _create(alone, topic_name="stats", max_messages=3).status_code == 201
    assert _change(alone, "stats", max_messages=4).json()["max_messages"] == 4
    both = _get(alone, "/api/v1/topics/stats").json()
    assert (both["total_topics"], both["max_messages"]) == (1, 4)


def test_keys_that_vanish_under_a_relay_cost_no_500(
    make_valkey: Callable[..., RealValkey], make_relay: Callable[..., RunningWorker]
) -> None:
    server = make_valkey().start()
    relay = make_relay(server.socket_path)
    assert _create(relay, topic_name="t", max_messages=1).status_code == 201
    last = _publish(relay, "t", 1, 2)[-1]
    for _ in range(3):
        server.command("FLUSHALL")
        assert _get(relay, "/api/v1/topics/t").status_code == 404
        assert _change(relay, "t", max_messages=1).status_code == 404
        ids = _publish(relay, "t", 3, 4)
        told = _get(relay, "/api/v1/topics/t").json()
        assert (told["length"], told["max_messages"]) == (2, None)
        assert [int(text.split("-")[1]) for text in (last, *ids)] == [
            int(last.split("-")[1]) + n for n in range(3)
        ]
        last = ids[-1]
        server.command("FLUSHALL")
        assert _create(relay, topic_name="t", max_messages=1).status_code == 201
        last = _publish(relay, "t", 5, 6)[-1]
        assert _get(relay, "/api/v1/topics/t").json()["length"] == 1


def test_the_statistics_do_not_hide_a_topic_of_their_name(alone: RunningWorker) -> None:
    plain = _get(alone, "/api/v1/topics/stats").json()
    assert plain["total_topics"] == 0
    assert "topic_name" not in plain
    _publish(alone, "stats", 1)
    both = _get(alone, "/api/v1/topics/stats").json()
    assert (both["total_topics"], both["topic_name"], both["length"]) == (1, "stats", 1)
    assert _get(alone, "/stats").json()["total_topics"] == 1
    assert _delete(alone, "stats").status_code == 204


def test_a_topic_is_known_by_one_id_wherever_it_is_told(relay: RunningWorker, topic: str) -> None:
    url = f"{relay.url}/api/v1/topics"
    made = requests.post(url, json={"topic_name": topic}, timeout=WAIT_SECONDS).json()
    assert str(uuid.UUID(made["topic_id"])) == made["topic_id"]
    told = requests.get(f"{url}/{topic}", timeout=WAIT_SECONDS).json()
    after = topic[:-1]
    listed = requests.get(url, params={"after": after, "limit": 1000}, timeout=WAIT_SECONDS).json()
    ids = {one["topic_name"]: one["topic_id"] for one in listed}
    assert ids[topic] == told["topic_id"] == made["topic_id"]
    assert len(set(ids.values())) == len(ids)
    assert requests.delete(f"{url}/{topic}", timeout=WAIT_SECONDS).status_code == 204
    again = requests.post(url, json={"topic_name": topic}, timeout=WAIT_SECONDS).json()
    assert (again["topic_id"], again["epoch"] == made["epoch"]) == (made["topic_id"], False)
