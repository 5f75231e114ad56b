"""Relay: where `await` meets actor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from actors.ports import Dedupe, Description, Draft, HistoryPage
from actors.protocol import Census, Published
from pulsar_relay.errors import RelayError
from pulsar_relay.relay import Relay
from pulsar_relay.server import topic_limits
from pulsar_relay.settings import Settings, StorageSettings, ValkeySettings
from pulsar_relay.store.client import make_client
from pulsar_relay.store.feed import Feed
from pulsar_relay.store.valkey import ValkeyStore

Scenario = Callable[[Relay], Awaitable[Any]]


@pytest.fixture
def run(valkey: str) -> Callable[[Scenario], Any]:
    """Runs a scenario against a started relay, on a loop of its own."""

    async def bounded(scenario: Scenario) -> Any:
        client = make_client(ValkeySettings(), valkey)
        feed = Feed(client, "test", 2.0)
        store = ValkeyStore(client, feed, "test", StorageSettings())
        relay = Relay(
            store,
            store,
            topic_limits(Settings()),
            lambda: time.time_ns() // 1_000_000,
            tick_seconds=30.0,
            compare_seconds=5.0,
            page_max_messages=100,
        )
        relay.start()
        feed.start(relay.take_news, relay.compare_now)
        try:
            async with asyncio.timeout(20):
                return await scenario(relay)
        finally:
            relay.stop()
            await feed.stop()
            await store.close()

    return lambda scenario: uvloop.run(bounded(scenario))


def test_a_publish_returns_the_ids_of_its_drafts_in_order(run: Callable[[Scenario], Any]) -> None:
    async def scenario(relay: Relay) -> tuple[Published, HistoryPage]:
        published = await relay.publish("t", [Draft(b"1"), Draft(b"2"), Draft(b"3")])
        return published, await relay.history("t", None, 10, descends=False)

    published, page = run(scenario)
    assert [message.id_text for message in page.messages] == list(published.ids)
    assert [message.payload for message in page.messages] == [b"1", b"2", b"3"]


def test_publishes_with_one_key_at_the_same_time_are_one(run: Callable[[Scenario], Any]) -> None:
    async def scenario(relay: Relay) -> tuple[list[Published], Description]:
        dedupe = Dedupe("-:key", "digest")
        published = await asyncio.gather(*(relay.publish("t", [Draft(b"1")], dedupe) for _ in range(20)))
        return published, await relay.describe("t")

    published, description = run(scenario)
    assert len({one.ids for one in published}) == 1
    assert sum(not one.is_replay for one in published) == 1
    assert description.length == 1


def test_the_same_key_with_another_body_is_refused(run: Callable[[Scenario], Any]) -> None:
    async def scenario(relay: Relay) -> str:
        await relay.publish("t", [Draft(b"1")], Dedupe("-:key", "one"))
        with pytest.raises(RelayError) as refused:
            await relay.publish("t", [Draft(b"2")], Dedupe("-:key", "another"))
        return refused.value.code

    assert run(scenario) == "idempotency_conflict"


def test_a_cancelled_publish_harms_no_other(run: Callable[[Scenario], Any]) -> None:
    async def scenario(relay: Relay) -> list[bytes]:
        given_up = asyncio.ensure_future(relay.publish("t", [Draft(b'"given up"')]))
        await asyncio.sleep(0)
        given_up.cancel()
        await relay.publish("t", [Draft(b'"kept"')])
        page = await relay.history("t", None, 10, descends=False)
        return [message.payload for message in page.messages]

    assert run(scenario)[-1] == b'"kept"'


def test_what_is_not_there_is_not_found(run: Callable[[Scenario], Any]) -> None:
    async def scenario(relay: Relay) -> list[str]:
        codes = []
        for question in (relay.describe("nothing"), relay.delete("nothing")):
            with pytest.raises(RelayError) as refused:
                await question
            codes.append(refused.value.code)
        return codes

    assert run(scenario) == ["topic_not_found"] * 2


def test_a_stopping_relay_takes_no_more(run: Callable[[Scenario], Any]) -> None:
    async def scenario(relay: Relay) -> str:
        relay.is_accepting = False
        with pytest.raises(RelayError) as refused:
            await relay.publish("t", [Draft(b"1")])
        return refused.value.code

    assert run(scenario) == "shutting_down"


def test_reading_history_opens_no_topic_and_publishing_does(run: Callable[[Scenario], Any]) -> None:
    async def scenario(relay: Relay) -> tuple[Census, Census]:
        for number in range(50):
            await relay.history(f"nothing-{number}", None, 10, descends=True)
        before = await relay.census()
        await relay.publish("t", [Draft(b"1")])
        return before, await relay.census()

    before, after = run(scenario)
    assert (before.open_topics, after.open_topics) == (0, 1)
