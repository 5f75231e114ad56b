"""One Idempotency-Key, one message: whoever repeats it, when and where."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from pulsar_relay.store import schema
from tests.faults.proxy import FaultProxy
from tests.relays import RelayProcess
from tests.valkeys import RealValkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(60)]

ATTEMPTS = 20
ANSWER_SECONDS = 10


def test_attempts_at_the_same_time_on_two_relays_far_from_valkey_store_one_message(
    make_valkey: Callable[..., RealValkey],
    make_proxy: Callable[..., FaultProxy],
    make_relay_on: Callable[..., RelayProcess],
) -> None:
    valkey = make_valkey().start()
    proxies = [make_proxy(valkey.socket_path, seed=number) for number in range(2)]
    relays = [make_relay_on(proxy) for proxy in proxies]
    for proxy in proxies:
        proxy.delay(0.05, 0.04)

    with ThreadPoolExecutor(ATTEMPTS) as pool:
        for topic in ("first", "second", "third", "fourth", "fifth"):
            # The last two are another message.
            payloads = ["one"] * (ATTEMPTS - 2) + ["another"] * 2
            urls = [relays[number % 2].url for number in range(ATTEMPTS)]
            answers = list(pool.map(_publish, urls, [topic] * ATTEMPTS, payloads))
            stored = [answer for answer in answers if answer.status_code == 201]
            refused = [answer for answer in answers if answer.status_code == 422]
            assert len(stored) + len(refused) == ATTEMPTS, [answer.text for answer in answers]
            assert len({answer.text for answer in stored}) == 1
            assert {answer.json()["error"] for answer in refused} == {"idempotency_conflict"}
            # Whichever of the two came first, it was only one.
            assert len(refused) in (2, ATTEMPTS - 2)
            assert valkey.command("XLEN", schema.stream(topic)) == 1


def _publish(relay: str, topic: str, payload: str) -> requests.Response:
    return requests.post(
        f"{relay}/api/v1/messages",
        json={"topic": topic, "payload": payload},
        headers={"Idempotency-Key": "the same"},
        timeout=ANSWER_SECONDS,
    )
