"""Topics on the real runtime, in a loop, over a real Valkey: what only shows when time passes."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from thespian.actors import ActorExitRequest, ActorSystem

from actors.counters import Counters
from actors.directory import DirectoryActor
from actors.ports import Appended, Dedupe, Draft, Publish
from actors.protocol import (
    Census,
    CompareNow,
    DeleteTopic,
    Disconnect,
    Drained,
    Published,
    Refused,
    Start,
    StartDirectory,
    StartSubscriber,
    Subscribe,
    TakeCensus,
    TopicDeleted,
    Wanted,
)
from actors.runtime import AskFailed, AsyncioSystemBase
from actors.stream import Batch, HotLimits, MessageId
from actors.subscriber import SubscriberActor
from pulsar_relay.store.valkey import ValkeyStore
from tests.stand_ins import RecordingSink, make_limits
from tests.stores import OpenStore, Where, in_loop, open_store, until
from tests.valkeys import TIMEOUT_SCALE, RealValkey


class PoisonedStore:
    """A store whose `poison` next appends take effect, and are answered with nonsense. `on_append` is called
    as an append begins."""

    def __init__(self, store: ValkeyStore) -> None:
        self._store = store
        self.poison = 0
        self.on_append: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def append(self, topic: str, publishes: Sequence[Publish], floor: MessageId) -> Appended:
        self.on_append()
        appended = await self._store.append(topic, publishes, floor)
        if self.poison:
            self.poison -= 1
            return replace(appended, messages=[None] * len(appended.messages))  # type: ignore[list-item]
        return appended


@dataclass
class ActorsOnValkey:
    """One worker's actors."""

    opened: OpenStore
    store: PoisonedStore
    system: ActorSystem
    base: AsyncioSystemBase
    directory: Any
    counters: Counters
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def publish(self, *payloads: bytes, key: str | None = None) -> Published | Refused:
        dedupe = None if key is None else Dedupe(f"test:{key}", "body")
        drafts = tuple(Draft(payload) for payload in payloads)
        answer = await self.base.ask_soon(self.directory, Publish("t", drafts, dedupe), 20)
        assert isinstance(answer, Published | Refused)
        return answer

    async def publish_until_stored(self, payload: bytes) -> str:
        """As a producer does: again and again, with the same key."""
        while True:
            try:
                answer = await self.publish(payload, key=payload.decode())
            except AskFailed:
                continue
            if isinstance(answer, Published):
                return answer.ids[0]
            await asyncio.sleep(0.005)

    def subscribe(self, start: MessageId | Start = Start.EARLIEST) -> tuple[Any, RecordingSink]:
        sink = RecordingSink()
        subscriber = self.system.createActor(SubscriberActor)
        number = next(self.numbers)
        self.base.tell(
            subscriber,
            StartSubscriber(number, sink, self.directory, None, self.store, 50, False, self.counters),  # type: ignore[arg-type]
        )
        self.base.tell(subscriber, Subscribe((Wanted("t", start),)))
        return subscriber, sink

    async def census(self) -> Census:
        census = await self.base.ask_soon(self.directory, TakeCensus(), 20)
        assert isinstance(census, Census)
        return census

    async def until(self, condition: Callable[[Census], bool]) -> None:
        """Until the census says so."""
        deadline = time.monotonic() + 10 * TIMEOUT_SCALE
        while not condition(await self.census()):
            assert time.monotonic() < deadline, "waited in vain"
            await asyncio.sleep(0.002)

    async def live(self, count: int) -> None:
        """Until so many are."""
        await self.until(lambda census: census.subscribers.get("t", 0) == count)

    async def stored(self) -> list[str]:
        return [message.id_text for message in await self.opened.all_messages("t")]

    @property
    def topic(self) -> Any:
        return self.directory.instance._topics["t"].address


