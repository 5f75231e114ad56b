"""The canary: readiness that proves that messages arrive."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import requests

from pulsar_relay.store import schema
from tests.conditions import WAIT_SECONDS, until
from tests.valkeys import RealValkey
from tests.workers import RunningWorker

MakeRelay = Callable[..., RunningWorker]
MakeValkey = Callable[..., RealValkey]


def delivery(relay: RunningWorker) -> dict[str, Any]:
    answer = requests.get(f"{relay.url}/ready", timeout=WAIT_SECONDS)
    check: dict[str, Any] = answer.json()["checks"]["delivery"]
    return check


def until_delivered(relay: RunningWorker) -> None:
    until(lambda: delivery(relay)["ok"], "a canary arrives")


def topic_of(relay: RunningWorker) -> str:
    return schema.canary_topic(relay.worker._name)


def test_a_message_that_travels_the_whole_way_makes_the_delivery_leg_sound(make_relay: MakeRelay) -> None:
    relay = make_relay()
    until_delivered(relay)
    assert delivery(relay)["last_success_seconds_ago"] < WAIT_SECONDS
    metrics = requests.get(f"{relay.url}/metrics", timeout=WAIT_SECONDS).text
    assert 'relay_ready{leg="delivery"} 1.0' in metrics
    seconds = next(line for line in metrics.splitlines() if line.startswith("relay_canary_seconds "))
    assert 0 < float(seconds.split(" ")[1]) < WAIT_SECONDS


def test_a_feed_that_forgot_a_topic_is_noticed_within_five_seconds_though_it_hears_itself(
    make_relay: MakeRelay,
) -> None:
    relay = make_relay(topic={"compare_interval_seconds": 600.0})
    until_delivered(relay)
    relay.call(lambda: relay.worker._feed.unfollow(topic_of(relay)))
    began = time.monotonic()
    until(lambda: not delivery(relay)["ok"], "the leg fails")
    assert time.monotonic() - began < 5
    assert delivery(relay)["code"] == "not_delivered"
    answer = requests.get(f"{relay.url}/ready", timeout=WAIT_SECONDS)
    assert answer.status_code == 503
    assert answer.json()["checks"]["feed"]["ok"]


def test_a_store_that_is_away_is_named_and_the_leg_heals_by_itself(
    make_valkey: MakeValkey, make_relay: MakeRelay
) -> None:
    valkey = make_valkey().start()
    relay = make_relay(valkey.socket_path)
    until_delivered(relay)
    valkey.kill()
    until(lambda: not delivery(relay)["ok"], "the leg fails")
    assert delivery(relay)["code"] == "store_unavailable"
    valkey.start()
    until_delivered(relay)


def test_canaries_survive_that_all_keys_are_deleted(make_valkey: MakeValkey, make_relay: MakeRelay) -> None:
    valkey = make_valkey().start()
    relay = make_relay(valkey.socket_path)
    until_delivered(relay)
    keys = schema.stream_keys(topic_of(relay))
    valkey.command("DEL", *keys)
    until(lambda: valkey.command("EXISTS", *keys) == 2, "another canary is sent")
    until_delivered(relay)


def test_nobody_sees_a_canary(make_valkey: MakeValkey, make_relay: MakeRelay) -> None:
    valkey = make_valkey().start()
    relay = make_relay(valkey.socket_path)
    until_delivered(relay)
    topic = topic_of(relay)
    get = lambda path: requests.get(relay.url + path, timeout=WAIT_SECONDS)  # noqa: E731
    assert get("/api/v1/topics").json() == []
    assert get(f"/api/v1/topics/{topic}").status_code == 404
    stats = get("/stats").json()
    assert (stats["open_topics"], stats["following_topics"], stats["subscribers"]) == (0, 0, 0)
    counters = relay.worker.relay.counters
    assert (counters.messages_published, counters.messages_delivered, counters.resets) == (0, 0, 0)
    assert relay.worker.relay.connections.total() == 0


def test_the_canaries_of_a_worker_that_is_gone_leave_the_store(
    make_valkey: MakeValkey, make_relay: MakeRelay
) -> None:
    valkey = make_valkey().start()
    relay = make_relay(valkey.socket_path)
    until_delivered(relay)
    relay.stop()
    left = valkey.command("KEYS", "*canary*")
    assert isinstance(left, list) and left
    for key in left:
        ttl = valkey.command("TTL", key)
        assert isinstance(ttl, int) and 0 < ttl <= 120
