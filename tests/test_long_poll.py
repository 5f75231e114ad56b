"""LongPoll: answered once, with all that is known at that moment."""

from __future__ import annotations

from typing import Any

import pytest

from actors.long_poll import LongPoll
from actors.protocol import (
    Delivered,
    Expire,
    Fetch,
    FetchFailed,
    Leave,
    Locate,
    Located,
    Page,
    Start,
    Subscribe,
    Wanted,
    WentLive,
)
from actors.stream import Batch, MessageId
from tests.scripted_store import ScriptedStore, id_texts, make_messages, nth
from tests.stand_ins import Outsider, RecordingSink, StandInSystem, start_subscriber


class Poll:
    """A long-poll, and a directory that answers by hand."""

    def __init__(self, *wanted: Wanted, page_max_messages: int = 10) -> None:
        self.system = StandInSystem()
        self.directory = Outsider("directory")
        self.sink = RecordingSink()
        self.subscriber = start_subscriber(
            self.system,
            self.directory,
            ScriptedStore(),
            self.sink,
            completes=True,
            page_max_messages=page_max_messages,
        )
        self.subscriber.tell(Subscribe(wanted))
        self.fetches = {fetch.topic: fetch for fetch in self.directory.take(Fetch)}

    def page(self, topic: str, first: int, last: int, *, has_more: bool = False) -> None:
        self._answer(topic, Batch(topic, make_messages(first, last, topic=topic)), has_more)

    def empty_page(self, topic: str, last: int, *, has_more: bool = False) -> None:
        """All of it has expired."""
        self._answer(topic, Batch(topic, [], nth(last)), has_more)

    def _answer(self, topic: str, batch: Batch, has_more: bool) -> None:
        self.subscriber.tell(Page(topic, self.fetches[topic].ticket, batch, has_more))
        self.fetches.update({fetch.topic: fetch for fetch in self.directory.take(Fetch)})

    def live(self, topic: str, cursor: int) -> None:
        self.subscriber.tell(WentLive(topic, self.fetches[topic].ticket, nth(cursor), "e"))

    def fail(self, topic: str, code: str = "store_unavailable") -> None:
        self.subscriber.tell(FetchFailed(topic, self.fetches[topic].ticket, code))

    def deliver(self, topic: str, first: int, last: int) -> None:
        self.subscriber.tell(Delivered(topic, Batch(topic, make_messages(first, last, topic=topic))))

    def expire(self) -> None:
        self.subscriber.tell(Expire())

    @property
    def answer(self) -> tuple[dict[str, MessageId], bool, str | None] | None:
        """What `complete` was given; it must not be given twice."""
        completed: list[Any] = self.sink.entries("completed")
        assert len(completed) <= 1
        return completed[0] if completed else None


def test_a_poll_with_a_place_asks_at_once() -> None:
    poll = Poll(Wanted("a", nth(3)))
    assert list(poll.fetches) == ["a"] and not poll.directory.received


def test_a_poll_without_a_place_is_told_where_it_began() -> None:
    poll = Poll(Wanted("a", Start.LATEST))
    (locate,) = poll.directory.take(Locate)
    poll.subscriber.tell(Located("a", locate.ticket, nth(5), "e"))
    poll.fetches = {fetch.topic: fetch for fetch in poll.directory.take(Fetch)}
    poll.live("a", 5)
    poll.expire()
    assert poll.answer == ({"a": nth(5)}, False, None)
    assert not poll.sink.entries("subscribed")


def test_a_poll_ends_with_its_first_messages() -> None:
    poll = Poll(Wanted("a", nth(3)))
    poll.page("a", 4, 5, has_more=True)
    assert poll.sink.ids == id_texts(make_messages(4, 5))
    assert poll.answer == ({"a": nth(5)}, True, None)
    assert not poll.subscriber.is_alive


def test_a_poll_waits_for_what_each_topic_has() -> None:
    poll = Poll(Wanted("a", nth(3)), Wanted("b", nth(0)))
    poll.page("a", 4, 5)
    assert poll.answer is None
    poll.live("b", 7)
    assert poll.answer == ({"a": nth(5), "b": nth(7)}, False, None)


def test_a_poll_with_messages_does_not_wait_for_a_topic_that_cannot_be_read() -> None:
    poll = Poll(Wanted("a", nth(3)), Wanted("b", nth(0)))
    poll.fail("b")
    poll.page("a", 4, 5)
    assert poll.answer == ({"a": nth(5), "b": nth(0)}, False, None)


def test_a_poll_with_nothing_to_read_waits_for_a_message() -> None:
    poll = Poll(Wanted("a", nth(3)))
    poll.live("a", 3)
    assert poll.answer is None
    poll.deliver("a", 4, 4)
    assert poll.answer == ({"a": nth(4)}, False, None)


