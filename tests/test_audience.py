"""Audience: every fetch is answered, from memory or from the stream, and nobody is live who has not all."""

from __future__ import annotations

from typing import Any

import pytest
from thespian.actors import ActorExitRequest

from actors.audience import RELEASED_AT_ONCE
from actors.counters import Counters
from actors.ports import Draft, Notice, Publish
from actors.protocol import (
    Delivered,
    Evicted,
    Fetch,
    FetchFailed,
    Leave,
    Locate,
    Located,
    Page,
    ShrinkHot,
    SubscribersChanged,
    WentLive,
)
from actors.stream import BEGINNING, HotLimits, MessageId
from tests.scripted_store import START_MS, ModelStream, ScriptedStore, id_texts, nth
from tests.stand_ins import ManualClock, Outsider, StandInSystem, start_topic


class Bench:
    """A topic with five messages in its stream, and those who read it."""

    def __init__(self, messages: int = 5, **limits: Any) -> None:
        self.system = StandInSystem()
        self.stream = ModelStream()
        if messages:
            self.stream.add(*(b"%d" % n for n in range(1, messages + 1)))
        self.store = ScriptedStore(self.stream)
        self.counters = Counters()
        self.clock = ManualClock()
        self.directory = Outsider("directory")
        self.topic = start_topic(
            self.system,
            self.store,
            directory=self.directory,
            clock=self.clock,
            counters=self.counters,
            **limits,
        )
        self.tickets = 0

    def follow(self) -> None:
        """In step with the stream, with nothing in the hot buffer but what comes."""
        self.topic.tell(Locate("t", 0), Outsider())
        self.system.settle()

    def fetch(
        self,
        subscriber: Outsider,
        cursor: MessageId,
        *,
        subscriber_id: int = 1,
        proves: bool = True,
        epoch: str | None = None,
        limit: int = 10,
    ) -> int:
        """Ask, and return the ticket; what the store is asked for waits."""
        self.tickets += 1
        fetch = Fetch("t", subscriber_id, self.tickets, cursor, limit, proves, epoch)
        self.topic.tell(fetch, subscriber)
        return self.tickets

    def publish(self, *payloads: bytes) -> None:
        self.topic.tell(Publish("t", tuple(map(Draft, payloads))), Outsider())
        self.topic.work("append").finish()
        self.system.run()


def texts(*numbers: int) -> list[str]:
    return [str(nth(number)) for number in numbers]


def went_live(subscriber: Outsider) -> WentLive:
    (went,) = subscriber.take(WentLive)
    return went


def page(subscriber: Outsider) -> Page:
    (found,) = subscriber.take(Page)
    return found


# Locating


def test_a_position_is_told_once_the_topic_follows_the_stream() -> None:
    bench, asker = Bench(), Outsider()
    bench.topic.tell(Locate("t", 7), asker)
    assert not asker.received
    bench.system.settle()
    assert asker.received == [Located("t", 7, nth(5), "epoch-1")]


def test_a_position_that_is_known_to_be_old_is_not_told() -> None:
    bench, asker = Bench(), Outsider()
    bench.follow()
    bench.stream.is_inline = False
    bench.stream.add(b"6")
    bench.topic.tell(bench.stream.announced[-1][1])
    bench.topic.tell(Locate("t", 8), asker)
    assert not asker.received
    bench.system.settle()
    assert asker.received == [Located("t", 8, nth(6), "epoch-1")]


def test_who_waits_for_a_position_is_told_if_the_store_is_away() -> None:
    bench, asker = Bench(), Outsider()
    bench.topic.tell(Locate("t", 7), asker)
    bench.topic.work("follow").fail()
    bench.system.run()
    assert asker.received == [FetchFailed("t", 7, "store_unavailable")]


# Fetching


def test_a_cursor_at_the_newest_message_goes_live() -> None:
    bench, subscriber = Bench(), Outsider()
    ticket = bench.fetch(subscriber, nth(5))
    bench.system.settle()
    assert subscriber.received == [WentLive("t", ticket, nth(5), "epoch-1")]


