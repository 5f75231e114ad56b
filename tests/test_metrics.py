"""What the relay counts, as Prometheus reads it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from actors.ports import Archive, Store, StoreError
from actors.stream import MessageId
from pulsar_relay.metrics import (
    LATENCY_BOUNDS_SECONDS,
    OPERATIONS,
    STORE_ERRORS,
    Latency,
    MeteredStore,
    WorkerMetrics,
)
from tests.workers import RunningWorker

WAIT_SECONDS = 20
ROOT = Path(__file__).parent.parent
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def _scrape(relay: RunningWorker, port: int | None = None) -> Samples:
    address = f"http://127.0.0.1:{port or relay.ports.api}/metrics"
    text = requests.get(address, timeout=WAIT_SECONDS).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, tuple(sorted(labels.items()))), 0.0)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "name",
    [
        "relay_messages_received_total",
        "relay_messages_delivered_total",
        "relay_publish_latency_seconds_count",
        "relay_delivery_latency_seconds_count",
        "relay_hot_buffer_hits_total",
        "relay_hot_buffer_misses_total",
        "relay_lagging_subscribers",
        "relay_gaps_total",
        "relay_resets_total",
        "relay_order_inversions_total",
        "relay_duplicates_total",
        "relay_unannounced_gaps_total",
    ],
)
def test_each_series_is_there_from_the_start(make_relay: Callable[..., RunningWorker], name: str) -> None:
    assert (name, ()) in _scrape(make_relay())


def test_the_metrics_port_serves_the_same_and_nothing_else(relay: RunningWorker) -> None:
    assert relay.ports.metrics is not None
    names = {name for name, _ in _scrape(relay, relay.ports.metrics)}
    assert names == {name for name, _ in _scrape(relay)}
    other = requests.get(f"http://127.0.0.1:{relay.ports.metrics}/api/v1/topics", timeout=WAIT_SECONDS)
    assert other.status_code == 404


def test_messages_are_counted_once_each_bulk_and_replays_too(
    make_relay: Callable[..., RunningWorker], topic: str
) -> None:
    relay = make_relay()
    headers = {"Idempotency-Key": topic}
    for _ in range(2):
        body = {"topic": topic, "payload": 1}
        requests.post(f"{relay.url}/api/v1/messages", json=body, headers=headers, timeout=WAIT_SECONDS)
    bulk = {"messages": [{"topic": topic, "payload": number} for number in range(10)]}
    requests.post(f"{relay.url}/api/v1/messages/bulk", json=bulk, timeout=WAIT_SECONDS)
    samples = _scrape(relay)
    assert _value(samples, "relay_messages_received_total") == 11
    assert _value(samples, "relay_publishes_replayed_total") == 1
    assert _value(samples, "relay_publish_latency_seconds_count") == 3
    assert _value(samples, "relay_valkey_operations_total", operation="append") >= 3


def test_deliveries_and_connections_are_counted_by_transport(
    make_relay: Callable[..., RunningWorker], topic: str
) -> None:
    relay = make_relay()
    with connect(relay.ws_url) as socket, connect(relay.ws_url) as other:
        for each in (socket, other):
            each.send(json.dumps({"type": "subscribe", "topics": [topic]}))
            each.recv(timeout=WAIT_SECONDS)
        body = {"topic": topic, "payload": 1}
        requests.post(f"{relay.url}/api/v1/messages", json=body, timeout=WAIT_SECONDS)
        for each in (socket, other):
            each.recv(timeout=WAIT_SECONDS)
        samples = _scrape(relay)
        assert _value(samples, "relay_messages_delivered_total") == 2
        assert _value(samples, "relay_delivery_latency_seconds_count") == 1  # a batch, encoded once for both
        assert _value(samples, "relay_connections", transport="websocket") == 2
    _until(lambda: _value(_scrape(relay), "relay_connections", transport="websocket") == 0)


def test_no_label_takes_its_values_from_clients(relay: RunningWorker, topic: str) -> None:
    body = {"topic": topic, "payload": 1}
    requests.post(f"{relay.url}/api/v1/messages", json=body, timeout=WAIT_SECONDS)
    requests.get(f"{relay.url}/no/such/{topic}", timeout=WAIT_SECONDS)
    assert not [labels for _, labels in _scrape(relay) if any(topic in value for _, value in labels)]


def test_every_operation_and_every_error_has_a_series_from_the_start(
    make_relay: Callable[..., RunningWorker], topic: str
) -> None:
    relay = make_relay()
    samples = _scrape(relay)
    assert {
        ("relay_valkey_operations_total", (("operation", name),)) for name in OPERATIONS
    } <= samples.keys()
    assert {("relay_valkey_errors_total", (("code", code),)) for code in STORE_ERRORS} <= samples.keys()
    assert sum(value for (name, _), value in samples.items() if name == "relay_valkey_errors_total") == 0


def test_an_operation_is_any_of_those_that_the_store_has(topic: str) -> None:
    ports = [*vars(Store), *vars(Archive)]
    assert set(OPERATIONS) == {name for name in ports if not name.startswith("_")} - {"unfollow"}
    assert {name for name in ports if not name.startswith("_")} <= {*vars(MeteredStore)}


def test_operations_that_fail_are_counted_by_what_failed(topic: str) -> None:
    class FailingStore:
        async def read(self, *arguments: Any) -> Any:
            raise StoreError("store_full")

        async def topic_count(self) -> int:
            raise ZeroDivisionError

    async def scenario() -> WorkerMetrics:
        metrics = WorkerMetrics()
        store: Any = FailingStore()
        metered = MeteredStore(store, store, metrics)
        with pytest.raises(StoreError):
            await metered.read(topic, MessageId(0), 1, 1)
        with pytest.raises(ZeroDivisionError):
            await metered.topic_count()
        return metrics

    metrics = asyncio.run(scenario())
    assert (metrics.valkey_errors["store_full"], metrics.valkey_errors["internal_error"]) == (1, 1)
    assert (metrics.valkey_operations["read"], metrics.valkey_operations["topic_count"]) == (1, 1)
    assert metrics.valkey_latency.count == 2


def test_polls_and_streams_are_connections_too(make_relay: Callable[..., RunningWorker], topic: str) -> None:
    relay = make_relay()
    address = f"{relay.url}/api/v1/stream?topics={topic}"
    with requests.get(address, stream=True, timeout=WAIT_SECONDS) as stream:
        assert stream.status_code == 200
        assert _value(_scrape(relay), "relay_connections", transport="sse") == 1
        with ThreadPoolExecutor(1) as pool:
            poll = {"topics": [topic], "timeout": 60}
            future = pool.submit(requests.post, f"{relay.url}/messages/poll", json=poll, timeout=WAIT_SECONDS)
            _until(lambda: _value(_scrape(relay), "relay_connections", transport="poll") == 1)
            body = {"topic": topic, "payload": 1}
            requests.post(f"{relay.url}/api/v1/messages", json=body, timeout=WAIT_SECONDS)
            assert future.result(WAIT_SECONDS).status_code == 200
    _until(lambda: sum(relay.worker.relay.connections.values()) == 0)
    assert _value(_scrape(relay), "relay_messages_delivered_total") == 2


def test_the_text_says_which_version_of_the_format_it_is(relay: RunningWorker) -> None:
    answer = requests.get(f"{relay.url}/metrics", timeout=WAIT_SECONDS)
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    head = requests.head(f"{relay.url}/metrics", timeout=WAIT_SECONDS)
    assert (head.status_code, head.content) == (200, b"")


def test_a_latency_is_counted_in_its_bucket_and_all_above() -> None:
    latency = Latency()
    for seconds in (0.0, LATENCY_BOUNDS_SECONDS[0], 0.3, 1e9):
        latency.observe(seconds)
    samples = {
        (sample.name, sample.labels.get("le")): sample.value
        for sample in latency.family("x", "about x").samples
    }
    assert samples["x_bucket", str(LATENCY_BOUNDS_SECONDS[0])] == 2
    assert samples["x_bucket", "0.25"] == 2
    assert samples["x_bucket", "0.5"] == 3
    assert samples["x_bucket", "+Inf"] == samples["x_count", None] == 4


# ------------------------------------------------------------------------------------------------ the page


OF_A_CLUSTER = {"relay_shard_ready"}
OF_ACCOUNTS = {
    *("relay_account_deeds_total", "relay_account_deeds_refused_total"),
    "relay_guests_shut_out_total",
}
DOCUMENTED = set(re.findall(r"`((?:relay|redis)_\w+)`", (ROOT / "docs" / "metrics.md").read_text("utf-8")))


def test_the_page_explains_each_metric_and_no_other(
    make_relay: Callable[..., RunningWorker], valkey: str
) -> None:
    # Named clients are surveyed by one relay of a store: this one has a store to itself.
    relay = make_relay(valkey, storage={"trim_interval_seconds": 0.1})
    _until(lambda: ("relay_consumers", ()) in _scrape(relay))
    exported = {re.sub("_(bucket|sum|count)$", "", name) for name, _ in _scrape(relay)}
    exported |= OF_A_CLUSTER | OF_ACCOUNTS
    assert {name for name in exported if name.startswith("relay_")} == {
        name for name in DOCUMENTED if name.startswith("relay_")
    }


@pytest.mark.parametrize("file", ["prometheus/alerts.yml", "grafana/panels.yml"])
def test_alerts_and_dashboards_ask_for_what_is_explained(file: str) -> None:
    asked = re.findall(r"\b(?:relay|redis)_\w+", (ROOT / "deploy" / file).read_text("utf-8"))
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in asked} <= DOCUMENTED
