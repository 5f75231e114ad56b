"""TopicActor: what it keeps in step, what it gives back, and how it ends."""

from __future__ import annotations

from typing import Any

import pytest
from thespian.actors import ActorExitRequest

from actors.counters import Counters
from actors.memory import FILL_MESSAGES, TopicMemory
from actors.ports import Appended, Draft, Position, Publish
from actors.protocol import (
    Compared,
    DeleteTopic,
    Delivered,
    Evicted,
    Fetch,
    FetchFailed,
    FollowingChanged,
    HotSize,
    Idle,
    Locate,
    Located,
    Published,
    Refused,
    Retire,
    ShrinkHot,
    Tick,
    TopicDeleted,
    WentLive,
)
from actors.stream import BEGINNING, MESSAGE_OVERHEAD_BYTES, HotLimits
from actors.topic import FILL_RETRY_SECONDS, REPORTED_BYTES, TopicActor
from tests.scripted_store import START_MS, ModelStream, ScriptedStore, id_texts, nth
from tests.stand_ins import ManualClock, Outsider, PoisonedError, StandInSystem, start_topic


class Bench:
    """A topic over a stream, with one subscriber that can be made live."""

    def __init__(self, messages: int = 0, **arguments: Any) -> None:
        self.system = StandInSystem()
        self.stream = ModelStream()
        if messages:
            self.stream.add(*(b"%d" % n for n in range(1, messages + 1)))
        self.store = ScriptedStore(self.stream)
        self.counters = Counters()
        self.clock = ManualClock()
        self.directory = Outsider("directory")
        self.subscriber = Outsider("subscriber")
        self.topic = start_topic(
            self.system,
            self.store,
            directory=self.directory,
            clock=self.clock,
            counters=self.counters,
            **arguments,
        )

    def go_live(self) -> None:
        self.fetch(self.subscriber, self.stream.newest)
        self.system.settle()
        assert self.subscriber.take(WentLive)

    def fetch(self, subscriber: Outsider, cursor: Any, ticket: int = 1) -> None:
        self.topic.tell(Fetch("t", 1, ticket, cursor, 1000, proves=True), subscriber)

    def publish(self, *payloads: bytes) -> Outsider:
        publisher = Outsider("publisher")
        self.topic.tell(Publish("t", tuple(map(Draft, payloads or (b"x",)))), publisher)
        return publisher

    def published(self, *payloads: bytes) -> None:
        self.publish(*payloads)
        self.topic.work("append").finish()
        self.system.run()

    def elsewhere(self, *payloads: bytes, is_heard: bool = True, is_inline: bool = True) -> None:
        """Another worker appends."""
        self.stream.is_inline = is_inline
        self.stream.add(*payloads)
        if is_heard:
            self.topic.tell(self.stream.announced[-1][1])

    def delivered(self) -> list[str]:
        return [text for one in self.subscriber.take(Delivered) for text in id_texts(one.batch.messages)]

    def compare(self) -> None:
        self.topic.tell(Compared("t", self.stream.position()))

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.topic.tell(Tick())

    @property
    def memory(self) -> TopicMemory:
        actor = self.topic.actor
        assert isinstance(actor, TopicActor)
        return actor._memory


# In step with the stream


def test_a_topic_follows_the_feed_from_its_first_reader_on() -> None:
    bench = Bench(3)
    bench.publish()
    bench.system.settle()
    assert not bench.store.followed
    bench.go_live()
    assert bench.store.followed == {"t"}
    assert bench.directory.take(FollowingChanged) == [FollowingChanged("t", True)]


def test_appends_of_other_workers_are_delivered_between_our_own() -> None:
    bench = Bench(2)
    bench.go_live()
    bench.published(b"3")
    bench.elsewhere(b"4")
    bench.published(b"5")
    assert bench.delivered() == bench.stream.ids(2)


def test_an_own_append_answered_before_the_feed_brings_the_one_before_it_is_delivered_after_it() -> None:
    bench = Bench(2)
    bench.go_live()
    bench.elsewhere(b"3", is_heard=False)
    bench.published(b"4")
    assert not bench.delivered()
    bench.topic.tell(bench.stream.announced[-2][1])
    bench.system.settle()
    assert bench.delivered() == bench.stream.ids(2)


def test_a_lost_announcement_is_repaired_by_the_next() -> None:
    bench = Bench(2)
    bench.go_live()
    bench.elsewhere(b"3", is_heard=False)
    bench.elsewhere(b"4")
    bench.system.settle()
    assert bench.delivered() == bench.stream.ids(2)