def test_a_cursor_in_the_hot_buffer_is_served_without_the_store() -> None:
    bench, subscriber = Bench(0), Outsider()
    bench.follow()
    bench.publish(b"1", b"2", b"3")
    bench.fetch(subscriber, nth(1), limit=1)
    found = page(subscriber)
    assert id_texts(found.batch.messages) == texts(2) and found.has_more
    assert bench.topic.works == [] and bench.counters.hot_hits == 1
    bench.fetch(subscriber, nth(2), limit=1)
    assert not page(subscriber).has_more


def test_a_cursor_before_the_hot_buffer_is_served_from_the_stream() -> None:
    bench, subscriber = Bench(), Outsider()
    bench.follow()
    bench.fetch(subscriber, nth(2), limit=2)
    bench.system.settle()
    found = page(subscriber)
    assert id_texts(found.batch.messages) == texts(3, 4) and found.has_more
    assert found.notice is None and bench.counters.hot_misses == 1


def test_an_old_message_and_a_live_one_meet_without_gap_or_double() -> None:
    """Published while the page before it is read."""
    bench, subscriber = Bench(), Outsider()
    bench.follow()
    bench.fetch(subscriber, nth(3))
    reading = bench.topic.work("read")
    reading.run()
    bench.publish(b"6")
    reading.finish()
    bench.system.run()
    found = page(subscriber)
    assert id_texts(found.batch.messages) == texts(4, 5)
    bench.fetch(subscriber, found.batch.last)
    found = page(subscriber)
    assert id_texts(found.batch.messages) == texts(6)
    bench.fetch(subscriber, found.batch.last)
    assert went_live(subscriber).cursor == nth(6)


def test_who_was_answered_is_not_answered_again_when_the_topic_ends() -> None:
    bench, reading, living = Bench(), Outsider(), Outsider()
    bench.follow()
    bench.fetch(reading, nth(2), subscriber_id=1)
    bench.fetch(living, nth(5), subscriber_id=2)
    bench.system.settle()
    bench.topic.tell(ActorExitRequest())
    assert [type(answer) for answer in reading.received] == [Page]
    assert [type(answer) for answer in living.received] == [WentLive, Evicted]


def test_subscribers_with_the_same_cursor_share_one_read_and_one_batch() -> None:
    bench = Bench()
    bench.follow()
    subscribers = [Outsider() for _ in range(3)]
    for number, subscriber in enumerate(subscribers):
        bench.fetch(subscriber, nth(2), subscriber_id=number)
    assert len(bench.topic.works) == 1
    bench.system.settle()
    pages = [page(subscriber).batch for subscriber in subscribers]
    assert pages[0] is pages[1] is pages[2]


def test_who_comes_a_little_later_for_the_same_messages_gets_the_same_batch_without_a_read() -> None:
    bench, early, late = Bench(), Outsider(), Outsider()
    bench.follow()
    bench.fetch(early, nth(1), subscriber_id=1, limit=2)
    bench.system.settle()
    bench.fetch(late, nth(1), subscriber_id=2, limit=2)
    assert not bench.topic.works
    one, other = page(early), page(late)
    assert one.batch is other.batch and other.has_more
    assert (bench.counters.hot_hits, bench.counters.hot_misses) == (1, 1)


def test_subscribers_at_the_same_place_in_memory_share_one_batch() -> None:
    bench, one, other = Bench(0), Outsider(), Outsider()
    bench.follow()
    bench.publish(b"1", b"2")
    bench.fetch(one, nth(0), subscriber_id=1)
    bench.fetch(other, nth(0), subscriber_id=2)
    assert page(one).batch is page(other).batch


def test_a_page_is_bounded_in_bytes() -> None:
    bench, subscriber = Bench(page_max_bytes=1500), Outsider()
    bench.follow()
    bench.fetch(subscriber, nth(0))
    bench.system.settle()
    assert len(page(subscriber).batch) == 2


