"""Relay: where `await` meets actor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from actors.archive import ArchiveActor
from actors.ports import Dedupe, Description, Draft, HistoryPage
from actors.protocol import Census, Describe, Published, Start, Subscribe, Wanted
from actors.stream import Batch, MessageId
from pulsar_relay.errors import RelayError
from pulsar_relay.relay import Relay
from pulsar_relay.server import topic_limits
from pulsar_relay.settings import Settings, StorageSettings, ValkeySettings
from pulsar_relay.store.client import make_client
from pulsar_relay.store.feed import Feed
from pulsar_relay.store.valkey import ValkeyStore
from tests.valkeys import RealValkey

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
        feed.start(relay.take_news, relay.compare_now, relay.take_claim)
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


class RecordingSink:
    """Keeps what a subscriber is given."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    def subscribed(self, cursors: Any, epochs: Any, ref: object) -> None:
        self.heard.put_nowait(("subscribed", cursors))

    def deliver(self, batch: Batch) -> bool:
        self.heard.put_nowait(("deliver", [message.payload for message in batch.messages]))
        return False

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.heard.put_nowait((name, arguments))


def test_a_subscriber_is_there_from_open_to_disconnect_and_leaves_nothing(
    run: Callable[[Scenario], Any],
) -> None:
    async def scenario(relay: Relay) -> None:
        await relay.publish("t", [Draft(b"1")])
        actors = len(relay.base.population.cells)
        sinks = [RecordingSink() for _ in range(100)]
        subscribers = [relay.open_subscriber(sink, "sse") for sink in sinks]
        assert relay.connections["sse"] == 100
        for subscriber in subscribers:
            subscriber.tell(Subscribe((Wanted("t", Start.LATEST),)))
        for sink in sinks:
            assert (await sink.heard.get())[0] == "subscribed"
        await relay.publish("t", [Draft(b"2")])
        for sink in sinks:
            assert await sink.heard.get() == ("deliver", [b"2"])
        for subscriber in subscribers:
            subscriber.disconnect()
            subscriber.disconnect()
            subscriber.tell(Subscribe((Wanted("t", Start.EARLIEST),)))
        assert relay.connections["sse"] == 0
        await relay.publish("t", [Draft(b"3")])
        assert (await relay.census()).subscribers == {}
        assert all(sink.heard.empty() for sink in sinks)
        assert len(relay.base.population.cells) == actors
        assert relay.counters.messages_delivered == 100

    run(scenario)


class SlowSink(RecordingSink):
    """Takes its time, and notes the payloads and the turn of the loop in which they came."""

    turn = 0

    def __init__(self) -> None:
        super().__init__()
        self.payloads: list[bytes] = []
        self.turns: list[int] = []

    def deliver(self, batch: Batch) -> bool:
        ends = time.perf_counter() + 20e-6
        while time.perf_counter() < ends:
            pass
        self.payloads += [message.payload for message in batch.messages]
        self.turns.append(SlowSink.turn)
        return False


def test_a_fan_out_to_very_many_lets_the_loop_turn_and_keeps_the_order(
    run: Callable[[Scenario], Any],
) -> None:
    async def count_turns() -> None:
        while True:
            SlowSink.turn += 1
            await asyncio.sleep(0)

    async def scenario(relay: Relay) -> None:
        await relay.publish("t", [Draft(b"0")])
        sinks = [SlowSink() for _ in range(1000)]
        subscribers = [relay.open_subscriber(sink, "sse") for sink in sinks]
        for subscriber in subscribers:
            subscriber.tell(Subscribe((Wanted("t", Start.LATEST),)))
        for sink in sinks:
            assert (await sink.heard.get())[0] == "subscribed"
        while (await relay.census()).subscribers.get("t") != len(sinks):  # noqa: ASYNC110
            await asyncio.sleep(0)
        counting = asyncio.create_task(count_turns())
        expected = [b"%d" % number for number in range(1, 20)]
        for payload in expected:
            await relay.publish("t", [Draft(payload)])
        while relay.counters.messages_delivered < len(expected) * len(sinks):  # noqa: ASYNC110
            await asyncio.sleep(0)
        counting.cancel()
        assert all(sink.payloads == expected for sink in sinks)
        # Twenty milliseconds of work, in bursts of two.
        assert len({sink.turns[0] for sink in sinks}) >= 5
        assert relay.counters.messages_delivered == len(expected) * len(sinks)
        for subscriber in subscribers:
            subscriber.disconnect()

    run(scenario)


