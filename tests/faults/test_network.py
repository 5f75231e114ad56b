"""The network between relay and Valkey, and between clients and relay, is late, mute or cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests

from tests.faults.load import Load
from tests.faults.proxy import FaultProxy
from tests.relays import RelayProcess
from tests.valkeys import TIMEOUT_SCALE, RealValkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

MakeProxy = Callable[..., FaultProxy]
BACK_SECONDS = 2.0 * TIMEOUT_SCALE
"""From the network's being whole again to the first acknowledgement."""


def test_two_relays_far_from_valkey_make_one_order(
    make_valkey: Callable[..., RealValkey],
    make_proxy: MakeProxy,
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    proxies = [make_proxy(valkey.socket_path, seed=number) for number in range(2)]
    relays = [make_relay_on(proxy).url for proxy in proxies]
    for proxy in proxies:
        proxy.delay(0.010, 0.008)
    with make_load(relays, valkey, producers=16, topics=1, per_second=0) as load:
        load.wait_for_acks(1500)
        verdict = load.finish()
    assert verdict.most_attempts == 1


@pytest.mark.parametrize("fault", ["black hole", "deaf", "cut off"])
def test_one_relay_of_two_cannot_reach_valkey(
    fault: str,
    make_valkey: Callable[..., RealValkey],
    make_proxy: MakeProxy,
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    proxy = make_proxy(valkey.socket_path)
    relays = [make_relay_on(proxy).url, make_relay_on(valkey).url]
    with make_load(relays, valkey) as load:
        load.wait_for_acks(load.random.randint(20, 120))
        if fault == "black hole":
            proxy.black_hole()
        elif fault == "deaf":
            proxy.swallow(proxy.replies)
        else:
            proxy.refuse()
            proxy.reset()
        # Longer than a publish waits: those at this relay are answered 503.
        load.last(6)
        proxy.heal()
        # The producers have gone to the other relay, and stay there.
        load.wait_until(lambda: _publishes(relays[0]), "an acknowledgement by the healed relay", BACK_SECONDS)
        load.wait_for_acks(50)
        verdict = load.finish()
    # Who is answered 503 goes to the other relay, which has not noticed anything.
    assert verdict.longest_without_ok < 1 * TIMEOUT_SCALE


def test_connections_to_valkey_are_reset_again_and_again(
    make_valkey: Callable[..., RealValkey],
    make_proxy: MakeProxy,
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    proxies = [make_proxy(valkey.socket_path, seed=number) for number in range(2)]
    relays = [make_relay_on(proxy).url for proxy in proxies]
    with make_load(relays, valkey) as load:
        for _ in range(20):
            proxy = load.random.choice(proxies)
            fault = load.random.randrange(3)
            if fault == 0:
                proxy.reset()
            elif fault == 1:
                proxy.replies.chunks_to_lose = load.random.randint(1, 3)
            else:
                way = load.random.choice([proxy.requests, proxy.replies])
                way.bytes_to_cut = load.random.randint(1, 2000)
            load.wait_for_acks(load.random.randint(5, 40))
        load.wait_for_acks(50)
        verdict = load.finish()
    assert verdict.longest_without_ok < 1 * TIMEOUT_SCALE
    assert verdict.largest_lag < 2 * TIMEOUT_SCALE


@pytest.mark.parametrize("fault", ["black hole", "deaf", "cut off", "reset", "late"])
def test_clients_cannot_reach_the_only_relay(
    fault: str,
    make_valkey: Callable[..., RealValkey],
    make_proxy: MakeProxy,
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    relay = make_relay_on(valkey)
    proxy = make_proxy(_address(relay))
    with make_load([proxy.url], valkey, timeout_seconds=1.5) as load:
        load.wait_for_acks(load.random.randint(20, 120))
        if fault == "black hole":
            proxy.black_hole()
            load.last(3)
        elif fault == "deaf":
            proxy.swallow(proxy.replies)
            load.last(3)
        elif fault == "cut off":
            proxy.refuse()
            proxy.reset()
            load.last(3)
        elif fault == "reset":
            for _ in range(10):
                proxy.reset()
                load.last(0.2)
        else:
            proxy.delay(0.5, 0.1)
            load.last(3)
        healed = load.healed(proxy.heal)
        load.wait_for_acks(100)
        verdict = load.finish()
    assert verdict.until_ok(healed) < BACK_SECONDS


def _address(relay: RelayProcess) -> tuple[str, int]:
    host, _, port = relay.url.removeprefix("http://").partition(":")
    return host, int(port)


def _publishes(relay: str) -> bool:
    """Whether the relay acknowledges a message to a topic that is not of the load."""
    answer = requests.post(f"{relay}/api/v1/messages", json={"topic": "aside", "payload": 1}, timeout=15)
    assert answer.status_code in (201, 503), answer.text
    return answer.status_code == 201