def test_a_poll_asks_for_the_first_messages_only_and_leaves_the_topics_that_had_none() -> None:
    poll = Poll(Wanted("a", nth(3)), Wanted("b", nth(7)))
    assert all(fetch.completes for fetch in poll.fetches.values())
    poll.live("a", 3)
    poll.live("b", 7)
    poll.deliver("a", 4, 4)
    assert poll.answer == ({"a": nth(4), "b": nth(7)}, False, None)
    assert [leave.topic for leave in poll.directory.take(Leave)] == ["b"]


def test_a_poll_that_is_given_what_it_has_asks_again() -> None:
    """The topic has let go of it with that."""
    poll = Poll(Wanted("a", nth(3)))
    poll.live("a", 3)
    poll.deliver("a", 2, 3)
    assert poll.answer is None
    (fetch,) = poll.directory.take(Fetch)
    assert fetch.cursor == nth(3)


def test_a_poll_takes_no_more_than_its_limit_of_a_topic() -> None:
    poll = Poll(Wanted("a", nth(3)), Wanted("b", nth(0)), page_max_messages=2)
    poll.live("a", 3)
    poll.deliver("a", 4, 8)
    poll.deliver("a", 9, 9)
    assert poll.sink.ids == id_texts(make_messages(4, 5))
    poll.live("b", 0)
    assert poll.answer == ({"a": nth(5), "b": nth(0)}, True, None)


def test_there_is_more_only_if_there_is_more_behind_the_last_page() -> None:
    poll = Poll(Wanted("a", nth(3)))
    poll.empty_page("a", 4, has_more=True)
    assert poll.answer is None, "expired messages are no answer"
    poll.page("a", 5, 5)
    assert poll.answer == ({"a": nth(5)}, False, None)


def test_expired_messages_move_the_cursor_of_a_poll_that_ends_empty() -> None:
    poll = Poll(Wanted("a", nth(3)))
    poll.empty_page("a", 4, has_more=True)
    poll.live("a", 4)
    poll.expire()
    assert poll.answer == ({"a": nth(4)}, False, None)


def test_a_poll_whose_time_is_over_at_once_is_still_told_what_there_is() -> None:
    poll = Poll(Wanted("a", nth(3)), Wanted("b", nth(0)))
    poll.expire()
    assert poll.answer is None
    poll.page("a", 4, 5)
    poll.live("b", 0)
    assert poll.answer == ({"a": nth(5), "b": nth(0)}, False, None)


def test_a_poll_whose_time_is_over_does_not_wait_for_a_store_that_is_away() -> None:
    poll = Poll(Wanted("a", nth(3)))
    poll.expire()
    poll.fail("a", "store_loading")
    assert poll.answer == ({"a": nth(3)}, False, "store_loading")


def test_a_poll_that_never_could_be_read_says_so_in_the_end() -> None:
    poll = Poll(Wanted("a", nth(3)))
    poll.fail("a", "store_loading")
    assert poll.answer is None, "the store may come back in time"
    poll.expire()
    assert poll.answer == ({"a": nth(3)}, False, "store_loading")


def test_a_poll_whose_acknowledged_place_cannot_be_read_ends_when_its_time_is_over() -> None:
    poll = Poll()
    poll.subscriber = start_subscriber(
        poll.system, poll.directory, ScriptedStore(), poll.sink, subscriber_id=2, completes=True
    )
    poll.subscriber.tell(Subscribe((Wanted("a", Start.ACKED),), client_id="c"))
    poll.expire()
    assert poll.answer is None
    poll.subscriber.work("claim").fail("store_loading")
    poll.system.settle()
    assert poll.answer == ({}, False, "store_loading")


def test_a_poll_tries_again_while_it_has_time() -> None:
    poll = Poll(Wanted("a", nth(3)))
    poll.fail("a")
    poll.system.fire_timers()
    poll.fetches = {fetch.topic: fetch for fetch in poll.directory.take(Fetch)}
    poll.page("a", 4, 4)
    assert poll.answer == ({"a": nth(4)}, False, None)


def test_what_comes_after_the_answer_is_for_nobody() -> None:
    poll = Poll(Wanted("a", nth(3)))
    poll.page("a", 4, 4)
    poll.deliver("a", 5, 5)
    poll.expire()
    assert poll.sink.ids == id_texts(make_messages(4, 4)) and poll.answer is not None


@pytest.mark.parametrize("is_expired", [False, True])
def test_a_poll_of_many_topics_is_over_when_the_last_has_answered(is_expired: bool) -> None:
    topics = [f"t{number}" for number in range(20)]
    poll = Poll(*(Wanted(topic, nth(1)) for topic in topics))
    if is_expired:
        poll.expire()
    for topic in topics:
        assert poll.answer is None
        poll.page(topic, 2, 2)
    assert poll.answer == (dict.fromkeys(topics, nth(2)), False, None)


def test_a_poll_that_is_neither_answered_nor_over_goes_on() -> None:
    assert not LongPoll().is_over([])
