"""SIGHUP: what changes in a relay that runs, and what does not."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pty
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from websockets.sync.client import ClientConnection, connect

from pulsar_relay.config import ConfigError, Configuration, Given, load
from pulsar_relay.keys import KEYS
from pulsar_relay.reloading import Reloading
from pulsar_relay.settings import Settings
from tests.conditions import WAIT_SECONDS, until
from tests.relays import RelayProcess, command, environment
from tests.workers import RunningWorker, make_settings

MakeRelay = Callable[..., RelayProcess]


def configuration(values: Mapping[str, str]) -> Configuration:
    return load(file=None, environment={}, flags=[Given(key, text, "test") for key, text in values.items()])


class Source:
    """What is said where settings are read, and can be changed."""

    def __init__(self, **values: str) -> None:
        self.values = {name.replace("__", "."): text for name, text in values.items()}

    def read(self) -> Configuration:
        return configuration(self.values)

    def reloading(self) -> Reloading:
        return Reloading(self.read().settings, self.read)


# ------------------------------------------------------------------------------------------------- deciding


def test_what_can_change_changes_and_what_cannot_is_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = Source()
    reloading = source.reloading()
    source.values = {"poll.max_topics": "7", "server.port": "1234", "log.level": "debug"}
    settings = reloading.again()
    assert settings is not None
    assert (settings.poll.max_topics, settings.log.level, settings.server.port) == (7, "debug", 8080)
    assert caplog.messages == [
        "reload: needs a restart: server.port",
        "reload: changed: poll.max_topics, log.level",
    ]


def test_what_is_taken_back_changes_back(caplog: pytest.LogCaptureFixture) -> None:
    source = Source(poll__max_topics="7")
    reloading = source.reloading()
    source.values = {}
    first = reloading.again()
    assert first is not None and first == Settings()
    assert reloading.again() is None


def test_what_needs_a_restart_alone_changes_nothing_and_is_named_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Source()
    reloading = source.reloading()
    source.values = {"server.workers": "3"}
    assert reloading.again() is None and reloading.again() is None
    assert caplog.messages == ["reload: needs a restart: server.workers"] * 2


def test_one_mistake_and_nothing_changes_and_all_are_told(caplog: pytest.LogCaptureFixture) -> None:
    source = Source()
    reloading = source.reloading()
    source.values = {"poll.max_topics": "7", "poll.max_limit": "none at all", "nonsense": "1"}
    assert reloading.again() is None
    assert len(caplog.messages) == 3 and caplog.messages[-1] == "reload: nothing has changed"
    assert "poll.max_limit" in caplog.text and "nonsense" in caplog.text
    source.values = {"poll.max_topics": "7"}
    settings = reloading.again()
    assert settings is not None and settings.poll.max_topics == 7


def test_the_old_and_the_new_together_must_make_sense(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`outbox_low` could follow, `outbox_high`, say, could not: then the one would be above the other."""
    high = KEYS["subscriber.outbox_high"].declaration
    monkeypatch.setattr(type(high), "reloads", property(lambda self: self is not high), raising=False)
    source = Source()
    reloading = source.reloading()
    source.values = {"subscriber.outbox_low": "2MiB", "subscriber.outbox_high": "4MiB"}
    assert reloading.again() is None
    assert "must not be above subscriber.outbox_high" in caplog.messages[0]
    assert caplog.messages[0].endswith("restart the relay")


@pytest.mark.parametrize("section", ["valkey", "embedded"])
def test_where_the_messages_are_does_not_change_under_a_relay(section: str) -> None:
    assert not [key.name for key in KEYS.values() if key.section == section and key.declaration.reloads]


def test_what_is_read_is_refused_as_at_the_start() -> None:
    with pytest.raises(ConfigError):
        configuration({"poll.max_topics": "0"})


# ------------------------------------------------------------------------------------------- in one worker


def _polls(relay: RelayProcess, topics: int) -> set[int]:
    """The status of polls for so many topics, on connections that reach every worker."""
    request = {"topics": [f"t{number}" for number in range(topics)], "timeout": 1}

    def poll(_: int) -> int:
        return requests.post(f"{relay.url}/messages/poll", json=request, timeout=WAIT_SECONDS).status_code

    with ThreadPoolExecutor(12) as pool:
        return set(pool.map(poll, range(12)))


def _publish(relay: RunningWorker | RelayProcess, topic: str, payload: object = 1) -> int:
    body = {"topic": topic, "payload": payload}
    return requests.post(f"{relay.url}/api/v1/messages", json=body, timeout=WAIT_SECONDS).status_code


def _reload(relay: RunningWorker, **sections: dict[str, object]) -> None:
    relay.call(lambda: relay.worker.reload(make_settings(**sections)))


