"""The survey of named clients, as Prometheus sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.conditions import WAIT_SECONDS, until
from tests.test_consumers_api import acknowledge, address
from tests.test_sse import publish
from tests.valkeys import RealValkey
from tests.workers import RunningWorker

MakeRelay = Callable[..., RunningWorker]
MakeValkey = Callable[..., RealValkey]
KEPT_MESSAGES = 20
OFTEN = {"trim_interval_seconds": 0.1}


@pytest.fixture
def store(make_valkey: MakeValkey) -> RealValkey:
    """One whose named clients are all the test's."""
    return make_valkey().start()


def metrics(relay: RunningWorker) -> dict[str, float]:
    """What is told of named clients."""
    lines = requests.get(f"{relay.url}/metrics", timeout=WAIT_SECONDS).text.splitlines()
    pairs = [line.split(" ") for line in lines if line.startswith("relay_consumer")]
    return {name: float(value) for name, value in pairs}


def until_told(relay: RunningWorker, **values: Any) -> None:
    def is_told() -> bool:
        told = metrics(relay)
        return all(told.get(f"relay_{name}") == value for name, value in values.items())

    until(is_told, f"{values} is told")


def make_topic(relay: RunningWorker, topic: str) -> None:
    body = {"topic_name": topic, "max_messages": KEPT_MESSAGES}
    assert requests.post(f"{relay.url}/api/v1/topics", json=body, timeout=WAIT_SECONDS).status_code == 201


def test_a_store_without_named_clients_has_none_and_no_lag(store: RealValkey, make_relay: MakeRelay) -> None:
    until_told(make_relay(store.socket_path, storage=OFTEN), consumers=0, consumer_lag_messages=0)


def test_the_lag_told_is_that_of_the_client_furthest_behind(
    store: RealValkey, make_relay: MakeRelay, topic: str
) -> None:
    relay = make_relay(store.socket_path, storage=OFTEN)
    ids = publish(relay, topic, 1, 2, 3, 4)
    acknowledge(relay, "near", topic=topic, message_id=ids[2])
    acknowledge(relay, "far", topic=topic, message_id=ids[0])
    until_told(relay, consumers=2, consumers_connected=0, consumer_lag_messages=3, consumers_near_loss=0)
    assert 0 < metrics(relay)["relay_consumer_lag_seconds"] < WAIT_SECONDS
    acknowledge(relay, "far", topic=topic, message_id=ids[3])
    until_told(relay, consumers=2, consumer_lag_messages=1)


def test_a_client_is_near_to_loss_before_it_has_losses_and_neither_once_it_has_caught_up(
    store: RealValkey, make_relay: MakeRelay, topic: str
) -> None:
    relay = make_relay(store.socket_path, storage=OFTEN)
    make_topic(relay, topic)
    acknowledge(relay, "slow", topic=topic, message_id=publish(relay, topic, 0)[0])
    publish(relay, topic, *range(KEPT_MESSAGES - 3))
    until_told(relay, consumer_lag_messages=KEPT_MESSAGES - 3, consumers_near_loss=0, consumers_with_losses=0)
    publish(relay, topic, 1, 2)
    until_told(relay, consumers_near_loss=1, consumers_with_losses=0)
    newest = publish(relay, topic, *range(5))[-1]
    until_told(relay, consumers_near_loss=1, consumers_with_losses=1)
    acknowledge(relay, "slow", topic=topic, message_id=newest)
    until_told(relay, consumers=1, consumers_near_loss=0, consumers_with_losses=0)


def test_a_forgotten_client_is_not_told_of_any_more(
    store: RealValkey, make_relay: MakeRelay, topic: str
) -> None:
    relay = make_relay(store.socket_path, storage=OFTEN)
    first, *_ = publish(relay, topic, 1, 2)
    acknowledge(relay, "gone", topic=topic, message_id=first)
    until_told(relay, consumers=1, consumer_lag_messages=1)
    assert requests.delete(address(relay, "gone"), timeout=WAIT_SECONDS).status_code == 204
    until_told(relay, consumers=0, consumer_lag_messages=0)


def test_of_two_workers_one_tells(store: RealValkey, make_relay: MakeRelay, topic: str) -> None:
    relays = [make_relay(store.socket_path, storage=OFTEN) for _ in range(2)]
    acknowledge(relays[0], "one", topic=topic, message_id=publish(relays[0], topic, 1)[0])
    until(lambda: sum(metrics(each).get("relay_consumers", 0) for each in relays) == 1, "one tells")
    assert min(len(metrics(each)) for each in relays) == 0


def test_nothing_is_told_while_the_store_is_away(store: RealValkey, make_relay: MakeRelay) -> None:
    relay = make_relay(store.socket_path, storage=OFTEN)
    until_told(relay, consumers=0)
    store.kill()
    until(lambda: not metrics(relay), "old answers are gone")
    store.start()
    until_told(relay, consumers=0)
