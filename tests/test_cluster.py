from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from actors.counters import Counters
from actors.ports import StoreError
from actors.stream import BEGINNING
from pulsar_relay.settings import StorageSettings, ValkeySettings
from pulsar_relay.store import schema
from pulsar_relay.store.client import make_client
from pulsar_relay.store.retention import Retention
from pulsar_relay.store.slots import slot_of
from tests.clusters import ClusterNode, ValkeyCluster
from tests.relays import RelayProcess, command, environment
from tests.stores import OpenStore, assert_contiguous, code_of, in_loop, open_store, until, until_code

MakeCluster = Callable[..., ValkeyCluster]
TOPICS = [f"topic-{number}" for number in range(24)]


@in_loop
async def test_each_command_is_carried_out_by_the_owner_of_its_key(valkey_cluster: ValkeyCluster) -> None:
    async with open_store(valkey_cluster) as opened:
        await asyncio.gather(*[opened.append(topic, b"1") for topic in TOPICS])
        found = [len(_streams(node)) for node in valkey_cluster.primaries]
        assert sum(found) == len(TOPICS) and all(found)
        for topic in TOPICS:
            assert len(await opened.all_messages(topic)) == 1


@in_loop
async def test_a_command_without_a_key_is_refused_as_nobody_is_to_carry_it_out(
    valkey_cluster: ValkeyCluster,
) -> None:
    async with open_store(valkey_cluster) as opened:
        with pytest.raises(ValueError, match="'INFO' has no key"):
            await opened.client.command("INFO")


