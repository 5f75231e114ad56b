"""The relay as a process: it starts, survives kills of either part with nothing lost, and stops in order."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import valkey as valkey_client
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from pulsar_relay.server import RESERVED_FILES, max_connections, topic_limits
from pulsar_relay.settings import Settings
from tests.relays import RelayProcess
from tests.valkeys import TIMEOUT_SCALE, RealValkey
from tests.workers import RunningWorker

WAIT_SECONDS = 20 * TIMEOUT_SCALE


@pytest.fixture
def process(tmp_path: Path) -> Iterator[RelayProcess]:
    relay = RelayProcess(tmp_path)
    yield relay.start()
    relay.close()


def _until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)


def _status(url: str) -> int:
    try:
        return requests.get(url, timeout=WAIT_SECONDS).status_code
    except requests.ConnectionError:
        return 0


def _post(url: str, topic: str, payload: Any, key: str | None = None) -> requests.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    body = {"topic": topic, "payload": payload}
    return requests.post(f"{url}/api/v1/messages", json=body, headers=headers, timeout=WAIT_SECONDS)


def _history(url: str, topic: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    cursor = ""
    while True:
        address = f"{url}/api/v1/topics/{topic}/messages"
        query: dict[str, str | int] = {"order": "asc", "limit": 1000, "cursor": cursor}
        page = requests.get(address, params=query, timeout=WAIT_SECONDS).json()
        messages += page["messages"]
        if not page["has_more"]:
            return messages
        cursor = page["next_cursor"]


class Producer:
    """Publishes numbers, one after the other, repeating each with its key until it is acknowledged."""

    def __init__(self, relay: RelayProcess, topic: str) -> None:
        self._relay = relay
        self._topic = topic
        self._is_over = threading.Event()
        self.acknowledged: list[str] = []
        self.statuses: set[int] = set()

    def run(self) -> None:
        while not self._is_over.is_set():
            number = len(self.acknowledged)
            try:
                answer = _post(self._relay.url, self._topic, number, key=f"{self._topic}-{number}")
            except requests.RequestException:
                continue  # not known to be stored: the same again, with the same key
            self.statuses.add(answer.status_code)
            if answer.status_code == 201:
                self.acknowledged.append(answer.json()["message_id"])
            else:
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["Retry-After"]) >= 1

    def stop(self) -> None:
        self._is_over.set()

    def check(self) -> None:
        """All it was acknowledged is stored, once, in its order, under the ids it was told."""
        messages = _history(self._relay.url, self._topic)
        stored = [(message["message_id"], message["payload"]) for message in messages]
        acknowledged = [(message_id, number) for number, message_id in enumerate(self.acknowledged)]
        # One more may be stored: the last, whose answer the producer did not wait for.
        assert stored[: len(acknowledged)] == acknowledged
        assert len(stored) <= len(acknowledged) + 1


def _under_load(relay: RelayProcess, trouble: Callable[[list[Producer]], None]) -> list[Producer]:
    producers = [Producer(relay, f"load-{number}") for number in range(4)]
    with ThreadPoolExecutor(len(producers)) as pool:
        running = [pool.submit(producer.run) for producer in producers]
        try:
            _publish_more(producers)
            trouble(producers)
            _publish_more(producers)
        finally:
            for producer in producers:
                producer.stop()
        for future in running:
            future.result(WAIT_SECONDS)
    return producers


def _publish_more(producers: list[Producer]) -> None:
    goals = [(producer, len(producer.acknowledged) + 30) for producer in producers]
    _until(
        lambda: all(len(producer.acknowledged) >= goal for producer, goal in goals), "more acknowledgements"
    )


def _kill_valkey_of(process: RelayProcess) -> None:
    with valkey_client.Valkey(unix_socket_path=str(process.data_dir / "valkey.sock")) as client:
        pid = int(client.info("server")["process_id"])
    os.kill(pid, signal.SIGKILL)


def test_a_killed_relay_loses_nothing_and_the_next_one_takes_over_its_valkey(process: RelayProcess) -> None:
    def kill_and_start(_producers: list[Producer]) -> None:
        process.kill()
        process.start()

    for producer in _under_load(process, kill_and_start):
        producer.check()
    assert any("adopted" in message for message in process.messages)


def test_a_killed_valkey_is_restarted_with_nothing_lost_and_the_relay_goes_on(process: RelayProcess) -> None:
    relay_pid = process.pid

    def kill_valkey(_producers: list[Producer]) -> None:
        _kill_valkey_of(process)

    for producer in _under_load(process, kill_valkey):
        producer.check()
    assert process.pid == relay_pid
    assert process.is_running
    _until(lambda: _status(f"{process.url}/ready") == 200, "readiness")


def test_subscribers_see_every_message_once_although_valkey_is_killed_under_them(
    process: RelayProcess,
) -> None:
    received: list[Any] = []

    async def subscribe(is_ready: threading.Event, is_over: threading.Event) -> None:
        async with connect(process.ws_url) as socket:
            await socket.send(json.dumps({"type": "subscribe", "topics": ["load-0"]}))
            await socket.recv()
            is_ready.set()
            while not is_over.is_set():
                try:
                    received.append(json.loads(await asyncio.wait_for(socket.recv(), 0.2)))
                except TimeoutError:
                    continue

    is_ready, is_over = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: asyncio.run(subscribe(is_ready, is_over)))
        assert is_ready.wait(WAIT_SECONDS)

        def kill_valkey(_producers: list[Producer]) -> None:
            _kill_valkey_of(process)

        producers = _under_load(process, kill_valkey)
        stored = [message["message_id"] for message in _history(process.url, "load-0")]
        try:
            _until(lambda: len(received) >= len(stored), "all deliveries")
        finally:
            is_over.set()
        running.result(WAIT_SECONDS)
    assert {frame["type"] for frame in received} == {"message"}
    assert [frame["message_id"] for frame in received] == stored
    producers[0].check()


def test_a_stopping_relay_answers_waiting_polls_and_closes_sockets_for_a_restart(
    process: RelayProcess,
) -> None:
    url = process.url

    def poll() -> requests.Response:
        body = {"topics": ["quiet"], "timeout": 60}
        return requests.post(f"{url}/messages/poll", json=body, timeout=WAIT_SECONDS)

    async def listen(is_ready: threading.Event) -> int | None:
        async with connect(process.ws_url) as socket:
            await socket.send(json.dumps({"type": "subscribe", "topics": ["quiet"]}))
            await socket.recv()
            is_ready.set()
            try:
                await socket.recv()
            except ConnectionClosed as closed:
                return closed.rcvd.code if closed.rcvd else None
        return None

    def stream(is_ready: threading.Event) -> bytes:
        address = f"{url}/api/v1/stream"
        with requests.get(address, params={"topics": "quiet"}, stream=True, timeout=WAIT_SECONDS) as answer:
            is_ready.set()
            return answer.content

    ready = threading.Event(), threading.Event()
    with ThreadPoolExecutor(3) as pool:
        polling = pool.submit(poll)
        listening = pool.submit(lambda: asyncio.run(listen(ready[0])))
        streaming = pool.submit(stream, ready[1])
        assert all(event.wait(WAIT_SECONDS) for event in ready)
        _until(
            lambda: requests.get(f"{url}/messages/poll/stats", timeout=WAIT_SECONDS).json()["active_waiters"],
            "a waiting poll",
        )
        started = time.monotonic()
        assert process.stop() == 0
        seconds = time.monotonic() - started
        answer = polling.result(WAIT_SECONDS)
        assert (answer.status_code, answer.json()["messages"]) == (200, [])
        assert answer.json()["cursors"] == {"quiet": "0-0"}
        assert listening.result(WAIT_SECONDS) == 1012
        assert b"event: subscribed" in streaming.result(WAIT_SECONDS)
    assert seconds < Settings().server.shutdown_deadline_seconds
    assert process.messages[-1] == "relay: stopped"
    assert not list(process.data_dir.glob("valkey.sock"))


def test_a_second_relay_on_the_same_data_is_refused(process: RelayProcess, tmp_path: Path) -> None:
    second = RelayProcess(tmp_path / "second")
    second.data_dir = process.data_dir
    second.start(waits=False)
    assert second.wait() == 1
    assert str(process.data_dir) in second.log
    assert _post(process.url, "still", "here").status_code == 201


def test_a_message_stands_in_the_configured_valkey_under_its_topics_name(
    make_valkey: Callable[..., RealValkey], make_relay_process: Callable[..., RelayProcess]
) -> None:
    valkey = make_valkey(tcp=True).start()
    relay = make_relay_process("--valkey-host", valkey.host, "--valkey-port", str(valkey.port)).start()
    answer = _post(relay.url, "test", {"message": "Hello, Persistent World!"})
    assert answer.status_code == 201
    assert valkey.command("XLEN", "topic:test:stream") == 1
    valkey.kill()
    valkey.start()
    assert valkey.command("XLEN", "topic:test:stream") == 1
    assert not relay.data_dir.exists()


def test_publishes_are_refused_with_503_while_valkey_is_away_and_accepted_when_it_is_back(
    make_valkey: Callable[..., RealValkey], make_relay: Callable[..., RunningWorker], topic: str
) -> None:
    valkey = make_valkey().start()
    relay = make_relay(valkey.socket_path, storage={"publish_deadline_seconds": 0.3})
    first = _post(relay.url, topic, 1)
    assert first.status_code == 201
    valkey.kill()
    refused = _post(relay.url, topic, 2)
    assert (refused.status_code, refused.json()["error"]) == (503, "store_unavailable")
    assert refused.headers["Retry-After"] == "1"
    _until(lambda: _status(f"{relay.url}/ready") == 503, "not ready")
    assert _status(f"{relay.url}/health") == 200
    valkey.start()
    _until(lambda: _status(f"{relay.url}/ready") == 200, "ready")
    assert _post(relay.url, topic, 3).status_code == 201
    stored = [message["payload"] for message in _history(relay.url, topic)]
    assert stored == [1, 3]


def test_a_poll_of_a_topic_in_memory_is_answered_while_valkey_is_away(
    make_valkey: Callable[..., RealValkey], make_relay: Callable[..., RunningWorker], topic: str
) -> None:
    valkey = make_valkey().start()
    relay = make_relay(valkey.socket_path)
    poll = {"topics": [topic], "since": {topic: "0-0"}, "timeout": 1}
    requests.post(f"{relay.url}/messages/poll", json=poll, timeout=WAIT_SECONDS)
    message_id = _post(relay.url, topic, "hot").json()["message_id"]
    valkey.kill()
    answer = requests.post(f"{relay.url}/messages/poll", json=poll, timeout=WAIT_SECONDS)
    assert [message["message_id"] for message in answer.json()["messages"]] == [message_id]


def test_a_valkey_out_of_memory_is_503_with_its_own_code_and_reads_go_on(
    make_valkey: Callable[..., RealValkey], make_relay: Callable[..., RunningWorker], topic: str
) -> None:
    valkey = make_valkey(settings={"maxmemory": "8mb", "maxmemory-policy": "noeviction"}).start()
    relay = make_relay(valkey.socket_path)
    stored = []
    while True:
        answer = _post(relay.url, topic, "x" * 100_000)
        if answer.status_code != 201:
            break
        stored.append(answer.json()["message_id"])
    assert (answer.status_code, answer.json()["error"]) == (503, "store_full")
    assert answer.headers["Retry-After"] == "5"
    assert [message["message_id"] for message in _history(relay.url, topic)] == stored
    valkey.command("CONFIG", "SET", "maxmemory", "64mb")
    assert _post(relay.url, topic, "room again").status_code == 201


def test_two_relays_on_one_valkey_deliver_each_others_messages_in_one_order(
    make_relay: Callable[..., RunningWorker], topic: str
) -> None:
    relays = [make_relay(), make_relay()]
    total = 200

    async def subscribe(url: str, is_ready: threading.Event) -> list[str]:
        async with connect(url) as socket:
            await socket.send(json.dumps({"type": "subscribe", "topics": [topic]}))
            await socket.recv()
            is_ready.set()
            return [json.loads(await socket.recv())["message_id"] for _ in range(total)]

    def publish(relay: RunningWorker) -> list[str]:
        return [_post(relay.url, topic, number).json()["message_id"] for number in range(total // 4)]

    ready = [threading.Event() for _ in relays]
    with ThreadPoolExecutor(6) as pool:
        listening = [
            pool.submit(
                lambda r=relay, e=event: asyncio.run(asyncio.wait_for(subscribe(r.ws_url, e), WAIT_SECONDS))
            )  # type: ignore[misc]
            for relay, event in zip(relays, ready, strict=True)
        ]
        assert all(event.wait(WAIT_SECONDS) for event in ready)
        published = [message_id for part in pool.map(publish, relays * 2) for message_id in part]
        received = [future.result(WAIT_SECONDS) for future in listening]
    expected = sorted(published, key=lambda text: tuple(map(int, text.split("-"))))
    assert received == [expected, expected]


def test_connections_are_capped_below_the_limit_on_open_files() -> None:
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert max_connections(0) == max(16, soft - RESERVED_FILES)
    assert max_connections(10_000_000) == max_connections(0)
    assert max_connections(20) == 20


def test_an_idle_topic_is_kept_for_about_as_long_as_the_settings_say() -> None:
    settings = Settings()
    ticks = topic_limits(settings).idle_ticks
    seconds = ticks * settings.storage.trim_interval_seconds
    assert abs(seconds - settings.topic.idle_retire_seconds) <= settings.storage.trim_interval_seconds
