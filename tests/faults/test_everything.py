"""All faults together, in an order that the seed decides; up to three of them at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.load import Load
from tests.faults.proxy import FaultProxy
from tests.relays import RelayProcess
from tests.valkeys import TIMEOUT_SCALE, RealValkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

ROUNDS = 8
BACK_SECONDS = 2.0 * TIMEOUT_SCALE
"""From the end of the last fault to the first acknowledgement."""
Fault = tuple[Callable[[], object], Callable[[], object]]
"""How it begins and how it ends."""


def test_two_relays_and_their_valkey_suffer_whatever_there_is(
    make_valkey: Callable[..., RealValkey],
    make_proxy: Callable[..., FaultProxy],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    proxies = [make_proxy(valkey.socket_path, seed=number) for number in range(2)]
    relays = [make_relay_on(proxy) for proxy in proxies]
    # What a relay needs to start ends before the relay's own fault, and begins after it.
    victims = [_of_valkey(valkey), *map(_of_network, proxies), *map(_of_relay, relays)]
    healed = []
    with make_load([relay.url for relay in relays], valkey) as load:
        for _ in range(ROUNDS):
            load.wait_for_acks(load.random.randint(20, 60))
            hit = sorted(load.random.sample(range(len(victims)), load.random.randint(1, 3)))
            faults = [load.random.choice(victims[index]) for index in hit]
            for begin, _end in reversed(faults):
                begin()
                load.last(load.random.uniform(0, 0.3))
            load.last(load.random.uniform(0, 1.5))
            for _begin, end in faults:
                end()
            healed.append(load.healed(_nothing))
        load.wait_for_acks(50)
        verdict = load.finish()
    assert max(map(verdict.until_ok, healed)) < BACK_SECONDS


def test_all_processes_die_at_once_three_times(
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    relays = [make_relay_on(valkey) for _ in range(2)]
    processes: list[RealValkey | RelayProcess] = [valkey, *relays]
    healed = []
    with make_load([relay.url for relay in relays], valkey) as load:
        for _ in range(3):
            load.wait_for_acks(load.random.randint(20, 100))
            for process in load.random.sample(processes, len(processes)):
                process.kill()
            for process in processes:
                process.start()
            healed.append(load.healed(_nothing))
        load.wait_for_acks(50)
        verdict = load.finish()
    assert max(map(verdict.until_ok, healed)) < BACK_SECONDS


def _of_valkey(valkey: RealValkey) -> list[Fault]:
    return [
        (valkey.kill, valkey.start),
        (valkey.pause, valkey.resume),
        (lambda: valkey.command("CLIENT", "KILL", "TYPE", "normal"), _nothing),
        (lambda: valkey.command("CLIENT", "KILL", "TYPE", "pubsub"), _nothing),
        (lambda: valkey.command("SCRIPT", "FLUSH", "SYNC"), _nothing),
    ]


def _of_network(proxy: FaultProxy) -> list[Fault]:
    return [
        (proxy.black_hole, proxy.heal),
        (lambda: proxy.swallow(proxy.replies), proxy.heal),
        (lambda: proxy.swallow(proxy.requests), proxy.heal),
        (proxy.reset, _nothing),
        (lambda: proxy.delay(0.2, 0.1), proxy.heal),
    ]


def _of_relay(relay: RelayProcess) -> list[Fault]:
    return [(relay.kill, relay.start), (relay.stop, relay.start), (relay.pause, relay.resume)]


def _nothing() -> None: ...