def test_a_lost_announcement_that_is_the_last_is_repaired_by_a_comparison() -> None:
    bench = Bench(2)
    bench.go_live()
    bench.elsewhere(b"3", is_heard=False)
    bench.compare()
    bench.system.settle()
    assert bench.delivered() == bench.stream.ids(2)


def test_a_doubled_announcement_is_delivered_once() -> None:
    bench = Bench(2)
    bench.go_live()
    bench.elsewhere(b"3")
    bench.topic.tell(bench.stream.announced[-1][1])
    bench.system.settle()
    assert bench.delivered() == bench.stream.ids(2)


def test_an_announcement_that_carries_no_messages_has_them_read() -> None:
    bench = Bench(2)
    bench.go_live()
    bench.elsewhere(b"3", b"4", is_inline=False)
    bench.system.settle()
    assert bench.delivered() == bench.stream.ids(2)


def test_an_announcement_while_the_topic_joins_is_not_lost() -> None:
    bench = Bench(2)
    bench.fetch(bench.subscriber, nth(2))
    following = bench.topic.work("follow")
    following.run()
    bench.elsewhere(b"3", is_inline=False)
    following.finish()
    bench.system.settle()
    assert len(bench.subscriber.take(WentLive)) == 1
    assert bench.delivered() == bench.stream.ids(2)


def test_memory_is_filled_up_by_one_read_at_a_time() -> None:
    bench = Bench(2)
    bench.go_live()
    for number in range(3, 6):
        bench.elsewhere(b"%d" % number, is_inline=False)
    assert len(bench.topic.works) == 1
    bench.system.settle()
    assert bench.delivered() == bench.stream.ids(2)


def test_an_append_that_took_effect_though_it_failed_is_delivered() -> None:
    bench = Bench(2)
    bench.go_live()
    publisher = bench.publish(b"3")
    work = bench.topic.work("append")
    work.run()
    work.fail(is_outcome_unknown=True)
    bench.system.settle()
    assert publisher.received == [Refused("store_unavailable")]
    assert bench.delivered() == bench.stream.ids(2)


def test_a_read_that_fails_is_tried_again_after_ever_longer_pauses() -> None:
    bench = Bench(2)
    bench.go_live()
    bench.elsewhere(b"3", is_inline=False)
    pauses = []
    for _ in range(len(FILL_RETRY_SECONDS) + 1):
        bench.topic.work("read").fail()
        bench.system.run()
        (timer,) = bench.system.timers
        pauses.append(timer.seconds)
        bench.system.fire_timers()
    assert pauses == [*FILL_RETRY_SECONDS, FILL_RETRY_SECONDS[-1]]
    bench.system.settle()
    assert bench.delivered() == bench.stream.ids(2)


def test_the_store_is_not_asked_more_often_because_more_is_heard_while_it_is_away() -> None:
    bench = Bench(2)
    bench.go_live()
    bench.elsewhere(b"3", is_inline=False)
    bench.topic.work("read").fail()
    bench.system.run()
    for number in range(4, 9):
        bench.elsewhere(b"%d" % number)
        bench.compare()
    assert bench.topic.works == []
    bench.system.fire_timers()
    bench.system.settle()
    assert bench.delivered() == bench.stream.ids(2)


def test_a_topic_opened_a_little_behind_keeps_its_hot_buffer_and_fills_it_up() -> None:
    bench = Bench()
    bench.published(b"1")
    bench.elsewhere(b"2", is_heard=False)
    bench.go_live()
    assert id_texts(bench.memory.hot) == bench.stream.ids()


def test_a_topic_that_fills_up_first_tells_nobody_an_old_position() -> None:
    bench, asker = Bench(), Outsider()
    bench.published(b"1")
    bench.elsewhere(b"2", is_heard=False)
    bench.topic.tell(Locate("t", 1), asker)
    bench.topic.work("follow").finish()
    bench.system.run()
    assert not asker.received
    bench.system.settle()
    assert [located.newest for located in asker.take(Located)] == [nth(2)]


def test_a_read_that_fails_while_joining_is_told_to_those_who_wait() -> None:
    bench, asker = Bench(), Outsider()
    bench.published(b"1")
    bench.elsewhere(b"2", is_heard=False)
    bench.topic.tell(Locate("t", 1), asker)
    bench.fetch(bench.subscriber, nth(1))
    bench.topic.work("follow").finish()
    bench.system.run()
    bench.topic.work("read").fail()
    bench.system.run()
    assert asker.take(FetchFailed) and bench.subscriber.take(FetchFailed)
    bench.fetch(bench.subscriber, nth(1))
    bench.system.fire_timers()
    bench.system.settle()
    assert bench.delivered() == [] and len(bench.subscriber.received) == 1


