"""The reverse proxies of deploy/, run as they are shipped: what a relay promises holds behind them too."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from pulsar_relay.errors import RelayError, render
from pulsar_relay.settings import Settings
from tests.conditions import WAIT_SECONDS, until
from tests.raw_http import RawConnection, request_bytes
from tests.reverse_proxies import DEPLOY, PROXIES, Address, in_front_of
from tests.talks import Talk
from tests.test_sse import EventSource, publish
from tests.workers import RunningWorker

MakeRelay = Callable[..., RunningWorker]
LARGE = "x" * 64 * 1024
LARGE_MESSAGES = 400
"""More than all buffers on the way take: of both connections, and of the proxy."""
SLOW_BUFFER_BYTES = 16 * 1024


@pytest.fixture(scope="module", params=list(PROXIES))
def proxy(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def behind(relay: RunningWorker, proxy: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """The session's relay, seen through a proxy."""
    with in_front_of([relay.ports.api], proxy, tmp_path_factory.mktemp(proxy)) as address:
        until(
            lambda: requests.get(f"{address.url}/ready", timeout=WAIT_SECONDS).ok, f"{proxy} finds the relay"
        )
        yield address


def is_ready(address: Address) -> bool:
    return requests.get(f"{address.url}/ready", timeout=WAIT_SECONDS).ok


def metric(relay: RunningWorker, name: str) -> float:
    lines = requests.get(f"{relay.url}/metrics", timeout=WAIT_SECONDS).text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split(" ")[1])


@pytest.mark.system
def test_a_websocket_publishes_and_receives(behind: Address, topic: str) -> None:
    with Talk(behind.ws_url) as talk:
        talk.subscribe(topic)
        publish(behind, topic, 1)
        assert talk.hear("message")["payload"] == 1
        talk.say("publish", topic=topic, payload=2, ref="two")
        heard = [talk.hear(), talk.hear()]
        assert {frame["type"] for frame in heard} == {"message", "published"}


@pytest.mark.system
def test_a_page_of_the_proxys_own_host_may_open_a_websocket_and_no_other(behind: Address, topic: str) -> None:
    with Talk(behind.ws_url, origin=behind.url) as talk:
        talk.subscribe(topic)
    with pytest.raises(Exception, match="403"), Talk(behind.ws_url, origin="http://elsewhere.example"):
        pass


@pytest.mark.system
def test_an_event_stream_brings_each_message_when_it_is_published(behind: Address, topic: str) -> None:
    with EventSource(behind, f"topics={topic}") as source:
        assert source.event()[0] == "subscribed"
        for number in range(3):
            publish(behind, topic, number)
            assert source.payloads(1) == [number]


@pytest.mark.system
def test_a_poll_waits_and_is_answered_by_a_message(behind: Address, topic: str) -> None:
    query = {"topics": topic, "since": "latest", "timeout": WAIT_SECONDS}

    def poll() -> list[Any]:
        answer = requests.get(f"{behind.url}/api/v1/poll", query, timeout=2 * WAIT_SECONDS)
        return [message["payload"] for message in answer.json()["messages"]]

    def waiting() -> int:
        stats = requests.get(f"{behind.url}/messages/poll/stats", timeout=WAIT_SECONDS).json()
        return sum(count for name, count in stats["topic_subscriber_counts"].items() if name.endswith(topic))

    with ThreadPoolExecutor() as pool:
        answer = pool.submit(poll)
        until(waiting, "the poll waits")
        publish(behind, topic, "now")
        assert answer.result() == ["now"]


@pytest.mark.system
@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_a_slow_client_is_the_relays_to_see_delays_nobody_and_misses_nothing(
    behind: Address, relay: RunningWorker, topic: str, transport: str
) -> None:
    demoted = metric(relay, "relay_subscribers_demoted_total")
    with slow_client(transport, behind, topic) as slow, Talk(behind.ws_url) as quick:
        quick.subscribe(topic)
        for number in range(LARGE_MESSAGES):
            publish(behind, topic, [number, LARGE])
            assert quick.hear("message")["payload"][0] == number
        until(lambda: metric(relay, "relay_subscribers_demoted_total") > demoted, "the relay sees it")
        assert [payload[0] for payload in slow.payloads(LARGE_MESSAGES)] == list(range(LARGE_MESSAGES))


def slow_client(transport: str, behind: Address, topic: str) -> Any:
    """One that has subscribed, and takes nothing until it is asked for `payloads`."""
    if transport == "websocket":
        return SlowTalk(behind, topic)
    source = EventSource(behind, f"topics={topic}", receive_buffer_bytes=SLOW_BUFFER_BYTES)
    assert source.event()[0] == "subscribed"
    return source


class SlowTalk(Talk):
    def __init__(self, behind: Address, topic: str) -> None:
        # It reads ahead what fits in one queued frame, and leaves the rest to the kernel.
        super().__init__(behind.ws_url, max_queue=1)
        self.subscribe(topic)

    def payloads(self, count: int) -> list[Any]:
        return [self.hear("message")["payload"] for _ in range(count)]


