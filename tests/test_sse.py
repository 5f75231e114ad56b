"""Server-Sent Events: streams that tell where they are, and go on from there."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from actors.stream import Batch
from pulsar_relay.web.sse import EventSink, EventStream
from tests.conditions import WAIT_SECONDS, until
from tests.quiet_logs import quiet_logs as quiet_logs
from tests.raw_http import RawConnection
from tests.valkeys import TIMEOUT_SCALE
from tests.workers import RunningWorker

MakeRelay = Callable[..., RunningWorker]
PATH = "/api/v1/stream"


def publish(relay: RunningWorker, topic: str, *payloads: Any) -> list[str]:
    messages = [{"topic": topic, "payload": payload} for payload in payloads]
    address = f"{relay.url}/api/v1/messages/bulk"
    answer = requests.post(address, json={"messages": messages}, timeout=WAIT_SECONDS)
    return [result["message_id"] for result in answer.json()["results"]]


class EventSource(RawConnection):
    """Reads a stream as browsers do, by the rules of HTML: lines, fields, and the last event id."""

    def __init__(
        self,
        relay: RunningWorker,
        query: str,
        *,
        last_event_id: str | None = None,
        version: str = "1.1",
        more: str = "",
        **options: Any,
    ) -> None:
        super().__init__(relay.ports.api, **options)
        last = "" if last_event_id is None else f"Last-Event-ID: {last_event_id}\r\n"
        request = f"GET {PATH}?{query} HTTP/{version}\r\nHost: a\r\n{last}{more}\r\n"
        self.send(request.encode("latin-1"))
        self.answer = self.response(has_body=False)
        self.last_event_id = last_event_id or ""
        self.retry = 0
        self._is_chunked = self.answer.headers.get("transfer-encoding") == "chunked"
        self.lines: Iterator[str] = self._read_lines()

    def _read_lines(self) -> Iterator[str]:
        text = b""
        while data := self.chunk() if self._is_chunked else self.some():
            *lines, text = (text + data).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                yield line.decode()

    def event(self) -> tuple[str, Any]:
        """The next event that is dispatched: its name and its data."""
        name, data = "message", ""
        for line in self.lines:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if line == "" and data:
                return name, json.loads(data.removesuffix("\n"))
            if line == "":
                name = "message"
            elif field == "":
                pass  # a comment
            elif field == "event":
                name = value
            elif field == "data":
                data += value + "\n"
            elif field == "id":
                self.last_event_id = value
            elif field == "retry":
                self.retry = int(value)
            else:
                raise AssertionError(line)
        return "end", None

    def payloads(self, count: int) -> list[Any]:
        found = []
        for _ in range(count):
            name, data = self.event()
            assert name == "message", (name, data)
            found.append(data["payload"])
        return found


# ---------------------------------------------------------------------------------------------------- streams


def test_a_stream_says_first_where_it_begins(relay: RunningWorker, topic: str) -> None:
    [newest] = publish(relay, topic, "before")
    with EventSource(relay, f"topics={topic}") as source:
        headers = source.answer.headers
        assert source.answer.status == 200
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["cache-control"] == "no-store"
        assert headers["x-accel-buffering"] == "no"
        name, data = source.event()
        assert (name, data["cursors"]) == ("subscribed", {topic: newest})
        assert data["epochs"][topic]
        assert source.retry == 2000
        assert source.last_event_id == newest
        ids = publish(relay, topic, 1, 2)
        assert source.payloads(2) == [1, 2]
        assert source.last_event_id == ids[-1]


@pytest.mark.parametrize("since", ["earliest", "0-0", "{topic}:earliest"])
def test_since_says_where_to_begin(relay: RunningWorker, topic: str, since: str) -> None:
    publish(relay, topic, 1, 2)
    with EventSource(relay, f"topics={topic}&since={since.format(topic=topic)}") as source:
        assert source.event()[0] == "subscribed"
        assert source.payloads(2) == [1, 2]


def test_the_last_event_id_counts_more_than_since(relay: RunningWorker, topic: str) -> None:
    ids = publish(relay, topic, 1, 2, 3)
    with EventSource(relay, f"topics={topic}&since=earliest", last_event_id=ids[1]) as source:
        assert source.event()[1]["cursors"] == {topic: ids[1]}
        assert source.payloads(1) == [3]
    with EventSource(relay, f"topics={topic}&since=earliest", last_event_id="") as source:
        source.event()
        assert source.payloads(1) == [1]


def test_a_foreign_last_event_id_reads_from_the_oldest_and_says_so(relay: RunningWorker, topic: str) -> None:
    publish(relay, topic, 1)
    with EventSource(relay, f"topics={topic}", last_event_id="msg_1") as source:
        assert source.event()[0] == "subscribed"
        name, data = source.event()
        assert (name, data["reason"]) == ("notice", "unknown_cursor")
        assert source.payloads(1) == [1]


def test_a_stream_of_many_topics_goes_on_in_all_of_them(relay: RunningWorker, topic: str) -> None:
    topics = [f"{topic}-{number}" for number in range(5)]
    query = "topics=" + ",".join(topics)
    expected = {name: list(range(12)) for name in topics}
    seen: dict[str, list[int]] = {name: [] for name in topics}
    last_event_id = None
    for round_ in range(4):
        with EventSource(relay, query, last_event_id=last_event_id) as source:
            assert source.event()[0] == "subscribed"
            for name in topics:
                publish(relay, name, *range(3 * round_, 3 * round_ + 2))
            # Those published meanwhile, and what was missed before.
            for _ in range((2 if last_event_id is None else 3) * len(topics)):
                name, data = source.event()
                seen[data["topic"]].append(data["payload"])
            last_event_id = source.last_event_id
        for name in topics:
            # While nobody listens.
            publish(relay, name, 3 * round_ + 2)
    with EventSource(relay, query, last_event_id=last_event_id) as source:
        source.event()
        for _ in topics:
            name, data = source.event()
            seen[data["topic"]].append(data["payload"])
    assert {name: sorted(payloads) for name, payloads in seen.items()} == expected
    assert seen == expected


def test_a_position_of_other_topics_is_unknown(relay: RunningWorker, topic: str) -> None:
    publish(relay, f"{topic}-1", 1)
    with EventSource(relay, f"topics={topic}-1,{topic}-2") as source:
        source.event()
    with EventSource(relay, f"topics={topic}-1,{topic}-3", last_event_id=source.last_event_id) as other:
        assert other.event()[0] == "subscribed"
        events = [other.event(), other.event(), other.event()]
        assert [name for name, _ in events if name == "message"] == ["message"]


def test_a_topic_beside_others_with_cursors_begins_where_they_were(relay: RunningWorker, topic: str) -> None:
    [cursor] = publish(relay, f"{topic}-1", "seen")
    publish(relay, f"{topic}-2", "missed")
    with EventSource(relay, f"topics={topic}-1,{topic}-2&since={topic}-1:{cursor}") as source:
        source.event()
        assert source.payloads(1) == ["missed"]


def test_white_space_of_a_payload_breaks_no_event(relay: RunningWorker, topic: str) -> None:
    text = '{"a":\r\n1,\r"b":\n[ ],"c":"data: x\\nevent: y"}'
    body = f'{{"topic":"{topic}","payload":{text}}}'
    requests.post(
        f"{relay.url}/api/v1/messages",
        data=body,
        headers={"Content-Type": "application/json"},
        timeout=WAIT_SECONDS,
    )
    for query in (f"topics={topic}&since=earliest", f"topics={topic},b&since=earliest"):
        with EventSource(relay, query) as source:
            source.event()
            assert source.payloads(1) == [json.loads(text)]


@pytest.mark.parametrize("query", ["", "topics=", "topics=a%20b", "topics=" + ",".join(map(str, range(51)))])
def test_a_stream_of_what_cannot_be_is_422(relay: RunningWorker, query: str) -> None:
    answer = requests.get(f"{relay.url}{PATH}?{query}", timeout=WAIT_SECONDS)
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_request")


@pytest.mark.parametrize("method", ["HEAD", "POST", "DELETE", "OPTIONS"])
def test_a_stream_can_only_be_got(relay: RunningWorker, method: str) -> None:
    answer = requests.request(method, f"{relay.url}{PATH}?topics=a", timeout=WAIT_SECONDS)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize("more", ["", "Connection: keep-alive\r\n"])
def test_a_client_of_http_1_0_gets_the_events_bare_until_the_connection_ends(
    make_relay: MakeRelay, topic: str, more: str
) -> None:
    relay = make_relay()
    publish(relay, topic, 1, 2)
    with EventSource(relay, f"topics={topic}&since=earliest", version="1.0", more=more) as source:
        assert "transfer-encoding" not in source.answer.headers
        assert source.answer.headers.get("connection", "close") == "close"
        assert source.event()[0] == "subscribed"
        assert source.payloads(2) == [1, 2]
        publish(relay, topic, 3)
        assert source.payloads(1) == [3]
        relay.stop()
        assert source.event() == ("end", None)


# --------------------------------------------------------------------------------------------- quiet and gone


def test_a_quiet_stream_gets_comments(make_relay: MakeRelay, topic: str) -> None:
    relay = make_relay(subscriber={"keepalive_interval_seconds": 0.02})
    with EventSource(relay, f"topics={topic}") as source:
        source.event()
        comments = 0
        while comments < 5:
            comments += next(source.lines).startswith(":")
        publish(relay, topic, 1)
        assert source.payloads(1) == [1]


@pytest.mark.parametrize("ending", ["close", "abort", "half-close"])
def test_a_client_that_goes_leaves_nothing_behind(make_relay: MakeRelay, topic: str, ending: str) -> None:
    relay = make_relay()
    inside = relay.worker.relay
    actors = relay.call(lambda: len(inside.base.population.cells))
    for _ in range(4):
        sources = [EventSource(relay, f"topics={topic}") for _ in range(50)]
        for source in sources:
            assert source.event()[0] == "subscribed"
        assert inside.connections["sse"] == 50
        for source in sources:
            if ending == "abort":
                source.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            elif ending == "half-close":
                source.socket.shutdown(socket.SHUT_WR)
            source.socket.close()
        started = time.monotonic()
        until(lambda: inside.connections["sse"] == 0, "all counted as gone")
        assert time.monotonic() - started < 1.0 * TIMEOUT_SCALE
    until(lambda: len(relay.worker.connections) == 0, "no stream is open")
    until(lambda: relay.call(lambda: len(inside.base.population.cells)) <= actors + 1, "no actor is left")


def test_a_peer_that_vanished_is_given_up_after_the_stall_limit(relay: RunningWorker, topic: str) -> None:
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        pytest.skip("this system cannot")
    with EventSource(relay, f"topics={topic}") as source:
        source.event()

        def limit() -> list[int]:
            streams = [one for one in relay.worker.connections if isinstance(one, EventStream)]
            sockets = [stream._transport.get_extra_info("socket") for stream in streams]
            option = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            return [one.getsockopt(*option) for one in sockets]

        assert relay.call(limit) == [61_000]


# ------------------------------------------------------------------------------------------------------- slow

LARGE = "x" * 10_000


@pytest.mark.parametrize("topics", ["{topic}", "{topic},another"])
def test_a_slow_reader_is_demoted_and_gets_everything_in_order_when_it_reads(
    make_relay: MakeRelay, topic: str, topics: str
) -> None:
    relay = make_relay()
    counters = relay.worker.relay.counters
    count = 1000
    with EventSource(relay, f"topics={topics.format(topic=topic)}", receive_buffer_bytes=4096) as slow:
        assert slow.event()[0] == "subscribed"
        for start in range(0, count, 100):
            publish(relay, topic, *([number, LARGE] for number in range(start, start + 100)))
        until(lambda: counters.lagging_subscribers == 1, "the slow one was demoted")
        assert outbox_bytes(relay) < 3 << 20
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        assert [payload[0] for payload in slow.payloads(count)] == list(range(count))
        until(lambda: counters.lagging_subscribers == 0, "the slow one was promoted")
        publish(relay, topic, "live again")
        assert slow.payloads(1) == ["live again"]
    counted = counters
    assert counted.order_inversions == counted.duplicates == counted.unannounced_gaps == 0


def outbox_bytes(relay: RunningWorker) -> int:
    """What all streams together were handed and did not take."""

    def count() -> int:
        open_ = list(relay.worker.connections)
        return sum(one.outbox.size_bytes for one in open_ if isinstance(one, EventStream))

    return int(relay.call(count))


def test_a_reader_that_takes_nothing_at_all_is_cut_off(
    make_relay: MakeRelay, caplog: pytest.LogCaptureFixture, topic: str
) -> None:
    caplog.set_level(logging.INFO, "pulsar_relay")
    relay = make_relay(subscriber={"stall_limit_seconds": 0.2})
    with EventSource(relay, f"topics={topic}", receive_buffer_bytes=4096) as slow:
        assert slow.event()[0] == "subscribed"
        for _ in range(10):
            publish(relay, topic, *[LARGE] * 100)
        until(lambda: len(relay.worker.connections) == 0, "the stream is over")
        assert relay.worker.relay.connections["sse"] == 0
    assert any("nothing read for" in record.getMessage() for record in caplog.records)
    assert relay.worker.relay.counters.lagging_subscribers == 0


def test_a_stream_whose_client_is_behind_gets_no_comments_on_top(make_relay: MakeRelay, topic: str) -> None:
    relay = make_relay(subscriber={"keepalive_interval_seconds": 0.01, "stall_limit_seconds": 60.0})
    with EventSource(relay, f"topics={topic}", receive_buffer_bytes=4096) as slow:
        assert slow.event()[0] == "subscribed"
        for _ in range(10):
            publish(relay, topic, *[LARGE] * 100)
        until(lambda: relay.worker.relay.counters.lagging_subscribers == 1, "it is behind")
        size = outbox_bytes(relay)
        time.sleep(0.1)
        assert outbox_bytes(relay) == size


# ---------------------------------------------------------------------------------------------------- the end


def test_a_stopping_relay_ends_streams_in_order_and_tells_when_to_come_back(
    make_relay: MakeRelay, topic: str
) -> None:
    relay = make_relay()
    sources = [EventSource(relay, f"topics={topic}") for _ in range(10)]
    for source in sources:
        assert source.event()[0] == "subscribed"
    relay.stop()
    for source in sources:
        # Each ends with the last chunk, not with the connection.
        assert source.event() == ("end", None)
        assert source.rest() == b""
        source.socket.close()
    assert len({source.retry for source in sources}) > 2
    assert all(500 <= source.retry <= 2000 for source in sources)


def test_a_stream_of_a_stopping_relay_is_503(make_relay: MakeRelay) -> None:
    relay = make_relay()
    relay.worker.relay.is_accepting = False
    answer = requests.get(f"{relay.url}{PATH}?topics=a", timeout=WAIT_SECONDS)
    assert (answer.status_code, answer.json()["error"]) == (503, "shutting_down")


def test_a_failed_subscriber_ends_its_stream(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, topic: str
) -> None:
    def fail(self: EventSink, batch: Batch) -> bool:
        raise ZeroDivisionError

    relay = make_relay()
    monkeypatch.setattr(EventSink, "deliver", fail)
    with EventSource(relay, f"topics={topic}") as source:
        name, _ = source.event()
        assert name == "subscribed"
        publish(relay, topic, 1)
        assert source.event() == ("end", None)
    assert relay.worker.relay.connections["sse"] == 0
    assert len([record for record in caplog.records if record.exc_info]) == 1
    caplog.clear()
