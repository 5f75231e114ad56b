"""What topics cost that nobody talks about, counted in commands and bytes: in Valkey, open in a worker, and
followed while others are published to. How much memory they take is in docs/sizing.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest
import requests
from websockets.sync.client import ClientConnection, connect

from pulsar_relay.store import schema
from tests.conditions import WAIT_SECONDS, until
from tests.valkeys import RealValkey
from tests.workers import RunningWorker

TOPICS = 1_000
OURS = {"info", "client|setinfo", "config|resetstat"}
BEATS = 3
"""The feed speaks to itself once a second: so many times are a while."""

MakeRelay = Callable[..., RunningWorker]


@pytest.fixture
def valkey(make_valkey: Callable[..., RealValkey]) -> RealValkey:
    server = make_valkey().start()
    # Retention looks at each topic, in its own time. Here somebody else does.
    server.command("SET", schema.RETENTION_LEASE, "somebody else")
    return server


def _publish(relay: RunningWorker, prefix: str, count: int, payload: str = "x") -> None:
    for start in range(0, count, 100):
        numbers = range(start, min(start + 100, count))
        drafts = [{"topic": f"{prefix}-{number}", "payload": payload} for number in numbers]
        body = {"messages": drafts}
        answer = requests.post(f"{relay.url}/api/v1/messages/bulk", json=body, timeout=WAIT_SECONDS)
        assert answer.ok, answer.text


@contextmanager
def _follow(relay: RunningWorker, prefix: str, count: int) -> Iterator[ClientConnection]:
    with connect(relay.ws_url, max_size=None) as socket:
        topics = [f"{prefix}-{number}" for number in range(count)]
        socket.send(json.dumps({"type": "subscribe", "topics": topics}))
        assert json.loads(socket.recv(WAIT_SECONDS))["type"] == "subscribed"
        yield socket


def _open_topics(relay: RunningWorker) -> int:
    return int(requests.get(f"{relay.url}/stats", timeout=WAIT_SECONDS).json()["open_topics"])


def _calls(valkey: RealValkey) -> Mapping[str, int]:
    """How often Valkey ran each command since it was told to forget: those in scripts too, ours not."""
    with valkey.client() as client:
        stats = client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): int(found["calls"]) for name, found in stats.items()}
    return {name: count for name, count in calls.items() if name not in OURS}


def _wait_a_while(valkey: RealValkey) -> Mapping[str, int]:
    """The calls of the time in which a feed speaks to itself BEATS times."""
    valkey.command("CONFIG", "RESETSTAT")
    until(lambda: _calls(valkey).get("publish", 0) >= 2 * BEATS, "heartbeats")
    return _calls(valkey)


def test_topics_that_nobody_uses_leave_the_worker_and_take_no_command(
    valkey: RealValkey, make_relay: MakeRelay
) -> None:
    relay = make_relay(
        valkey.socket_path,
        storage={"trim_interval_seconds": 0.2},
        topic={"compare_interval_seconds": 0.1, "idle_retire_seconds": 0.2},
    )
    _publish(relay, "left", TOPICS)
    until(lambda: _open_topics(relay) == 0, "the topics leave memory")
    calls = _wait_a_while(valkey)
    # All that is left is what a relay says to itself: a canary's message is an append.
    assert calls["evalsha"] < 20 * BEATS
    assert sum(calls.values()) < TOPICS, calls


def test_followed_topics_are_compared_in_a_call_for_a_hundred_of_them(
    valkey: RealValkey, make_relay: MakeRelay
) -> None:
    relay = make_relay(
        valkey.socket_path,
        topic={"compare_interval_seconds": 0.2},
        subscriber={"max_topics": TOPICS},
    )
    with _follow(relay, "quiet", TOPICS):
        valkey.command("CONFIG", "RESETSTAT")
        # Each topic that is looked at takes an HMGET inside of the script.
        until(lambda: _calls(valkey).get("hmget", 0) >= 10 * TOPICS, "ten comparisons")
        calls = _calls(valkey)
        assert calls["evalsha"] < calls["hmget"] / 50
        assert calls.get("xrevrange", 0) + calls.get("xtrim", 0) < TOPICS, "nothing else is asked of a topic"


def test_what_is_published_to_other_topics_reaches_a_follower_in_no_byte(
    valkey: RealValkey, make_relay: MakeRelay
) -> None:
    follower = make_relay(valkey.socket_path, subscriber={"max_topics": TOPICS})
    other = make_relay(valkey.socket_path)
    with _follow(follower, "mine", TOPICS) as socket, valkey.client() as client:

        def fed_bytes() -> int:
            """What Valkey has sent to the feed that follows most."""
            feeds = client.client_list(_type="pubsub")
            return max((int(feed["sub"]), int(feed["tot-net-out"])) for feed in feeds)[1]

        before = fed_bytes()
        for _ in range(2):
            _publish(other, "theirs", TOPICS, "x" * 1_000)
        assert fed_bytes() - before < 10_000 < 2 * TOPICS * 1_000
        _publish(other, "mine", 1, "x" * 50_000)
        _publish(other, "mine", 10, "x" * 5_000)
        for _ in range(11):
            assert json.loads(socket.recv(WAIT_SECONDS))["type"] == "message"
        assert fed_bytes() - before > 50_000, "what is followed does reach it"


def test_a_relay_that_starts_asks_for_no_topic(valkey: RealValkey, make_relay: MakeRelay) -> None:
    _publish(first := make_relay(valkey.socket_path), "kept", TOPICS)
    first.stop()
    valkey.command("CONFIG", "RESETSTAT")
    relay = make_relay(valkey.socket_path)
    until(lambda: requests.get(f"{relay.url}/ready", timeout=WAIT_SECONDS).ok, "it is ready")
    calls = _calls(valkey)
    assert not {"scan", "keys", "zrange"} & calls.keys()
    assert sum(calls.values()) < TOPICS / 2, calls
    assert _open_topics(relay) == 0
