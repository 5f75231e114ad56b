"""Server-sent events: read as the standard says an EventSource reads them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import requests

from tests.workers import RunningWorker

WAIT_SECONDS = 20


class Event:
    """One event, its fields put together as the standard says."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.name = "message"
        self.data: list[str] = []

    @property
    def value(self) -> Any:
        return json.loads("\n".join(self.data))


@contextmanager
def _stream(
    relay: RunningWorker, last_event_id: str | None = None, **query: str
) -> Iterator[Iterator[Event]]:
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    address = f"{relay.url}/api/v1/stream"
    with requests.get(address, params=query, headers=headers, stream=True, timeout=WAIT_SECONDS) as answer:
        assert answer.status_code == 200, answer.text
        yield _events(answer)


def _events(answer: requests.Response) -> Iterator[Event]:
    event = Event()
    for raw in answer.iter_lines(chunk_size=None, delimiter=b"\n"):
        line = raw.decode()
        if not line:
            if event.data:
                yield event
            event = Event()
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "id":
                event.id = value
            elif name == "event":
                event.name = value
            elif name == "data":
                event.data.append(value)


def _publish(relay: RunningWorker, topic: str, payload: Any) -> str:
    body = {"topic": topic, "payload": payload}
    answer = requests.post(f"{relay.url}/api/v1/messages", json=body, timeout=WAIT_SECONDS)
    message_id: str = answer.json()["message_id"]
    return message_id


def test_a_stream_begins_now_and_says_where_that_is(relay: RunningWorker, topic: str) -> None:
    before = _publish(relay, topic, "before")
    with _stream(relay, topics=topic) as events:
        subscribed = next(events)
        assert (subscribed.name, subscribed.id) == ("subscribed", before)
        assert subscribed.value["cursors"] == {topic: before}
        after = _publish(relay, topic, "after")
        event = next(events)
    assert (event.name, event.id, event.value["payload"]) == ("message", after, "after")


def test_the_headers_keep_proxies_from_holding_it_back(relay: RunningWorker, topic: str) -> None:
    address = f"{relay.url}/api/v1/stream?topics={topic}"
    with requests.get(address, stream=True, timeout=WAIT_SECONDS) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Accel-Buffering"] == "no"


def test_the_last_event_id_counts_before_since(relay: RunningWorker, topic: str) -> None:
    ids = [_publish(relay, topic, number) for number in range(4)]
    with _stream(relay, last_event_id=ids[1], topics=topic, since="earliest") as events:
        next(events)
        assert [next(events).id for _ in range(2)] == ids[2:]


def test_a_stream_of_several_topics_resumes_in_all_of_them_from_one_event_id(
    relay: RunningWorker, topic: str
) -> None:
    topics = [f"{topic}-{number}" for number in range(3)]
    for each in topics:
        _publish(relay, each, "first")
    seen: list[tuple[str, Any]] = []
    last_event_id = None
    with _stream(relay, topics=",".join(topics), since="earliest") as events:
        next(events)
        while len(seen) < 3:
            event = next(events)
            last_event_id = event.id or last_event_id
            seen.append((event.value["topic"], event.value["payload"]))
    assert sorted(seen) == [(each, "first") for each in topics]
    for each in topics:
        _publish(relay, each, "second")
    with _stream(relay, last_event_id=last_event_id, topics=",".join(topics)) as events:
        next(events)
        resumed = sorted(
            (event.value["topic"], event.value["payload"]) for event in (next(events) for _ in range(3))
        )
    assert resumed == [(each, "second") for each in topics]


def test_an_id_that_is_not_of_this_stream_is_a_notice_and_no_error(relay: RunningWorker, topic: str) -> None:
    _publish(relay, topic, 1)
    with _stream(relay, last_event_id="garbage", topics=topic) as events:
        assert next(events).name == "subscribed"
        notice = next(events)
        assert (notice.name, notice.value["type"]) == ("notice", "reset")
        assert next(events).value["payload"] == 1


def test_line_breaks_between_the_tokens_of_a_payload_do_not_break_an_event(
    relay: RunningWorker, topic: str
) -> None:
    body = b'{"topic":"%b","payload":{\r\n"a":\n[1,\r2]\n}}' % topic.encode()
    headers = {"Content-Type": "application/json"}
    requests.post(f"{relay.url}/api/v1/messages", data=body, headers=headers, timeout=WAIT_SECONDS)
    with _stream(relay, topics=topic, since="earliest") as events:
        next(events)
        assert next(events).value["payload"] == {"a": [1, 2]}


def test_comments_keep_a_quiet_stream_alive(make_relay: Callable[..., RunningWorker], topic: str) -> None:
    relay = make_relay(subscriber={"keepalive_interval_seconds": 0.05})
    address = f"{relay.url}/api/v1/stream?topics={topic}"
    with requests.get(address, stream=True, timeout=WAIT_SECONDS) as answer:
        lines = answer.iter_lines(chunk_size=None, delimiter=b"\n")
        comments = 0
        while comments < 3:
            comments += next(lines).startswith(b":")


def test_a_proxy_that_speaks_http_1_0_gets_the_events_without_chunks(
    relay: RunningWorker, topic: str
) -> None:
    message_id = _publish(relay, topic, "old protocol")
    with socket.create_connection(("127.0.0.1", relay.ports.api), timeout=WAIT_SECONDS) as connection:
        request = f"GET /api/v1/stream?topics={topic}&since=earliest HTTP/1.0\r\nHost: x\r\n\r\n"
        connection.sendall(request.encode())
        received = b""
        while b"old protocol" not in received:
            received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert body.startswith(b"retry: ")
    assert f"\nid: {message_id}\nevent: message\ndata: ".encode() in body


def test_a_client_that_goes_is_noticed(relay: RunningWorker, topic: str) -> None:
    with _stream(relay, topics=topic) as events:
        next(events)
        assert requests.get(f"{relay.url}/stats", timeout=WAIT_SECONDS).json()["subscribers"] >= 1
    deadline = time.monotonic() + WAIT_SECONDS
    while relay.call(lambda: relay.worker.relay.connections["sse"]):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stream_without_topics_is_refused(relay: RunningWorker) -> None:
    answer = requests.get(f"{relay.url}/api/v1/stream", timeout=WAIT_SECONDS)
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_request")
