"""Delivery end to end: what every subscriber on every transport sees, with real clients on real sockets."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from websockets.asyncio.client import connect

from tests.workers import RunningWorker

PRODUCERS = 8
MESSAGES = 100
TOTAL = PRODUCERS * MESSAGES
WAIT_SECONDS = 30

Received = list[tuple[str, dict[str, Any]]]


def _order(message_id: str) -> tuple[int, int]:
    milliseconds, number = message_id.split("-")
    return int(milliseconds), int(number)


def _publish_all(url: str, topic: str) -> dict[str, dict[str, int]]:
    """Eight producers at the same time, a connection each; the payload under each acknowledged id."""

    def produce(producer: int) -> dict[str, dict[str, int]]:
        acknowledged = {}
        with requests.Session() as session:
            for number in range(MESSAGES):
                payload = {"producer": producer, "number": number}
                answer = session.post(
                    f"{url}/api/v1/messages", json={"topic": topic, "payload": payload}, timeout=WAIT_SECONDS
                )
                assert answer.status_code == 201, answer.text
                acknowledged[answer.json()["message_id"]] = payload
        return acknowledged

    with ThreadPoolExecutor(PRODUCERS) as pool:
        return {
            message_id: payload
            for part in pool.map(produce, range(PRODUCERS))
            for message_id, payload in part.items()
        }


async def _by_websocket(relay: RunningWorker, topic: str, is_ready: threading.Event) -> Received:
    received: Received = []
    async with connect(relay.ws_url, max_size=None) as socket:
        # A name of its own, as each client of the older relay had to have.
        name = secrets.token_hex(6)
        await socket.send(json.dumps({"type": "subscribe", "topics": [topic], "client_id": name}))
        while len(received) < TOTAL:
            frame = json.loads(await socket.recv())
            if frame["type"] == "subscribed":
                is_ready.set()
            else:
                assert frame["type"] == "message", frame
                received.append((frame["message_id"], frame["payload"]))
    return received


def _by_stream(relay: RunningWorker, topic: str, is_ready: threading.Event) -> Received:
    received: Received = []
    address = f"{relay.url}/api/v1/stream"
    with requests.get(address, params={"topics": topic}, stream=True, timeout=WAIT_SECONDS) as answer:
        name = ""
        for line in answer.iter_lines(chunk_size=None):
            if line.startswith(b"event: "):
                name = line[7:].decode()
            elif line.startswith(b"data: ") and name == "subscribed":
                is_ready.set()
            elif line.startswith(b"data: "):
                assert name == "message", line
                message = json.loads(line[6:])
                received.append((message["message_id"], message["payload"]))
                if len(received) == TOTAL:
                    break
    return received


def _by_poll_with_cursor(relay: RunningWorker, topic: str, is_ready: threading.Event) -> Received:
    received: Received = []
    cursors = {topic: "0-0"}
    with requests.Session() as session:
        while len(received) < TOTAL:
            is_ready.set()
            body = {"topics": [topic], "since": cursors, "timeout": 30.0, "limit": 17}
            answer = session.post(f"{relay.url}/messages/poll", json=body, timeout=WAIT_SECONDS + 10).json()
            received += [(message["message_id"], message["payload"]) for message in answer["messages"]]
            cursors = answer["cursors"]
    return received


def _by_poll_with_cookie(relay: RunningWorker, topic: str, is_ready: threading.Event) -> Received:
    """A client that never says where it is: its HTTP library sends the cookie back."""
    received: Received = []
    with requests.Session() as session:
        body = {"topics": [topic], "timeout": 1}
        assert (
            session.post(f"{relay.url}/messages/poll", json=body, timeout=WAIT_SECONDS).json()["messages"]
            == []
        )
        is_ready.set()
        while len(received) < TOTAL:
            body["timeout"] = 30
            answer = session.post(f"{relay.url}/messages/poll", json=body, timeout=WAIT_SECONDS + 10).json()
            received += [(message["message_id"], message["payload"]) for message in answer["messages"]]
    return received


def _by_websocket_in_thread(relay: RunningWorker, topic: str, is_ready: threading.Event) -> Received:
    return asyncio.run(asyncio.wait_for(_by_websocket(relay, topic, is_ready), WAIT_SECONDS * 2))


Receive = Callable[[RunningWorker, str, threading.Event], Received]
TRANSPORTS: list[Receive] = [_by_websocket_in_thread, _by_stream, _by_poll_with_cursor, _by_poll_with_cookie]


def test_every_subscriber_sees_every_message_of_eight_producers_once_in_id_order(
    relay: RunningWorker, topic: str
) -> None:
    receivers = [*TRANSPORTS, *TRANSPORTS]
    ready = [threading.Event() for _ in receivers]
    with ThreadPoolExecutor(len(receivers)) as pool:
        running = [
            pool.submit(receive, relay, topic, is_ready)
            for receive, is_ready in zip(receivers, ready, strict=True)
        ]
        for is_ready in ready:
            assert is_ready.wait(WAIT_SECONDS)
        published = _publish_all(relay.url, topic)
        results = [future.result(WAIT_SECONDS * 2) for future in running]

    expected = sorted(published.items(), key=lambda item: _order(item[0]))
    assert len(expected) == TOTAL
    for receive, received in zip(receivers, results, strict=True):
        assert received == expected, receive.__name__


@pytest.mark.parametrize("receive", TRANSPORTS[:3], ids=lambda receive: receive.__name__.strip("_"))
def test_a_producers_own_order_is_kept(relay: RunningWorker, topic: str, receive: Receive) -> None:
    is_ready = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        receiving = pool.submit(receive, relay, topic, is_ready)
        assert is_ready.wait(WAIT_SECONDS)
        _publish_all(relay.url, topic)
        received = receiving.result(WAIT_SECONDS * 2)
    for producer in range(PRODUCERS):
        numbers = [payload["number"] for _, payload in received if payload["producer"] == producer]
        assert numbers == list(range(MESSAGES))


def _run(awaitable: Awaitable[Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(awaitable, WAIT_SECONDS)

    return asyncio.run(bounded())


def test_a_subscriber_that_reconnects_with_its_cursor_misses_nothing(
    relay: RunningWorker, topic: str
) -> None:
    async def scenario() -> list[str]:
        received: list[str] = []
        cursor = "0-0"
        while len(received) < 40:
            async with connect(relay.ws_url) as socket:
                await socket.send(json.dumps({"type": "subscribe", "topics": [topic], "offset": cursor}))
                for _ in range(7 + 1):  # the confirmation, then seven messages, then gone without a word
                    frame = json.loads(await socket.recv())
                    if frame["type"] == "message":
                        cursor = frame["message_id"]
                        received.append(cursor)
                        if len(received) == 40:
                            break
                socket.transport.abort()
        return received

    published = []
    for number in range(40):
        answer = requests.post(
            f"{relay.url}/api/v1/messages", json={"topic": topic, "payload": number}, timeout=WAIT_SECONDS
        )
        published.append(answer.json()["message_id"])
    assert _run(scenario()) == published


def test_a_cursor_handed_out_at_subscribing_is_good_before_the_first_message(
    relay: RunningWorker, topic: str
) -> None:
    async def place() -> str:
        async with connect(relay.ws_url) as socket:
            await socket.send(json.dumps({"type": "subscribe", "topics": [topic]}))
            return str(json.loads(await socket.recv())["cursors"][topic])

    cursor = _run(place())
    body = {"topic": topic, "payload": "while nobody listened"}
    assert requests.post(f"{relay.url}/api/v1/messages", json=body, timeout=WAIT_SECONDS).status_code == 201
    poll = {"topics": [topic], "since": {topic: cursor}}
    answer = requests.post(f"{relay.url}/messages/poll", json=poll, timeout=WAIT_SECONDS).json()
    assert [message["payload"] for message in answer["messages"]] == ["while nobody listened"]
    assert "notices" not in answer