def test_limits_of_requests_hold_for_the_next_one_on_an_open_connection_too(
    make_relay: Callable[..., RunningWorker],
) -> None:
    relay = make_relay()
    with requests.Session() as session:
        body = {"topic": "t", "payload": [[[1]]]}
        url = f"{relay.url}/api/v1/messages"
        assert session.post(url, json=body, timeout=WAIT_SECONDS).status_code == 201
        _reload(relay, publish={"max_payload_depth": 2})
        assert session.post(url, json=body, timeout=WAIT_SECONDS).status_code == 400
        _reload(relay, server={"max_body_bytes": 1024})
        assert session.post(url, json=body, timeout=WAIT_SECONDS).status_code == 201
        large = {"topic": "t", "payload": "x" * 2000}
        assert session.post(url, json=large, timeout=WAIT_SECONDS).status_code == 413


def test_the_cap_on_connections_changes(make_relay: Callable[..., RunningWorker]) -> None:
    relay = make_relay()
    with connect(relay.ws_url), connect(relay.ws_url):
        assert requests.get(f"{relay.url}/health", timeout=WAIT_SECONDS).ok
        _reload(relay, server={"max_connections": 2})
        assert requests.get(f"{relay.url}/health", timeout=WAIT_SECONDS).status_code == 503
        _reload(relay, server={"max_connections": 3})
        until(lambda: requests.get(f"{relay.url}/health", timeout=WAIT_SECONDS).ok, "there is room")


def test_an_open_socket_goes_on_and_the_next_one_has_the_new_limits(
    make_relay: Callable[..., RunningWorker], topic: str
) -> None:
    relay = make_relay()
    with connect(relay.ws_url) as first:
        first.send(json.dumps({"type": "subscribe", "topics": [topic, f"{topic}-2"]}))
        assert json.loads(first.recv())["type"] == "subscribed"
        _reload(relay, subscriber={"max_topics": 1})
        assert _publish(relay, topic, "after") == 201
        assert json.loads(first.recv())["payload"] == "after"
        with connect(relay.ws_url) as second:
            second.send(json.dumps({"type": "subscribe", "topics": [topic, f"{topic}-2"]}))
            assert json.loads(second.recv())["type"] == "error"


def test_a_hot_buffer_in_memory_shrinks_at_once(make_relay: Callable[..., RunningWorker], topic: str) -> None:
    relay = make_relay()

    def hot_bytes() -> int:
        found: int = requests.get(f"{relay.url}/stats", timeout=WAIT_SECONDS).json()["hot_bytes"]
        return found

    for number in range(20):
        assert _publish(relay, topic, "x" * 1000 + str(number)) == 201
    before = hot_bytes()
    assert before > 20_000
    _reload(relay, hot_buffer={"max_messages": 5})
    until(lambda: hot_bytes() < before / 2, "most of it is given back")
    kept = requests.get(f"{relay.url}/api/v1/topics/{topic}", timeout=WAIT_SECONDS).json()
    assert kept["length"] == 20


def test_the_budget_of_all_hot_buffers_holds_at_once(
    make_relay: Callable[..., RunningWorker], topic: str
) -> None:
    relay = make_relay()
    for number in range(20):
        assert _publish(relay, f"{topic}-{number}", "x" * 5000) == 201
    url = f"{relay.url}/stats"
    assert requests.get(url, timeout=WAIT_SECONDS).json()["hot_bytes"] > 100_000
    _reload(relay, hot_buffer={"total_bytes": 20_000, "max_bytes": 20_000})
    until(lambda: requests.get(url, timeout=WAIT_SECONDS).json()["hot_bytes"] <= 20_000, "the budget is kept")


def test_a_topic_keeps_what_the_new_settings_say(
    make_relay: Callable[..., RunningWorker], topic: str
) -> None:
    relay = make_relay()
    for number in range(10):
        assert _publish(relay, topic, number) == 201
    _reload(relay, storage={"max_messages_per_topic": 3, "trim_interval_seconds": 0.1})
    assert _publish(relay, topic, "last") == 201

    def kept() -> dict[str, object]:
        answer: dict[str, object] = requests.get(
            f"{relay.url}/api/v1/topics/{topic}", timeout=WAIT_SECONDS
        ).json()
        return answer

    until(lambda: kept()["length"] == 3, "three are kept")
    assert kept()["effective"] == {"max_messages": 3, "retention": 86400}


def test_a_publish_waits_for_the_store_as_long_as_the_new_settings_say(
    make_valkey: Callable[..., object], make_relay: Callable[..., RunningWorker], topic: str
) -> None:
    valkey = make_valkey().start()  # type: ignore[attr-defined]
    relay = make_relay(valkey.socket_path, storage={"publish_deadline_seconds": 300.0})
    assert _publish(relay, topic) == 201
    _reload(relay, storage={"publish_deadline_seconds": 0.2})
    valkey.kill()
    assert _publish(relay, topic) == 503


def test_readiness_and_metrics_go_on_after_a_reload(make_relay: Callable[..., RunningWorker]) -> None:
    relay = make_relay()
    assert _publish(relay, "t") == 201
    _reload(relay, poll={"max_topics": 3})
    until(lambda: requests.get(f"{relay.url}/ready", timeout=WAIT_SECONDS).ok, "ready")
    assert (
        "relay_messages_received_total 1.0" in requests.get(f"{relay.url}/metrics", timeout=WAIT_SECONDS).text
    )