def test_expired_messages_are_left_out_of_pages_from_memory_and_from_the_stream() -> None:
    bench, subscriber = Bench(0), Outsider()
    bench.follow()
    expires = Draft(b"short", None, START_MS + 10)
    bench.topic.tell(Publish("t", (Draft(b"1"), expires)), Outsider())
    bench.system.settle()
    bench.clock.now_ms += 10
    for max_bytes in (1 << 20, 0):
        bench.topic.tell(ShrinkHot(max_bytes))
        bench.fetch(subscriber, nth(0))
        bench.system.settle()
        found = page(subscriber)
        assert id_texts(found.batch.messages) == texts(1)
        assert found.batch.last == nth(2), "reading continues behind what expired"


def test_a_page_of_expired_messages_only_moves_the_cursor() -> None:
    bench, subscriber = Bench(0), Outsider()
    bench.follow()
    bench.topic.tell(Publish("t", (Draft(b"short", None, START_MS + 10),)), Outsider())
    bench.system.settle()
    bench.clock.now_ms += 10
    bench.fetch(subscriber, nth(0))
    found = page(subscriber)
    assert len(found.batch) == 0 and found.batch.last == nth(1)


def test_a_fetch_that_the_store_cannot_answer_fails() -> None:
    bench, subscriber = Bench(), Outsider()
    bench.follow()
    ticket = bench.fetch(subscriber, nth(2))
    bench.topic.work("read").fail("store_loading")
    bench.system.run()
    assert subscriber.received == [FetchFailed("t", ticket, "store_loading")]


def test_fetches_that_came_while_joining_fail_with_the_join() -> None:
    bench, subscriber = Bench(), Outsider()
    ticket = bench.fetch(subscriber, nth(5))
    bench.topic.work("follow").fail()
    bench.system.run()
    assert subscriber.received == [FetchFailed("t", ticket, "store_unavailable")]
    bench.fetch(subscriber, nth(5))
    bench.system.settle()
    assert went_live(subscriber).cursor == nth(5), "and the next one joins anew"


def test_hot_reads_go_on_while_memory_is_behind_and_the_store_is_away() -> None:
    bench, subscriber = Bench(0), Outsider()
    bench.follow()
    bench.publish(b"1", b"2")
    bench.stream.is_inline = False
    bench.stream.add(b"3")
    bench.topic.tell(bench.stream.announced[-1][1])
    bench.topic.work("read").fail()
    bench.system.run()
    bench.fetch(subscriber, nth(0))
    assert id_texts(page(subscriber).batch.messages) == texts(1, 2)
    bench.fetch(subscriber, nth(2))
    assert went_live(subscriber).cursor == nth(2)
    bench.system.fire_timers()
    bench.system.settle()
    assert id_texts(subscriber.take(Delivered)[0].batch.messages) == texts(3)


def test_the_earliest_is_what_is_retained_and_no_gap() -> None:
    bench, subscriber = Bench(), Outsider()
    bench.stream.trim(3)
    bench.follow()
    bench.fetch(subscriber, BEGINNING, proves=False)
    bench.system.settle()
    found = page(subscriber)
    assert id_texts(found.batch.messages) == texts(4, 5) and found.notice is None


# Proof


def test_a_gap_is_told_with_the_page_behind_it() -> None:
    bench, subscriber = Bench(), Outsider()
    bench.stream.trim(3)
    bench.follow()
    bench.fetch(subscriber, nth(1))
    bench.system.settle()
    found = page(subscriber)
    assert found.notice == Notice("gap", "t", "trimmed", 2, str(nth(4)))
    assert id_texts(found.batch.messages) == texts(4, 5)


