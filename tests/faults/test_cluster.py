"""A cluster changes under the load: slots move, a replica takes over from a primary, a shard is emptied."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
import requests

from pulsar_relay.store import schema
from pulsar_relay.store.cluster_identity import MARKED_SLOTS
from pulsar_relay.store.slots import slot_of, tag_of
from tests.clusters import ValkeyCluster
from tests.faults.load import CONSUMERS, Load
from tests.relays import RelayProcess, command, environment
from tests.valkeys import TIMEOUT_SCALE

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

MakeCluster = Callable[..., ValkeyCluster]
MakeRelayOn = Callable[..., RelayProcess]
MakeLoad = Callable[..., Load]

TOPICS = 8
BACK_SECONDS = 8.0 * TIMEOUT_SCALE
"""A cluster may need: a node timeout until a primary counts as down, and an election."""
REPLICATED = ("--durability", "replica", "--set", "storage.replicas=1")


@pytest.mark.parametrize("is_atomic", [True, False])
def test_slots_move_to_and_fro(
    is_atomic: bool, make_cluster: MakeCluster, make_relay_on: MakeRelayOn, make_load: MakeLoad
) -> None:
    cluster = make_cluster()
    urls = [make_relay_on(cluster).url, make_relay_on(cluster, "--workers", "2").url]
    with make_load(urls, cluster, topics=TOPICS) as load:
        move = cluster.move if is_atomic else cluster.move_classically
        for _ in range(2):
            for topic in load.topics:
                key = schema.stream(topic)
                others = [node for node in cluster.nodes if node is not cluster.owner(key)]
                move(slot_of(key), load.random.choice(others))
                load.wait_for_acks(10)
        load.wait_for_acks(50)
        verdict = load.finish()
    assert verdict.longest_without_ok < 3 * TIMEOUT_SCALE


def test_a_primary_dies_and_its_replica_takes_over(
    make_cluster: MakeCluster, make_relay_on: MakeRelayOn, make_load: MakeLoad
) -> None:
    # Of two replicas one is left to confirm what is appended then.
    cluster = make_cluster(replicas=2, settings={"min-replicas-to-write": "1"})
    urls = [make_relay_on(cluster, *REPLICATED).url for _ in range(2)]
    with make_load(urls, cluster, topics=TOPICS, timeout_seconds=20.0) as load:
        load.wait_for_acks(load.random.randint(50, 150))
        lost = cluster.owner(schema.stream(load.random.choice(load.topics)))
        lost.kill()
        cluster.wait_until(lambda: lost not in cluster.primaries, "no failover happens")
        load.wait_for_acks(100)
        # What is not acknowledged yet may be lost, and whoever was told of it is told of that.
        verdict = load.finish(allows_notices=True)
        assert lost not in cluster.primaries
    assert verdict.largest_lag < BACK_SECONDS + 5 * TIMEOUT_SCALE


def test_of_a_shard_that_is_emptied_only_the_topics_are_refused_until_it_is_accepted(
    make_cluster: MakeCluster, make_relay_on: MakeRelayOn, make_load: MakeLoad
) -> None:
    cluster = make_cluster()
    relay = make_relay_on(cluster)
    nameless = [kind for kind in CONSUMERS if kind != "named"]
    with make_load([relay.url], cluster, topics=TOPICS, consumers=nameless, timeout_seconds=30.0) as load:
        load.wait_for_acks(load.random.randint(50, 150))
        emptied = cluster.owner(schema.stream(load.topics[0]))
        emptied.command("FLUSHALL")
        load.wait_until(lambda: _failing(relay) == {emptied.name: "store_empty"}, "the shard to be named")
        assert requests.get(f"{relay.url}/ready", timeout=10).status_code == 200
        wiped = load.healed(lambda: _accept(cluster))
        load.wait_until(lambda: not _failing(relay), "the shard to be sound again")
        load.wait_for_acks(150)
        load.finish(wipes=[wiped], allows_notices=True)


def _failing(relay: RelayProcess) -> dict[str, str]:
    shards = requests.get(f"{relay.url}/ready", timeout=10).json()["shards"]
    return {name: told["code"] for name, told in shards.items() if not told["ok"]}


def _accept(cluster: ValkeyCluster) -> None:
    """As the operator does."""
    marks = [cluster.command("GET", schema.mark(tag_of(slot))) for slot in MARKED_SLOTS]
    known = next(mark.decode() for mark in marks if mark)
    addresses = ",".join(f"{host}:{port}" for host, port in cluster.addresses)
    where = ["--set", "valkey.mode=cluster", "--set", f"valkey.addresses={addresses}"]
    subprocess.run(command("store", "accept", known, *where), check=True, env=environment(), timeout=60)
