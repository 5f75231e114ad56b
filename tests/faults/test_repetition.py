"""One Idempotency-Key, one message: whoever repeats it, when and where."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import BadStatusLine, HTTPConnection
from typing import NamedTuple
from uuid import uuid4

import pytest
import requests

from pulsar_relay.store import schema
from tests.conditions import until
from tests.faults.placement import worker_with
from tests.faults.proxy import FaultProxy
from tests.relays import RelayProcess
from tests.valkeys import TIMEOUT_SCALE, RealValkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(60 * TIMEOUT_SCALE)]

ATTEMPTS = 20
CONNECTIONS = 5
"""To each worker."""
ANSWER_SECONDS = 10 * TIMEOUT_SCALE


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


def test_attempts_on_four_workers_store_one_message_though_the_one_that_did_is_killed_before_it_answers(
    make_valkey: Callable[..., RealValkey],
    make_proxy: Callable[..., FaultProxy],
    make_nodes_on: Callable[..., list[RelayProcess]],
) -> None:
    valkey = make_valkey().start()
    proxies = [make_proxy(valkey.socket_path, seed=number) for number in range(2)]
    nodes = make_nodes_on(proxies)
    with ThreadPoolExecutor(4 * CONNECTIONS) as pool:
        for topic in ("first", "second", "third", "fourth", "fifth"):
            until(lambda: all(len(node.workers) == 2 for node in nodes), "all workers are there")
            seats = [seat for node in nodes for seat in _seats(node, valkey)]
            with _announcements(valkey, topic) as announcements:
                for proxy in proxies:
                    proxy.black_hole(ways=[proxy.replies])
                attempts = {
                    seat.pid: [pool.submit(_publish_on, one, topic) for one in seat.connections]
                    for seat in seats
                }
                # It is stored, and nobody was told.
                appender = next(announcements)
                (killed,) = [seat.pid for seat in seats if seat.name == appender]
                os.kill(killed, signal.SIGKILL)
                for proxy in proxies:
                    proxy.heal()
            for attempt in attempts.pop(killed):
                with pytest.raises((ConnectionError, BadStatusLine)):
                    attempt.result()
            answers = [attempt.result() for those in attempts.values() for attempt in those]
            # Who comes before its successor may be reset, and would have to come again.
            until(
                lambda killed=killed: killed not in _pids(nodes) and len(_pids(nodes)) == 4, "it is replaced"
            )
            answers += [_publish(node.url, topic, "one").text for node in nodes]
            assert len(answers) == 3 * CONNECTIONS + 2
            assert len(set(answers)) == 1
            assert valkey.command("XLEN", schema.stream(topic)) == 1
            for connection in (one for seat in seats for one in seat.connections):
                connection.close()


def _pids(nodes: Sequence[RelayProcess]) -> set[int]:
    return {pid for node in nodes for pid in node.workers.values()}


class Seat(NamedTuple):
    """A worker, what it calls itself on the feed, and connections to it."""

    pid: int
    name: str
    connections: list[HTTPConnection]


def _seats(node: RelayProcess, valkey: RealValkey) -> list[Seat]:
    """One for each worker of the node. The kernel chooses whom a connection meets."""
    seats: dict[str, Seat] = {}
    with _announcements(valkey, "roll-call") as announcements:
        while len(seats) < 2 or any(len(seat.connections) < CONNECTIONS for seat in seats.values()):
            connection = HTTPConnection(*node.address, timeout=ANSWER_SECONDS)
            connection.connect()
            _publish_on(connection, "roll-call", uuid4().hex)
            name = next(announcements)
            if name not in seats:
                seats[name] = Seat(worker_with(node, connection.sock.getsockname()[1]), name, [])
            if len(seats[name].connections) < CONNECTIONS:
                seats[name].connections.append(connection)
            else:
                connection.close()
    return list(seats.values())


@contextmanager
def _announcements(valkey: RealValkey, topic: str) -> Iterator[Iterator[str]]:
    """Who has appended to the topic, one after the other, as the feed tells it."""

    def names() -> Iterator[str]:
        while (news := feed.get_message(ignore_subscribe_messages=True, timeout=ANSWER_SECONDS)) is not None:
            yield news["data"].split(b" ")[0].decode()

    with valkey.client() as client, client.pubsub() as feed:
        feed.subscribe(schema.feed(topic))
        assert feed.get_message(timeout=ANSWER_SECONDS)["type"] == "subscribe"
        yield names()


def _publish_on(connection: HTTPConnection, topic: str, key: str = "the same") -> str:
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    connection.request(
        "POST", "/api/v1/messages", json.dumps({"topic": topic, "payload": "one"}), headers=headers
    )
    answer = connection.getresponse()
    text = answer.read().decode()
    assert answer.status == 201, text
    return text


def _publish(relay: str, topic: str, payload: str) -> requests.Response:
    return requests.post(
        f"{relay}/api/v1/messages",
        json={"topic": topic, "payload": payload},
        headers={"Idempotency-Key": "the same"},
        timeout=ANSWER_SECONDS,
    )
