"""What Valkey's settings must be for the relay to keep its word, and what it says where they are not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import requests

from pulsar_relay.settings import EVICTION_POLICIES, ValkeySettings
from pulsar_relay.store.backing import Backing, MisfitError
from tests.relays import RelayProcess
from tests.stores import code_of, in_loop, open_store
from tests.valkeys import TIMEOUT_SCALE, RealValkey
from tests.workers import RunningWorker

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
            backing = Backing(opened.client, ValkeySettings(allowed_eviction_policy=allowed))
            if allowed == policy:
                await backing.refuse_misfit()
                await backing.check_eviction()
                continue
            with pytest.raises(MisfitError) as caught:
                await backing.refuse_misfit()
            (problem,) = caught.value.problems
            assert f"maxmemory-policy is {policy}" in problem
            assert "`maxmemory-policy noeviction`" in problem
            assert f"valkey.allowed_eviction_policy: {policy}" in problem
            assert await code_of(backing.check_eviction()) == "store_evicts"


@in_loop
async def test_a_server_that_does_not_evict_fits_also_where_a_policy_is_allowed(valkey: str) -> None:
    async with open_store(valkey) as opened:
        for allowed in (None, "allkeys-lru"):
            await Backing(opened.client, ValkeySettings(allowed_eviction_policy=allowed)).refuse_misfit()


@in_loop
async def test_a_server_that_lets_nobody_ask_for_its_settings_is_asked_otherwise(
    make_valkey: MakeValkey,
) -> None:
    server = make_valkey(settings={"maxmemory-policy": "allkeys-lru"}).start()
    server.command("ACL", "SETUSER", "default", "-config")
    async with open_store(server.socket_path) as opened:
        with pytest.raises(MisfitError, match="allkeys-lru"):
            await Backing(opened.client, ValkeySettings()).refuse_misfit()


@in_loop
async def test_a_server_that_is_away_is_no_misfit(make_valkey: MakeValkey) -> None:
    async with open_store(make_valkey().socket_path) as opened:
        backing = Backing(opened.client, ValkeySettings())
        assert await code_of(backing.refuse_misfit()) == "store_unavailable"
        assert await code_of(backing.check_eviction()) == "store_unavailable"


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
    assert server.command("DBSIZE") == 0
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
