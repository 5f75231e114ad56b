"""Commands as they are typed, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest
import valkey as valkey_client

from actors.ports import StoreError
from pulsar_relay.settings import ValkeySettings
from pulsar_relay.store.client import Client, make_client
from pulsar_relay.store.console import AnswerError, Console, Reply, shards_for
from pulsar_relay.store.link import Endpoint
from tests.clusters import ValkeyCluster
from tests.sentinels import SERVICE, SentinelGroup
from tests.stores import in_loop, until
from tests.valkeys import RealValkey


def _console(socket_path: str) -> Console:
    return Console(Endpoint.of(ValkeySettings(), socket_path))


async def _all(console: Console, *words: str) -> list[Reply]:
    return [reply async for reply in console.replies(words)]


@in_loop
async def test_a_command_has_one_reply_of_whatever_kind(valkey: str) -> None:
    console = _console(valkey)
    assert await _all(console, "set", "k", "a b\n") == [b"OK"]
    assert await _all(console, "GET", "k") == [b"a b\n"]
    assert await _all(console, "STRLEN", "k") == [4]
    assert await _all(console, "MGET", "k", "none") == [[b"a b\n", None]]


@in_loop
async def test_a_refusal_is_told_in_the_servers_words(valkey: str) -> None:
    with pytest.raises(AnswerError, match="unknown command 'NOPE'"):
        await _all(_console(valkey), "NOPE")
    with pytest.raises(AnswerError, match="value is not an integer"):
        await _all(_console(valkey), "GETRANGE", "k", "a", "b")


@in_loop
async def test_what_has_no_end_is_told_until_one_stops_listening(valkey: str) -> None:
    with valkey_client.Valkey(unix_socket_path=valkey) as other:
        async with aclosing(_console(valkey).replies(("monitor",))) as replies:
            assert await anext(replies) == b"OK"
            for number in range(3):
                other.set("k", number)
                line = await anext(replies)
                while b'"SET"' not in line:
                    line = await anext(replies)
                assert b'"%d"' % number in line


@in_loop
async def test_no_connection_is_left_behind(valkey: str) -> None:
    with valkey_client.Valkey(unix_socket_path=valkey) as other:
        before = other.info("clients")["connected_clients"]
        for _ in range(5):
            await _all(_console(valkey), "PING")
        await until(lambda: other.info("clients")["connected_clients"] <= before)


@in_loop
async def test_a_server_that_is_away_or_dies_is_the_stores_error(
    make_valkey: Callable[..., RealValkey],
) -> None:
    server = make_valkey()
    with pytest.raises(StoreError) as away:
        await _all(_console(server.socket_path), "PING")
    assert (away.value.code, away.value.is_outcome_unknown) == ("store_unavailable", False)
    server.start()
    async with aclosing(_console(server.socket_path).replies(("MONITOR",))) as replies:
        assert await anext(replies) == b"OK"
        server.kill()
        with pytest.raises(StoreError) as died:
            await anext(replies)
    assert (died.value.code, died.value.is_outcome_unknown) == ("store_unavailable", True)


@in_loop
async def test_in_a_cluster_the_primary_is_asked_that_has_the_key(valkey_cluster: ValkeyCluster) -> None:
    async with _opened(ValkeySettings(mode="cluster", addresses=valkey_cluster.addresses)) as client:
        asked = set()
        for number in range(12):
            words = ("SET", f"key-{number}", "1")
            (shard,) = await shards_for(client, words)
            assert await _all(Console(shard.endpoint), *words) == [b"OK"]
            asked.add(shard.name)
        assert len(asked) == 3


@in_loop
async def test_in_a_cluster_all_are_asked_what_has_no_key_and_one_what_has_no_end(
    valkey_cluster: ValkeyCluster,
) -> None:
    async with _opened(ValkeySettings(mode="cluster", addresses=valkey_cluster.addresses)) as client:
        assert len(await shards_for(client, ("INFO",))) == 3
        assert len(await shards_for(client, ("NOPE",))) == 3
        assert len(await shards_for(client, ("MONITOR",))) == 1


@in_loop
async def test_sentinels_tell_where_to_ask(make_sentinels: Callable[..., SentinelGroup]) -> None:
    group = make_sentinels()
    settings = ValkeySettings(mode="sentinel", addresses=group.addresses, sentinel_service=SERVICE)
    async with _opened(settings) as client:
        (shard,) = await shards_for(client, ("ROLE",))
        (reply,) = await _all(Console(shard.endpoint), "ROLE")
        assert isinstance(reply, list) and reply[0] == b"master"
        (reply,) = await _all(Console(shard.endpoint), "CONFIG", "GET", "port")
        assert reply == [b"port", str(group.primary.port).encode()]


@asynccontextmanager
async def _opened(settings: ValkeySettings) -> AsyncIterator[Client]:
    client = make_client(settings)
    try:
        yield client
    finally:
        await client.aclose()