def test_a_gap_inside_a_page_is_told_between_the_messages_around_it() -> None:
    bench, subscriber = Bench(), Outsider()
    del bench.stream.messages[2]
    bench.follow()
    bench.fetch(subscriber, nth(0))
    bench.system.settle()
    found = page(subscriber)
    assert id_texts(found.batch.messages) == texts(1, 2) and found.has_more and found.notice is None
    bench.fetch(subscriber, found.batch.last)
    bench.system.settle()
    found = page(subscriber)
    assert id_texts(found.batch.messages) == texts(4, 5)
    assert found.notice == Notice("gap", "t", "deleted", 1, str(nth(4)))


def test_a_gap_with_nothing_behind_it_is_told_on_going_live() -> None:
    bench, subscriber = Bench(), Outsider()
    bench.stream.trim(5)
    bench.follow()
    bench.fetch(subscriber, nth(1))
    bench.system.settle()
    went = went_live(subscriber)
    assert went.notice == Notice("gap", "t", "trimmed", 4, None) and went.cursor == nth(5)


def test_a_cursor_in_the_hot_buffers_range_that_no_message_has_is_judged_by_the_stream() -> None:
    bench, subscriber = Bench(0), Outsider()
    bench.follow()
    bench.publish(b"1")
    bench.stream.clock_ms += 100
    bench.publish(b"2")
    bench.fetch(subscriber, MessageId.of(START_MS + 50, 1))
    bench.system.settle()
    found = page(subscriber)
    assert found.notice is not None and found.notice.reason == "unknown_cursor"
    assert len(found.batch) == 1


def test_a_cursor_ahead_of_the_stream_is_reset_and_goes_live_at_its_end() -> None:
    bench, subscriber = Bench(), Outsider()
    bench.follow()
    bench.fetch(subscriber, nth(9))
    bench.topic.work("read").finish()
    bench.system.run()
    went = went_live(subscriber)
    assert went.notice == Notice("reset", "t", "ahead_of_stream") and went.cursor == nth(5)
    assert bench.topic.works == [], "one read has told all"


def test_a_break_is_told_also_if_the_stream_had_to_be_read_again() -> None:
    bench, subscriber = Bench(), Outsider()
    bench.follow()
    bench.fetch(subscriber, nth(9))
    reading = bench.topic.work("read")
    reading.run()
    bench.publish(b"6")
    bench.topic.tell(ShrinkHot(0))
    reading.finish()
    bench.system.settle()
    found = page(subscriber)
    assert found.notice == Notice("reset", "t", "ahead_of_stream")
    assert id_texts(found.batch.messages) == texts(6)


def test_a_time_that_has_not_come_is_a_place_to_begin_at_now() -> None:
    bench, subscriber = Bench(), Outsider()
    bench.follow()
    bench.fetch(subscriber, MessageId.of(bench.clock() + 1_000_000, 0), proves=False)
    bench.system.settle()
    went = went_live(subscriber)
    assert went.notice is None and went.cursor == nth(5)


def test_a_cursor_later_than_the_clock_is_reset_and_reads_from_the_oldest() -> None:
    """A client that ignores notices would present it for ever, and nothing that comes would lie after it."""
    bench, subscriber = Bench(), Outsider()
    bench.follow()
    bench.fetch(subscriber, MessageId.of(bench.clock() + 1_000_000, 1))
    bench.system.settle()
    found = page(subscriber)
    assert found.notice is not None
    assert (found.notice.kind, found.notice.reason) == ("reset", "ahead_of_stream")
    assert [message.id for message in found.batch.messages] == [nth(number) for number in range(1, 6)]


def test_a_cursor_ahead_of_memory_only_waits_for_memory_and_is_told_nothing() -> None:
    """The client was served by a worker that heard of the message before this one did."""
    bench, subscriber = Bench(), Outsider()
    bench.follow()
    bench.stream.add(b"6")
    bench.fetch(subscriber, nth(6))
    bench.system.settle()
    went = went_live(subscriber)
    assert went.notice is None and went.cursor == nth(6)


