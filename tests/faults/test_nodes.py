"""Two nodes with two workers each, over one Valkey: whatever happens to a worker, a supervisor or a feed,
nothing is lost and nothing doubles, and whoever is with another worker does not notice."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.conditions import WAIT_SECONDS
from tests.faults.load import CONSUMERS, Load
from tests.faults.placement import Placement
from tests.faults.proxy import FaultProxy
from tests.relays import RelayProcess
from tests.valkeys import TIMEOUT_SCALE, RealValkey

pytestmark = [pytest.mark.faults, pytest.mark.nodes, pytest.mark.timeout(120 * TIMEOUT_SCALE)]

MakeNodes = Callable[..., list[RelayProcess]]
STILL_SECONDS = 4.0
"""Within these a worker that works answers for one that stands still, as its supervisor waits a second."""
FRESH_CONNECTIONS = 12
SESSIONS = 12
"""The kernel chooses one of a node's two workers for each: so often no consumer meets the same one only."""


@pytest.fixture
def valkey(make_valkey: Callable[..., RealValkey]) -> RealValkey:
    return make_valkey().start()


@pytest.fixture
def nodes(valkey: RealValkey, make_nodes_on: MakeNodes) -> list[RelayProcess]:
    return make_nodes_on([valkey, valkey])


def _urls(nodes: Sequence[RelayProcess]) -> list[str]:
    return [node.url for node in nodes]


def _pids(nodes: Sequence[RelayProcess]) -> set[int]:
    return {pid for node in nodes for pid in node.workers.values()}


def _are_all_ready(nodes: Sequence[RelayProcess]) -> bool:
    return len(_pids(nodes)) == 2 * len(nodes) and all(
        requests.get(f"{node.url}/ready", timeout=WAIT_SECONDS).ok for node in nodes
    )


# ------------------------------------------------------------------------------------------------- no fault


def test_consumers_that_meet_another_worker_each_time_miss_nothing(
    valkey: RealValkey, nodes: list[RelayProcess], make_load: Callable[..., Load]
) -> None:
    consumers = (*CONSUMERS, "wandering", "wandering", "returning", "named")
    workers = _pids(nodes)
    assert len(workers) == 4
    with (
        Placement(nodes) as placement,
        make_load(_urls(nodes), valkey, consumers=consumers, stay_seconds=0.4) as load,
    ):
        coming_back = {"returning": SESSIONS, "named": SESSIONS, "wandering": 2 * SESSIONS}
        for kind, sessions in coming_back.items():
            load.wait_until(
                lambda kind=kind, sessions=sessions: all(  # type: ignore[misc]
                    len(attached) >= sessions for attached in load.attached(kind).values()
                ),
                f"each {kind} one has come back {sessions} times",
            )
        # Looking is slow on a busy machine: not each connection is seen.
        load.wait_until(lambda: placement.connections.keys() == workers, "each worker has its part")
        load.wait_for_acks(200)
        verdict = load.finish()
    assert verdict.most_attempts == 1
    assert verdict.longest_without_ok < 1 * TIMEOUT_SCALE
    assert verdict.largest_lag < 1 * TIMEOUT_SCALE


# ------------------------------------------------------------------------------------------------- the feed


def test_feed_connections_of_all_workers_are_killed_every_300_milliseconds(
    valkey: RealValkey, nodes: list[RelayProcess], make_load: Callable[..., Load]
) -> None:
    killed = 0
    with make_load(_urls(nodes), valkey) as load, valkey.client() as operator:
        for _ in range(20):
            killed += operator.client_kill_filter(_type="pubsub")
            load.last(0.3)
        load.wait_for_acks(50)
        verdict = load.finish()
    assert killed >= 4 * 10
    assert verdict.most_attempts == 1
    # They are connected anew within 50 ms, and compare.
    assert verdict.largest_lag < 1 * TIMEOUT_SCALE
    assert not [session for session in load.detached("socket", "events", "poll", "cookie") if session.cause]


