from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from actors.ports import StoreError
from actors.stream import BEGINNING
from pulsar_relay.settings import ValkeySettings
from pulsar_relay.store.client import Client, make_client
from tests.sentinels import SERVICE, SentinelGroup
from tests.stores import OpenStore, assert_contiguous, code_of, in_loop, open_store, until, until_code
from tests.valkeys import TIMEOUT_SCALE

MakeSentinels = Callable[..., SentinelGroup]


def _settings(group: SentinelGroup, **changes: Any) -> dict[str, Any]:
    return {"mode": "sentinel", "addresses": group.addresses, "sentinel_service": SERVICE, **changes}


@asynccontextmanager
async def _client(group: SentinelGroup, **changes: Any) -> AsyncIterator[Client]:
    client = make_client(ValkeySettings(**_settings(group, **changes)))
    try:
        yield client
    finally:
        await client.aclose()


async def _port(client: Client) -> int:
    words = await client.command("CONFIG", "GET", "port")
    return int(words[1])


@in_loop
async def test_the_primary_is_where_the_sentinels_say(make_sentinels: MakeSentinels) -> None:
    group = make_sentinels()
    async with _client(group) as client:
        assert await _port(client) == group.primary.port


@in_loop
async def test_one_sentinel_that_answers_is_enough(make_sentinels: MakeSentinels) -> None:
    group = make_sentinels()
    group.sentinels[0].kill()
    group.sentinels[1].pause()
    async with _client(group) as client:
        begun = time.monotonic()
        assert await _port(client) == group.sentinels[2].primary_port()
        assert time.monotonic() - begun < 1.0 * TIMEOUT_SCALE


@in_loop
async def test_where_no_sentinel_answers_nothing_was_carried_out(make_sentinels: MakeSentinels) -> None:
    group = make_sentinels()
    for sentinel in group.sentinels:
        sentinel.kill()
    async with _client(group) as client:
        with pytest.raises(StoreError) as caught:
            await client.command("PING")
        assert caught.value.code == "store_unavailable"
        assert not caught.value.is_outcome_unknown
        group.sentinels[1].start()
        await until_code(lambda: client.command("PING"), None)


@in_loop
async def test_a_connection_outlives_the_sentinels(make_sentinels: MakeSentinels) -> None:
    group = make_sentinels()
    async with _client(group) as client:
        name = await client.command("CLIENT", "ID")
        for sentinel in group.sentinels:
            sentinel.kill()
        looked = asyncio.get_running_loop().time() + 2.5
        while asyncio.get_running_loop().time() < looked:
            assert await client.command("CLIENT", "ID") == name


@in_loop
async def test_a_name_the_sentinels_do_not_know_leads_nowhere(make_sentinels: MakeSentinels) -> None:
    group = make_sentinels()
    async with _client(group, sentinel_service="another") as client:
        assert await code_of(client.command("PING")) == "store_unavailable"


@in_loop
async def test_sentinels_and_servers_have_passwords_of_their_own(make_sentinels: MakeSentinels) -> None:
    group = make_sentinels(
        settings={"requirepass": "theirs", "primaryauth": "theirs"},
        sentinel_settings={"requirepass": "ours"},
    )
    async with _client(group, sentinel_password="ours", password="theirs") as client:
        assert await client.command("PING") == b"PONG"
    async with _client(group, sentinel_password="wrong", password="theirs") as client:
        assert await code_of(client.command("PING")) == "store_unavailable"


@in_loop
async def test_after_a_failover_appends_go_on_at_the_new_primary(make_sentinels: MakeSentinels) -> None:
    group = make_sentinels()
    async with open_store("", valkey=_settings(group), replicas=1) as opened:
        await _fill(opened, 50)
        old = group.primary
        old.kill()
        # There is no second replica to wait for.
        assert await code_of(opened.append("jobs", b"1")) in ("store_unavailable", "store_not_replicated")
        new = group.wait_for_failover(old)
        await until(lambda: new.command("ROLE")[0] == b"master")  # type: ignore[index]
        messages = await _read(opened)
        assert len(messages) >= 50
        assert_contiguous(messages)


@in_loop
async def test_a_paused_primary_keeps_no_connection_after_a_failover(make_sentinels: MakeSentinels) -> None:
    group = make_sentinels()
    # So patient that nothing but the sentinels' word ends the connection.
    settings = _settings(group, command_timeout_seconds=300.0)
    async with open_store("", valkey=settings) as opened:
        await _fill(opened, 10)
        old = group.primary
        old.pause()
        try:
            before = asyncio.create_task(code_of(opened.client.line.call("PING")))
            group.wait_for_failover(old)
            assert await asyncio.wait_for(before, 10 * TIMEOUT_SCALE) == "store_unavailable"
            appended = await opened.append("jobs", b"11")
            assert await _port(opened.client) != old.port
        finally:
            old.resume()
        assert (await _read(opened))[-1].id == appended.messages[0].id


@in_loop
async def test_a_replica_is_not_taken_for_the_primary(make_sentinels: MakeSentinels) -> None:
    group = make_sentinels()
    async with _client(group) as client:
        primary, other = group.servers
        primary.command("REPLICAOF", other.host, other.port)
        assert await code_of(client.command("PING")) == "store_unavailable"
        primary.command("REPLICAOF", "NO", "ONE")
        await until_code(lambda: client.command("SET", "x", 1), None)


async def _fill(opened: OpenStore, count: int) -> None:
    for number in range(count):
        await opened.append("jobs", b"%d" % number)


async def _read(opened: OpenStore) -> list[Any]:
    page = await opened.store.read("jobs", BEGINNING, 1000, 1 << 20)
    return list(page.batch.messages)
