"""What Valkey's settings must be for the relay to keep its word, and what it says where they are not."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import requests
import valkey as valkey_client

from pulsar_relay.settings import EVICTION_POLICIES, Settings
from pulsar_relay.store.backing import Backing, MisfitError
from pulsar_relay.store.client import make_client
from pulsar_relay.store.shard import Shard
from tests.relays import RelayProcess
from tests.stores import OpenStore, code_of, in_loop, open_store
from tests.valkeys import TIMEOUT_SCALE, RealValkey
from tests.workers import RunningWorker, make_settings

MakeValkey = Callable[..., RealValkey]


def _until_leg(relay: RunningWorker, name: str, code: str | None) -> dict[str, Any]:
    """Wait until that leg of readiness fails with `code`, None: is sound; returns what `/ready` answers."""
    deadline = time.monotonic() + 5 * TIMEOUT_SCALE
    while True:
        told: dict[str, Any] = requests.get(f"{relay.url}/ready", timeout=10).json()
        if told["checks"][name]["code"] == code:
            return told
        assert time.monotonic() < deadline, told
        time.sleep(0.01)


@pytest.mark.parametrize("policy", EVICTION_POLICIES)
@in_loop
async def test_a_server_that_evicts_does_not_fit_unless_its_very_policy_is_allowed(
    make_valkey: MakeValkey, policy: str
) -> None:
    server = make_valkey(settings={"maxmemory-policy": policy}).start()
    async with open_store(server.socket_path) as opened:
        for allowed in (None, *EVICTION_POLICIES):
            backing = Backing(opened.client, make_settings(valkey={"allowed_eviction_policy": allowed}))
            if allowed == policy:
                await backing.refuse_misfit()
                await backing.check_eviction(opened.client)
                continue
            with pytest.raises(MisfitError) as caught:
                await backing.refuse_misfit()
            (problem,) = caught.value.problems
            assert f"maxmemory-policy is {policy}" in problem
            assert "`maxmemory-policy noeviction`" in problem
            assert f"valkey.allowed_eviction_policy: {policy}" in problem
            assert await code_of(backing.check_eviction(opened.client)) == "store_evicts"


@in_loop
async def test_a_server_that_does_not_evict_fits_also_where_a_policy_is_allowed(valkey: str) -> None:
    async with open_store(valkey) as opened:
        for allowed in (None, "allkeys-lru"):
            settings = make_settings(valkey={"allowed_eviction_policy": allowed})
            await Backing(opened.client, settings).refuse_misfit()


@in_loop
async def test_a_server_that_lets_nobody_ask_for_its_settings_is_asked_otherwise(
    make_valkey: MakeValkey,
) -> None:
    server = make_valkey(settings={"maxmemory-policy": "allkeys-lru"}).start()
    server.command("ACL", "SETUSER", "default", "-config")
    async with open_store(server.socket_path) as opened:
        with pytest.raises(MisfitError, match="allkeys-lru"):
            await Backing(opened.client, Settings()).refuse_misfit()


@in_loop
async def test_a_node_of_a_cluster_is_not_taken_for_a_server_of_its_own(make_valkey: MakeValkey) -> None:
    server = make_valkey(tcp=True, settings={"cluster-enabled": "yes"}).start()
    settings = make_settings(valkey={"host": server.host, "port": server.port})
    client = make_client(settings.valkey)
    try:
        with pytest.raises(MisfitError, match=r"Set `valkey\.mode: cluster`"):
            await Backing(client, settings).refuse_misfit()
    finally:
        await client.aclose()


@in_loop
async def test_a_server_that_is_away_is_no_misfit(make_valkey: MakeValkey) -> None:
    async with open_store(make_valkey().socket_path) as opened:
        backing = Backing(opened.client, Settings())
        assert await code_of(backing.refuse_misfit()) == "store_unavailable"
        assert await code_of(backing.check_eviction(opened.client)) == "store_unavailable"


def test_serve_refuses_a_server_that_evicts_with_the_cure_and_starts_when_it_is_named(
    make_valkey: MakeValkey, make_relay_process: Callable[..., RelayProcess]
) -> None:
    server = make_valkey(tcp=True, settings={"maxmemory-policy": "volatile-ttl"}).start()
    where = ("--valkey-host", server.host, "--valkey-port", str(server.port))
    refused = make_relay_process(*where)
    refused.start(waits=False)
    assert refused.wait() == 2
    assert "config: Valkey's maxmemory-policy is volatile-ttl" in refused.log
    assert "valkey.allowed_eviction_policy: volatile-ttl" in refused.log
    assert server.command("KEYS", "relay:*") == []
    started = make_relay_process(*where, "--set", "valkey.allowed_eviction_policy=volatile-ttl").start()
    assert requests.get(f"{started.url}/health", timeout=10).ok


def test_a_running_relay_notices_a_server_that_begins_to_evict_and_one_that_ends(
    make_valkey: MakeValkey, make_relay: Callable[..., RunningWorker]
) -> None:
    server = make_valkey().start()
    relay = make_relay(server.socket_path)
    _until_leg(relay, "eviction", None)
    server.config("maxmemory-policy", "allkeys-lfu")
    told = _until_leg(relay, "eviction", "store_evicts")
    assert [name for name, check in told["checks"].items() if not check["ok"]] == ["eviction"]
    server.config("maxmemory-policy", "noeviction")
    _until_leg(relay, "eviction", None)


def test_a_server_that_came_back_with_another_policy_is_noticed(
    make_valkey: MakeValkey, make_relay: Callable[..., RunningWorker]
) -> None:
    server = make_valkey().start()
    relay = make_relay(server.socket_path)
    server.stop()
    server.settings["maxmemory-policy"] = "allkeys-lru"
    server.start()
    _until_leg(relay, "eviction", "store_evicts")


# Durability


def _problems(level: str, opened: OpenStore, **storage: Any) -> Awaitable[list[str]]:
    settings = make_settings(
        valkey={"host": "elsewhere"}, storage={"durability": level, **storage}, server={"port": 0}
    )
    return _found(Backing(opened.client, settings), opened.client)


async def _found(backing: Backing, shard: Shard) -> list[str]:
    try:
        await backing.refuse_misfit()
    except MisfitError as error:
        assert await code_of(backing.check_durability(shard)) == "store_not_durable"
        return list(error.problems)
    await backing.check_durability(shard)
    return []


@pytest.mark.parametrize(
    ("server", "fits", "cure"),
    [
        ({"appendfsync": "everysec"}, ["memory"], "set `appendfsync always`"),
        ({"appendfsync": "always"}, ["memory", "disk"], ""),
        ({"appendfsync": "no"}, [], "set `appendfsync"),
        ({"appendonly": "no", "appendfsync": "always"}, [], "CONFIG SET appendonly yes while it runs"),
        (
            {"appendfsync": "always", "no-appendfsync-on-rewrite": "yes"},
            ["memory"],
            "set `no-appendfsync-on-rewrite no`",
        ),
    ],
    ids=["everysec", "always", "no", "snapshots only", "no fsync on rewrite"],
)
@in_loop
async def test_a_level_needs_settings_that_back_it(
    make_valkey: MakeValkey, server: dict[str, str], fits: list[str], cure: str
) -> None:
    valkey = make_valkey(settings=server).start()
    async with open_store(valkey.socket_path) as opened:
        for level in ("memory", "disk"):
            problems = await _problems(level, opened)
            assert bool(problems) == (level not in fits), (level, problems)
            for problem in problems:
                assert f"storage.durability is {level}" in problem
                assert cure in problem


@in_loop
async def test_a_level_that_cannot_be_proved_is_refused_and_the_default_needs_no_proof(
    make_valkey: MakeValkey,
) -> None:
    valkey = make_valkey(settings={"appendfsync": "always"}).start()
    valkey.command("ACL", "SETUSER", "default", "-config")
    async with open_store(valkey.socket_path) as opened:
        assert await _problems("memory", opened) == []
        (problem,) = await _problems("disk", opened)
        assert "+config|get" in problem
        valkey.command("ACL", "SETUSER", "default", "+config|get")
        assert await _problems("disk", opened) == []


@in_loop
async def test_replicas_must_be_there_and_be_demanded_by_valkey_too(make_valkey: MakeValkey) -> None:
    primary = make_valkey(tcp=True, settings={"repl-diskless-sync-delay": "0"}).start()
    replica = make_valkey(tcp=True).start()
    async with open_store("", valkey={"host": primary.host, "port": primary.port}) as opened:
        lonely, undemanding = await _problems("replica", opened)
        assert "connected replicas are 0, of 1 wanted" in lonely
        assert "set `min-replicas-to-write 1`" in undemanding
        replica.replicate(primary)
        primary.config("min-replicas-to-write", "1")
        assert await _problems("replica", opened) == []
        assert len(await _problems("replica", opened, replicas=2)) == 2
        primary.config("appendonly", "no")
        assert len(await _problems("replica", opened)) == 1


def test_serve_refuses_a_server_that_cannot_back_the_level(
    make_valkey: MakeValkey, make_relay_process: Callable[..., RelayProcess]
) -> None:
    server = make_valkey(tcp=True, settings={"appendfsync": "everysec"}).start()
    where = ("--valkey-host", server.host, "--valkey-port", str(server.port))
    refused = make_relay_process(*where, "--durability", "disk")
    refused.start(waits=False)
    assert refused.wait() == 2
    assert "config: storage.durability is disk, and Valkey's appendfsync is everysec" in refused.log
    server.config("appendfsync", "always")
    started = make_relay_process(*where, "--durability", "disk").start()
    answer = requests.get(f"{started.url}/ready", timeout=10).json()
    assert answer["durability"] == "disk"


@pytest.mark.parametrize(("level", "appendfsync"), [("memory", "everysec"), ("disk", "always")])
def test_the_embedded_server_is_given_what_the_level_needs(
    make_relay_process: Callable[..., RelayProcess], level: str, appendfsync: str
) -> None:
    relay = make_relay_process("--durability", level).start()
    with valkey_client.Valkey(unix_socket_path=str(relay.data_dir / "valkey.sock")) as client:
        assert client.config_get("appendfsync") == {"appendfsync": appendfsync}


def test_a_running_relay_notices_settings_that_no_longer_back_the_level(
    make_valkey: MakeValkey, make_relay: Callable[..., RunningWorker]
) -> None:
    server = make_valkey(settings={"appendfsync": "always"}).start()
    relay = make_relay(server.socket_path, storage={"durability": "disk"})
    _until_leg(relay, "durability", None)
    server.config("appendfsync", "everysec")
    told = _until_leg(relay, "durability", "store_not_durable")
    assert (told["ready"], told["durability"]) == (False, "disk")
    server.config("appendfsync", "always")
    _until_leg(relay, "durability", None)


def test_a_publish_that_no_replica_has_is_503_and_is_acknowledged_with_the_same_key_once_one_has_it(
    make_valkey: MakeValkey, make_relay: Callable[..., RunningWorker]
) -> None:
    quick = {"repl-diskless-sync-delay": "0", "min-replicas-to-write": "0"}
    primary, replica = (make_valkey(tcp=True, settings=quick).start() for _ in range(2))
    replica.replicate(primary)
    primary.config("min-replicas-to-write", "1")
    relay = make_relay(
        valkey={"host": primary.host, "port": primary.port, "command_timeout_seconds": 0.4},
        storage={"durability": "replica", "publish_deadline_seconds": 1.0},
    )

    def publish(payload: int) -> requests.Response:
        message, headers = {"topic": "t", "payload": payload}, {"Idempotency-Key": str(payload)}
        return requests.post(f"{relay.url}/api/v1/messages", json=message, headers=headers, timeout=10)

    _until_leg(relay, "durability", None)
    assert publish(1).status_code == 201
    assert replica.command("XLEN", "topic:t:stream") == 1
    replica.pause()
    refused = publish(2)
    assert (refused.status_code, refused.json()["error"]) == (503, "store_not_replicated")
    assert refused.headers["Retry-After"] == "1"
    replica.resume()
    deadline = time.monotonic() + 5 * TIMEOUT_SCALE
    while (answer := publish(2)).status_code != 201:
        assert time.monotonic() < deadline, answer.text
    assert replica.command("XLEN", "topic:t:stream") == 2
    replica.kill()
    _until_leg(relay, "durability", "store_not_durable")