def test_a_subscriber_that_waits_for_memory_hears_of_a_store_that_is_away() -> None:
    bench, subscriber = Bench(), Outsider()
    bench.follow()
    bench.stream.add(b"6")
    ticket = bench.fetch(subscriber, nth(6))
    bench.topic.work("read").finish()
    bench.system.run()
    assert not subscriber.received
    bench.topic.work("read").fail()
    bench.system.run()
    assert subscriber.received == [FetchFailed("t", ticket, "store_unavailable")]


def test_another_epoch_is_reset_even_where_memory_has_the_cursor() -> None:
    bench, subscriber = Bench(0), Outsider()
    bench.follow()
    bench.publish(b"1", b"2")
    bench.fetch(subscriber, nth(1), epoch="other")
    bench.system.settle()
    found = page(subscriber)
    assert found.notice == Notice("reset", "t", "epoch_changed", None, str(nth(2)))
    bench.fetch(subscriber, nth(2), epoch="other")
    bench.system.settle()
    assert went_live(subscriber).notice == Notice("reset", "t", "epoch_changed")


def test_a_store_that_lost_what_memory_has_is_found_out_by_a_reader() -> None:
    bench, live, subscriber = Bench(0), Outsider(), Outsider()
    bench.follow()
    bench.publish(b"1", b"2", b"3")
    bench.fetch(live, nth(3), subscriber_id=2)
    live.received.clear()
    bench.stream.lose(2)
    bench.topic.tell(ShrinkHot(0))
    bench.fetch(subscriber, nth(0))
    bench.system.settle()
    assert id_texts(page(subscriber).batch.messages) == texts(1)
    bench.fetch(subscriber, nth(1))
    bench.system.settle()
    assert went_live(subscriber).cursor == nth(1)
    assert live.received == [Evicted("t")]
    bench.fetch(live, nth(3), subscriber_id=2)
    bench.system.settle()
    assert went_live(live).notice == Notice("reset", "t", "ahead_of_stream")


def test_a_topic_that_was_deleted_elsewhere_is_a_gap_for_who_had_not_read_it() -> None:
    bench, subscriber = Bench(), Outsider()
    bench.follow()
    bench.stream.delete()
    bench.fetch(subscriber, nth(2), epoch="epoch-1")
    bench.system.settle()
    assert went_live(subscriber).notice == Notice("gap", "t", "trimmed", 3, None)


# Being live


def test_new_messages_go_to_every_live_subscriber_as_one_batch() -> None:
    bench, one, other = Bench(), Outsider(), Outsider()
    bench.fetch(one, nth(5), subscriber_id=1)
    bench.fetch(other, nth(5), subscriber_id=2)
    bench.system.settle()
    bench.publish(b"6", b"7")
    (delivered,) = one.take(Delivered)
    assert id_texts(delivered.batch.messages) == texts(6, 7)
    assert other.take(Delivered)[0].batch is delivered.batch


def test_who_left_is_sent_nothing_more() -> None:
    bench, subscriber = Bench(), Outsider()
    bench.fetch(subscriber, nth(5))
    bench.system.settle()
    bench.topic.tell(Leave("t", 1))
    bench.publish(b"6")
    assert not subscriber.take(Delivered)


@pytest.mark.parametrize(("waits_for", "cursor"), [("join", 5), ("read", 9), ("memory", 6)])
def test_who_left_before_its_answer_never_goes_live(waits_for: str, cursor: int) -> None:
    """Its actor may be gone: nobody would take it out again."""
    bench, subscriber = Bench(), Outsider()
    if waits_for != "join":
        bench.follow()
    if waits_for == "memory":
        bench.stream.add(b"6")
    bench.fetch(subscriber, nth(cursor))
    if waits_for == "memory":
        bench.topic.work("read").finish()
        bench.system.run()
    bench.topic.tell(Leave("t", 1))
    bench.system.settle()
    bench.publish(b"more")
    assert not subscriber.received
    assert not bench.directory.take(SubscribersChanged)


