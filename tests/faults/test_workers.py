"""Workers of one relay die, stand still or are told to leave while the others work: clients come back to the
same address, nothing is lost and nothing doubles."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.faults.load import Load
from tests.relays import RelayProcess
from tests.valkeys import TIMEOUT_SCALE, RealValkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]


def _somebody(load: Load, relay: RelayProcess) -> tuple[int, int]:
    """A worker that answers: its number and pid."""
    load.wait_until(lambda: len(relay.workers) > 1, "two workers answer")
    return load.random.choice(sorted(relay.workers.items()))


def test_a_worker_of_three_is_killed_every_so_often(
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    relay = make_relay_on(valkey, "--workers", "3")
    with make_load([relay.url], valkey) as load:
        for _ in range(6):
            load.wait_for_acks(load.random.randint(20, 100))
            _, pid = _somebody(load, relay)
            os.kill(pid, signal.SIGKILL)
            load.last(load.random.uniform(0, 1))
        load.wait_for_acks(50)
        verdict = load.finish()
    # Whoever was with the killed one has found another at once, or waited in the port for its successor: so
    # long may a single consumer lag, but never all publishers.
    assert verdict.longest_without_ok < 5 * TIMEOUT_SCALE


def test_workers_are_told_to_leave_in_turn(
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    relay = make_relay_on(valkey, "--workers", "2")
    with make_load([relay.url], valkey) as load:
        for number in (0, 1, 0, 1):
            load.wait_for_acks(50)
            load.wait_until(lambda: len(relay.workers) == 2, "both answer")
            pid = relay.workers[number]
            os.kill(pid, signal.SIGTERM)
            load.wait_until(
                lambda number=number, pid=pid: relay.workers.get(number, pid) != pid,  # type: ignore[misc]
                "another one has its place",
            )
        load.wait_for_acks(50)
        verdict = load.finish()
    assert verdict.longest_without_ok < 2 * TIMEOUT_SCALE


def test_the_supervisor_is_killed_twice(
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    relay = make_relay_on(valkey, "--workers", "2")
    with make_load([relay.url], valkey) as load:
        for _ in range(2):
            load.wait_for_acks(load.random.randint(20, 100))
            relay.kill()
            relay.start()
        load.wait_for_acks(50)
        load.finish()


def test_the_settings_are_reloaded_again_and_again(
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    relay = make_relay_on(valkey, "--workers", "2")
    with make_load([relay.url], valkey) as load:
        for hot in (10, 0, 1000, 3):
            load.wait_for_acks(40)
            seen = len(relay.log)
            text = f"hot_buffer: {{max_messages: {hot}}}\ntopic: {{idle_retire: {hot + 1}s}}\n"
            (relay.directory / "config.yaml").write_text(text)
            relay.signal(signal.SIGHUP)
            relay.wait_for_log("reload: changed", since=seen)
        load.wait_for_acks(50)
        verdict = load.finish()
    # Nobody was sent away, and nobody had to ask twice.
    assert verdict.most_attempts == 1
    assert not load.detached("socket", "events")
