"""The WebSocket: what its frames do, how slow and broken peers fare, and how it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import requests
from websockets.exceptions import ConnectionClosed, InvalidStatus

from actors.subscriber import SubscriberActor
from pulsar_relay.relay import Relay
from pulsar_relay.web import receiving, websocket
from pulsar_relay.web.publish import Publisher
from pulsar_relay.web.upgrade import UpgradeHandler
from pulsar_relay.web.websocket import RelayWebSocket
from tests.conditions import WAIT_SECONDS, until
from tests.quiet_logs import quiet_logs as quiet_logs
from tests.raw_http import RawConnection, request_bytes
from tests.talks import Talk
from tests.workers import RunningWorker

MakeRelay = Callable[..., RunningWorker]


def publish(relay: RunningWorker, topic: str, *payloads: Any) -> list[str]:
    """Publish over HTTP; returns the ids."""
    messages = [{"topic": topic, "payload": payload} for payload in payloads]
    answer = requests.post(
        f"{relay.url}/api/v1/messages/bulk", json={"messages": messages}, timeout=WAIT_SECONDS
    )
    assert answer.status_code == 207, answer.text
    results = answer.json()["results"]
    assert all(result["status"] == "accepted" for result in results), results
    return [result["message_id"] for result in results]


@pytest.fixture
def talk(relay: RunningWorker) -> Any:
    with Talk(relay.ws_url) as one:
        yield one


# ------------------------------------------------------------------------------------------------ subscribing


def test_subscribed_comes_before_any_message_and_says_where_each_topic_begins(
    relay: RunningWorker, topic: str, talk: Talk
) -> None:
    ids = publish(relay, topic, 1, 2, 3)
    confirmed = talk.subscribe(topic, f"{topic}-b", offset={topic: ids[0]}, ref={"a": [1]})
    assert confirmed["cursors"] == {topic: ids[0], f"{topic}-b": "0-0"}
    assert confirmed["topics"] == [topic, f"{topic}-b"]
    assert confirmed["ref"] == {"a": [1]}
    assert confirmed["epochs"][topic]
    assert talk.messages(2) == [2, 3]


@pytest.mark.parametrize(
    ("offset", "expected"),
    [("earliest", [1, 2, 3, 4]), ("last", [4]), ("latest", [4]), (None, [4]), ("0-0", [1, 2, 3, 4])],
)
def test_an_offset_says_where_to_begin(
    relay: RunningWorker, topic: str, talk: Talk, offset: str | None, expected: list[int]
) -> None:
    ids = publish(relay, topic, 1, 2, 3)
    confirmed = talk.subscribe(topic, **({} if offset is None else {"offset": offset}))
    begins_now = len(expected) == 1
    assert confirmed["cursors"][topic] == (ids[-1] if begins_now else "0-0")
    publish(relay, topic, 4)
    assert talk.messages(len(expected)) == expected


def test_a_foreign_cursor_reads_from_the_oldest_and_says_so(
    relay: RunningWorker, topic: str, talk: Talk
) -> None:
    publish(relay, topic, 1)
    assert talk.subscribe(topic, offset="msg_0123456789ab")["cursors"] == {topic: "0-0"}
    assert talk.hear("reset")["reason"] == "unknown_cursor"
    assert talk.messages(1) == [1]


def test_topics_can_be_added_and_read_anew_and_dropped(relay: RunningWorker, topic: str, talk: Talk) -> None:
    one, two = f"{topic}-1", f"{topic}-2"
    talk.subscribe(one)
    publish(relay, one, "a")
    assert talk.messages(1) == ["a"]
    talk.subscribe(two)
    publish(relay, one, "b")
    publish(relay, two, "c")
    assert talk.messages(2) == ["b", "c"]
    talk.subscribe(one, offset="earliest")
    assert talk.messages(2) == ["a", "b"]
    answer = talk.ask("unsubscribe", "unsubscribed", topics=[one, "never-subscribed"])
    assert answer["topics"] == [one, "never-subscribed"]
    publish(relay, one, "d")
    publish(relay, two, "e")
    assert talk.messages(1) == ["e"]


def test_a_subscriber_may_have_as_many_topics_as_the_settings_say(make_relay: MakeRelay, topic: str) -> None:
    relay = make_relay(subscriber={"max_topics": 3})
    with Talk(relay.ws_url) as talk:
        talk.subscribe(f"{topic}-1", f"{topic}-2")
        refused = talk.ask("subscribe", "error", topics=[f"{topic}-3", f"{topic}-4"], ref=5)
        assert (refused["code"], refused["ref"]) == ("too_many_subscriptions", 5)
        talk.subscribe(f"{topic}-2", f"{topic}-3")
        talk.ask("unsubscribe", "unsubscribed", topics=[f"{topic}-1"])
        talk.subscribe(f"{topic}-4")
        publish(relay, f"{topic}-4", "here")
        assert talk.messages(1) == ["here"]


def test_messages_of_many_topics_come_in_order_while_they_are_published(
    relay: RunningWorker, topic: str, talk: Talk
) -> None:
    topics = [f"{topic}-{number}" for number in range(20)]
    talk.subscribe(*topics)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: publish(relay, name, *range(20)), topics))
    seen: dict[str, list[int]] = {name: [] for name in topics}
    for _ in range(20 * len(topics)):
        frame = talk.hear("message")
        seen[frame["topic"]].append(frame["payload"])
    assert seen == {name: list(range(20)) for name in topics}


# ------------------------------------------------------------------------------------------------- publishing


def test_every_publish_is_answered_with_its_ref(relay: RunningWorker, topic: str, talk: Talk) -> None:
    published = talk.ask("publish", "published", topic=topic, payload=None, ref="r")
    assert (published["topic"], published["ref"]) == (topic, "r")
    wrong = talk.ask("publish", "error", topic="not a name", payload=1, ref=0)
    assert (wrong["code"], wrong["ref"], wrong["retry"]) == ("invalid_request", 0, False)
    assert wrong["details"][0]["loc"] == ["frame", "topic"]
    assert "ref" not in talk.ask("publish", "published", topic=topic, payload=1)
    talk.subscribe(topic, offset="earliest")
    assert talk.hear("message")["message_id"] == published["message_id"]


def test_many_publishes_at_once_are_stored_in_the_order_sent_and_each_answered(
    relay: RunningWorker, topic: str, talk: Talk
) -> None:
    count = 2000
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(lambda: [talk.hear("published") for _ in range(count)])
        for number in range(count):
            talk.say("publish", topic=topic, payload=number, ref=number)
        heard = answers.result(WAIT_SECONDS)
    assert sorted(answer["ref"] for answer in heard) == list(range(count))
    talk.subscribe(topic, offset="earliest")
    assert talk.messages(count) == list(range(count))


def test_a_publish_repeated_under_its_key_gets_the_first_ones_id(
    relay: RunningWorker, topic: str, talk: Talk
) -> None:
    first = talk.ask("publish", "published", topic=topic, payload=1, idempotency_key="k")
    assert talk.ask("publish", "published", topic=topic, payload=1, idempotency_key="k") == first
    refused = talk.ask("publish", "error", topic=topic, payload=2, idempotency_key="k", ref=1)
    assert (refused["code"], refused["ref"]) == ("idempotency_conflict", 1)
    answer = requests.post(
        f"{relay.url}/api/v1/messages",
        json={"topic": topic, "payload": 1},
        headers={"Idempotency-Key": "k"},
        timeout=WAIT_SECONDS,
    )
    assert answer.json()["message_id"] == first["message_id"]


def test_a_connection_with_too_many_publishes_in_flight_is_read_no_further(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    relay = make_relay(subscriber={"max_inflight_publishes": 4})
    may_go = threading.Event()
    in_flight: list[asyncio.Task[None]] = []
    real = Publisher.publish_then

    async def wait_and_publish(*arguments: Any) -> None:
        await asyncio.to_thread(may_go.wait, WAIT_SECONDS)
        real(*arguments)

    def publish_later(*arguments: Any) -> None:
        in_flight.append(asyncio.ensure_future(wait_and_publish(*arguments)))

    monkeypatch.setattr(Publisher, "publish_then", publish_later)
    with Talk(relay.ws_url) as talk:
        for number in range(20):
            talk.say("publish", topic=topic, payload=number, ref=number)
        talk.say("ping")
        until(lambda: len(in_flight) == 4, "four publishes began")
        with pytest.raises(TimeoutError):
            talk.hear(seconds=0.05)
        assert len(in_flight) == 4
        may_go.set()
        answers = [talk.hear() for _ in range(21)]
        assert sorted(answer["ref"] for answer in answers if answer["type"] == "published") == list(range(20))


@pytest.mark.parametrize("where", ["publish_soon", "published"])
def test_a_publish_that_fails_in_the_relay_is_answered_and_logged_once(
    make_relay: MakeRelay,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    topic: str,
    where: str,
) -> None:
    def fail(*arguments: Any) -> Any:
        raise ZeroDivisionError("a secret")

    relay = make_relay()
    monkeypatch.setattr(Relay, where, fail)
    with Talk(relay.ws_url) as talk:
        answer = talk.ask("publish", "error", topic=topic, payload=1, ref=7)
        assert (answer["code"], answer["ref"]) == ("internal_error", 7)
        assert "secret" not in json.dumps(answer)
        talk.ask("ping", "pong")
    assert [record.name for record in caplog.records] == ["pulsar_relay.web.websocket"]
    caplog.clear()


def test_a_stopping_relay_refuses_publishes_for_now(make_relay: MakeRelay, topic: str) -> None:
    relay = make_relay()
    with Talk(relay.ws_url) as talk:
        talk.ask("ping", "pong")
        relay.worker.relay.is_accepting = False
        refused = talk.ask("publish", "error", topic=topic, payload=1, ref=1)
        assert (refused["code"], refused["retry"]) == ("shutting_down", True)
        with pytest.raises(InvalidStatus) as refusal:
            Talk(relay.ws_url)
        assert refusal.value.response.status_code == 503


# ---------------------------------------------------------------------------------------------- acknowledging


def test_an_acknowledged_place_is_kept_for_the_named_client(relay: RunningWorker, topic: str) -> None:
    ids = publish(relay, topic, 1, 2, 3)
    name = f"client-{topic[:50]}"
    with Talk(relay.ws_url) as talk:
        talk.subscribe(topic, offset="acked", client_id=name)
        assert talk.messages(3) == [1, 2, 3]
        answer = talk.ask("ack", "acknowledged", message_id=ids[1], ref="a")
        assert (answer["topic"], answer["message_id"], answer["ref"]) == (topic, ids[1], "a")
    with Talk(relay.ws_url) as talk:
        assert talk.subscribe(topic, offset="acked", client_id=name)["cursors"] == {topic: ids[1]}
        assert talk.messages(1) == [3]


def test_an_acknowledgement_without_a_name_or_topic_is_refused(
    relay: RunningWorker, topic: str, talk: Talk
) -> None:
    talk.subscribe(topic)
    assert talk.ask("ack", "error", message_id="1-1", ref=1)["code"] == "client_id_required"
    assert talk.ask("subscribe", "error", topics=[topic], offset="acked")["code"] == "client_id_required"
    talk.subscribe(f"{topic}-2", client_id="a")
    assert talk.ask("ack", "error", message_id="1-1", ref=2)["code"] == "topic_ambiguous"
    assert talk.ask("ack", "error", message_id="abc", topic=topic)["code"] == "invalid_cursor"


# -------------------------------------------------------------------------------------------- frames that err


def test_a_ping_is_answered_with_its_ref(talk: Talk) -> None:
    assert talk.ask("ping", "pong", ref=[1.10, None])["ref"] == [1.10, None]


def test_the_protocols_own_ping_is_answered(talk: Talk) -> None:
    assert talk.socket.ping().wait(WAIT_SECONDS)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("[]", "invalid_request"),
        ("null", "invalid_request"),
        ('"subscribe"', "invalid_request"),
        ('{"type":"nonsense"}', "unknown_frame"),
        ('{"type":7}', "unknown_frame"),
        ('{"type":"subscribe"}', "invalid_request"),
        ('{"topics":[]}', "invalid_request"),
        ('{"type":"ack"}', "invalid_request"),
        ('{"type":"publish","topic":"a","payload":NaN}', "invalid_json"),
        ('{"type":"publish","topic":"a","payload":"\\ud800"}', "invalid_json"),
        ('{"type":"publish","topic":"a","payload":' + "[" * 500 + "]" * 500 + "}", "nested_too_deeply"),
    ],
)
def test_a_frame_that_is_none_is_answered_and_the_connection_goes_on(
    talk: Talk, text: str, code: str
) -> None:
    talk.say_raw(text)
    answer = talk.hear("error")
    assert answer["code"] == code
    assert answer["retry"] is False
    talk.ask("ping", "pong")


def test_a_binary_frame_is_refused_and_the_connection_goes_on(talk: Talk) -> None:
    talk.socket.send(b'{"type":"ping"}')
    assert talk.hear("error")["code"] == "binary_frame"
    talk.ask("ping", "pong")


def test_a_frame_in_fragments_is_one_frame(relay: RunningWorker, topic: str, talk: Talk) -> None:
    text = json.dumps({"type": "publish", "topic": topic, "payload": "é" * 100, "ref": 1}, ensure_ascii=False)
    data = text.encode()
    middle = data.index(b"\xc3") + 1  # in the middle of a character
    talk.socket.send(iter([data[:middle], data[middle:]]), text=True)
    assert talk.hear("published")["ref"] == 1


def test_a_text_that_is_not_utf_8_closes_with_1007(talk: Talk) -> None:
    talk.say_raw(b'{"type":"publish","topic":"a","payload":"\xed\xa0\x80"}')
    assert talk.closing() == (1007, "invalid_encoding")


def test_a_frame_beyond_the_limit_closes_with_1009_also_for_a_client_that_sends_it_all(
    make_relay: MakeRelay, topic: str
) -> None:
    relay = make_relay(subscriber={"max_frame_bytes": 1 << 20})
    empty = len(json.dumps({"type": "publish", "topic": topic, "payload": ""}))
    with Talk(relay.ws_url) as talk:
        talk.ask("publish", "published", topic=topic, payload="x" * ((1 << 20) - empty))
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(talk.say, "publish", topic=topic, payload="x" * (24 << 20))
            assert talk.closing() == (1009, "frame_too_large")
            sending.exception(WAIT_SECONDS)
    with Upgraded(relay.ports.api) as raw:
        raw.send_frame(0x81, b"x" * (24 << 20))
        assert raw.receive_close() == (1009, b"frame_too_large")
    fragments = iter(["x" * (700 << 10), "x" * (700 << 10)])
    with Talk(relay.ws_url) as talk:
        with suppress(ConnectionClosed):  # it may be told before it has sent everything
            talk.socket.send(fragments)
        assert talk.close_code() == 1009


class Upgraded(RawConnection):
    """A WebSocket by hand."""

    def __init__(self, port: int, **options: Any) -> None:
        super().__init__(port, **options)
        self.pings = 0
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        self.send(upgrade_bytes(Sec_WebSocket_Key=key))
        answer = self.response()
        assert answer.status == 101
        assert answer.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

    def send_frame(self, first: int, payload: bytes, *, masked: bool = True) -> None:
        length = len(payload)
        mask_bit = 0x80 if masked else 0
        head = bytes([first])
        if length < 126:
            head += bytes([mask_bit | length])
        elif length < 1 << 16:
            head += bytes([mask_bit | 126]) + length.to_bytes(2, "big")
        else:
            head += bytes([mask_bit | 127]) + length.to_bytes(8, "big")
        # A mask of zeros leaves the payload as it is.
        self.send(head + (b"\0\0\0\0" if masked else b"") + payload)

    def receive_frame(self) -> tuple[int, bytes]:
        first, length = self.exactly(2)
        if length == 126:
            length = int.from_bytes(self.exactly(2), "big")
        elif length == 127:
            length = int.from_bytes(self.exactly(8), "big")
        return first, self.exactly(length)

    def receive_text(self) -> Any:
        """The next text frame, as a JSON value; pings that come before it are answered."""
        while True:
            first, payload = self.receive_frame()
            if first == 0x81:
                return json.loads(payload)
            assert first == 0x89, (first, payload)
            self.pings += 1
            self.send_frame(0x8A, payload)

    def subscribe(self, topic: str) -> None:
        self.send_frame(0x81, json.dumps({"type": "subscribe", "topics": [topic]}).encode())
        assert self.receive_text()["type"] == "subscribed"

    def receive_close(self) -> tuple[int, bytes]:
        while True:
            first, payload = self.receive_frame()
            if first == 0x88:
                return int.from_bytes(payload[:2], "big"), payload[2:]


def upgrade_bytes(**headers: str) -> bytes:
    fields = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
        **headers,
    }
    return request_bytes("GET", "/ws", None, **{name: value for name, value in fields.items() if value})


@pytest.mark.parametrize(
    ("first", "payload"),
    [(0xC1, b"{}"), (0x83, b"{}"), (0x80, b"{}"), (0x09, b""), (0x89, b"x" * 126)],
    ids=["reserved-bit", "unknown-opcode", "stray-continuation", "fragmented-ping", "long-ping"],
)
def test_a_peer_that_breaks_the_protocol_is_told_1002(
    relay: RunningWorker, first: int, payload: bytes
) -> None:
    with Upgraded(relay.ports.api) as raw:
        raw.send_frame(first, payload)
        assert raw.receive_close()[0] == 1002
        assert raw.rest() == b""


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"", b""),
        (b"\x03\xe8", b"\x03\xe8"),
        (b"\x0f\xa1bye", b"\x0f\xa1"),
        (b"\x03", b"\x03\xea"),
        (b"\x03\xed", b"\x03\xea"),
        (b"\x00\x01", b"\x03\xea"),
        (b"\x03\xe8\xff", b"\x03\xea"),
    ],
)
def test_a_close_frame_is_answered_and_the_connection_ends(
    relay: RunningWorker, sent: bytes, answered: bytes
) -> None:
    with Upgraded(relay.ports.api) as raw:
        raw.send_frame(0x88, sent)
        assert raw.receive_frame() == (0x88, answered)
        assert raw.rest() == b""


def test_a_frame_without_a_mask_breaks_the_protocol(relay: RunningWorker) -> None:
    with Upgraded(relay.ports.api) as raw:
        raw.send_frame(0x81, b'{"type":"ping"}', masked=False)
        assert raw.receive_close() == (1002, b"protocol_error")
        assert raw.rest() == b""


@pytest.mark.parametrize("payload", [b"", b"x", b"\x00\xff\xfe", b"y" * 125])
def test_a_ping_is_answered_with_what_it_carries_also_within_a_message(
    relay: RunningWorker, payload: bytes
) -> None:
    with Upgraded(relay.ports.api) as raw:
        raw.send_frame(0x01, b'{"type":')
        raw.send_frame(0x89, payload)
        raw.send_frame(0x00, b"")
        raw.send_frame(0x8A, b"a pong that nobody asked for")
        assert raw.receive_frame() == (0x8A, payload)
        raw.send_frame(0x80, b'"ping"}')
        assert raw.receive_text()["type"] == "pong"


def test_frames_that_come_by_the_thousand_in_one_piece_are_answered_in_order(relay: RunningWorker) -> None:
    texts = [json.dumps({"type": "ping", "ref": number}).encode() for number in range(1500)]
    with Upgraded(relay.ports.api) as raw:
        raw.send(b"".join(b"\x81" + bytes([0x80 | len(text)]) + b"\0\0\0\0" + text for text in texts))
        assert [raw.receive_text()["ref"] for _ in texts] == list(range(1500))


def test_nothing_that_comes_behind_a_close_frame_counts(relay: RunningWorker, topic: str) -> None:
    publish_frame = json.dumps({"type": "publish", "topic": topic, "payload": 1}).encode()
    head = b"\x81\xfe" + len(publish_frame).to_bytes(2, "big") + b"\0\0\0\0"
    with Upgraded(relay.ports.api) as raw:
        raw.send(b"\x88\x82\0\0\0\0\x03\xe8" + head + publish_frame + b"\xff\xff")
        assert raw.receive_frame() == (0x88, b"\x03\xe8")
        with suppress(ConnectionResetError):
            assert raw.rest() == b""
    answer = requests.get(f"{relay.url}/api/v1/topics/{topic}", timeout=WAIT_SECONDS)
    assert answer.status_code == 404


def test_a_peer_that_does_not_answer_a_close_frame_is_cut_off(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "FAREWELL_SECONDS", 0.1)
    relay = make_relay()
    with Upgraded(relay.ports.api) as raw:
        raw.send_frame(0x81, b"\xff")
        assert raw.receive_close() == (1007, b"invalid_encoding")
        assert raw.rest() == b""
    until(lambda: relay.worker.connections.socket_count == 0, "its place is free")


def test_a_peer_that_broke_the_protocol_and_sends_on_without_end_is_cut_off(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "REFUSED_BYTES", 1 << 20)
    relay = make_relay()
    with Upgraded(relay.ports.api) as raw:
        raw.send_frame(0x83, b"")
        with suppress(ConnectionError):
            for _ in range(64):
                raw.send(b"x" * (1 << 20))
        until(lambda: relay.worker.connections.socket_count == 0, "cut off")


def test_a_socket_counts_as_a_connection_until_it_is_closed(make_relay: MakeRelay) -> None:
    relay = make_relay(server={"max_connections": 2})
    with Upgraded(relay.ports.api) as closing, Upgraded(relay.ports.api):
        closing.send_frame(0x81, b"\xff")
        assert closing.receive_close()[0] == 1007
        # Its subscriber is gone; its socket waits for the answer to the close frame.
        until(lambda: relay.worker.relay.connections["websocket"] == 1, "the subscriber left")
        with RawConnection(relay.ports.api) as third:
            assert third.request("GET", "/health").status == 503
        closing.send_frame(0x88, b"\x03\xef")
        assert closing.rest() == b""
        until(lambda: relay.worker.connections.socket_count == 1, "its place is free")
        with RawConnection(relay.ports.api) as third:
            assert third.request("GET", "/health").status == 200


def test_a_frame_whose_handling_fails_closes_with_1011_and_is_logged_once(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: RelayWebSocket, frame: object) -> None:
        raise ZeroDivisionError

    relay = make_relay()
    monkeypatch.setattr(RelayWebSocket, "_obey", fail)
    with Talk(relay.ws_url) as talk:
        talk.say("ping")
        assert talk.closing() == (1011, "internal_error")
    assert [record.name for record in caplog.records] == ["pulsar_relay.web.websocket"]
    caplog.clear()


# ------------------------------------------------------------------------------------------------ the upgrade


@pytest.mark.parametrize(
    ("headers", "status", "error"),
    [
        ({"Upgrade": "", "Connection": ""}, 404, "upgrade_required"),
        ({"Upgrade": "h2c"}, 404, "upgrade_required"),
        ({"Connection": "keep-alive"}, 404, "upgrade_required"),
        ({"Sec_WebSocket_Version": "12"}, 400, "bad_request"),
        ({"Sec_WebSocket_Version": ""}, 400, "bad_request"),
        ({"Sec_WebSocket_Key": ""}, 400, "bad_request"),
        ({"Origin": "https://elsewhere.example"}, 403, "origin_not_allowed"),
        ({"Origin": "null"}, 403, "origin_not_allowed"),
        ({"Origin": "http://127.0.0.1", "Sec_Fetch_Site": "cross-site"}, 403, "origin_not_allowed"),
        ({"Sec_Fetch_Site": "same-site"}, 403, "origin_not_allowed"),
    ],
)
def test_an_upgrade_that_cannot_be_is_refused_in_the_usual_shape(
    relay: RunningWorker, headers: dict[str, str], status: int, error: str
) -> None:
    with RawConnection(relay.ports.api) as connection:
        connection.send(upgrade_bytes(**headers))
        answer = connection.response()
        assert (answer.status, answer.error) == (status, error)
        assert answer.headers["sec-websocket-version"] == "13"
        # An ordinary answer: the connection is good for another request.
        assert connection.request("GET", "/health").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "https://relay.example", "Sec_Fetch_Site": "same-origin"},
        {"Origin": "https://relay.example", "X_Forwarded_Host": "Relay.example"},
        {"Connection": "keep-alive, Upgrade"},
    ],
    ids=["no-browser", "same-host", "browser-says-so", "proxy-says-so", "two-tokens"],
)
def test_an_upgrade_from_the_relays_own_address_is_made(
    relay: RunningWorker, headers: dict[str, str]
) -> None:
    with RawConnection(relay.ports.api) as connection:
        connection.send(upgrade_bytes(**headers))
        answer = connection.response(has_body=False)
        assert answer.status == 101
        assert "sec-websocket-version" not in answer.headers


@pytest.mark.parametrize("path", ["/ws", "/ws?token=a%20b&c", "/ws?"])
@pytest.mark.parametrize("is_plain", [True, False], ids=["plain", "read-by-tornado"])
def test_what_is_sent_behind_the_handshake_is_read_whoever_reads_the_request(
    relay: RunningWorker, path: str, *, is_plain: bool
) -> None:
    frame = b'\x81\x8f\0\0\0\0{"type":"ping"}'
    head = upgrade_bytes(Sec_WebSocket_Protocol="bearer").replace(b" /ws ", f" {path} ".encode())
    if not is_plain:
        head = head.replace(b"\r\n\r\n", b"\r\nX-Twice: a\r\nX-Twice: b\r\n\r\n")
    with RawConnection(relay.ports.api) as connection:
        connection.send(head + frame)
        assert connection.until(b"\r\n\r\n") == (
            b"HTTP/1.1 101 Switching Protocols\r\n"
            b"Upgrade: websocket\r\n"
            b"Connection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
            b"Sec-WebSocket-Protocol: bearer\r\n\r\n"
        )
        assert b'"type":"pong"' in connection.some()


def test_a_plain_request_for_one_never_meets_tornado(
    relay: RunningWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(UpgradeHandler, "get")
    with Talk(relay.ws_url) as talk:
        talk.ask("ping", "pong")


def test_the_subprotocol_bearer_is_agreed_to_and_no_other(relay: RunningWorker) -> None:
    with Talk(relay.ws_url, subprotocols=["bearer", "bearer.token"]) as talk:
        assert talk.socket.subprotocol == "bearer"
    with Talk(relay.ws_url, subprotocols=["chat"]) as talk:
        assert talk.socket.subprotocol is None


def test_compression_is_not_agreed_to(relay: RunningWorker) -> None:
    with Talk(relay.ws_url, compression="deflate") as talk:
        assert talk.socket.response is not None
        assert "Sec-WebSocket-Extensions" not in talk.socket.response.headers


# --------------------------------------------------------------------------------------------- quiet and dead


def test_a_socket_that_only_receives_stays_open_over_many_pings(make_relay: MakeRelay, topic: str) -> None:
    relay = make_relay(subscriber={"ping_interval_seconds": 0.02, "ping_timeout_seconds": 2.0})
    with Upgraded(relay.ports.api) as raw:
        raw.subscribe(topic)
        for number in range(3):
            while raw.pings < 5 * (number + 1):
                assert raw.receive_frame() == (0x89, b"")
                raw.pings += 1
                raw.send_frame(0x8A, b"")
            publish(relay, topic, number)
            assert raw.receive_text()["payload"] == number


def test_a_peer_that_does_not_answer_pings_is_cut_off_and_forgotten(
    make_relay: MakeRelay, topic: str
) -> None:
    relay = make_relay(subscriber={"ping_interval_seconds": 0.05, "ping_timeout_seconds": 0.05})
    with Upgraded(relay.ports.api) as raw:
        raw.send_frame(0x81, json.dumps({"topics": [topic], "type": "subscribe"}).encode())
        assert raw.receive_close() == (4002, b"ping_timeout")
        assert raw.rest() == b""
    until(lambda: relay.worker.relay.connections["websocket"] == 0, "the subscription ended")
    until(lambda: len(relay.worker.connections) == 0, "the connection was forgotten")


def test_a_peer_that_is_sending_something_large_is_not_taken_for_dead(
    make_relay: MakeRelay, topic: str
) -> None:
    relay = make_relay(subscriber={"ping_interval_seconds": 0.1, "ping_timeout_seconds": 0.5})
    text = json.dumps({"type": "publish", "topic": topic, "payload": "x" * 1000}).encode()
    with Upgraded(relay.ports.api) as raw:
        raw.send(b"\x81\xfe" + len(text).to_bytes(2, "big") + b"\0\0\0\0")
        started = time.monotonic()
        position = 0
        while time.monotonic() < started + 1.5:
            raw.send(text[position : position + 1])
            position += 1
            time.sleep(0.02)
        raw.send(text[position:])
        assert raw.receive_text()["type"] == "published"


# ------------------------------------------------------------------------------------------------------- slow


LARGE = "x" * 10_000


def test_a_slow_reader_is_demoted_and_gets_everything_in_order_when_it_reads(
    make_relay: MakeRelay, topic: str
) -> None:
    relay = make_relay()
    count = 1000
    counters = relay.worker.relay.counters
    with Upgraded(relay.ports.api, receive_buffer_bytes=4096) as slow, Talk(relay.ws_url) as quick:
        slow.subscribe(topic)
        quick.subscribe(topic)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(lambda: [frame[0] for frame in quick.messages(count)])
            for start in range(0, count, 100):
                publish(relay, topic, *([number, LARGE] for number in range(start, start + 100)))
            assert reading.result(WAIT_SECONDS) == list(range(count))
        until(lambda: counters.lagging_subscribers == 1, "the slow one was demoted")
        assert outbox_bytes(relay) < 3 << 20
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        assert [slow.receive_text()["payload"][0] for _ in range(count)] == list(range(count))
        assert counters.demotions >= 1
        until(lambda: counters.lagging_subscribers == 0, "the slow one was promoted")
        publish(relay, topic, ["live again"])
        assert slow.receive_text()["payload"] == ["live again"]
    counted = counters
    assert counted.order_inversions == counted.duplicates == counted.unannounced_gaps == 0


def test_a_slow_reader_is_not_taken_for_dead_while_its_pings_wait_behind_what_it_does_not_read(
    make_relay: MakeRelay, topic: str
) -> None:
    relay = make_relay(subscriber={"ping_interval_seconds": 1.0, "ping_timeout_seconds": 0.3})
    with Upgraded(relay.ports.api, receive_buffer_bytes=4096) as slow:
        slow.subscribe(topic)
        publish(relay, topic, *["x" * (1 << 20)] * 12)
        time.sleep(2.2)  # the first ping is due, and its answer overdue
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        for _ in range(12):
            assert len(slow.receive_text()["payload"]) == 1 << 20
        publish(relay, topic, "live again")
        assert slow.receive_text()["payload"] == "live again"


def outbox_bytes(relay: RunningWorker) -> int:
    """What all connections together were handed and did not take."""

    def count() -> int:
        open_ = list(relay.worker.connections)
        return sum(
            connection.outbox.size_bytes for connection in open_ if isinstance(connection, RelayWebSocket)
        )

    return int(relay.call(count))


def test_a_reader_that_takes_nothing_at_all_is_closed_with_4001(
    make_relay: MakeRelay, caplog: pytest.LogCaptureFixture, topic: str
) -> None:
    caplog.set_level(logging.INFO, "pulsar_relay")
    relay = make_relay(subscriber={"stall_limit_seconds": 0.3})
    with Upgraded(relay.ports.api, receive_buffer_bytes=4096) as slow:
        slow.subscribe(topic)
        for _ in range(10):
            publish(relay, topic, *[LARGE] * 100)
        until(lambda: relay.worker.relay.connections["websocket"] == 0, "the subscription ended")
        # It has the time of a close handshake to wake up, and then still learns why.
        code, reason = slow.receive_close()
        assert (code, reason) == (4001, b"slow_subscriber")
    until(lambda: len(relay.worker.connections) == 0, "the connection was forgotten")
    assert any("nothing read for" in record.getMessage() for record in caplog.records)
    assert relay.worker.relay.counters.lagging_subscribers == 0


def test_replies_that_are_not_read_are_bounded(make_relay: MakeRelay) -> None:
    relay = make_relay()
    text = json.dumps({"type": "ping", "ref": "x" * 900}).encode()
    frame = b"\x81\xfe" + len(text).to_bytes(2, "big") + b"\0\0\0\0" + text
    with Upgraded(relay.ports.api, receive_buffer_bytes=4096) as slow:
        slow.socket.settimeout(0.2)
        sent = 0
        with pytest.raises(TimeoutError):  # noqa: PT012
            while sent < 64 << 20:
                slow.send(frame * 100)
                sent += len(frame) * 100
        assert outbox_bytes(relay) < 1 << 20
        # Not a word is lost: as soon as it reads, it is read.
        slow.socket.settimeout(WAIT_SECONDS)
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        for _ in range(sent // len(frame)):
            assert json.loads(slow.receive_frame()[1])["type"] == "pong"


# ---------------------------------------------------------------------------------------------------- the end


def test_a_stopping_relay_closes_with_1012_and_tells_when_to_come_back(
    make_relay: MakeRelay, topic: str
) -> None:
    relay = make_relay()
    talks = [Talk(relay.ws_url) for _ in range(20)]
    for talk in talks:
        talk.subscribe(topic)
    with ThreadPoolExecutor(20) as pool:
        closings = [pool.submit(talk.closing) for talk in talks]
        relay.stop()
        ended = [closing.result(WAIT_SECONDS) for closing in closings]
    assert {code for code, _ in ended} == {1012}
    waits = {int(reason.removeprefix("going_away; retry_ms=")) for _, reason in ended}
    assert len(waits) > 5
    assert all(0 < wait < 5000 for wait in waits)


def test_publishes_under_way_are_answered_before_a_stopping_relay_closes(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    relay = make_relay()
    may_go, began = threading.Event(), threading.Event()
    real = Publisher.publish_then
    waiting: list[asyncio.Task[None]] = []

    def publish_later(publisher: Publisher, caller: Any, request: Any, key: Any, told: Any) -> None:
        async def tell_later(outcome: Any) -> None:
            await asyncio.to_thread(may_go.wait, WAIT_SECONDS)
            told(outcome)

        # The append is on its way when the relay is told to stop.
        real(
            publisher,
            caller,
            request,
            key,
            lambda outcome: waiting.append(asyncio.ensure_future(tell_later(outcome))),
        )
        began.set()

    monkeypatch.setattr(Publisher, "publish_then", publish_later)
    with Talk(relay.ws_url) as talk, ThreadPoolExecutor(1) as pool:
        talk.say("publish", topic=topic, payload=1, ref="late")
        assert began.wait(WAIT_SECONDS)
        stopping = pool.submit(relay.stop)
        until(lambda: not relay.worker.relay.is_accepting, "the relay is stopping")
        may_go.set()
        assert talk.hear("published")["ref"] == "late"
        assert talk.close_code() == 1012
        stopping.result(WAIT_SECONDS)


def test_nothing_comes_after_a_close_frame(make_relay: MakeRelay, topic: str) -> None:
    relay = make_relay()
    with Upgraded(relay.ports.api) as raw:
        raw.subscribe(topic)

        def go_away() -> None:
            for connection in relay.worker.connections:
                connection.go_away()

        relay.call(go_away)
        publish(relay, topic, 1)
        raw.send_frame(0x81, b'{"type":"ping"}')
        assert raw.receive_close()[0] == 1012
        raw.send_frame(0x88, b"\x03\xf4")
        assert raw.rest() == b""


def test_a_failed_subscriber_closes_with_4000(
    make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, topic: str
) -> None:
    def fail(self: SubscriberActor, message: Any, sender: Any) -> None:
        real(self, message, sender)
        if type(message).__name__ == "Subscribe":
            raise ZeroDivisionError

    relay = make_relay()
    real = SubscriberActor.receiveMessage
    monkeypatch.setattr(SubscriberActor, "receiveMessage", fail)
    with Talk(relay.ws_url) as talk:
        talk.say("subscribe", topics=[topic])
        assert talk.closing() == (4000, "subscriber_failed")
    assert any("ZeroDivisionError" in str(record.exc_info) for record in caplog.records)
    caplog.clear()


@pytest.mark.parametrize("ending", ["close", "abort", "half-close"])
def test_connections_that_end_leave_nothing_behind(make_relay: MakeRelay, topic: str, ending: str) -> None:
    relay = make_relay()
    inside = relay.worker.relay
    relay.call(lambda: None)
    actors = relay.call(lambda: len(inside.base.population.cells))
    for _ in range(20):
        raws = [Upgraded(relay.ports.api) for _ in range(20)]
        for raw in raws:
            raw.send_frame(0x81, json.dumps({"topics": [topic], "type": "subscribe"}).encode())
        for raw in raws:
            assert json.loads(raw.receive_frame()[1])["type"] == "subscribed"
            if ending == "close":
                raw.send_frame(0x88, b"\x03\xe8")
            elif ending == "abort":
                raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            else:
                raw.socket.shutdown(socket.SHUT_WR)
            raw.socket.close()
    until(lambda: inside.connections["websocket"] == 0, "all counted as gone")
    until(lambda: len(relay.worker.connections) == 0, "no connection is open")
    # The topic stays in memory; the directory and archive were there before.
    until(lambda: relay.call(lambda: len(inside.base.population.cells)) == actors + 1, "no actor is left")
    assert relay.call(lambda: inside.base.carrier.work_in_flight) <= 1
    answer = requests.get(f"{relay.url}/api/v1/topics/stats", timeout=WAIT_SECONDS).json()
    assert answer["subscribers"] == 0