def test_who_left_and_came_back_is_live_once() -> None:
    bench, subscriber = Bench(), Outsider()
    bench.fetch(subscriber, nth(5))
    bench.topic.tell(Leave("t", 1))
    ticket = bench.fetch(subscriber, nth(5))
    bench.system.settle()
    assert went_live(subscriber).ticket == ticket
    bench.publish(b"6")
    assert len(subscriber.take(Delivered)) == 1


def test_messages_read_to_fill_memory_up_are_delivered_unless_they_expired() -> None:
    bench, subscriber = Bench(), Outsider()
    bench.fetch(subscriber, nth(5))
    bench.system.settle()
    bench.stream.is_inline = False
    bench.stream.append([Publish("t", (Draft(b"short", None, START_MS), Draft(b"7")))], worker="another")
    bench.topic.tell(bench.stream.announced[-1][1])
    bench.system.settle()
    (delivered,) = subscriber.take(Delivered)
    assert id_texts(delivered.batch.messages) == texts(7)


def test_where_all_that_is_new_has_expired_the_live_are_moved_behind_it() -> None:
    bench, subscriber = Bench(), Outsider()
    bench.fetch(subscriber, nth(5))
    bench.system.settle()
    bench.topic.tell(Publish("t", (Draft(b"short", None, START_MS),)), Outsider())
    bench.system.settle()
    (delivered,) = subscriber.take(Delivered)
    assert (len(delivered.batch), delivered.batch.prev, delivered.batch.last) == (0, nth(5), nth(6))


def test_the_directory_is_told_how_many_are_live() -> None:
    bench = Bench()
    bench.fetch(Outsider(), nth(5), subscriber_id=1)
    bench.fetch(Outsider(), nth(5), subscriber_id=2)
    bench.system.settle()
    bench.topic.tell(Leave("t", 1))
    counts = [changed.count for changed in bench.directory.take(SubscribersChanged)]
    assert counts == [1, 2, 1]


def test_many_that_waited_are_answered_in_turns() -> None:
    bench = Bench()
    subscribers = [Outsider() for _ in range(2 * RELEASED_AT_ONCE + 1)]
    for number, subscriber in enumerate(subscribers):
        bench.fetch(subscriber, nth(5), subscriber_id=number)
    bench.topic.work("follow").finish()
    bench.system.deliver()
    answered = len([answer for answer in bench.system.mailbox if isinstance(answer[1], WentLive)])
    assert answered == RELEASED_AT_ONCE
    bench.system.run()
    assert all(len(subscriber.take(WentLive)) == 1 for subscriber in subscribers)


def test_a_topic_that_others_fill_without_end_still_answers_who_waits() -> None:
    bench, asker, subscriber = Bench(), Outsider(), Outsider()
    bench.follow()
    bench.stream.is_inline = False
    bench.stream.add(b"6")
    bench.topic.tell(bench.stream.announced[-1][1])
    bench.topic.tell(Locate("t", 7), asker)
    for number in range(7, 10):
        reading = bench.topic.work("read")
        reading.run()
        bench.stream.add(b"%d" % number)
        bench.topic.tell(bench.stream.announced[-1][1])
        reading.finish()
        bench.system.run()
        assert bench.topic.work("read"), "behind again"
    assert [located.newest for located in asker.take(Located)] == [nth(6)]
    assert not subscriber.received


def test_one_fetch_is_one_page_so_that_a_long_backlog_leaves_others_their_turn() -> None:
    bench, subscriber, asker = Bench(0, hot=HotLimits(5000, 1 << 30, 3_600_000)), Outsider(), Outsider()
    bench.follow()
    bench.publish(*(b"x" for _ in range(500)))
    bench.fetch(subscriber, nth(0), limit=10)
    assert len(subscriber.received) == 1 and not bench.system.mailbox
    bench.topic.tell(Locate("t", 1), asker)
    assert asker.received
