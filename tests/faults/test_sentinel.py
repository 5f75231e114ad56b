"""Sentinel replaces a primary under the load."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.load import CONSUMERS, Load
from tests.relays import RelayProcess
from tests.sentinels import SentinelGroup
from tests.valkeys import TIMEOUT_SCALE

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

MakeSentinels = Callable[..., SentinelGroup]
MakeRelayOn = Callable[..., RelayProcess]
MakeLoad = Callable[..., Load]

AWAY_SECONDS = 10.0 * TIMEOUT_SCALE
REPLICATED = ("--durability", "replica", "--set", "storage.replicas=1")


def test_a_paused_primary_is_replaced_and_wakes_up_and_nothing_is_lost_at_level_replica(
    make_sentinels: MakeSentinels, make_relay_on: MakeRelayOn, make_load: MakeLoad
) -> None:
    group = make_sentinels(replicas=2, settings={"min-replicas-to-write": "1", "min-replicas-max-lag": "2"})
    urls = [make_relay_on(group, *REPLICATED).url for _ in range(2)]
    with make_load(urls, group, timeout_seconds=20.0) as load:
        load.wait_for_acks(load.random.randint(50, 150))
        old = group.primary
        old.pause()
        new = group.wait_for_failover(old)
        load.wait_for_acks(50)
        old.resume()
        load.wait_for_acks(100)
        # What is not acknowledged yet may be lost, and whoever was told of it is told of that.
        verdict = load.finish(allows_notices=True)
        assert group.primary is new
    assert verdict.longest_without_ok < AWAY_SECONDS


def test_at_level_memory_every_loss_is_announced(
    make_sentinels: MakeSentinels, make_relay_on: MakeRelayOn, make_load: MakeLoad
) -> None:
    group = make_sentinels()
    urls = [make_relay_on(group).url for _ in range(2)]
    nameless = [kind for kind in CONSUMERS if kind != "named"]
    with make_load(urls, group, consumers=nameless, timeout_seconds=20.0) as load:
        load.wait_for_acks(load.random.randint(50, 150))
        old = group.primary
        (replica,) = [server for server in group.servers if server is not old]
        # What is acknowledged meanwhile, the replica does not get.
        replica.pause()
        old.command("CLIENT", "KILL", "TYPE", "replica")
        load.wait_for_acks(30)
        old.kill()
        replica.resume()
        lost = load.healed(lambda: group.wait_for_failover(old))
        load.wait_for_acks(100)
        verdict = load.finish(wipes=[lost], allows_notices=True)
    assert verdict.notices


def test_a_sentinel_is_down_while_the_primary_is_replaced(
    make_sentinels: MakeSentinels, make_relay_on: MakeRelayOn, make_load: MakeLoad
) -> None:
    group = make_sentinels(replicas=2, settings={"min-replicas-to-write": "1", "min-replicas-max-lag": "2"})
    url = make_relay_on(group, *REPLICATED).url
    with make_load([url], group, timeout_seconds=20.0) as load:
        load.random.choice(group.sentinels).kill()
        load.wait_for_acks(50)
        old = group.primary
        old.kill()
        group.wait_for_failover(old)
        load.wait_for_acks(100)
        verdict = load.finish(allows_notices=True)
    assert verdict.longest_without_ok < AWAY_SECONDS
