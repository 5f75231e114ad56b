"""A relay dies, stands still or is restarted while another one works: clients go to the other one, nothing is
lost and nothing doubles."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.load import Load
from tests.relays import RelayProcess
from tests.valkeys import TIMEOUT_SCALE, RealValkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]


def test_a_relay_of_two_is_killed_six_times(
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    relays = [make_relay_on(valkey) for _ in range(2)]
    with make_load([relay.url for relay in relays], valkey) as load:
        for _ in range(6):
            load.wait_for_acks(load.random.randint(20, 100))
            relay = load.random.choice(relays)
            relay.kill()
            load.last(load.random.uniform(0, 0.5))
            relay.start()
        load.wait_for_acks(50)
        verdict = load.finish()
    # Whoever was with the killed one has gone to the other.
    assert verdict.most_attempts <= 3
    assert verdict.longest_without_ok < 1 * TIMEOUT_SCALE
    assert verdict.largest_lag < 2 * TIMEOUT_SCALE


def test_a_relay_of_two_stands_still_for_four_seconds(
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    relays = [make_relay_on(valkey) for _ in range(2)]
    with make_load([relay.url for relay in relays], valkey) as load:
        load.wait_for_acks(load.random.randint(20, 120))
        relay = load.random.choice(relays)
        relay.pause()
        load.last(4)
        load.healed(relay.resume)
        load.wait_for_acks(100)
        verdict = load.finish()
    assert verdict.longest_without_ok < 1 * TIMEOUT_SCALE


def test_the_only_relay_stands_still_for_four_seconds(
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    relay = make_relay_on(valkey)
    with make_load([relay.url], valkey) as load:
        load.wait_for_acks(load.random.randint(20, 120))
        relay.pause()
        load.last(4)
        healed = load.healed(relay.resume)
        load.wait_for_acks(100)
        verdict = load.finish()
    assert verdict.until_ok(healed) < 1 * TIMEOUT_SCALE


@pytest.mark.parametrize("workers", ["1", "2"])
def test_two_relays_are_restarted_in_turn_twice(
    workers: str,
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    relays = [make_relay_on(valkey, "--workers", workers) for _ in range(2)]
    urls = [relay.url for relay in relays]
    with make_load(urls, valkey) as load:
        for relay in (*relays, *relays):
            load.wait_for_acks(50)
            assert relay.stop() == 0
            relay.start()
        load.wait_for_acks(50)
        verdict = load.finish()
    assert verdict.most_attempts <= 2
    assert verdict.longest_without_ok < 1 * TIMEOUT_SCALE
    _expect_good_byes(load)


def _expect_good_byes(load: Load) -> None:
    """Sockets were told to come back, and when; streams ended; and no poll broke off without an answer."""
    sockets = [
        detached for detached in load.detached("socket", "returning", "named") if detached.cause != "moves on"
    ]
    sockets = [detached for detached in sockets if detached.cause != "ConnectionRefusedError"]
    assert {detached.cause for detached in sockets} == {"1012"}
    hints = [int(detached.reason.removeprefix("going_away; retry_ms=")) for detached in sockets]
    assert len(hints) >= 4
    assert len(set(hints)) > len(hints) // 2
    streams = {detached.cause for detached in load.detached("events")}
    assert "ended" in streams and streams <= {"ended", "UnsentError"}
    polls = {detached.cause for detached in load.detached("poll", "cookie")}
    assert polls <= {"503", "UnsentError"}