def test_a_topic_opened_far_behind_does_not_read_it_all() -> None:
    bench = Bench()
    bench.published(b"1")
    bench.elsewhere(*(b"x" for _ in range(FILL_MESSAGES + 1)), is_heard=False)
    bench.go_live()
    assert not len(bench.memory.hot)


# Other histories


def test_live_subscribers_of_a_rewritten_stream_must_prove_their_cursor() -> None:
    bench = Bench(5)
    bench.go_live()
    bench.stream.lose(2)
    bench.compare()
    bench.system.settle()
    assert bench.subscriber.take(Evicted) == [Evicted("t")]
    assert bench.memory.newest == nth(3)


def test_live_subscribers_of_a_stream_that_only_seemed_to_lose_messages_stay_live() -> None:
    bench = Bench(5)
    bench.go_live()
    early = Compared("t", bench.stream.position())
    bench.published(b"6")
    bench.topic.tell(early)
    bench.system.settle()
    assert not bench.subscriber.take(Evicted)
    assert bench.delivered() == bench.stream.ids(5)


def test_our_own_append_to_a_store_that_lost_history_begins_another() -> None:
    bench = Bench(5)
    bench.go_live()
    bench.stream.lose(2)
    publisher = bench.publish(b"6")
    bench.system.settle()
    assert [type(answer) for answer in publisher.received] == [Published]
    assert bench.subscriber.take(Evicted)
    assert bench.memory.epoch == "epoch-2" and bench.memory.newest == bench.stream.newest > nth(6)


def test_a_late_announcement_of_a_past_history_moves_nobody() -> None:
    bench = Bench(5)
    bench.go_live()
    late = bench.stream.announced[-1][1]
    bench.stream.delete()
    bench.elsewhere(b"6")
    bench.system.settle()
    bench.subscriber.received.clear()
    bench.fetch(bench.subscriber, nth(6))
    assert bench.subscriber.take(WentLive)
    bench.topic.tell(late)
    bench.system.settle()
    assert not bench.subscriber.received and bench.memory.newest == nth(6)


# Deleting


def test_a_deleted_topic_serves_nothing_and_goes_on_above_its_last_id() -> None:
    bench, asker = Bench(), Outsider()
    bench.go_live()
    bench.published(b"1", b"2")
    bench.subscriber.received.clear()
    bench.topic.tell(DeleteTopic("t"), asker)
    bench.topic.work("delete").finish()
    bench.system.run()
    assert asker.received == [TopicDeleted("t", existed=True)]
    assert not bench.memory.covers(BEGINNING, proves=False, epoch=None)
    bench.system.settle()
    assert bench.subscriber.take(Evicted)
    bench.fetch(bench.subscriber, nth(2))
    assert bench.subscriber.take(WentLive)
    bench.published(b"3")
    assert bench.delivered() == [str(nth(3))]


def test_a_cold_topic_that_was_deleted_keeps_nothing() -> None:
    bench, asker = Bench(), Outsider()
    bench.published(b"1", b"2")
    bench.topic.tell(DeleteTopic("t"), asker)
    bench.system.settle()
    assert bench.memory.size_bytes == 0
    bench.published(b"3")
    assert id_texts(bench.memory.hot) == bench.stream.ids()


def test_deleting_while_a_read_is_under_way_is_not_undone_by_its_answer() -> None:
    bench, asker = Bench(3), Outsider()
    bench.go_live()
    bench.elsewhere(b"4", is_inline=False)
    reading = bench.topic.work("read")
    reading.run()
    bench.topic.tell(DeleteTopic("t"), asker)
    bench.topic.work("delete").finish()
    bench.system.run()
    reading.finish()
    bench.system.settle()
    assert bench.memory.epoch == "" and bench.memory.is_in_step
    assert bench.subscriber.take(Evicted)


@pytest.mark.parametrize(("code", "existed"), [(None, False), ("store_unavailable", None)])
def test_deleting_what_is_not_there_or_cannot_be_reached_is_answered(
    code: str | None, existed: bool | None
) -> None:
    bench, asker = Bench(), Outsider()
    bench.topic.tell(DeleteTopic("t"), asker)
    if code is None:
        bench.topic.work("delete").finish()
    else:
        bench.topic.work("delete").fail(code)
    bench.system.run()
    assert asker.received == [Refused(code) if code else TopicDeleted("t", existed=False)]
    assert existed is not True


# Time and memory


def test_a_topic_nobody_uses_asks_to_retire() -> None:
    bench = Bench(idle_ticks=3)
    bench.published(b"1")
    bench.tick(2)
    assert not bench.directory.take(Idle)
    bench.tick()
    assert bench.directory.take(Idle) == [Idle("t", received=4)]


