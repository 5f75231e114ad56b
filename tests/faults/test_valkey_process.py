"""Valkey dies, stops, is busy or forgets its scripts while the relay works: nothing acknowledged is lost, no
repetition doubles, and the relay is back as soon as Valkey is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.load import Load
from tests.relays import RelayProcess
from tests.valkeys import TIMEOUT_SCALE, RealValkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

BACK_SECONDS = 1.0 * TIMEOUT_SCALE
"""From Valkey's being whole again to the first acknowledgement."""

BUSY_SCRIPT = """
local began = redis.call('TIME')
repeat
    local now = redis.call('TIME')
until tonumber(now[1]) - tonumber(began[1]) >= tonumber(ARGV[1])
"""


@pytest.mark.parametrize("appendfsync", ["everysec", "always"])
def test_valkey_is_killed_five_times(
    appendfsync: str,
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey(settings={"appendfsync": appendfsync}).start()
    healed = []
    with make_load([make_relay_on(valkey).url], valkey) as load:
        for _ in range(5):
            load.wait_for_acks(load.random.randint(20, 120))
            valkey.kill()
            load.last(load.random.uniform(0, 0.5))
            healed.append(load.healed(valkey.start))
        load.wait_for_acks(50)
        verdict = load.finish()
    assert max(map(verdict.until_ok, healed)) < BACK_SECONDS