@asynccontextmanager
async def actors_on(
    where: str, *, tick_seconds: float = 15.0, compare_seconds: float = 0.5, **limits: Any
) -> AsyncIterator[ActorsOnValkey]:
    async with open_store(where, publish_deadline_seconds=15.0) as opened:
        base = AsyncioSystemBase()
        system = ActorSystem(systemBase=base, transientUnique=True)
        directory = system.createActor(DirectoryActor)
        counters = Counters()
        store = PoisonedStore(opened.store)
        start = StartDirectory(
            store,  # type: ignore[arg-type]
            make_limits(**limits),
            lambda: time.time_ns() // 1_000_000,
            counters,
            tick_seconds,
            compare_seconds,
        )
        base.tell(directory, start)
        opened.feed.start(
            lambda fed: base.tell(directory, fed),
            lambda topics: base.tell(directory, CompareNow(topics)),
            lambda client_id, generation: None,
        )
        await until(lambda: opened.feed.is_connected)
        try:
            yield ActorsOnValkey(opened, store, system, base, directory, counters)
        finally:
            system.shutdown()


def assert_told_nothing(sink: RecordingSink) -> None:
    assert not sink.notices and not sink.entries("failed")


@in_loop
async def test_a_burst_of_publishes_becomes_few_appends(where: Where) -> None:
    async with actors_on(where) as worker:
        answers = await asyncio.gather(*(worker.publish(b"%d" % number) for number in range(100)))
        assert worker.counters.append_batches <= 3
        assert [answer.ids[0] for answer in answers] == await worker.stored()  # type: ignore[union-attr]


@in_loop
async def test_subscribers_of_two_workers_see_the_messages_of_both_once_in_order(where: Where) -> None:
    async with actors_on(where) as one, actors_on(where) as other:
        sinks = [one.subscribe()[1], other.subscribe()[1]]
        await one.publish_until_stored(b"first")
        sinks += [one.subscribe()[1], other.subscribe()[1]]
        await asyncio.gather(
            *(
                worker.publish(b"x" * (size if number % 7 else 9000))
                for number in range(50)
                for worker, size in ((one, 10), (other, 20))
            )
        )
        stored = await one.stored()
        await until(lambda: all(len(sink.ids) >= len(stored) for sink in sinks))
        for sink in sinks:
            assert sink.ids == stored
            assert_told_nothing(sink)


@in_loop
async def test_a_topic_that_fails_answers_everybody_and_appends_nothing_twice(where: Where) -> None:
    async with actors_on(where, batch_max_messages=3) as worker:
        _, sink = worker.subscribe()
        await worker.publish_until_stored(b"first")
        worker.store.poison = 2
        attempts = [worker.publish(b"%d" % number) for number in range(10)]
        answers = await asyncio.gather(*attempts, return_exceptions=True)
        assert Counter(map(type, answers)) != Counter({Published: 10}), "two appends of it were poisoned"
        assert all(isinstance(answer, Published | Refused | AskFailed) for answer in answers)
        ids = [await worker.publish_until_stored(b"again-%d" % number) for number in range(10)]
        await until(lambda: ids[-1] in sink.ids)
        stored = await worker.stored()
        payloads = [message.payload for message in await worker.opened.all_messages("t")]
        assert len(set(payloads)) == len(payloads)
        assert sink.ids == stored, "no gap, nothing twice"
        assert_told_nothing(sink)
        assert worker.counters.topics_failed >= 1 and worker.store.poison == 0
        counted = worker.counters
        assert counted.order_inversions == counted.duplicates == counted.unannounced_gaps == 0


@in_loop
async def test_producers_with_keys_store_each_message_once_over_failures_of_the_topic(where: Where) -> None:
    async with actors_on(where, batch_max_messages=5) as worker:
        _, sink = worker.subscribe()

        async def produce(producer: int) -> list[str]:
            return [await worker.publish_until_stored(b"%d-%d" % (producer, number)) for number in range(20)]

        producing = asyncio.gather(*(produce(producer) for producer in range(8)))
        for _ in range(3):
            worker.store.poison = 1
            await until(lambda: worker.store.poison == 0)
        acknowledged = [message_id for ids in await producing for message_id in ids]
        messages = await worker.opened.all_messages("t")
        assert sorted(message.payload for message in messages) == sorted(
            b"%d-%d" % (producer, number) for producer in range(8) for number in range(20)
        )
        assert set(acknowledged) == {message.id_text for message in messages}
        await until(lambda: len(sink.ids) >= len(messages))
        assert sink.ids == [message.id_text for message in messages]
        assert_told_nothing(sink)


