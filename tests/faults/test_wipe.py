"""Somebody deletes all topics under the relay's feet, as test suites do between their tests: the topics are
made anew by the next messages, nobody is answered 500, and every subscriber is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.load import CONSUMERS, Load
from tests.relays import RelayProcess
from tests.valkeys import TIMEOUT_SCALE, RealValkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]


@pytest.mark.parametrize("relays", [1, 2])
def test_every_key_but_the_users_is_deleted_three_times(
    relays: int,
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    urls = [make_relay_on(valkey).url for _ in range(relays)]
    wiped = []
    # A named client's place is deleted too, and nobody can tell it where it was.
    with make_load(urls, valkey, consumers=[kind for kind in CONSUMERS if kind != "named"]) as load:
        for _ in range(3):
            load.wait_for_acks(load.random.randint(50, 150))
            wiped.append(load.healed(lambda: _delete_all_but_users(valkey)))
        load.wait_for_acks(100)
        verdict = load.finish(wipes=wiped, allows_notices=True)
    # One for each consumer, topic and wipe, and another one where it resumed from before the wipe.
    assert len(verdict.notices) <= 2 * len(CONSUMERS) * len(load.topics) * len(wiped)
    assert verdict.most_attempts == 1
    assert verdict.longest_without_ok < 1 * TIMEOUT_SCALE


def _delete_all_but_users(valkey: RealValkey) -> None:
    with valkey.client() as client:
        for key in client.scan_iter(count=10):
            if not key.startswith(b"user"):
                client.delete(key)