@pytest.mark.parametrize("use", ["publish", "fetch", "locate", "delete"])
def test_a_topic_that_is_used_does_not_ask_to_retire(use: str) -> None:
    bench = Bench(idle_ticks=2)
    bench.tick()
    if use == "publish":
        bench.publish()
    elif use == "fetch":
        bench.fetch(bench.subscriber, nth(0))
    elif use == "locate":
        bench.topic.tell(Locate("t", 1), bench.subscriber)
    else:
        bench.topic.tell(DeleteTopic("t"), bench.subscriber)
    bench.tick(5)
    assert not bench.directory.take(Idle), "while the store has not answered"
    bench.system.settle()
    bench.tick()
    assert not bench.directory.take(Idle), "and not at once after that"


def test_a_topic_with_a_live_subscriber_stays() -> None:
    bench = Bench(idle_ticks=2)
    bench.go_live()
    bench.tick(9)
    assert not bench.directory.take(Idle)


def test_a_retired_topic_follows_nothing_and_is_gone() -> None:
    bench = Bench(3)
    bench.go_live()
    bench.topic.tell(Retire())
    assert not bench.topic.is_alive and not bench.store.followed


def test_a_topic_that_is_published_to_and_read_by_nobody_stops_following() -> None:
    bench = Bench(idle_ticks=2)
    bench.topic.tell(Locate("t", 1), Outsider())
    bench.system.settle()
    assert bench.store.followed
    for _ in range(2):
        bench.published(b"x")
        bench.tick()
    assert not bench.store.followed and not bench.directory.take(Idle)
    assert bench.directory.take(FollowingChanged)[-1] == FollowingChanged("t", False)
    bench.elsewhere(b"x", is_heard=False)
    bench.go_live()
    assert bench.memory.newest == bench.stream.newest


def test_a_topic_is_trimmed_with_time_if_it_was_appended_to_or_has_messages_in_memory() -> None:
    bench = Bench()
    bench.tick()
    bench.system.settle()
    assert bench.store.trims == [("t", START_MS)], "what was there before this worker came"
    bench.tick()
    assert bench.topic.works == []
    bench.published(b"x")
    bench.tick()
    bench.topic.work("trim").fail()
    bench.topic.tell(ShrinkHot(0))
    bench.tick()
    bench.system.settle()
    assert len(bench.store.trims) == 2, "a trim that failed is made up for"
    bench.tick()
    assert bench.topic.works == [], "nothing here, and nothing new there"
    bench.go_live()
    bench.elsewhere(b"x")
    bench.tick()
    bench.system.settle()
    assert len(bench.store.trims) == 3, "others may trim what is in memory here"


