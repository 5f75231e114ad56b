"""Somebody deletes all topics under the relay's feet, as test suites do between their tests: the topics are
made anew by the next messages, nobody is answered 500, and every subscriber is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests

from tests.conditions import WAIT_SECONDS
from tests.faults.load import CONSUMERS, Load
from tests.relays import RelayProcess
from tests.valkeys import TIMEOUT_SCALE, RealValkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

# A named client's place is deleted too, and nobody can tell it where it was.
NAMELESS = [kind for kind in CONSUMERS if kind != "named"]


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
    with make_load(urls, valkey, consumers=NAMELESS) as load:
        for _ in range(3):
            load.wait_for_acks(load.random.randint(50, 150))
            wiped.append(load.healed(lambda: _delete_all_but_users(valkey)))
        load.wait_for_acks(100)
        verdict = load.finish(wipes=wiped, allows_notices=True)
    # One for each consumer, topic and wipe, and another one where it resumed from before the wipe.
    assert len(verdict.notices) <= 2 * len(CONSUMERS) * len(load.topics) * len(wiped)
    assert verdict.most_attempts == 1
    assert verdict.longest_without_ok < 1 * TIMEOUT_SCALE


def test_every_key_but_the_users_is_deleted_and_the_relays_are_restarted(
    make_valkey: Callable[..., RealValkey],
    make_relay_on: Callable[..., RelayProcess],
    make_load: Callable[..., Load],
) -> None:
    valkey = make_valkey().start()
    relays = [make_relay_on(valkey) for _ in range(2)]
    wiped = []
    with make_load([relay.url for relay in relays], valkey, consumers=NAMELESS) as load:
        for relay in relays:
            load.wait_for_acks(load.random.randint(50, 150))
            wiped.append(load.healed(lambda: _delete_all_but_users(valkey)))
            load.random.choice([relay.kill, relay.stop])()
            relay.start()
        load.wait_for_acks(100)
        load.finish(wipes=wiped, allows_notices=True)


def test_a_poll_that_never_says_where_it_is_keeps_its_place_when_all_is_deleted_and_the_relay_restarted(
    make_valkey: Callable[..., RealValkey], make_relay_on: Callable[..., RelayProcess]
) -> None:
    valkey = make_valkey().start()
    relay = make_relay_on(valkey)
    messages, poll = f"{relay.url}/api/v1/messages", {"topics": ["jobs"], "timeout": 1}
    with requests.Session() as client:
        assert client.post(f"{relay.url}/messages/poll", json=poll, timeout=WAIT_SECONDS).ok
        _delete_all_but_users(valkey)
        relay.stop()
        relay.start()
        assert requests.post(messages, json={"topic": "jobs", "payload": 1}, timeout=WAIT_SECONDS).ok
        answer = client.post(f"{relay.url}/messages/poll", json=poll, timeout=WAIT_SECONDS).json()
    assert [message["payload"] for message in answer["messages"]] == [1]


def _delete_all_but_users(valkey: RealValkey) -> None:
    with valkey.client() as client:
        for key in client.scan_iter(count=10):
            if not key.startswith(b"user"):
                client.delete(key)
