"""Clocks that are set while messages flow: Valkey's, which makes the ids, and a relay's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conditions import until
from tests.faults.load import Load
from tests.faults.preload import Preload
from tests.faults.publishing import Publisher, read_back
from tests.relays import RelayProcess
from tests.valkeys import TIMEOUT_SCALE, RealValkey
from tests.workers import RunningWorker

pytestmark = [pytest.mark.faults, pytest.mark.timeout(90 * TIMEOUT_SCALE)]

MakeValkey = Callable[..., RealValkey]
MakePreload = Callable[[], Preload]
HOUR = 3600.0
STEPS = (HOUR, -HOUR, 0.0)
# A clock that is wrong by more than the retention must not make anybody delete.
RETENTION = (
    *("--set", "storage.persistent_tier_retention=30m"),
    *("--set", "storage.trim_interval=200ms"),
)


def test_the_clock_of_valkey_is_set_forward_and_back(
    make_valkey: MakeValkey,
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
    make_preload: MakePreload,
) -> None:
    preload = make_preload()
    server = make_valkey(environment=preload.environment).start()
    urls = [make_relay_on(server, *RETENTION).url for _ in range(2)]
    with make_load(urls, server) as load:
        for step in STEPS:
            load.wait_for_acks(50)
            preload.clock_seconds = step
            load.last(1)
        load.wait_for_acks(50)
        verdict = load.finish()
    assert verdict.most_attempts == 1


def test_the_clock_of_one_relay_of_two_is_set_forward_and_back(
    make_valkey: MakeValkey,
    make_relay_on: Callable[..., RelayProcess],
    make_relay_process: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
    make_preload: MakePreload,
) -> None:
    preload = make_preload()
    server = make_valkey().start()
    other = make_relay_process(
        "--set", f"valkey.unix_socket={server.socket_path}", *RETENTION, variables=preload.environment
    )
    urls = [make_relay_on(server, *RETENTION).url, other.start().url]
    with make_load(urls, server) as load:
        for step in STEPS:
            load.wait_for_acks(50)
            preload.clock_seconds = step
            load.last(1)
        load.wait_for_acks(50)
        verdict = load.finish()
    assert verdict.most_attempts == 1


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_time_to_live_does_not_depend_on_the_clock_of_valkey(
    make_valkey: MakeValkey,
    make_relay: Callable[..., RunningWorker],
    make_preload: MakePreload,
    topic: str,
    step: float,
) -> None:
    preload = make_preload()
    server = make_valkey(environment=preload.environment).start()
    relay = make_relay(server.socket_path)
    with Publisher(relay.url, topic) as publisher:
        assert publisher.post("before", ttl=1800).status == 201
        preload.clock_seconds = step
        assert publisher.post("long", ttl=1800).status == 201
        assert publisher.post("short", ttl=1).status == 201
        assert publisher.post("for ever").status == 201
        assert list(read_back(relay.url, topic).values()) == ["before", "long", "short", "for ever"]
        until(lambda: "short" not in read_back(relay.url, topic).values(), "the short one expires")
        assert list(read_back(relay.url, topic).values()) == ["before", "long", "for ever"]
