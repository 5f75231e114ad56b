"""Health and readiness: what machines that watch the relay are told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests

from pulsar_relay import __version__, answers
from pulsar_relay.errors import ERRORS
from tests.valkeys import RealValkey
from tests.workers import RunningWorker

WAIT_SECONDS = 20


def _get(url: str) -> requests.Response:
    return requests.get(url, timeout=WAIT_SECONDS)


def _until_ready(relay: RunningWorker, is_ready: bool) -> requests.Response:
    deadline = time.monotonic() + WAIT_SECONDS
    while (answer := _get(f"{relay.url}/ready")).ok is not is_ready:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.02)
    return answer


def test_health_tells_the_version_and_the_time(relay: RunningWorker) -> None:
    answer = _get(f"{relay.url}/health")
    assert answer.status_code == 200
    assert not answers.HealthAnswer().validate(answer.json())
    assert (answer.json()["status"], answer.json()["version"]) == ("healthy", __version__)


def test_a_relay_that_can_write_is_ready_and_names_each_leg(relay: RunningWorker) -> None:
    told: dict[str, Any] = _until_ready(relay, is_ready=True).json()
    assert not answers.ReadyAnswer().validate(told)
    assert (told["ready"], told["durability"]) == (True, "memory")
    assert {name: check["ok"] for name, check in told["checks"].items()} == {
        "valkey_write": True,
        "store_identity": True,
        "durability": True,
        "eviction": True,
        "feed": True,
        "delivery": True,
        "accepting": True,
        "answering": True,
    }


def test_readiness_follows_valkey_within_seconds_while_health_stays(
    make_valkey: Callable[..., RealValkey], make_relay: Callable[..., RunningWorker]
) -> None:
    valkey = make_valkey().start()
    relay = make_relay(valkey.socket_path)
    _until_ready(relay, is_ready=True)
    valkey.kill()
    killed_at = time.monotonic()
    refused = _until_ready(relay, is_ready=False)
    assert time.monotonic() - killed_at < 5
    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "1"
    codes = {check.get("code") for check in refused.json()["checks"].values() if not check["ok"]}
    assert codes == {"store_unavailable"}
    assert _get(f"{relay.url}/health").status_code == 200
    valkey.start()
    _until_ready(relay, is_ready=True)


def test_a_valkey_that_refuses_writes_is_not_ready_although_it_answers(
    make_valkey: Callable[..., RealValkey], make_relay: Callable[..., RunningWorker]
) -> None:
    valkey = make_valkey().start()
    relay = make_relay(valkey.socket_path)
    _until_ready(relay, is_ready=True)
    valkey.command("REPLICAOF", "127.0.0.1", "1")
    refused = _until_ready(relay, is_ready=False)
    assert refused.json()["checks"]["valkey_write"]["code"] == "store_read_only"
    valkey.command("REPLICAOF", "NO", "ONE")
    _until_ready(relay, is_ready=True)


def test_a_stopping_relay_is_not_ready_at_once_and_serves_until_its_notice_is_over(
    make_relay: Callable[..., RunningWorker], topic: str
) -> None:
    relay = make_relay(server={"shutdown_notice_seconds": 3.0})
    _until_ready(relay, is_ready=True)
    stopping = threading.Thread(target=relay.stop)
    stopping.start()
    refused = _until_ready(relay, is_ready=False)
    assert refused.json()["checks"]["accepting"] == {
        "ok": False,
        "code": "shutting_down",
        "message": ERRORS["shutting_down"].message,
    }
    message = {"topic": topic, "payload": 1}
    published = requests.post(f"{relay.url}/api/v1/messages", json=message, timeout=WAIT_SECONDS)
    assert published.status_code == 201
    stopping.join()
    with pytest.raises(requests.ConnectionError):
        _get(f"{relay.url}/ready")
