"""FanOut: what a topic delivers straight to sinks, what goes by message instead, and that neither passes the
other. That it all adds up, whatever happens in between, is for `test_delivery_model.py`.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from thespian.actors import ActorExitRequest

from actors import fan_out
from actors.counters import Counters
from actors.fan_out import FanOutDue
from actors.live_cursor import LiveCursor
from actors.ports import Draft, Publish
from actors.protocol import (
    Delivered,
    Evicted,
    Fetch,
    Filled,
    Leave,
    Locate,
    SinkFailed,
    SubscribersChanged,
    WentLive,
)
from tests.scripted_store import START_MS, ModelStream, ScriptedStore, id_texts, nth
from tests.stand_ins import Outsider, PoisonedError, RecordingSink, StandInSystem, start_topic


class Member:
    """A subscriber that has lent its cursor, and opens it when it is told to."""

    def __init__(self, name: str) -> None:
        self.address = Outsider(name)
        self.live = LiveCursor()
        self.sink = RecordingSink()

    def open(self) -> None:
        (went,) = self.address.take(WentLive)
        self.live.cursor = went.cursor
        self.live.sink = self.sink


class Bench:
    """A topic with five messages in its stream, and live subscribers."""

    def __init__(self, members: int) -> None:
        self.system = StandInSystem()
        self.stream = ModelStream()
        self.stream.add(*(b"%d" % n for n in range(1, 6)))
        self.counters = Counters()
        self.directory = Outsider("directory")
        self.topic = start_topic(
            self.system, ScriptedStore(self.stream), directory=self.directory, counters=self.counters
        )
        self.topic.tell(Locate("t", 0), Outsider())
        self.system.settle()
        self.members = [self.join(number) for number in range(members)]
        for member in self.members:
            member.open()

    def join(self, subscriber_id: int) -> Member:
        member = Member(f"subscriber {subscriber_id}")
        fetch = Fetch("t", subscriber_id, 1, self.stream.newest, 10, proves=True, live=member.live)
        self.topic.tell(fetch, member.address)
        return member

    def publish(self, *payloads: bytes, expires_at_ms: int | None = None) -> None:
        drafts = tuple(Draft(payload, None, expires_at_ms) for payload in payloads)
        self.topic.tell(Publish("t", drafts), Outsider())
        self.topic.work("append").finish()
        self.system.run()

    def go_on(self) -> None:
        for timer in [timer for timer in self.system.timers if type(timer.message) is FanOutDue]:
            timer.fire()
        self.system.run()

    def finish(self) -> None:
        while any(type(timer.message) is FanOutDue for timer in self.system.timers):
            self.go_on()


@pytest.fixture
def one_a_turn(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Three subscribers, and one delivery in a turn of the loop."""
    monkeypatch.setattr(fan_out, "DELIVERIES_PER_TURN", 1)
    return Bench(3)


def texts(*numbers: int) -> list[str]:
    return [str(nth(number)) for number in numbers]


def received(bench: Bench) -> list[list[str]]:
    return [member.sink.ids for member in bench.members]


def delivered(member: Member) -> list[list[str]]:
    return [id_texts(each.batch.messages) for each in member.address.take(Delivered)]


def kinds(member: Member) -> list[type[Any]]:
    return [type(message) for message in member.address.received]


# Straight to the sink


def test_who_has_lent_its_cursor_is_delivered_to_without_a_message() -> None:
    bench = Bench(2)
    bench.publish(b"6", b"7")
    bench.publish(b"8")
    assert received(bench) == [texts(6, 7, 8)] * 2
    one, other = bench.members
    assert one.live.cursor == other.live.cursor == nth(8)
    assert one.sink.batches[0] is other.sink.batches[0]
    assert not one.address.received and not other.address.received
    assert bench.counters.messages_delivered == 6


def test_who_has_not_heard_yet_that_it_is_live_is_sent_a_message() -> None:
    bench = Bench(0)
    late = bench.join(1)
    bench.publish(b"6")
    assert not late.sink.ids and delivered(late) == [texts(6)]
    assert bench.counters.messages_delivered == 0


def test_nothing_passes_a_batch_that_is_in_the_mailbox() -> None:
    bench = Bench(0)
    member = bench.join(1)
    bench.publish(b"6")
    member.open()
    bench.publish(b"7")
    assert not member.sink.ids and delivered(member) == [texts(6), texts(7)]
    member.live.cursor = nth(7)
    bench.publish(b"8")
    assert member.sink.ids == texts(8) and not delivered(member)


def test_who_takes_its_sink_away_is_delivered_nothing_more_at_once() -> None:
    bench = Bench(1)
    (member,) = bench.members
    member.live.sink = None
    bench.publish(b"6")
    assert not member.sink.ids and member.live.cursor == nth(5)


def test_where_all_that_is_new_has_expired_the_sink_is_given_nothing() -> None:
    bench = Bench(1)
    (member,) = bench.members
    bench.publish(b"short", expires_at_ms=START_MS)
    assert not member.sink.batches
    (empty,) = member.address.take(Delivered)
    assert (len(empty.batch), empty.batch.last) == (0, nth(6))


def test_who_has_left_is_not_kept_by_what_it_was_delivered() -> None:
    bench = Bench(1)
    bench.publish(b"6")
    kept = weakref.ref(bench.members.pop().sink)
    bench.topic.tell(Leave("t", 0))
    gc.collect()
    assert kept() is None