@in_loop
async def test_a_topic_stopped_with_ten_publishes_in_its_mailbox_is_ten_answers(where: Where) -> None:
    async with actors_on(where) as worker:
        _, sink = worker.subscribe()
        await worker.publish_until_stored(b"first")
        asks = []
        for number in range(10):
            if number == 5:
                worker.base.tell(worker.topic, ActorExitRequest())
            asks.append(worker.base.ask_soon(worker.topic, Publish("t", (Draft(b"x"),)), 20))
        answers = await asyncio.gather(*asks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Refused] * 5 + [AskFailed] * 5
        assert len(await worker.stored()) == 1, "what was refused is not appended"
        last = await worker.publish_until_stored(b"last")
        await until(lambda: last in sink.ids)
        assert sink.ids == await worker.stored()
        assert_told_nothing(sink)


@in_loop
async def test_a_stopping_worker_answers_everybody_who_waits(where: Where) -> None:
    async with actors_on(where) as worker:
        worker.subscribe()
        asks = [worker.base.ask_soon(worker.directory, Publish("t", (Draft(b"x"),)), 20) for _ in range(10)]
        worker.system.shutdown()
        answers = await asyncio.gather(*asks, return_exceptions=True)
        assert all(isinstance(answer, Published | Refused | AskFailed) for answer in answers)


@in_loop
async def test_a_topic_nobody_uses_leaves_memory_and_comes_back(where: Where) -> None:
    async with actors_on(where, tick_seconds=0.005, idle_ticks=2) as worker:
        first = await worker.publish_until_stored(b"1")
        await worker.until(lambda census: not census.open_topics)
        assert not worker.opened.feed._topics
        second = await worker.publish_until_stored(b"2")
        assert await worker.stored() == [first, second]
        _, sink = worker.subscribe()
        await until(lambda: sink.ids == [first, second])


@in_loop
async def test_publishing_and_retiring_at_the_same_time_lose_nothing(where: Where) -> None:
    async with actors_on(where, tick_seconds=0.001, idle_ticks=1) as worker:
        ids = []
        for number in range(200):
            ids.append(await worker.publish_until_stored(b"%d" % number))
            if number % 3 == 0:
                await asyncio.sleep(0.002)  # time enough to retire, now and then
        assert ids == await worker.stored()
        assert worker.counters.topics_failed == 0


@in_loop
async def test_what_the_feed_loses_with_its_connection_is_delivered(
    valkey: str, valkey_server: RealValkey
) -> None:
    async with actors_on(valkey, compare_seconds=3600) as one, actors_on(valkey) as other:
        _, sink = one.subscribe(Start.LATEST)
        await one.live(1)
        for number in range(30):
            if number in (5, 15, 25):
                valkey_server.command("CLIENT", "KILL", "TYPE", "pubsub")
            await other.publish_until_stored(b"%d" % number)
        await until(lambda: len(sink.ids) == 30)
        assert sink.ids == await one.stored()
        assert_told_nothing(sink)


@in_loop
async def test_a_slow_subscriber_holds_up_nobody_and_loses_nothing(where: Where) -> None:
    async with actors_on(where, hot=HotLimits(20, 1 << 20, 3_600_000)) as worker:
        slow, slow_sink = worker.subscribe(Start.LATEST)
        _, fast_sink = worker.subscribe(Start.LATEST)
        await worker.live(2)
        slow_sink.is_full = True
        for number in range(100):
            await worker.publish_until_stored(b"%d" % number)
        await until(lambda: len(fast_sink.ids) == 100)
        assert len(slow_sink.batches) == 1 and worker.counters.lagging_subscribers == 1
        slow_sink.is_full = False
        worker.base.tell(slow, Drained())
        await until(lambda: len(slow_sink.ids) == 100)
        assert slow_sink.ids == fast_sink.ids == await worker.stored()
        assert_told_nothing(slow_sink)
        await worker.live(2)
        assert worker.counters.lagging_subscribers == 0