def test_what_is_trimmed_leaves_memory_too() -> None:
    bench = Bench()
    bench.published(b"1")
    bench.published(b"2")
    bench.published(b"3")
    size_bytes = bench.memory.size_bytes
    bench.stream.trim(2)
    bench.tick()
    bench.system.settle()
    assert [message.payload for message in bench.memory.hot] == [b"3"]
    assert bench.memory.hot.floor == nth(2)
    bench.tick()
    assert bench.directory.take(HotSize)[-1] == HotSize("t", size_bytes // 3)


def test_messages_too_old_leave_memory_with_time() -> None:
    bench = Bench(hot=HotLimits(100, 1 << 20, 1000))
    bench.published(b"1")
    bench.clock.now_ms += 1001
    bench.tick()
    assert bench.memory.size_bytes == 0


def test_a_topics_size_is_reported_as_it_grows_and_exactly_with_time() -> None:
    bench = Bench()
    bench.published(b"1")
    assert not bench.directory.take(HotSize), "not worth a word yet"
    bench.tick()
    assert bench.directory.take(HotSize) == [HotSize("t", MESSAGE_OVERHEAD_BYTES + 2)]
    bench.published(*(b"x" for _ in range(50)))
    (report,) = bench.directory.take(HotSize)
    assert report.size_bytes == bench.memory.size_bytes
    bench.tick()
    assert not bench.directory.take(HotSize)


def test_small_topics_are_counted_too() -> None:
    assert REPORTED_BYTES * 10_000 < 64 << 20, "ten thousand of them must not hide more than this"


def test_memory_is_given_back_when_asked_and_reported() -> None:
    bench = Bench()
    bench.published(*(b"x" for _ in range(50)))
    bench.topic.tell(ShrinkHot(3000))
    assert bench.memory.size_bytes <= 3000
    assert bench.directory.take(HotSize)[-1].size_bytes == bench.memory.size_bytes


# The end


class FailingTopic(TopicActor):
    """Fails on the message it is told to fail on."""

    fails_on: type = type(None)

    def receiveMessage(self, message: Any, sender: Any) -> None:
        if type(message) is self.fails_on:
            raise PoisonedError
        super().receiveMessage(message, sender)


def everybody_waits(bench: Bench) -> tuple[list[Outsider], list[Outsider]]:
    """Publishers and readers in every place where one can wait."""
    bench.go_live()
    publishers = [bench.publish() for _ in range(3)]
    deleting = Outsider("deleting")
    bench.topic.tell(DeleteTopic("t"), deleting)
    bench.elsewhere(b"x", is_inline=False)
    locating, reading, ahead = Outsider("locating"), Outsider("reading"), Outsider("ahead")
    bench.topic.tell(Locate("t", 9), locating)
    bench.topic.tell(Fetch("t", 2, 9, nth(0), 10, proves=True), reading)
    bench.topic.tell(Fetch("t", 3, 9, bench.stream.newest, 10, proves=True), ahead)
    next(work for work in bench.topic.works if work.call.arguments[1:2] == (bench.stream.newest,)).finish()
    bench.system.run()
    return [*publishers, deleting], [locating, reading, ahead]


@pytest.mark.parametrize("end", ["exit", "failure"])
def test_everybody_who_waits_is_answered_when_the_topic_ends(end: str) -> None:
    bench = Bench(5, actor_class=FailingTopic)
    askers, readers = everybody_waits(bench)
    code = "shutting_down" if end == "exit" else "internal_error"
    if end == "exit":
        bench.topic.tell(ActorExitRequest())
    else:
        FailingTopic.fails_on = Tick
        bench.topic.tell(Tick())
    for asker in askers:
        (refused,) = asker.received
        assert isinstance(refused, Refused) and refused.code == code
    for reader in readers:
        assert reader.received == [FetchFailed("t", 9, code)]
    assert bench.subscriber.received == [Evicted("t")]
    assert not bench.topic.is_alive and not bench.store.followed
    assert bench.counters.topics_failed == (end == "failure")


@pytest.mark.parametrize("kind", [Fetch, Locate])
def test_the_reader_whose_own_question_fails_is_answered(kind: type) -> None:
    bench = Bench(5, actor_class=FailingTopic)
    FailingTopic.fails_on = kind
    question = Locate("t", 7) if kind is Locate else Fetch("t", 1, 7, nth(5), 10)
    bench.topic.tell(question, bench.subscriber)
    assert bench.subscriber.received == [FetchFailed("t", 7, "internal_error")]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        Appended(BEGINNING, "e", [], []),
        Appended(BEGINNING, "e", [None], [(("1-1",), False)]),  # type: ignore[list-item]
    ],
    ids=["none", "an outcome too few", "no message"],
)
def test_a_poisoned_answer_of_the_store_ends_the_topic_and_answers_every_publisher(answer: Any) -> None:
    bench = Bench()
    first, second = bench.publish(), bench.publish()
    bench.system.failures = (AttributeError, ValueError)
    bench.topic.work("append").answer(answer)
    bench.system.run()
    assert not bench.topic.is_alive and bench.counters.topics_failed == 1
    assert isinstance(first.received[0], Published | Refused)
    assert [type(one) for one in second.received] == [Refused]
    assert bench.topic.works == [], "what waited was not appended behind its refusal"


def test_a_store_that_raises_what_it_must_not_costs_no_more_than_one_that_is_away() -> None:
    bench = Bench()
    publisher = bench.publish()
    bench.topic.work("append").fail_with(ZeroDivisionError())
    bench.system.run()
    assert publisher.received == [Refused("internal_error")]
    assert bench.topic.is_alive


def test_a_topic_rebuilt_from_its_stream_goes_on_where_its_subscribers_are() -> None:
    bench = Bench(5)
    bench.go_live()
    bench.topic.tell(ActorExitRequest())
    bench.subscriber.received.clear()
    bench.elsewhere(b"6", is_heard=False)
    bench.topic = start_topic(bench.system, bench.store, directory=bench.directory)
    bench.fetch(bench.subscriber, nth(5), ticket=2)
    bench.system.settle()
    (page,) = bench.subscriber.received
    assert id_texts(page.batch.messages) == bench.stream.ids(5) and page.notice is None


def test_a_position_read_before_the_topic_was_known_is_no_position() -> None:
    bench = Bench()
    bench.go_live()
    assert bench.memory.newest == BEGINNING and bench.memory.epoch == ""
    bench.topic.tell(Compared("t", Position("", BEGINNING)))
    assert bench.topic.works == []
