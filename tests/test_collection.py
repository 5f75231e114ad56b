"""What all workers answer together, asked at real ones."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from pulsar_relay.supervision import supervisor
from pulsar_relay.supervision.notes import MetricsText
from pulsar_relay.supervision.parts import Metered, Question, What
from pulsar_relay.supervision.slot import METRICS, Slot
from pulsar_relay.supervision.supervisor import Supervisor
from tests.conditions import WAIT_SECONDS, until, until_in_loop
from tests.relays import RelayProcess
from tests.valkeys import RealValkey
from tests.workers import make_settings

MakeRelay = Callable[..., RelayProcess]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
ASKED = 12
"""Questions on so many connections reach every worker, but once in many thousand times."""


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """Three workers that no test hurts."""
    relay = RelayProcess(tmp_path_factory.mktemp("three"), "--workers", "3")
    yield relay.start()
    relay.close()


@pytest.fixture
def two(make_relay_process: MakeRelay) -> RelayProcess:
    return make_relay_process("--workers", "2").start()


def _get(relay: RelayProcess, path: str) -> Any:
    """On a connection of its own: the kernel chooses the worker."""
    answer = requests.get(relay.url + path, timeout=WAIT_SECONDS)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _publish(relay: RelayProcess, topic: str) -> None:
    body = {"topic": topic, "payload": 1}
    assert requests.post(f"{relay.url}/api/v1/messages", json=body, timeout=WAIT_SECONDS).status_code == 201


def _scrape(url: str) -> Samples:
    answer = requests.get(url, timeout=WAIT_SECONDS)
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def _value(relay: RelayProcess, name: str, **labels: str) -> float | None:
    return _scrape(relay.metrics_url).get((name, tuple(sorted(labels.items()))))


def test_each_worker_tells_the_metrics_of_all(three: RelayProcess, topic: str) -> None:
    before = _value(three, "relay_messages_received_total") or 0
    for _ in range(30):
        _publish(three, topic)
    for url in [three.metrics_url, f"{three.url}/metrics"] * ASKED:
        samples = _scrape(url)
        assert samples["relay_messages_received_total", ()] == before + 30
        assert samples["relay_publish_latency_seconds_count", ()] >= before + 30
        assert samples["relay_workers", ()] == 3
        assert {labels for name, labels in samples if name == "process_open_fds"} == {
            (("worker", worker),) for worker in ("0", "1", "2", "supervisor")
        }


def test_connections_and_subscribers_are_those_of_all_workers(three: RelayProcess, topic: str) -> None:
    with ExitStack() as stack:
        for _ in range(ASKED):
            socket = stack.enter_context(connect(three.ws_url))
            socket.send(json.dumps({"type": "subscribe", "topics": [topic]}))
            assert json.loads(socket.recv())["type"] == "subscribed"
        _publish(three, topic)
        for _ in range(ASKED):
            assert _get(three, f"/api/v1/topics/{topic}")["subscribers"] == ASKED
            assert _get(three, "/stats")["subscribers"] == ASKED
        assert _value(three, "relay_connections", transport="websocket") == ASKED
    until(lambda: _get(three, "/stats")["subscribers"] == 0, "nobody subscribes")


def test_polls_are_counted_over_all_workers(three: RelayProcess, topic: str) -> None:
    def poll() -> None:
        request = {"topics": [topic], "timeout": 50}
        requests.post(f"{three.url}/messages/poll", json=request, timeout=WAIT_SECONDS)

    with ThreadPoolExecutor(ASKED) as pool:
        polling = [pool.submit(poll) for _ in range(ASKED)]
        until(lambda: _get(three, "/messages/poll/stats")["active_waiters"] == ASKED, "all polls wait")
        for _ in range(ASKED):
            assert _get(three, "/messages/poll/stats") == {
                "active_waiters": ASKED,
                "subscribed_topics": 1,
                "topic_subscriber_counts": {f"-/{topic}": ASKED},
            }
        _publish(three, topic)
        for one in polling:
            one.result()


def test_readiness_is_that_of_each_worker(
    make_valkey: Callable[..., RealValkey], make_relay_process: MakeRelay
) -> None:
    valkey = make_valkey().start()
    relay = make_relay_process("--workers", "2", "--set", f"valkey.unix_socket={valkey.socket_path}").start()
    ready = f"{relay.url}/ready"
    until(lambda: requests.get(ready, timeout=WAIT_SECONDS).ok, "ready")
    told = requests.get(ready, timeout=WAIT_SECONDS).json()
    assert told["workers"] == [
        {"worker": 0, "ready": True, "failing": []},
        {"worker": 1, "ready": True, "failing": []},
    ]
    valkey.kill()
    until(lambda: requests.get(ready, timeout=WAIT_SECONDS).status_code == 503, "not ready")
    until(
        lambda: all(
            "valkey_write" in each["failing"]
            for each in requests.get(ready, timeout=WAIT_SECONDS).json()["workers"]
        ),
        "each worker says so",
    )
    assert requests.get(ready, timeout=WAIT_SECONDS).json()["checks"]["valkey_write"]["ok"] is False
    valkey.start()
    until(lambda: requests.get(ready, timeout=WAIT_SECONDS).ok, "ready again")


@pytest.mark.faults
def test_a_worker_that_stands_still_is_named_and_represented_by_what_it_said_last(
    two: RelayProcess, topic: str
) -> None:
    ready = f"{two.url}/ready"
    until(lambda: requests.get(ready, timeout=WAIT_SECONDS).ok, "ready")
    for _ in range(20):
        _publish(two, topic)
    received = _value(two, "relay_messages_received_total")
    stuck = two.workers[0]
    # On connections to the other one; the kernel gives the stuck one its share of new ones.
    with requests.Session() as session:
        until(lambda: session.get(f"{two.url}/health", timeout=WAIT_SECONDS).ok, "a connection")
        os.kill(stuck, signal.SIGSTOP)
        try:
            answer = _of_the_other(two, session)
            assert {each["worker"]: each["failing"] for each in answer["workers"]} == {
                0: ["answering"],
                1: [],
            }
            assert not answer["ready"]
            assert answer["checks"]["answering"]["code"] == "workers_silent"
            samples = _samples(session.get(f"{two.url}/metrics", timeout=WAIT_SECONDS).text)
        finally:
            os.kill(stuck, signal.SIGCONT)
    assert samples["relay_worker_up", (("worker", "0"),)] == 0
    assert samples["relay_worker_up", (("worker", "1"),)] == 1
    assert samples["relay_messages_received_total", ()] == received
    until(lambda: requests.get(ready, timeout=WAIT_SECONDS).ok, "ready again")


def _samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _of_the_other(relay: RelayProcess, session: requests.Session) -> Any:
    """/ready, of the worker that does not stand still; leaves `session` with a connection to it."""
    while True:
        try:
            return session.get(f"{relay.url}/ready", timeout=3).json()
        except requests.Timeout:
            session.close()


@pytest.mark.faults
@pytest.mark.timeout(120)
def test_counters_never_fall_while_workers_are_killed(two: RelayProcess, topic: str) -> None:
    ended = threading.Event()
    published = []

    def publish() -> None:
        while not ended.is_set():
            try:
                _publish(two, topic)
            except requests.RequestException:
                continue
            published.append(1)

    def scrape() -> list[str]:
        fallen = []
        last: Samples = {}
        while not ended.is_set():
            try:
                now = _scrape(two.metrics_url)
            except requests.RequestException:
                continue
            for key, value in last.items():
                if _grows(key[0]) and now.get(key, -1.0) < value:
                    fallen.append(f"{key}: {value} -> {now.get(key)}")
            last = now
        return fallen

    with ThreadPoolExecutor(4) as pool:
        publishing = [pool.submit(publish) for _ in range(3)]
        scraping = pool.submit(scrape)
        for round_ in range(4):
            count = len(published)
            until(lambda count=count: len(published) > count + 30, "messages flow")
            number = round_ % 2
            pid = until(lambda number=number: two.workers.get(number, 0), "a worker")
            os.kill(pid, signal.SIGKILL)
            until(
                lambda number=number, pid=pid: two.workers.get(number, pid) != pid,
                "another one has its place",
            )
        ended.set()
        assert scraping.result() == []
        for one in publishing:
            one.result()
    assert _value(two, "relay_worker_restarts_total") == 4


def _grows(name: str) -> bool:
    return name.startswith("relay_") and name.endswith(("_total", "_count", "_sum", "_bucket"))


def test_what_a_worker_that_left_in_order_had_counted_counts_to_the_last(
    two: RelayProcess, topic: str
) -> None:
    for _ in range(40):
        _publish(two, topic)
    pid = two.workers[0]
    os.kill(pid, signal.SIGTERM)
    until(lambda: two.workers.get(0, pid) != pid, "another one has its place")
    assert _value(two, "relay_messages_received_total") == 40


@pytest.mark.faults
def test_what_workers_have_counted_is_asked_for_also_when_nobody_scrapes(
    make_valkey: Callable[..., RealValkey], monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    """So a killed worker takes no more than the last seconds with it."""
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.02)
    valkey = make_valkey().start()

    async def scenario() -> bytes:
        crew = Supervisor(2, make_settings(), valkey.socket_path, None)
        try:
            ports = await crew.start()
            url = f"http://127.0.0.1:{ports.api}/api/v1/messages"
            for _ in range(20):
                body = {"topic": topic, "payload": 1}
                answer = await asyncio.to_thread(requests.post, url, json=body, timeout=WAIT_SECONDS)
                assert answer.status_code == 201
            await until_in_loop(lambda: sum(map(_received, crew.slots)) == 20, "all is known")
            crew.abandon()
            await until_in_loop(lambda: not any(slot.is_ready for slot in crew.slots), "all are gone")
            answer = await crew.answer(Question(What.METRICS))
            assert isinstance(answer, MetricsText)
            return answer.text
        finally:
            await crew.stop()

    assert b"relay_messages_received_total 20.0" in asyncio.run(scenario())


def _received(slot: Slot) -> float:
    counted = slot.last(METRICS)
    families = counted.families if isinstance(counted, Metered) else []
    return sum(family.samples[0][2] for family in families if family.name == "relay_messages_received")
