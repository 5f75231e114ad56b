"""Valkey dies, stops, is busy or forgets its scripts while the relay works: nothing acknowledged is lost, no
repetition doubles, and the relay is back as soon as Valkey is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.load import CONSUMERS, Load
from tests.relays import RelayProcess
from tests.valkeys import TIMEOUT_SCALE, RealValkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

BACK_SECONDS = 1.0 * TIMEOUT_SCALE
"""From Valkey's being whole again to the first acknowledgement."""


@pytest.fixture
def quick_directory() -> Iterator[Path]:
    """On a disk that never stalls: the machine's memory."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.mark.parametrize("appendfsync", ["everysec", "always"])
def test_valkey_is_killed_five_times(
    appendfsync: str,
    quick_directory: Path,
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey(quick_directory, settings={"appendfsync": appendfsync}).start()
    healed = []
    with make_load([make_relay_on(valkey).url], valkey) as load:
        for _ in range(5):
            load.wait_for_acks(load.random.randint(20, 120))
            valkey.kill()
            load.last(load.random.uniform(0, 0.5))
            healed.append(load.healed(valkey.start))
        load.wait_for_acks(50)
        verdict = load.finish()
    valkey.close()
    assert max(map(verdict.until_ok, healed)) < BACK_SECONDS


def test_valkey_stands_still_for_four_seconds(
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    with make_load([make_relay_on(valkey).url], valkey) as load:
        load.wait_for_acks(load.random.randint(20, 120))
        valkey.pause()
        load.last(4)
        healed = load.healed(valkey.resume)
        load.wait_for_acks(100)
        verdict = load.finish()
    assert verdict.until_ok(healed) < BACK_SECONDS


def test_valkey_is_told_to_hold_writes_back(
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    with make_load([make_relay_on(valkey).url], valkey) as load:
        load.wait_for_acks(load.random.randint(20, 120))
        valkey.command("CLIENT", "PAUSE", 3000, "WRITE")
        load.last(3)
        healed = load.healed(lambda: None)
        load.wait_for_acks(100)
        verdict = load.finish()
    assert verdict.until_ok(healed) < BACK_SECONDS


def test_a_script_occupies_valkey_for_six_seconds(
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    with make_load([make_relay_on(valkey).url], valkey) as load:
        load.wait_for_acks(load.random.randint(20, 120))
        with valkey.client() as client:
            client.connection_pool.get_connection("EVAL").send_command("EVAL", "while true do end", 0)
            load.last(6)
            healed = load.healed(lambda: valkey.command("SCRIPT", "KILL"))
        load.wait_for_acks(100)
        verdict = load.finish()
    assert verdict.until_ok(healed) < BACK_SECONDS
    assert verdict.longest_without_ok > 5


def test_valkey_reads_a_large_file_before_it_answers(
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    valkey.command("DEBUG", "POPULATE", 6000)
    valkey.settings |= {"key-load-delay": "500", "loading-process-events-interval-bytes": "1024"}
    with make_load([make_relay_on(valkey).url], valkey) as load:
        load.wait_for_acks(load.random.randint(20, 120))
        valkey.command("BGREWRITEAOF")
        load.wait_until(lambda: _rewritten_files(valkey) == 1, "the file to be rewritten")
        valkey.kill()
        healed = load.healed(valkey.start)
        load.wait_for_acks(100)
        verdict = load.finish()
    assert verdict.until_ok(healed) < BACK_SECONDS
    assert verdict.longest_without_ok > 3


def _rewritten_files(valkey: RealValkey) -> int:
    with valkey.client() as client:
        info = client.info("persistence")
    return int(info["aof_rewrites"]) - int(info["aof_rewrite_in_progress"])


def test_valkey_forgets_its_scripts(
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    with make_load([make_relay_on(valkey).url], valkey) as load:
        for _ in range(10):
            load.wait_for_acks(load.random.randint(10, 30))
            valkey.command("SCRIPT", "FLUSH", "SYNC")
        load.wait_for_acks(50)
        verdict = load.finish()
    assert verdict.most_attempts == 1


def test_valkey_cuts_the_feed_every_300_milliseconds(
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    relays = [make_relay_on(valkey).url for _ in range(2)]
    with make_load(relays, valkey) as load:
        for _ in range(33):
            load.last(0.3)
            valkey.command("CLIENT", "KILL", "TYPE", "pubsub")
        verdict = load.finish()
    assert verdict.most_attempts == 1
    assert verdict.largest_lag < 1 * TIMEOUT_SCALE
    assert {detached.cause for detached in load.detached(*CONSUMERS)} == {"moves on"}


def test_valkey_cuts_all_connections(
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    relays = [make_relay_on(valkey).url for _ in range(2)]
    with make_load(relays, valkey) as load:
        for _ in range(10):
            load.wait_for_acks(load.random.randint(10, 60))
            valkey.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        load.wait_for_acks(50)
        verdict = load.finish()
    assert verdict.most_attempts == 1
    assert verdict.largest_lag < 1 * TIMEOUT_SCALE
    assert {detached.cause for detached in load.detached(*CONSUMERS)} == {"moves on"}