# ------------------------------------------------------------------------------------------------- SIGHUP


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_reloads_without_closing_a_connection(
    make_relay_process: MakeRelay, workers: str, topic: str
) -> None:
    relay = make_relay_process("--workers", workers)
    file = relay.directory / "config.yaml"
    file.write_text("poll: {max_topics: 5}\n")
    relay.start()
    with ExitStack() as stack:
        sockets = [stack.enter_context(connect(relay.ws_url)) for _ in range(8)]
        address, query = f"{relay.url}/api/v1/stream", {"topics": topic}
        stream = stack.enter_context(requests.get(address, params=query, stream=True, timeout=WAIT_SECONDS))
        _reload_while_open(relay, file, sockets, stream, topic)


def _reload_while_open(
    relay: RelayProcess,
    file: Path,
    sockets: Sequence[ClientConnection],
    stream: requests.Response,
    topic: str,
) -> None:
    for one in sockets:
        one.send(json.dumps({"type": "subscribe", "topics": [topic]}))
        assert json.loads(one.recv())["type"] == "subscribed"
    assert _polls(relay, 5) == {200} and _polls(relay, 6) == {422}

    # Wrong: each problem is told, and nothing changes.
    file.write_text("poll: {max_topics: many}\nnonsense: {}\n")
    relay.signal(signal.SIGHUP)
    relay.wait_for_log("reload: nothing has changed")
    assert sum("config.yaml:" in message for message in relay.messages) == 2
    assert _polls(relay, 5) == {200}

    # Right: what can change does.
    file.write_text("poll: {max_topics: 3}\nlog: {level: warning}\nembedded: {maxmemory: 1GiB}\n")
    seen = len(relay.log)
    relay.signal(signal.SIGHUP)
    relay.wait_for_log("reload: needs a restart: ", since=seen)
    until(lambda: _polls(relay, 4) == {422}, "each worker has them")
    assert _polls(relay, 3) == {200}

    assert _publish(relay, topic, "after") == 201
    for one in sockets:
        assert json.loads(one.recv())["payload"] == "after"
    assert any(b"after" in line for line in stream.iter_lines())


@pytest.mark.faults
def test_a_worker_that_is_started_again_begins_with_the_reloaded_settings(
    make_relay_process: MakeRelay,
) -> None:
    relay = make_relay_process("--workers", "2")
    file = relay.directory / "config.yaml"
    file.write_text("poll: {max_topics: 5}\n")
    relay.start()
    file.write_text("poll: {max_topics: 3}\n")
    relay.signal(signal.SIGHUP)
    relay.wait_for_log("reload: changed: poll.max_topics")
    file.write_text("broken")
    pids = relay.workers
    for number, pid in pids.items():
        os.kill(pid, signal.SIGKILL)
        until(lambda number=number, pid=pid: relay.workers.get(number, pid) != pid, "another one")  # type: ignore[misc]
    assert _polls(relay, 4) == {422}


def test_a_signal_while_it_starts_is_heeded_once_it_has(make_relay_process: MakeRelay) -> None:
    relay = make_relay_process("--workers", "2")
    file = relay.directory / "config.yaml"
    file.write_text("poll: {max_topics: 5}\n")
    relay.start(waits=False)
    relay.wait_for_log("embedded valkey")
    file.write_text("poll: {max_topics: 3}\n")
    relay.signal(signal.SIGHUP)
    relay.wait_for_log("reload: changed: poll.max_topics")
    assert relay.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_relay_whose_terminal_is_closed_leaves_in_order(tmp_path: Path, workers: str) -> None:
    """The same signal; a relay that went on would be one that nobody sees."""
    options = ["--workers", workers, "--port", "0", "--set", "server.metrics_port=0"]
    log = tmp_path / "log"
    pid, terminal = pty.fork()
    if not pid:
        # Not as whoever started the tests may have said: with `nohup`.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with log.open("wb") as errors:
            os.dup2(errors.fileno(), 2)
        os.chdir(tmp_path)
        os.execve(command()[0], command("serve", *options), environment())  # noqa: S606
    until(lambda: log.exists() and "listening" in log.read_text(), "it listens")
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert "relay: stopped" in log.read_text()


def test_no_port_is_left_without_listener_during_a_reload(make_relay_process: MakeRelay) -> None:
    relay = make_relay_process("--workers", "2").start()
    for number in range(5):
        (relay.directory / "config.yaml").write_text(f"poll: {{max_topics: {number + 1}}}\n")
        relay.signal(signal.SIGHUP)
        for _ in range(20):
            socket.create_connection(relay.address).close()
    relay.wait_for_log("reload: changed")
    assert asyncio.run(_healthy(relay))


async def _healthy(relay: RelayProcess) -> bool:
    answer = await asyncio.to_thread(requests.get, f"{relay.url}/health", timeout=WAIT_SECONDS)
    return answer.ok