def test_a_poll_that_was_answered_has_ended_and_is_sent_nothing_more(run: Callable[[Scenario], Any]) -> None:
    async def scenario(relay: Relay) -> None:
        sink = RecordingSink()
        subscriber = relay.open_subscriber(sink, "poll", completes=True)
        subscriber.tell(Subscribe((Wanted("t", Start.EARLIEST),)))
        await relay.publish("t", [Draft(b"1")])
        assert await sink.heard.get() == ("deliver", [b"1"])
        assert (await sink.heard.get())[0] == "complete"
        await asyncio.sleep(0)
        subscriber.disconnect()
        assert (await relay.census()).subscribers == {}
        assert relay.connections["poll"] == relay.base.dead_letters == 0

    run(scenario)


def test_newest_is_where_a_topic_ends_and_what_follows_it_comes_after(run: Callable[[Scenario], Any]) -> None:
    async def scenario(relay: Relay) -> None:
        published = await relay.publish("a", [Draft(b"1"), Draft(b"2")])
        newest = await relay.newest(["a", "never"])
        assert {topic: str(place) for topic, place in newest.items()} == {
            "a": published.ids[-1],
            "never": "0-0",
        }
        after = await relay.publish("a", [Draft(b"3")])
        assert MessageId.parse(after.ids[0]) > newest["a"]
        assert await relay.newest([]) == {}

    run(scenario)


def test_newest_is_silent_about_what_cannot_be_found_out(make_valkey: Callable[..., RealValkey]) -> None:
    async def scenario() -> None:
        server = make_valkey()
        server.start()
        client = make_client(ValkeySettings(connect_timeout_seconds=0.2), server.socket_path)
        server.stop()
        feed = Feed(client, "test", 0.2)
        store = ValkeyStore(client, feed, "test", StorageSettings())
        relay = Relay(
            store,
            store,
            topic_limits(Settings()),
            lambda: 0,
            tick_seconds=30.0,
            compare_seconds=5.0,
            page_max_messages=100,
        )
        relay.start()
        assert await relay.newest(["a", "b"]) == {}
        relay.stop()
        await store.close()

    uvloop.run(asyncio.wait_for(scenario(), 20))


def test_who_asks_while_the_relay_stops_is_told_so(run: Callable[[Scenario], Any]) -> None:
    async def scenario(relay: Relay) -> list[str]:
        asked = [
            asyncio.ensure_future(question)
            for question in (relay.publish("t", [Draft(b"1")]), relay.describe("t"), relay.topics("", 10))
        ]
        await asyncio.sleep(0)
        relay.is_accepting = False
        relay.stop()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return [answer.code for answer in answers if isinstance(answer, RelayError)]

    assert run(scenario) == ["shutting_down"] * 3


def test_a_failed_actor_is_an_internal_error_to_who_asked(
    run: Callable[[Scenario], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ArchiveActor, message: Any) -> None:
        raise ZeroDivisionError("a secret")

    async def scenario(relay: Relay) -> RelayError:
        await relay.publish("t", [Draft(b"1")])
        with monkeypatch.context() as patch:
            patch.setitem(ArchiveActor._questions, Describe, fail)
            with pytest.raises(RelayError) as refused:
                await relay.describe("t")
        # It hurts who asked, and nobody after.
        assert (await relay.describe("t")).length == 1
        assert len(relay.base.population.cells) == 4  # the directory, its topic, the archive, the claims
        return refused.value

    error = run(scenario)
    assert error.code == "internal_error"
    assert "secret" not in error.message
