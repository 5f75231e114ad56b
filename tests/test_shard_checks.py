"""A relay on a cluster of which a part is down."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.clusters import ValkeyCluster
from tests.valkeys import TIMEOUT_SCALE
from tests.workers import RunningWorker

pytestmark = pytest.mark.timeout(120)

MakeCluster = Callable[..., ValkeyCluster]
MakeRelay = Callable[..., RunningWorker]


def _ready(relay: RunningWorker) -> tuple[int, dict[str, Any]]:
    answer = requests.get(f"{relay.url}/ready", timeout=10)
    return answer.status_code, answer.json()


def _until(relay: RunningWorker, codes: dict[str, str | None], status: int) -> dict[str, Any]:
    """Wait until the shards have these codes and `/ready` this status; returns its answer."""
    deadline = time.monotonic() + 20 * TIMEOUT_SCALE
    while True:
        found, told = _ready(relay)
        if found == status and {name: one["code"] for name, one in told["shards"].items()} == codes:
            return told
        assert time.monotonic() < deadline, told
        time.sleep(0.02)


def _publish(relay: RunningWorker, topic: str) -> requests.Response:
    body = {"topic": topic, "payload": 1}
    return requests.post(f"{relay.url}/api/v1/messages", json=body, timeout=20)


def test_a_relay_is_ready_while_any_shard_is_and_names_those_that_are_not(
    make_cluster: MakeCluster, make_relay: MakeRelay
) -> None:
    cluster = make_cluster()
    relay = make_relay(
        valkey={"mode": "cluster", "addresses": cluster.addresses}, storage={"publish_deadline_seconds": 0.5}
    )
    names = [node.name for node in cluster.nodes]
    sound: dict[str, str | None] = dict.fromkeys(names)
    _until(relay, sound, 200)
    bright, dark = cluster.topics_on(cluster.nodes[0])[0], cluster.topics_on(cluster.nodes[1])[0]
    cluster.nodes[1].kill()
    _until(relay, sound | {names[1]: "store_unavailable"}, 200)
    assert _publish(relay, bright).status_code == 201
    assert _publish(relay, dark).status_code == 503
    metrics = requests.get(f"{relay.url}/metrics", timeout=10).text
    assert f'relay_shard_ready{{shard="{names[1]}"}} 0.0' in metrics
    assert f'relay_shard_ready{{shard="{names[0]}"}} 1.0' in metrics
    cluster.nodes[1].start()
    _until(relay, sound, 200)
    assert _publish(relay, dark).status_code == 201


def test_a_relay_that_can_write_to_no_shard_is_not_ready(
    make_cluster: MakeCluster, make_relay: MakeRelay
) -> None:
    cluster = make_cluster()
    relay = make_relay(valkey={"mode": "cluster", "addresses": cluster.addresses})
    _until(relay, {node.name: None for node in cluster.nodes}, 200)
    for node in cluster.nodes:
        node.kill()
    _until(relay, {node.name: "store_unavailable" for node in cluster.nodes}, 503)
    deadline = time.monotonic() + 20 * TIMEOUT_SCALE
    while _ready(relay)[1]["checks"]["valkey_write"]["ok"]:
        assert time.monotonic() < deadline
    for node in cluster.nodes:
        node.start()
    _until(relay, {node.name: None for node in cluster.nodes}, 200)


def test_a_shard_whose_settings_break_the_promise_is_named(
    make_cluster: MakeCluster, make_relay: MakeRelay
) -> None:
    cluster = make_cluster()
    relay = make_relay(valkey={"mode": "cluster", "addresses": cluster.addresses})
    sound: dict[str, str | None] = {node.name: None for node in cluster.nodes}
    _until(relay, sound, 200)
    cluster.nodes[2].config("maxmemory-policy", "allkeys-lru")
    _until(relay, sound | {cluster.nodes[2].name: "store_evicts"}, 200)
    cluster.nodes[2].config("maxmemory-policy", "noeviction")
    _until(relay, sound, 200)


def test_a_relay_on_one_server_tells_of_no_shards(relay: RunningWorker) -> None:
    assert "shards" not in _ready(relay)[1]