@pytest.mark.system
@pytest.mark.parametrize("asks_first", [False, True], ids=["sends", "asks-first"])
def test_a_body_that_is_too_large_is_refused_in_the_relays_words(
    behind: Address, proxy: str, topic: str, asks_first: bool
) -> None:
    if proxy == "caddy" and not asks_first:
        pytest.skip("Caddy hangs up on a client that goes on sending, with or without an answer")
    body = b"x" * (Settings().server.max_body_bytes + 1)
    headers = {"Content_Type": "application/json"} | ({"Expect": "100-continue"} if asks_first else {})
    request = request_bytes("POST", "/api/v1/messages", body, **headers)
    with RawConnection(behind.port) as connection:
        connection.send(request.removesuffix(body) if asks_first else request)
        answer = connection.response()
        while answer.status == 100:
            answer = connection.response()
    assert answer.status == 413
    assert answer.body == render(RelayError("body_too_large"))[2]
    assert answer.error == "body_too_large"
    assert publish(behind, topic, "after it")


@pytest.mark.system
def test_a_body_just_below_the_limit_is_taken(behind: Address, topic: str) -> None:
    body = {"topic": topic, "payload": "x" * (Settings().server.max_body_bytes - 1000)}
    answer = requests.post(f"{behind.url}/api/v1/messages", json=body, timeout=WAIT_SECONDS)
    assert answer.status_code == 201, answer.text


@pytest.mark.system
def test_metrics_are_not_for_who_comes_through_the_proxy(behind: Address, relay: RunningWorker) -> None:
    assert requests.get(f"{relay.url}/metrics", timeout=WAIT_SECONDS).status_code == 200
    assert requests.get(f"{behind.url}/metrics", timeout=WAIT_SECONDS).status_code == 404


@pytest.mark.system
def test_of_two_relays_one_may_leave_while_messages_are_published(
    make_relay: MakeRelay, proxy: str, topic: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    leaving, staying = (make_relay(server={"shutdown_notice_seconds": 3.0}) for _ in range(2))
    ports = [leaving.ports.api, staying.ports.api]
    with in_front_of(ports, proxy, tmp_path_factory.mktemp(proxy)) as address, ThreadPoolExecutor() as pool:
        until(lambda: is_ready(address), "one is found")
        stopped = pool.submit(leaving.stop)
        sent: list[int] = []
        refusals = 0
        while not stopped.done() or len(sent) < 100:
            refusals += publish_until_taken(address, topic, len(sent))
            sent.append(len(sent))
            time.sleep(0.005)
        history = f"{staying.url}/api/v1/topics/{topic}/messages"
        kept = requests.get(history, {"limit": 1000, "order": "asc"}, timeout=WAIT_SECONDS).json()
        assert [message["payload"] for message in kept["messages"]] == sent
        # nginx does not ask relays how they are.
        assert proxy == "nginx" or not refusals


def publish_until_taken(address: Address, topic: str, payload: int) -> int:
    """As clients should: again after a refusal, and with a key. Returns how often it was refused."""
    for refusals in itertools.count():
        answer = requests.post(
            f"{address.url}/api/v1/messages",
            json={"topic": topic, "payload": payload},
            headers={"Idempotency-Key": f"{payload}"},
            timeout=WAIT_SECONDS,
        )
        if answer.status_code == 201:
            return refusals
        assert answer.status_code in (502, 503), answer.text
        assert refusals < 10, answer.text
    raise AssertionError


# ----------------------------------------------------------------------------------------------- the numbers


def seconds(file: str, pattern: str) -> float:
    [found] = re.findall(rf"^\s*{pattern}\s+(\d+)s;?$", (DEPLOY / file).read_text(), re.MULTILINE)
    return float(found)


LONGEST_SILENCE = max(
    Settings().poll.max_timeout_seconds,
    Settings().subscriber.ping_interval_seconds + Settings().subscriber.ping_timeout_seconds,
    Settings().subscriber.keepalive_interval_seconds,
)


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("nginx.conf", "proxy_read_timeout"),
        ("haproxy.cfg", "timeout client"),
        ("haproxy.cfg", "timeout server"),
        ("haproxy.cfg", "timeout tunnel"),
    ],
)
def test_no_proxy_takes_a_relays_silence_for_its_end(file: str, pattern: str) -> None:
    assert seconds(file, pattern) > LONGEST_SILENCE


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("nginx.conf", "keepalive_timeout"),
        ("haproxy.cfg", "timeout http-keep-alive"),
        ("Caddyfile", "keepalive"),
    ],
)
def test_the_proxy_closes_kept_connections_before_the_relay_does(file: str, pattern: str) -> None:
    assert seconds(file, pattern) < Settings().server.idle_timeout_seconds


def test_nginx_takes_bodies_as_large_as_the_relay_does() -> None:
    megabytes = Settings().server.max_body_bytes // (1024 * 1024)
    assert f"client_max_body_size {megabytes}m;" in (DEPLOY / "nginx.conf").read_text()