# Who wants the first messages only


def complete(bench: Bench, subscriber_id: int) -> Outsider:
    poll = Outsider("poll")
    fetch = Fetch("t", subscriber_id, 1, bench.stream.newest, 10, proves=True, completes=True)
    bench.topic.tell(fetch, poll)
    poll.take(WentLive)
    return poll


def test_who_wants_the_first_messages_only_is_let_go_with_them() -> None:
    bench = Bench(1)
    poll, gone = complete(bench, 8), complete(bench, 9)
    bench.topic.tell(Leave("t", 9))
    bench.publish(b"6", b"7")
    bench.publish(b"8")
    (found,) = poll.take(Delivered)
    assert found.batch is bench.members[0].sink.batches[0]
    assert not gone.received
    assert [changed.count for changed in bench.directory.take(SubscribersChanged)] == [1, 2, 3, 2, 1]


def test_who_wants_the_first_messages_stays_while_all_that_comes_has_expired() -> None:
    bench = Bench(0)
    poll = complete(bench, 8)
    bench.publish(b"short", expires_at_ms=START_MS)
    bench.publish(b"7")
    bench.publish(b"8")
    assert [(len(each.batch), each.batch.last) for each in poll.take(Delivered)] == [(0, nth(6)), (1, nth(7))]


def test_who_wants_the_first_messages_need_not_wait_for_a_fan_out_under_way(one_a_turn: Bench) -> None:
    bench = one_a_turn
    bench.publish(b"6")
    poll = complete(bench, 8)
    bench.publish(b"7")
    assert [id_texts(each.batch.messages) for each in poll.take(Delivered)] == [texts(7)]


def test_who_wants_the_first_messages_is_told_if_the_topic_ends() -> None:
    bench = Bench(0)
    poll = complete(bench, 8)
    bench.topic.tell(ActorExitRequest())
    assert poll.received == [Evicted("t")]


# A sink that is full, or broken


def test_a_full_sink_is_given_nothing_more_and_its_subscriber_is_told() -> None:
    bench = Bench(2)
    slow, other = bench.members
    slow.sink.is_full = True
    bench.publish(b"6")
    bench.publish(b"7")
    assert slow.sink.ids == texts(6) and other.sink.ids == texts(6, 7)
    assert kinds(slow) == [Filled, Delivered] and not other.address.received


def test_a_sink_that_raises_costs_its_own_subscriber_only() -> None:
    bench = Bench(3)
    broken = bench.members[1]
    broken.sink.is_broken = True
    bench.publish(b"6")
    bench.publish(b"7")
    assert received(bench) == [texts(6, 7), [], texts(6, 7)]
    assert kinds(broken) == [SinkFailed, Delivered]
    assert isinstance(broken.address.received[0].error, PoisonedError)
    assert bench.topic.is_alive


# More subscribers than a turn has deliveries


def test_those_for_whom_a_turn_has_no_delivery_have_it_in_the_next(one_a_turn: Bench) -> None:
    bench = one_a_turn
    bench.publish(b"6")
    assert received(bench) == [texts(6), [], []]
    bench.go_on()
    assert received(bench) == [texts(6), texts(6), []]
    bench.go_on()
    assert received(bench) == [texts(6)] * 3
    assert bench.counters.messages_delivered == 3


def test_what_comes_meanwhile_waits_and_is_one_batch(one_a_turn: Bench) -> None:
    bench = one_a_turn
    bench.publish(b"6")
    bench.publish(b"7")
    bench.publish(b"8")
    assert received(bench) == [texts(6), [], []]
    bench.finish()
    assert received(bench) == [texts(6, 7, 8)] * 3
    assert [len(batch) for batch in bench.members[0].sink.batches] == [1, 2]
    assert not any(member.address.received for member in bench.members)


def test_who_goes_live_meanwhile_is_delivered_only_what_it_has_not(one_a_turn: Bench) -> None:
    bench = one_a_turn
    bench.publish(b"6")
    bench.publish(b"7")
    late = bench.join(9)
    bench.publish(b"8")
    late.open()
    bench.finish()
    assert not late.sink.ids and delivered(late) == [texts(8)]


def test_who_leaves_meanwhile_is_sent_nothing_even_if_it_has_come_back(one_a_turn: Bench) -> None:
    bench = one_a_turn
    bench.publish(b"6")
    gone, back = bench.members[1:]
    for number, member in ((1, gone), (2, back)):
        member.live.sink = None
        bench.topic.tell(Leave("t", number))
    bench.topic.tell(Fetch("t", 2, 2, nth(6), 10, proves=True, live=back.live), back.address)
    back.open()
    bench.finish()
    assert received(bench) == [texts(6), [], []]
    assert not gone.address.received and not back.address.received
    bench.publish(b"7")
    bench.finish()
    assert back.sink.ids == texts(7)


def test_a_topic_that_ends_meanwhile_delivers_nothing_more(one_a_turn: Bench) -> None:
    bench = one_a_turn
    bench.publish(b"6")
    bench.publish(b"7")
    bench.topic.actor._audience.evict()
    bench.system.run()
    assert all(kinds(member) == [Evicted] for member in bench.members)
    bench.finish()
    assert received(bench) == [texts(6), [], []]
