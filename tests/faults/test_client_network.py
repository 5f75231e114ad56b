"""Networks between clients and relays that are late, slow, or cut connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults.load import Load
from tests.faults.proxy import FaultProxy
from tests.faults.records import Detached, LogReader
from tests.relays import RelayProcess
from tests.valkeys import TIMEOUT_SCALE, RealValkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(90 * TIMEOUT_SCALE)]

BACK_SECONDS = 2.0 * TIMEOUT_SCALE
FAULT_SECONDS = 4.0


@pytest.fixture
def server(make_valkey: Callable[..., RealValkey]) -> RealValkey:
    return make_valkey().start()


@pytest.fixture
def proxies(
    server: RealValkey,
    make_relay_on: Callable[..., RelayProcess],
    make_proxy: Callable[..., FaultProxy],
    seed: str,
) -> list[FaultProxy]:
    """In front of two relays."""
    relays = [make_relay_on(server) for _ in range(2)]
    return [make_proxy(relay.address, seed=int(seed, 16)) for relay in relays]


def heal(proxies: list[FaultProxy]) -> None:
    for proxy in proxies:
        proxy.heal()


def disconnects(load: Load) -> Iterator[Detached]:
    """Sessions that ended otherwise than by the consumer's own will."""
    for path in load.directory.glob("consumer-*.jsonl"):
        for record in LogReader(path).new():
            if isinstance(record, Detached) and record.cause != "moves on":
                yield record


def test_clients_that_are_far_away_stay_connected(
    server: RealValkey, proxies: list[FaultProxy], make_load: Callable[..., Load]
) -> None:
    for proxy in proxies:
        proxy.delay(0.2, jitter_seconds=0.1)
    with make_load([proxy.url for proxy in proxies], server) as load:
        load.last(FAULT_SECONDS)
        verdict = load.finish()
        assert not list(disconnects(load))
    assert verdict.most_attempts == 1


def test_clients_on_a_thin_line_get_everything(
    server: RealValkey, proxies: list[FaultProxy], make_load: Callable[..., Load]
) -> None:
    with make_load([proxy.url for proxy in proxies], server) as load:
        for proxy in proxies:
            proxy.replies.bytes_a_second = 64_000 / 8
        load.last(FAULT_SECONDS)
        assert not list(disconnects(load))
        healed = load.healed(lambda: heal(proxies))
        load.wait_for_acks(50)
        verdict = load.finish()
    assert verdict.until_ok(healed) < BACK_SECONDS


def test_connections_that_are_reset_again_and_again_lose_nothing(
    server: RealValkey, proxies: list[FaultProxy], make_load: Callable[..., Load]
) -> None:
    with make_load([proxy.url for proxy in proxies], server) as load:
        for _ in range(20):
            load.last(load.random.uniform(0.05, 0.3))
            proxy = load.random.choice(proxies)
            how = load.random.choice(["reset", "cut", "lose"])
            if how == "reset":
                proxy.reset()
            elif how == "cut":
                # In the middle of a frame, an event or an answer.
                proxy.replies.bytes_to_cut = load.random.randint(1, 2000)
            else:
                proxy.replies.chunks_to_lose = 2
        healed = load.healed(lambda: heal(proxies))
        load.wait_for_acks(50)
        verdict = load.finish()
    assert verdict.until_ok(healed) < BACK_SECONDS
