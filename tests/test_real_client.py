"""The client library that Galaxy and Pulsar use, unchanged, publishes and polls here.

Accounts are off, so the part of it that logs in is replaced by one that hands out a token nobody reads.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from pulsar_relay_client.transport import RelayTransport, RelayTransportError

from tests.conditions import until
from tests.relays import RelayProcess
from tests.workers import RunningWorker

WAIT_SECONDS = 20


class NoAccounts:
    def get_token(self) -> str:
        return "no-accounts"

    def invalidate(self) -> None:
        """Nothing to forget."""


def _transport(relay: RunningWorker | RelayProcess, cursor_path: Path | None = None) -> RelayTransport:
    return RelayTransport(
        relay.url, auth_manager=NoAccounts(), cursor_path=None if cursor_path is None else str(cursor_path)
    )


def _wait_for_poll(relay: RunningWorker | RelayProcess, topic: str) -> None:
    """As Pulsar's own resilience tests do it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        stats = requests.get(f"{relay.url}/messages/poll/stats", timeout=WAIT_SECONDS).json()
        if any(name.endswith(f"/{topic}") for name in stats["topic_subscriber_counts"]):
            return
        time.sleep(0.01)
    raise AssertionError("no poll waits")


def test_what_it_publishes_its_long_poll_receives(relay: RunningWorker, topic: str) -> None:
    transport = _transport(relay)
    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(transport.long_poll, [topic], 30)
        _wait_for_poll(relay, topic)
        answer = _transport(relay).post_message(topic, {"job_id": "7", "command": "setup"})
        messages = polling.result(WAIT_SECONDS)
    assert [(message["message_id"], message["payload"]) for message in messages] == [
        (answer["message_id"], {"job_id": "7", "command": "setup"})
    ]


def test_a_timeout_as_pulsar_sends_it_is_a_float_and_accepted(relay: RunningWorker, topic: str) -> None:
    assert _transport(relay).long_poll([topic], 1.5) == []


def test_it_loses_nothing_between_two_polls_before_it_has_a_cursor(relay: RunningWorker, topic: str) -> None:
    transport = _transport(relay)
    assert transport.long_poll([topic], 1) == []
    _transport(relay).post_message(topic, {"n": 1})
    assert [message["payload"] for message in transport.long_poll([topic], 10)] == [{"n": 1}]


def test_it_resumes_from_its_cursor_file(relay: RunningWorker, topic: str, tmp_path: Path) -> None:
    cursors = tmp_path / "cursor.json"
    publisher = _transport(relay)
    first = _transport(relay, cursors)
    assert first.long_poll([topic], 1) == []
    publisher.post_message(topic, {"n": 1})
    assert [message["payload"] for message in first.long_poll([topic], 10)] == [{"n": 1}]
    for number in (2, 3):
        publisher.post_message(topic, {"n": number})
    second = _transport(relay, cursors)
    assert [message["payload"] for message in second.long_poll([topic], 10)] == [{"n": 2}, {"n": 3}]


@pytest.mark.parametrize("cursor", ["msg_0123456789ab", "1-0", "99999999999999-0", "garbage", "$"])
def test_a_cursor_file_of_another_relay_is_no_error(
    relay: RunningWorker, topic: str, tmp_path: Path, cursor: str
) -> None:
    cursors = tmp_path / "cursor.json"
    cursors.write_text(json.dumps({topic: cursor}))
    transport = _transport(relay, cursors)
    _transport(relay).post_message(topic, {"n": 1})
    assert [message["payload"] for message in transport.long_poll([topic], 2)] == [{"n": 1}]
    _transport(relay).post_message(topic, {"n": 2})
    assert [message["payload"] for message in transport.long_poll([topic], 10)] == [{"n": 2}]


def test_it_publishes_in_bulk(relay: RunningWorker, topic: str) -> None:
    transport = _transport(relay)
    messages = [{"topic": topic, "payload": {"n": number}} for number in range(100)]
    answer = transport.post_bulk_messages(messages)
    assert answer["summary"] == {"total": 100, "accepted": 100, "rejected": 0}


def test_what_it_should_not_repeat_is_a_4xx_to_it(relay: RunningWorker) -> None:
    with pytest.raises(RelayTransportError):
        _transport(relay).post_message("not a topic's name", {})


def test_eight_of_its_publishers_and_four_of_its_pollers_agree(relay: RunningWorker, topic: str) -> None:
    total, pollers = 160, 4
    is_over = threading.Event()

    def poll(transport: RelayTransport) -> list[str]:
        received: list[str] = []
        while not is_over.is_set() and len(received) < total:
            received += [message["message_id"] for message in transport.long_poll([topic], 10.0)]
        return received

    def publish(worker: int) -> list[str]:
        transport = _transport(relay)
        return [
            transport.post_message(topic, {"worker": worker, "n": number})["message_id"]
            for number in range(total // 8)
        ]

    transports = [_transport(relay) for _ in range(pollers)]
    for transport in transports:
        assert transport.long_poll([topic], 1) == []
    with ThreadPoolExecutor(8 + pollers) as pool:
        polling = [pool.submit(poll, transport) for transport in transports]
        published = [message_id for part in pool.map(publish, range(8)) for message_id in part]
        received = [future.result(WAIT_SECONDS * 2) for future in polling]
        is_over.set()
    expected = sorted(published, key=lambda text: tuple(map(int, text.split("-"))))
    assert received == [expected] * pollers


@pytest.mark.faults
def test_it_goes_on_over_workers_that_are_killed_and_loses_nothing(
    make_relay_process: Callable[..., RelayProcess], topic: str, tmp_path: Path
) -> None:
    relay = make_relay_process("--workers", "2").start()
    consumer, received = _transport(relay, tmp_path / "cursors"), []

    def publish() -> None:
        for number in range(60):
            # As Pulsar's outbox does: again, with the same key, until it is answered.
            headers = {"Idempotency-Key": f"{topic}-{number}"}
            body = {"topic": topic, "payload": {"number": number}}
            while True:
                with suppress(requests.RequestException):
                    url = f"{relay.url}/api/v1/messages"
                    if requests.post(url, json=body, headers=headers, timeout=WAIT_SECONDS).ok:
                        break
                time.sleep(0.01)

    with ThreadPoolExecutor(2) as pool:
        polling = pool.submit(consumer.long_poll, [topic], 30)
        _wait_for_poll(relay, topic)
        publishing = pool.submit(publish)
        received += polling.result(WAIT_SECONDS)
        for round_ in range(2):
            os.kill(until(lambda: relay.workers.get(round_, 0), "a worker"), signal.SIGKILL)  # noqa: B023
            while len(received) < 20 * (round_ + 1):
                with suppress(RelayTransportError):
                    received += consumer.long_poll([topic], 5)
        publishing.result(60)
        while len(received) < 60:
            with suppress(RelayTransportError):
                received += consumer.long_poll([topic], 5)
    assert [message["payload"]["number"] for message in received] == list(range(60))
