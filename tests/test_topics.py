"""Topics over HTTP: the list, what is stored of one, its history, its end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from pulsar_relay import answers
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


def test_the_statistics_do_not_hide_a_topic_of_their_name(alone: RunningWorker) -> None:
    plain = _get(alone, "/api/v1/topics/stats").json()
    assert plain["total_topics"] == 0
    assert "topic_name" not in plain
    _publish(alone, "stats", 1)
    both = _get(alone, "/api/v1/topics/stats").json()
    assert (both["total_topics"], both["topic_name"], both["length"]) == (1, "stats", 1)
    assert _get(alone, "/stats").json()["total_topics"] == 1
    assert _delete(alone, "stats").status_code == 204