@in_loop
async def test_a_long_backlog_leaves_others_their_turn(where: Where) -> None:
    """Who catches up and never is slow must not keep a publish waiting until it has all."""
    async with actors_on(where, hot=HotLimits(30_000, 1 << 30, 3_600_000)) as worker:
        for _ in range(20):
            await worker.publish(*[b"x"] * 1000)
        _, sink = worker.subscribe()
        asked: list[asyncio.Future[Any]] = []
        delivered_at_append: list[int] = []
        deliver = sink.deliver

        def deliver_and_publish(batch: Batch) -> bool:
            if not asked:
                publish = Publish("t", (Draft(b"while it catches up"),))
                asked.append(worker.base.ask_soon(worker.directory, publish, 20))
            return deliver(batch)

        sink.deliver = deliver_and_publish  # type: ignore[method-assign]
        worker.store.on_append = lambda: delivered_at_append.append(sum(map(len, sink.batches)))
        await until(lambda: sum(map(len, sink.batches)) == 20_001)
        assert delivered_at_append[0] < 10_000, "pages of 50, and the publish between the first of them"
        assert isinstance(await asked[0], Published)


@in_loop
async def test_a_deleted_topic_begins_again_above_its_last_id(where: Where) -> None:
    async with actors_on(where) as one, actors_on(where) as other:
        first = await one.publish_until_stored(b"1")
        sinks = [worker.subscribe()[1] for worker in (one, other)]
        await until(lambda: all(sink.ids == [first] for sink in sinks))
        deleted = await one.base.ask_soon(one.directory, DeleteTopic("t"), 20)
        assert deleted == TopicDeleted("t", existed=True)
        assert await one.stored() == []
        second = await one.publish_until_stored(b"2")
        assert MessageId.parse(second) > MessageId.parse(first)
        await until(lambda: all(sink.ids == [first, second] for sink in sinks))


@in_loop
async def test_subscribers_that_come_and_go_leave_nothing_behind(where: Where) -> None:
    async with actors_on(where) as worker:
        await worker.publish_until_stored(b"1")
        subscribers = [worker.subscribe(Start.EARLIEST if n % 2 else Start.LATEST)[0] for n in range(50)]
        for number, subscriber in enumerate(subscribers):
            if number % 5 == 0:
                await asyncio.sleep(0)
            worker.base.tell(subscriber, Disconnect())
        await until(lambda: worker.base.actors_alive == 2)
        await until(lambda: len(worker.topic.instance._audience) == 0)


@pytest.mark.faults
@in_loop
async def test_messages_survive_a_valkey_that_is_killed_and_comes_back(
    make_valkey: Callable[..., RealValkey],
) -> None:
    server = make_valkey().start()
    async with actors_on(server.socket_path) as one, actors_on(server.socket_path) as other:
        sinks = [one.subscribe()[1], other.subscribe()[1]]

        async def produce(worker: ActorsOnValkey, producer: int) -> None:
            for number in range(60):
                await worker.publish_until_stored(b"%d-%d" % (producer, number))

        producing = asyncio.gather(*(produce(one if n % 2 else other, n) for n in range(6)))
        for _ in range(2):
            count = len(sinks[0].ids)
            await until(lambda count=count: len(sinks[0].ids) > count + 20)
            server.kill()
            await asyncio.sleep(0)
            server.start()
        await producing
        messages = await one.opened.all_messages("t")
        assert len(messages) == len({message.payload for message in messages}) == 360
        stored = [message.id_text for message in messages]
        await until(lambda: all(len(sink.ids) >= len(stored) for sink in sinks))
        for sink in sinks:
            assert sink.ids == stored
            assert_told_nothing(sink)
