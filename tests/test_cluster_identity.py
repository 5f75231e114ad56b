"""What a relay does with a shard that has lost its data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from pulsar_relay.settings import ValkeySettings
from pulsar_relay.store import schema
from pulsar_relay.store.client import make_client
from pulsar_relay.store.cluster import Cluster
from pulsar_relay.store.cluster_identity import MARKED_SLOTS
from pulsar_relay.store.identity import StoreIdentity
from pulsar_relay.store.slots import slot_of, tag_of
from tests.clusters import ValkeyCluster
from tests.stores import code_of, in_loop, until_code

MakeCluster = Callable[..., ValkeyCluster]


@asynccontextmanager
async def _known(
    cluster: ValkeyCluster, remembered: str | None = None
) -> AsyncIterator[tuple[Cluster, StoreIdentity]]:
    """A client, and what it remembers."""
    identity = StoreIdentity()
    identity.remembered = remembered
    settings = ValkeySettings(mode="cluster", addresses=cluster.addresses)
    client = make_client(settings, identity=identity)
    assert isinstance(client, Cluster)
    try:
        yield client, identity
    finally:
        await client.aclose()


def _key_on(cluster: ValkeyCluster, index: int) -> str:
    (topic,) = cluster.topics_on(cluster.nodes[index])
    return schema.stream(topic)


@in_loop
async def test_a_new_cluster_gets_one_id_whoever_comes_first_and_marks_on_every_shard(
    valkey_cluster: ValkeyCluster,
) -> None:
    async def meet() -> str | None:
        async with _known(valkey_cluster) as (client, identity):
            await client.command("GET", "x")
            return identity.remembered

    (known,) = set(await asyncio.gather(*[meet() for _ in range(5)]))
    assert known is not None
    marks = [schema.mark(tag_of(slot)) for slot in MARKED_SLOTS]
    assert [slot_of(mark) for mark in marks] == list(MARKED_SLOTS)
    assert {valkey_cluster.command("GET", mark) for mark in marks} == {known.encode()}
    owners = {valkey_cluster.owner(mark) for mark in marks}
    assert owners == set(valkey_cluster.primaries)


@pytest.mark.parametrize("remembers", [True, False])
@in_loop
async def test_a_shard_that_was_emptied_is_refused_and_the_others_go_on(
    valkey_cluster: ValkeyCluster, remembers: bool
) -> None:
    async with _known(valkey_cluster) as (client, identity):
        await client.command("GET", "x")
        known = identity.remembered
    emptied = valkey_cluster.nodes[1]
    emptied.command("FLUSHALL")
    async with _known(valkey_cluster, known if remembers else None) as (client, identity):
        assert await code_of(client.command("SET", _key_on(valkey_cluster, 1), 1)) == "store_empty"
        await client.command("SET", _key_on(valkey_cluster, 0), 1)
        await client.command("SET", _key_on(valkey_cluster, 2), 1)
        assert client.refused_shards == {emptied.name: "store_empty"}
        assert identity.remembered == known
        # Nothing was written, and nothing is made anew.
        assert emptied.command("DBSIZE") == 0


@in_loop
async def test_connections_to_a_shard_that_is_emptied_are_severed(valkey_cluster: ValkeyCluster) -> None:
    async with _known(valkey_cluster) as (client, _):
        keys = [_key_on(valkey_cluster, index) for index in range(3)]
        for key in keys:
            await client.command("SET", key, 1)
        await client.check_identity()
        valkey_cluster.nodes[0].command("FLUSHALL")
        await client.check_identity()
        assert [await code_of(client.command("GET", key)) for key in keys] == ["store_empty", None, None]
        for node in valkey_cluster.nodes[1:]:
            node.command("FLUSHALL")
        assert await code_of(client.check_identity()) == "store_empty"


@pytest.mark.parametrize("index", [0, 1, 2])
@in_loop
async def test_an_operator_lets_a_shard_go_on_with_what_it_holds(
    valkey_cluster: ValkeyCluster, index: int
) -> None:
    told: list[int] = []
    async with _known(valkey_cluster) as (client, identity), _known(valkey_cluster) as (operator, _):
        identity.start(lambda: told.append(1))
        key = _key_on(valkey_cluster, index)
        await client.command("SET", key, 1)
        known = identity.remembered
        assert known is not None
        with pytest.raises(ValueError, match="nothing to accept"):
            await operator.accept(known)
        valkey_cluster.nodes[index].command("FLUSHALL")
        await client.check_identity()
        assert await code_of(client.command("GET", key)) == "store_empty"
        assert await operator.accept(known) == known
        await until_code(client.check_identity, None)
        assert told == [1]
        assert await client.command("GET", key) is None
        assert client.refused_shards == {}
        assert identity.remembered == known


@in_loop
async def test_a_whole_cluster_that_was_emptied_is_accepted_as_any_store(
    valkey_cluster: ValkeyCluster,
) -> None:
    async with _known(valkey_cluster) as (client, identity):
        await client.command("GET", "x")
        known = identity.remembered
        assert known is not None
        valkey_cluster.flush()
        assert await code_of(client.check_identity()) == "store_empty"
        settings = ValkeySettings(mode="cluster", addresses=valkey_cluster.addresses)
        operator = make_client(settings)
        found = await operator.accept(known)
        await operator.aclose()
        assert found != known
        await until_code(client.check_identity, None)
        assert identity.remembered == found
        await until_code(lambda: client.command("SET", _key_on(valkey_cluster, 2), 1), None)


@in_loop
async def test_marks_move_with_their_slots(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    async with _known(cluster) as (client, identity):
        await client.command("GET", "x")
        known = identity.remembered
        cluster.move(MARKED_SLOTS[0], cluster.nodes[1])
        cluster.move_classically(MARKED_SLOTS[1], cluster.nodes[2])
        await client.check_identity()
        assert client.refused_shards == {}
    async with _known(cluster, known) as (client, _):
        for index in range(3):
            await client.command("SET", _key_on(cluster, index), 1)


@in_loop
async def test_an_id_is_only_made_where_all_shards_can_be_asked(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.nodes[2].pause()
    settings = ValkeySettings(mode="cluster", addresses=cluster.addresses, command_timeout_seconds=0.3)
    identity = StoreIdentity()
    client = make_client(settings, identity=identity)
    try:
        assert await code_of(client.command("SET", _key_on(cluster, 0), 1)) is not None
        assert identity.remembered is None
        cluster.nodes[2].resume()
        await until_code(lambda: client.command("SET", _key_on(cluster, 0), 1), None)
        assert identity.remembered is not None
    finally:
        await client.aclose()
