"""DirectoryActor: a topic is in memory while it is used, and somebody always answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
from thespian.actors import ActorExitRequest, ActorSystemFailure, DeadEnvelope

from actors.counters import Counters
from actors.directory import HEADROOM, TICKED_AT_ONCE, DirectoryActor
from actors.ports import Draft, Publish
from actors.protocol import (
    Census,
    CompareNow,
    DeleteTopic,
    Delivered,
    Fetch,
    FetchFailed,
    FollowingChanged,
    HotSize,
    Idle,
    Leave,
    Locate,
    Located,
    Published,
    Refused,
    ShrinkHot,
    StartDirectory,
    SubscribersChanged,
    TakeCensus,
    TopicDeleted,
    WentLive,
)
from tests.scripted_store import ModelStream, ScriptedStore, nth
from tests.stand_ins import ManualClock, Outsider, StandInRef, StandInSystem, Unanswerable, make_limits


class Bench:
    def __init__(self, **limits: Any) -> None:
        self.system = StandInSystem()
        self.store = ScriptedStore()
        self.clock = ManualClock()
        self.counters = Counters()
        self.directory = self.system.create(DirectoryActor)
        start = StartDirectory(self.store, make_limits(**limits), self.clock, self.counters, 15.0, 5.0)
        self.directory.tell(start)

    @property
    def topics(self) -> list[StandInRef]:
        """The topics in memory, oldest first."""
        return [child for child in self.directory.children if child.is_alive]

    def ask(self, message: Any) -> Outsider:
        asker = Outsider("asker")
        self.directory.tell(message, asker)
        return asker

    def publish(self, topic: str, *payloads: bytes) -> Outsider:
        return self.ask(Publish(topic, tuple(map(Draft, payloads or (b"x",)))))

    def go_live(self, topic: str, subscriber_id: int = 1) -> Outsider:
        newest = self.store.stream(topic).newest
        asker = self.ask(Fetch(topic, subscriber_id, 1, newest, 10))
        self.system.settle()
        assert asker.take(WentLive)
        return asker

    def pass_ticks(self, count: int, seconds: float = 15.0) -> None:
        for _ in range(count):
            self._fire(seconds)

    def pass_comparison(self) -> None:
        self._fire(5.0)

    def _fire(self, seconds: float) -> None:
        (timer,) = [timer for timer in self.system.timers if timer.seconds == seconds]
        timer.fire()
        self.system.run()

    def census(self) -> Census:
        (census,) = self.ask(TakeCensus()).received
        assert isinstance(census, Census)
        return census


# Opening


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        (Publish("t", (Draft(b"1"),)), Published),
        (Fetch("t", 1, 1, nth(0), 10), WentLive),
        (Locate("t", 1), Located),
        (DeleteTopic("t"), TopicDeleted),
    ],
)
def test_a_topic_is_opened_by_its_first_use_and_answers_who_asked(message: Any, answer: type) -> None:
    bench = Bench()
    asker = bench.ask(message)
    bench.system.settle()
    assert [type(one) for one in asker.received] == [answer]
    assert len(bench.topics) == 1


def test_a_topic_is_opened_once_and_topics_are_kept_apart() -> None:
    bench = Bench()
    for topic in ("a", "b", "a"):
        bench.publish(topic)
    bench.system.settle()
    assert len(bench.topics) == 2
    assert len(bench.store.stream("a").messages) == 2 and len(bench.store.stream("b").messages) == 1


def test_what_only_concerns_a_topic_in_memory_opens_none() -> None:
    bench = Bench()
    elsewhere = ModelStream("a")
    elsewhere.add(b"x")
    bench.directory.tell(elsewhere.announced[0][1])
    bench.directory.tell(Leave("a", 1))
    assert not bench.topics


def test_what_concerns_a_topic_in_memory_reaches_it_and_is_counted() -> None:
    bench = Bench(idle_ticks=1)
    subscriber = bench.go_live("a")
    stream = bench.store.stream("a")
    stream.add(b"x")
    bench.directory.tell(stream.announced[-1][1])
    assert subscriber.take(Delivered)
    bench.directory.tell(Leave("a", 1))
    assert bench.census().subscribers == {}
    bench.pass_ticks(1)
    assert not bench.topics, "it has had all that was passed on to it"


def test_what_comes_when_the_worker_stops_is_answered() -> None:
    bench = Bench()
    bench.system.create_error = ActorSystemFailure("stopped")
    assert bench.publish("a").received == [Refused("shutting_down")]
    assert bench.ask(DeleteTopic("a")).received == [Refused("shutting_down")]
    assert bench.ask(Fetch("a", 1, 7, nth(0), 10)).received == [FetchFailed("a", 7, "shutting_down")]
    assert bench.ask(Locate("a", 8)).received == [FetchFailed("a", 8, "shutting_down")]


# Retiring


def test_a_topic_nobody_uses_leaves_memory() -> None:
    bench = Bench(idle_ticks=2)
    bench.publish("a")
    bench.system.settle()
    bench.pass_ticks(2)
    assert not bench.topics
    assert bench.census() == Census({}, 0, 0, 0)


def test_many_topics_have_one_tick_each_in_slices_over_the_interval() -> None:
    bench = Bench()
    names = [f"t{number}" for number in range(3 * TICKED_AT_ONCE + 50)]
    for name in names:
        bench.publish(name)
    bench.system.settle()
    slices = []
    for seconds in (15.0, 15.0 / 4, 15.0 / 4, 15.0 / 4):
        before = len(bench.store.trims)
        bench.pass_ticks(1, seconds)
        bench.system.settle()
        slices.append(len(bench.store.trims) - before)
        # One that is opened meanwhile has its tick in this round, too.
        names.append(f"late{len(slices)}")
        bench.publish(names[-1])
        bench.system.settle()
    assert max(slices) <= TICKED_AT_ONCE
    assert sorted(topic for topic, _ in bench.store.trims) == sorted(names[:-1])
    bench.store.trims.clear()
    bench.pass_ticks(1, 15.0 / 4)
    bench.system.settle()
    assert [topic for topic, _ in bench.store.trims] == names[: math.ceil(len(names) / 4)], "the next round"


def test_a_retired_topic_is_opened_anew_and_appends_nothing_twice() -> None:
    bench = Bench(idle_ticks=2)
    bench.publish("a", b"1")
    bench.system.settle()
    bench.pass_ticks(2)
    asker = bench.publish("a", b"2")
    bench.system.settle()
    assert [type(answer) for answer in asker.received] == [Published]
    assert [message.payload for message in bench.store.stream("a").messages] == [b"1", b"2"]


@pytest.mark.parametrize("ask", [Publish("a", (Draft(b"x"),)), Fetch("a", 1, 1, nth(0), 10), Locate("a", 1)])
def test_a_topic_that_is_asked_something_while_it_wants_to_retire_stays_and_answers(ask: Any) -> None:
    bench = Bench(idle_ticks=1)
    bench.publish("a")
    bench.system.settle()
    (topic,) = bench.topics
    asker = Outsider()
    bench.system.timers.sort(key=lambda timer: timer.seconds)
    bench.system.timers[-1].fire()  # ticks
    bench.system.deliver()  # the directory passes it on
    bench.system.deliver()  # the topic is idle, and says so
    assert any(isinstance(message, Idle) for _, message, _ in bench.system.mailbox)
    bench.system.mailbox.appendleft((bench.directory, ask, asker))
    bench.system.settle()
    assert bench.topics == [topic] and len(asker.received) == 1


def test_a_topic_that_says_late_that_it_is_idle_is_not_the_one_that_was_opened_since() -> None:
    bench = Bench()
    bench.publish("a")
    bench.system.settle()
    (old,) = bench.topics
    bench.system.end(old)
    bench.publish("a")
    bench.system.settle()
    (new,) = bench.topics
    bench.directory.tell(Idle("a", received=1), old)
    assert bench.topics == [new] and bench.census().open_topics == 1
    bench.directory.tell(Idle("unknown", received=1), old)


def test_a_publish_that_comes_as_a_topic_retires_is_for_the_next_one() -> None:
    bench = Bench(idle_ticks=1)
    bench.publish("a")
    bench.system.settle()
    (old,) = bench.topics
    forwarded = bench.directory.actor._topics["a"].forwarded
    asker = Outsider()
    bench.system.post(bench.directory, Idle("a", received=forwarded), old)
    bench.system.post(bench.directory, Publish("a", (Draft(b"x"),)), asker)
    bench.system.settle()
    assert [type(answer) for answer in asker.received] == [Published]
    assert old not in bench.topics


def test_what_a_dead_topic_still_reports_is_not_about_the_new_one() -> None:
    bench = Bench()
    bench.publish("a")
    bench.system.settle()
    (old,) = bench.topics
    bench.system.end(old)
    bench.go_live("a")
    before = bench.census()
    bench.directory.tell(FollowingChanged("a", False), old)
    bench.directory.tell(SubscribersChanged("a", 7), old)
    bench.directory.tell(HotSize("a", 700), old)
    bench.directory.tell(FollowingChanged("unknown", True), old)
    bench.directory.tell(SubscribersChanged("unknown", 7), old)
    assert bench.census() == before


# Failing


def test_a_topic_that_ended_is_replaced_at_the_next_use() -> None:
    bench = Bench()
    bench.go_live("a")
    (old,) = bench.topics
    old.tell(ActorExitRequest())
    assert bench.census().open_topics == 0
    bench.go_live("a")
    assert bench.topics != [old]
    assert bench.census() == Census({"a": 1}, 1, 1, 0)


@pytest.mark.parametrize("question", [Fetch("a", 1, 7, nth(0), 10), Locate("a", 7)])
def test_a_subscribers_question_that_meets_a_dead_topic_is_answered(question: Any) -> None:
    bench = Bench()
    bench.publish("a")
    bench.system.settle()
    asker = Outsider()
    bench.system.post(bench.topics[0], ActorExitRequest(), None)
    bench.system.post(bench.directory, question, asker)
    bench.system.run()
    assert asker.take(FetchFailed) == [FetchFailed("a", 7, "internal_error")]


def test_ten_publishes_that_meet_a_dying_topic_are_ten_answers() -> None:
    bench = Bench()
    bench.publish("a")
    bench.system.settle()
    askers = [Outsider() for _ in range(10)]
    for number, asker in enumerate(askers):
        if number == 5:
            bench.system.post(bench.topics[0], ActorExitRequest(), None)
        bench.system.post(bench.topics[0], Publish("a", (Draft(b"x"),)), asker)
    bench.system.settle()
    assert all(len(asker.received) == 1 for asker in askers)
    assert [type(asker.received[0]) for asker in askers] == [Refused] * 5 + [Unanswerable] * 5
    assert len(bench.store.stream("a").messages) == 1, "refused is not appended"


def test_other_dead_letters_are_nobodys() -> None:
    bench = Bench()
    asker = Outsider()
    bench.directory.tell(DeadEnvelope(Outsider(), Leave("a", 1)), asker)
    assert not asker.received


# Comparing


def test_followed_topics_are_compared_with_their_streams_in_one_call() -> None:
    bench = Bench()
    bench.go_live("a")
    bench.go_live("b")
    bench.publish("cold")
    bench.system.settle()
    bench.pass_comparison()
    assert bench.directory.work("positions").call.arguments == (["a", "b"],)


def test_a_comparison_brings_what_the_feed_lost() -> None:
    bench = Bench()
    subscriber = bench.go_live("a")
    bench.store.stream("a").add(b"lost")
    bench.pass_comparison()
    bench.system.settle()
    assert len(subscriber.received) == 1


def test_no_comparison_is_begun_while_one_is_under_way_unless_the_feed_was_interrupted() -> None:
    bench = Bench()
    bench.go_live("a")
    bench.pass_comparison()
    bench.pass_comparison()
    assert len(bench.directory.works) == 1
    bench.directory.tell(CompareNow())
    assert len(bench.directory.works) == 2, "the first may have read before the feed was restored"
    bench.system.settle()
    bench.pass_comparison()
    assert len(bench.directory.works) == 1


def test_a_comparison_that_fails_is_made_up_for_by_the_next() -> None:
    bench = Bench()
    bench.go_live("a")
    bench.pass_comparison()
    bench.directory.work("positions").fail()
    bench.system.run()
    bench.pass_comparison()
    assert len(bench.directory.works) == 1


def test_a_topic_that_left_meanwhile_is_not_compared() -> None:
    bench = Bench()
    bench.go_live("a")
    bench.pass_comparison()
    bench.topics[0].tell(ActorExitRequest())
    bench.system.settle()
    assert not bench.topics


def test_nothing_is_compared_where_nothing_is_followed() -> None:
    bench = Bench()
    bench.publish("a")
    bench.system.settle()
    bench.pass_comparison()
    assert bench.directory.works == []


# Memory


def report(bench: Bench, topic: StandInRef, name: str, size_bytes: int) -> None:
    bench.directory.tell(HotSize(name, size_bytes), topic)


def open_topics(bench: Bench, *names: str) -> list[StandInRef]:
    for name in names:
        bench.publish(name)
        bench.system.settle()
    return bench.topics


def test_memory_is_taken_from_topics_nobody_listens_to_first_and_from_the_largest() -> None:
    bench = Bench(hot_total_bytes=1000)
    listened, small, large = open_topics(bench, "listened", "small", "large")
    bench.directory.tell(SubscribersChanged("listened", 1), listened)
    report(bench, listened, "listened", 500)
    report(bench, small, "small", 100)
    report(bench, large, "large", 420)
    assert bench.census().hot_bytes == 1020 - 20 - 1000 // HEADROOM
    assert bench.directory.actor._topics["large"].hot_bytes == 420 - 20 - 1000 // HEADROOM
    assert bench.directory.actor._topics["small"].hot_bytes == 100


def test_topics_that_are_listened_to_give_half_of_theirs_if_nothing_else_helps() -> None:
    bench = Bench(hot_total_bytes=1000)
    one, other = open_topics(bench, "one", "other")
    for name, topic in (("one", one), ("other", other)):
        bench.directory.tell(SubscribersChanged(name, 1), topic)
    report(bench, one, "one", 900)
    report(bench, other, "other", 200)
    assert bench.census().hot_bytes == 450 + 200


def test_a_topic_that_shrinks_is_not_asked_to_shrink_more() -> None:
    bench = Bench(hot_total_bytes=1000)
    (topic,) = open_topics(bench, "a")
    bench.directory.tell(SubscribersChanged("a", 1), topic)
    bench.system.post(bench.directory, HotSize("a", 4000), topic)
    bench.system.post(bench.directory, HotSize("a", 1900), topic)
    bench.system.run()
    assert len([message for _, message in bench.directory.sent if isinstance(message, ShrinkHot)]) == 1


def test_memory_within_its_budget_is_left_alone() -> None:
    bench = Bench(hot_total_bytes=1000)
    one, other = open_topics(bench, "one", "other")
    report(bench, one, "one", 600)
    report(bench, other, "other", 400)
    report(bench, one, "one", 500)
    assert bench.census().hot_bytes == 900


def test_asking_for_memory_does_not_make_a_topic_seem_idle_or_busy() -> None:
    """What the directory sends a topic itself is counted as well as what it passes on."""
    bench = Bench(hot_total_bytes=10, idle_ticks=2)
    bench.publish("a", b"x" * 10_000)
    bench.system.settle()
    assert bench.census().hot_bytes == 0
    bench.pass_ticks(2)
    assert not bench.topics


def test_a_topic_that_left_memory_costs_none() -> None:
    bench = Bench()
    (topic,) = open_topics(bench, "a")
    report(bench, topic, "a", 600)
    bench.system.end(topic)
    bench.system.run()
    assert bench.census().hot_bytes == 0
    report(bench, topic, "a", 700)
    assert bench.census().hot_bytes == 0, "what it still reports is not the new one's"


def test_the_census_counts_subscribers_topics_and_memory() -> None:
    bench = Bench()
    bench.go_live("a", 1)
    bench.go_live("a", 2)
    bench.publish("b", b"x" * 5000)
    bench.system.settle()
    census = bench.census()
    assert dict(census.subscribers) == {"a": 2}
    assert (census.open_topics, census.following_topics) == (2, 1)
    assert census.hot_bytes > 10_000
