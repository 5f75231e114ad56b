"""Acknowledger: one request at a time, the newest cursors in each, until they are stored."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from pulsar_relay.client.acknowledger import Acknowledger
from pulsar_relay.client.address import Address
from pulsar_relay.client.backoff import Backoff
from pulsar_relay.client.errors import ClientError, LostError, RefusedError
from tests.conditions import WAIT_SECONDS, until_in_loop


class ScriptedHttp:
    """Each request waits until the test answers it."""

    def __init__(self) -> None:
        self.address = Address("http://relay")
        self.requests: list[tuple[str, dict[str, str], asyncio.Future[None]]] = []

    async def request(self, method: str, url: str, *, body: bytes, timeout_seconds: float) -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.requests.append((f"{method} {url}", json.loads(body)["cursors"], answer))
        await answer

    async def answer(self, number: int, error: ClientError | None = None) -> dict[str, str]:
        """Answer the request with this number, as soon as there is one; what it said."""
        await until_in_loop(lambda: len(self.requests) > number, f"request {number}")
        _, cursors, answer = self.requests[number]
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)
        return cursors


def run(scenario: Any) -> list[ClientError]:
    """Run a scenario beside an acknowledger's `run`; what interrupted it."""
    interruptions: list[ClientError] = []

    async def beside() -> None:
        http = ScriptedHttp()
        acknowledger = Acknowledger(
            http,  # type: ignore[arg-type]  # of its requests one is enough
            "a/b",
            backoff=Backoff(),
            on_interruption=lambda error, seconds: interruptions.append(error),
        )
        running = asyncio.create_task(acknowledger.run())
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await scenario(http, acknowledger, running)
        finally:
            running.cancel()

    asyncio.run(beside())
    return interruptions


def test_what_is_noted_while_a_request_is_under_way_goes_with_the_next() -> None:
    async def scenario(http: ScriptedHttp, acknowledger: Acknowledger, _running: Any) -> None:
        acknowledger.note("t", "1-1")
        await until_in_loop(lambda: http.requests, "a request")
        for number in range(2, 9):
            acknowledger.note("t", f"1-{number}")
        acknowledger.note("u", "5-1")
        assert len(http.requests) == 1
        assert await http.answer(0) == {"t": "1-1"}
        assert await http.answer(1) == {"t": "1-8", "u": "5-1"}
        assert http.requests[0][0] == "POST http://relay/api/v1/consumers/a%2Fb/ack"
        acknowledger.note("u", "5-2")
        assert await http.answer(2) == {"u": "5-2"}

    assert run(scenario) == []


def test_what_was_not_stored_is_said_again() -> None:
    lost = LostError("cut")

    async def scenario(http: ScriptedHttp, acknowledger: Acknowledger, _running: Any) -> None:
        acknowledger.note("t", "1-1")
        await http.answer(0, lost)
        assert await http.answer(1) == {"t": "1-1"}

    assert run(scenario) == [lost]


def test_what_trying_again_does_not_cure_ends_it() -> None:
    async def scenario(http: ScriptedHttp, acknowledger: Acknowledger, running: Any) -> None:
        acknowledger.note("t", "1-1")
        await http.answer(0, RefusedError("ahead_of_stream", "no", is_retryable=False))
        with pytest.raises(RefusedError):
            await running

    assert run(scenario) == []


def test_at_the_end_what_is_left_is_said_and_nothing_else() -> None:
    async def scenario(http: ScriptedHttp, acknowledger: Acknowledger, running: Any) -> None:
        await acknowledger.finish()
        assert http.requests == []
        running.cancel()
        acknowledger.note("t", "1-1")
        finishing = asyncio.create_task(acknowledger.finish())
        assert await http.answer(0) == {"t": "1-1"}
        await finishing
        await acknowledger.finish()
        assert len(http.requests) == 1

    assert run(scenario) == []