@in_loop
async def test_one_node_that_answers_is_enough_to_begin(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    silent, gone, last = cluster.nodes
    silent.pause()
    gone.kill()
    settings = ValkeySettings(mode="cluster", addresses=cluster.addresses)
    client = make_client(settings)
    try:
        assert {shard.name for shard in await client.shards()} >= {last.name}
    finally:
        silent.resume()
        await client.aclose()


@in_loop
async def test_where_no_node_answers_nothing_was_carried_out() -> None:
    client = make_client(ValkeySettings(mode="cluster", addresses=(("127.0.0.1", 1), ("127.0.0.1", 2))))
    try:
        with pytest.raises(StoreError) as caught:
            await client.command("GET", "x")
        assert caught.value.code == "store_unavailable"
        assert not caught.value.is_outcome_unknown
    finally:
        await client.aclose()


@in_loop
async def test_of_a_shard_that_is_down_only_the_topics_are_missed(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    lost = cluster.nodes[1]
    (dark,) = cluster.topics_on(lost)
    (bright,) = cluster.topics_on(cluster.nodes[2])
    async with open_store(cluster, publish_deadline_seconds=0.3) as opened:
        await opened.append(dark, b"1")
        await opened.append(bright, b"1")
        lost.kill()
        assert await code_of(opened.append(dark, b"2")) in ("store_unavailable", "store_cluster_down")
        await opened.append(bright, b"2")
        positions = await opened.store.positions([bright, dark, bright])
        assert [position is None for position in positions] == [False, True, False]
        assert await code_of(opened.store.position(dark)) is not None
        lost.start()
        await until_code(lambda: opened.append(dark, b"2"), None)
        assert_contiguous(await opened.all_messages(dark))


@in_loop
async def test_a_shard_that_is_down_keeps_nobody_from_being_trimmed_or_from_speaking_for_a_client(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    lost = cluster.owner(schema.CONSUMERS)
    others = [node for node in cluster.nodes if node is not lost]
    topics = [cluster.topics_on(node)[0] for node in [lost, *others]]
    (name,) = [f"c{n}" for n in range(99) if cluster.owner(schema.offsets(f"c{n}")) is others[0]][:1]
    settings = StorageSettings(max_messages_per_topic=1, trim_interval_seconds=0.1)
    # Without the list of topics nobody walks.
    cluster.move(slot_of(schema.TOPICS), others[0])
    async with open_store(cluster) as opened:
        for topic in topics:
            await opened.append(topic, b"1", b"2")
        lost.kill()
        retention = Retention(opened.client, settings, Counters())
        assert await code_of(retention.walk()) is not None
        assert [await opened.client.command("XLEN", schema.stream(topic)) for topic in topics[1:]] == [1, 1]
        claim = await opened.store.claim(name, 1, [], is_held=False)
        assert claim.generation > 0


# Slots move


@pytest.mark.parametrize("is_atomic", [True, False])
@in_loop
async def test_appends_and_reads_go_on_while_a_slot_moves(make_cluster: MakeCluster, is_atomic: bool) -> None:
    cluster = make_cluster()
    source, target = cluster.nodes[0], cluster.nodes[1]
    (topic,) = cluster.topics_on(source)
    slot = slot_of(schema.stream(topic))
    async with open_store(cluster, starts_feed=True) as opened:
        await opened.append(topic, b"first", key="k")
        appending = asyncio.create_task(_append_until_moved(opened, topic, cluster, slot))
        await _in_thread(cluster.move if is_atomic else cluster.move_classically, slot, target)
        count = await appending
        assert cluster.owner(schema.stream(topic)) is target
        repeated = await opened.append(topic, b"first", key="k")
        messages = await opened.all_messages(topic)
        assert [message.payload for message in messages] == [b"first", *(b"%d" % n for n in range(count))]
        assert_contiguous(messages)
        assert repeated.outcomes == [((messages[0].id_text,), True)]


@in_loop
async def test_a_key_on_its_way_is_asked_for_where_it_is(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    (topic,) = cluster.topics_on(cluster.nodes[0])
    slot, target = slot_of(schema.stream(topic)), cluster.nodes[2]
    async with open_store(cluster, replicas=0) as opened:
        await opened.append(topic, b"1")
        await opened.append(topic, b"2")
        source = cluster.begin_move(slot, target)
        assert len(await opened.all_messages(topic)) == 2
        cluster.move_keys(slot, source, target)
        # All its keys are there now, and yet the slot is the other's.
        assert cluster.owner(schema.stream(topic)) is source
        assert len(await opened.all_messages(topic)) == 2
        await opened.append(topic, b"3")
        assert (await opened.client.command("XLEN", schema.stream(topic))) == 3
        cluster.end_move(slot, target)
        assert len(await opened.all_messages(topic)) == 3


@in_loop
async def test_what_has_keys_on_both_sides_waits_until_they_are_together(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    (topic,) = cluster.topics_on(cluster.nodes[0])
    slot, target = slot_of(schema.stream(topic)), cluster.nodes[2]
    async with open_store(cluster) as opened:
        await opened.append(topic, b"1")
        source = cluster.begin_move(slot, target)
        # A key that is not there yet may be on either side.
        waiting = asyncio.create_task(opened.append(topic, b"2", key="new"))
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
        while source.command("CLUSTER", "COUNTKEYSINSLOT", slot):
            cluster.move_keys(slot, source, target)
        cluster.end_move(slot, target)
        await waiting
        assert_contiguous(await opened.all_messages(topic))


@in_loop
async def test_a_primary_that_has_no_slots_any_more_keeps_no_connection(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    source, target = cluster.nodes[0], cluster.nodes[1]
    async with open_store(cluster, starts_feed=True) as opened:
        await asyncio.gather(*[opened.append(topic, b"1") for topic in TOPICS])
        last = slot_of(schema.stream(cluster.topics_on(source)[0]))
        source.command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", 0, 5460, "NODE", target.node_id)
        await _in_thread(cluster.wait_until, lambda: source not in cluster.primaries, f"{last} does not move")
        await until(lambda: len(opened.client.known_shards()) == 2)
        for topic in TOPICS:
            await opened.append(topic, b"2")
        await until(lambda: not [one for one in _connections(source) if "evalsha" in one.get("cmd", "")])


# A primary is lost


@in_loop
async def test_a_replica_takes_over_and_appends_go_on_by_themselves(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(replicas=1)
    lost = cluster.nodes[0]
    replica = cluster.replica_of(lost)
    (topic,) = cluster.topics_on(lost)
    async with open_store(cluster, replicas=1, starts_feed=True) as opened:
        for number in range(20):
            await opened.append(topic, b"%d" % number)
        lost.kill()
        # There is no replica left that could confirm it.
        waiting = asyncio.create_task(code_of(opened.append(topic, b"20")))
        await _in_thread(cluster.wait_for_failover, replica)
        assert await waiting == "store_not_replicated"
        messages = await opened.all_messages(topic)
        assert [message.payload for message in messages] == [b"%d" % number for number in range(21)]
        assert_contiguous(messages)


# Scripts


@in_loop
async def test_a_script_is_loaded_where_it_is_missing(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    async with open_store(cluster) as opened:
        for node in cluster.nodes:
            node.command("SCRIPT", "FLUSH")
            for topic in TOPICS:
                await opened.append(topic, b"1")
                assert (await opened.store.read(topic, BEGINNING, 10, 1000)).batch.messages


# The feed


@in_loop
async def test_each_worker_hears_of_what_it_follows_on_all_shards(valkey_cluster: ValkeyCluster) -> None:
    async with (
        open_store(valkey_cluster, starts_feed=True) as follower,
        open_store(valkey_cluster) as publisher,
    ):
        await asyncio.gather(*[follower.store.follow(topic) for topic in TOPICS])
        for topic in [*TOPICS, "unfollowed"]:
            await publisher.append(topic, b"1")
        await until(lambda: len(follower.fed) == len(TOPICS))
        assert {fed.topic for fed in follower.fed} == set(TOPICS)
        assert follower.feed.connections == 3


@pytest.mark.parametrize("is_atomic", [True, False])
@in_loop
async def test_a_topic_that_moves_is_followed_to_its_new_shard_and_compares(
    make_cluster: MakeCluster, is_atomic: bool
) -> None:
    cluster = make_cluster()
    source, target = cluster.nodes[0], cluster.nodes[1]
    moved, stays = cluster.topics_on(source, 2)
    async with open_store(cluster, starts_feed=True) as follower, open_store(cluster) as publisher:
        for topic in (moved, stays):
            await publisher.append(topic, b"1")
            await follower.store.follow(topic)
        slot = slot_of(schema.stream(moved))
        await _in_thread(cluster.move if is_atomic else cluster.move_classically, slot, target)
        await until(lambda: follower.compared == [[moved]])
        follower.fed.clear()
        for topic in (moved, stays):
            await publisher.append(topic, b"2")
        await until(lambda: {fed.topic for fed in follower.fed} == {moved, stays})
        assert follower.feed.connections == 3


@in_loop
async def test_of_a_feed_that_was_cut_on_one_shard_only_its_topics_compare(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    topics = {node.name: cluster.topics_on(node, 2) for node in cluster.nodes}
    async with open_store(cluster, starts_feed=True) as follower:
        for names in topics.values():
            for topic in names:
                await follower.store.follow(topic)
        cut = cluster.nodes[1]
        cut.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: follower.comparisons)
        assert sorted(follower.compared[0] or []) == sorted(topics[cut.name])


# Operators


def test_operators_commands_work_on_a_cluster(
    make_cluster: MakeCluster, tmp_path: Path, make_relay_process: Callable[..., RelayProcess]
) -> None:
    cluster, other = make_cluster(), make_cluster()
    relay = make_relay_process(*_place(cluster)).start()
    for topic in TOPICS:
        body = {"topic": topic, "payload": topic}
        assert requests.post(f"{relay.url}/api/v1/messages", json=body, timeout=10).status_code == 201
    shown = _run("store", "show", *_place(cluster))
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("shard ")] == [
        node.name for node in cluster.nodes
    ]
    found = _run("doctor", "--url", relay.url, *_place(cluster))
    assert all(f"durability {node.name}" in found for node in cluster.nodes)
    file = tmp_path / "cluster.backup"
    assert "24 topics with 24 messages" in _run("backup", str(file), *_place(cluster))
    _run("restore", str(file), "--complete", *_place(other))
    with cluster.client() as one, other.client() as two:
        for topic in TOPICS:
            assert one.xrange(schema.stream(topic)) == two.xrange(schema.stream(topic)) != []
    snapshots = _run("backup", "--rdb", *_place(cluster)).splitlines()
    assert [line.split(": ")[0] for line in snapshots] == [node.name for node in cluster.nodes]


def _place(cluster: ValkeyCluster) -> list[str]:
    addresses = ",".join(f"{host}:{port}" for host, port in cluster.addresses)
    return ["--set", "valkey.mode=cluster", "--set", f"valkey.addresses={addresses}"]


def _run(*words: str) -> str:
    done = subprocess.run(
        command(*words), check=False, capture_output=True, text=True, env=environment(), timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def _append_until_moved(opened: OpenStore, topic: str, cluster: ValkeyCluster, slot: int) -> int:
    """Returns how many were appended: some before, some after."""
    count = after = 0
    while after < 20:
        await opened.append(topic, b"%d" % count)
        count += 1
        after += opened.client.home(schema.stream(topic).encode()) is opened.client.known_shards()[1]
    return count


async def _in_thread(work: Callable[..., object], *arguments: object) -> None:
    await asyncio.get_running_loop().run_in_executor(None, work, *arguments)


def _streams(node: ClusterNode) -> list[bytes]:
    found = node.command("KEYS", schema.stream("*"))
    assert isinstance(found, list)
    return found


def _connections(node: ClusterNode) -> list[dict[str, str]]:
    with node.client() as client:
        found: list[dict[str, str]] = client.client_list()
    return found