def test_a_feed_connection_is_in_a_black_hole_for_ten_seconds(
    make_valkey: Callable[..., RealValkey],
    make_proxy: Callable[..., FaultProxy],
    make_nodes_on: MakeNodes,
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey(tcp=True).start()
    proxies = [make_proxy((valkey.host, valkey.port)) for _ in range(2)]
    nodes = make_nodes_on(proxies, "--set", "topic.compare_interval=1s")
    consumers = (*["socket"] * 8, "events", "poll", "cookie", "named")
    with make_load(_urls(nodes), valkey, consumers=consumers) as load, valkey.client() as operator:
        follower = _busiest_follower(operator.client_list(_type="pubsub"))
        proxy = next(proxy for proxy in proxies if follower in proxy.ports)
        proxy.black_hole_at(follower)
        load.last(10)
        proxy.heal()
        load.wait_for_acks(50)
        verdict = load.finish()
    # It does not hear itself for as long as a command may take, and connects anew. Until then it compares.
    assert any("the feed does not hear itself" in message for node in nodes for message in node.messages)
    assert sum(message.startswith("feed: connected anew") for node in nodes for message in node.messages) == 1
    assert verdict.most_attempts == 1
    assert 0.2 < verdict.largest_lag < 1 + 1 * TIMEOUT_SCALE


def _busiest_follower(clients: Sequence[Mapping[str, Any]]) -> int:
    """The port of the feed connection that follows most topics; there is one that follows some."""
    busiest = max(clients, key=lambda client: int(client["sub"]))
    idle_subscriptions = 2
    assert int(busiest["sub"]) > idle_subscriptions
    return int(busiest["addr"].rpartition(":")[2])


# ---------------------------------------------------------------------------------------- workers that end


def test_a_worker_is_killed_every_three_seconds_five_times(
    valkey: RealValkey, nodes: list[RelayProcess], make_load: Callable[..., Load]
) -> None:
    with make_load(_urls(nodes), valkey) as load:
        for _ in range(5):
            os.kill(load.random.choice(sorted(_pids(nodes))), signal.SIGKILL)
            load.last(3)
        load.wait_until(lambda: _are_all_ready(nodes), "all workers are back")
        load.wait_for_acks(50)
        verdict = load.finish()
    ends = [message for node in nodes for message in node.messages if "ended (killed by SIGKILL)" in message]
    assert len(ends) == 5
    # Whoever was with the killed one has gone to another, or waited in the port for its successor.
    assert verdict.most_attempts <= 3
    assert verdict.longest_without_ok < 1 * TIMEOUT_SCALE
    assert verdict.largest_lag < 5 * TIMEOUT_SCALE


def test_a_supervisor_is_killed(
    valkey: RealValkey, nodes: list[RelayProcess], make_load: Callable[..., Load]
) -> None:
    with make_load(_urls(nodes), valkey) as load:
        load.wait_for_acks(load.random.randint(20, 120))
        node = load.random.choice(nodes)
        orphans = set(node.workers.values())
        node.kill()
        load.last(load.random.uniform(0, 1))
        node.start()
        load.wait_until(lambda: not orphans & _pids([node]) and _are_all_ready(nodes), "it is back")
        load.wait_for_acks(50)
        verdict = load.finish()
    assert not [pid for pid in orphans if _is_alive(pid)]
    assert verdict.most_attempts <= 3
    assert verdict.longest_without_ok < 1 * TIMEOUT_SCALE
    assert verdict.largest_lag < 2 * TIMEOUT_SCALE


def test_a_worker_stands_still_for_four_seconds(
    valkey: RealValkey, nodes: list[RelayProcess], make_load: Callable[..., Load]
) -> None:
    with make_load(_urls(nodes), valkey) as load:
        load.wait_for_acks(load.random.randint(20, 120))
        node = load.random.choice(nodes)
        number, pid = load.random.choice(sorted(node.workers.items()))
        os.kill(pid, signal.SIGSTOP)
        try:
            _expect_told_of_silence(node, number)
        finally:
            healed = load.healed(lambda: os.kill(pid, signal.SIGCONT))
        load.wait_for_acks(100)
        load.wait_until(lambda: _are_all_ready(nodes), "it answers again")
        verdict = load.finish()
    assert pid in _pids(nodes), "it was not given up"
    assert verdict.longest_without_ok < 1 * TIMEOUT_SCALE
    assert verdict.until_ok(healed) < 1 * TIMEOUT_SCALE
    # Connections wait, and are not cut.
    assert not [session for session in load.detached("socket", "events", "poll", "cookie") if session.cause]


def _expect_told_of_silence(node: RelayProcess, number: int) -> None:
    """Who happens to ask one that works is told in time: not ready, and why. Returns after STILL_SECONDS."""
    urls = [f"{node.url}/ready", f"{node.url}/metrics", node.metrics_url]
    with ThreadPoolExecutor(len(urls) * FRESH_CONNECTIONS) as pool:
        readiness, *metrics = [
            [answer for answer in answers if answer is not None]
            for answers in [pool.map(_answer_in_time, [url] * FRESH_CONNECTIONS) for url in urls]
        ]
    assert readiness and all(metrics), "some of the connections were given to the one that works"
    for answer in readiness:
        assert answer.status_code == 503
        silent = [worker["worker"] for worker in answer.json()["workers"] if "answering" in worker["failing"]]
        assert silent == [number]
    for answer in (answer for answers in metrics for answer in answers):
        assert f'relay_worker_up{{worker="{number}"}} 0.0' in answer.text


def _answer_in_time(url: str) -> requests.Response | None:
    """On a connection of its own, which the kernel gives to one worker or the other."""
    try:
        return requests.get(url, timeout=STILL_SECONDS)
    except requests.Timeout:
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
