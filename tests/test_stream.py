"""Values of a stream: ids that order, batches that are encoded once, a hot buffer that keeps its bounds."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from actors.stream import (
    BEGINNING,
    MESSAGE_OVERHEAD_BYTES,
    Batch,
    HotBuffer,
    HotLimits,
    Message,
    MessageId,
    PageCache,
    timestamp_text,
)
from tests.scripted_store import START_MS, id_texts, make_messages, nth

MORE = int(os.environ.get("TEST_EXAMPLES_SCALE", "1"))
"""Multiplies the examples that are tried."""

U64 = st.integers(0, 2**64 - 1)
UNBOUNDED = HotLimits(10_000, 1 << 30, 3_600_000)


# Message ids


@settings(max_examples=30)
@given(U64, U64)
def test_an_id_reads_back_as_it_was_written(milliseconds: int, number: int) -> None:
    message_id = MessageId.of(milliseconds, number)
    assert str(message_id) == f"{milliseconds}-{number}"
    assert MessageId.parse(str(message_id)) == message_id
    assert (message_id.milliseconds, message_id.number) == (milliseconds, number)


@settings(max_examples=30)
@given(st.tuples(U64, U64), st.tuples(U64, U64))
def test_ids_order_as_two_numbers(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (MessageId.of(*one) < MessageId.of(*other)) == (one < other)


NO_IDS = """ - 1 1- -1 1-2-3 1--2 +1-2 a-b 1.0-2 \u0661-2 msg_1 111111111111111111111-0
18446744073709551616-0 0-18446744073709551616"""


@pytest.mark.parametrize("text", [*NO_IDS.split(), "", " 1-2", "1-2\n"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        MessageId.parse(text)


def test_an_id_with_leading_zeros_is_the_id_without() -> None:
    assert MessageId.parse("007-01") == MessageId.of(7, 1)


def test_the_beginning_is_before_every_id() -> None:
    assert BEGINNING < MessageId.of(0, 1) < MessageId.of(1, 0)
    assert str(BEGINNING) == "0-0"
    assert repr(MessageId.of(1, 2)) == "MessageId('1-2')"


# Messages


def test_a_messages_time_is_the_time_in_its_id() -> None:
    message = Message("t", MessageId.of(1_700_000_000_123, 1), "1700000000123-1", BEGINNING, b"1")
    assert message.timestamp == "2023-11-14T22:13:20.123000Z"


def test_another_servers_entry_keeps_its_own_time() -> None:
    message = Message("t", nth(1), str(nth(1)), BEGINNING, b"1", timestamp="2020-01-01T00:00:00+00:00")
    assert message.timestamp == "2020-01-01T00:00:00+00:00"


def test_a_time_beyond_the_calendar_is_its_last_day() -> None:
    assert timestamp_text(2**64 - 1) == timestamp_text(2**63) == "9999-12-31T00:00:00.000000Z"


def test_a_message_costs_its_texts_twice_and_overhead() -> None:
    message = Message("t", nth(1), str(nth(1)), BEGINNING, b"12345", b"{}")
    assert message.size_bytes == 2 * 7 + MESSAGE_OVERHEAD_BYTES


# Batches


def test_a_batch_is_encoded_once_for_each_format() -> None:
    batch = Batch("t", make_messages(1, 2))
    calls: list[int] = []

    def encode(messages: object) -> bytes:
        calls.append(1)
        return b"frames"

    def encode_otherwise(messages: object) -> bytes:
        return b"events"

    assert batch.encoded(encode) is batch.encoded(encode)
    assert batch.encoded(encode_otherwise) == b"events"
    assert len(calls) == 1


def test_the_part_of_a_batch_after_a_cursor_is_strictly_after_it() -> None:
    batch = Batch("t", make_messages(1, 4), nth(9))
    rest = batch.after(nth(2))
    assert rest is not None and id_texts(rest.messages) == id_texts(make_messages(3, 4))
    assert rest.last == nth(9)
    assert rest.prev == nth(2)
    assert batch.after(nth(9)) is None
    assert batch.after(BEGINNING) is batch


def test_after_a_batchs_last_message_come_those_that_have_expired() -> None:
    rest = Batch("t", make_messages(1, 4), nth(9)).after(nth(4))
    assert rest is not None
    assert (len(rest), rest.prev, rest.last) == (0, nth(4), nth(9))


def test_a_batch_follows_the_same_cursor_with_its_expired_messages_and_without() -> None:
    messages = [*make_messages(1, 2, expires_at_ms=5), *make_messages(3, 4)]
    batch = Batch("t", messages).unexpired(now_ms=5)
    assert (id_texts(batch.messages), batch.prev) == (id_texts(make_messages(3, 4)), BEGINNING)
    assert batch.first(1).prev == BEGINNING


def test_the_first_part_of_a_batch_ends_with_its_last_message() -> None:
    batch = Batch("t", make_messages(1, 4), nth(9))
    assert batch.first(4) is batch
    assert batch.first(3).last == nth(3)


def test_expired_messages_are_left_out_and_reading_continues_behind_them() -> None:
    batch = Batch("t", [*make_messages(1, 1), *make_messages(2, 3, expires_at_ms=100)])
    assert batch.unexpired(99) is batch
    assert id_texts(batch.unexpired(100).messages) == id_texts(make_messages(1, 1))
    assert batch.unexpired(100).last == nth(3)


def test_a_batch_of_expired_messages_only_is_empty_and_moves_on() -> None:
    alive = Batch("t", make_messages(1, 3, expires_at_ms=100)).unexpired(200)
    assert len(alive) == 0 and alive.last == nth(3)


# The hot buffer


def test_a_hot_buffer_drops_the_oldest_beyond_its_count() -> None:
    hot = HotBuffer(HotLimits(2, 1 << 20, 3_600_000))
    hot.extend(make_messages(1, 5))
    assert id_texts(hot) == id_texts(make_messages(4, 5))
    assert hot.floor == nth(3) and hot.newest == nth(5)


def test_a_hot_buffer_drops_the_oldest_beyond_its_bytes() -> None:
    hot = HotBuffer(HotLimits(100, 2 * (MESSAGE_OVERHEAD_BYTES + 2), 3_600_000))
    hot.extend(make_messages(1, 5))
    assert id_texts(hot) == id_texts(make_messages(4, 5))


def test_a_message_larger_than_the_hot_buffer_empties_it() -> None:
    hot = HotBuffer(HotLimits(100, 5000, 3_600_000))
    hot.extend(make_messages(1, 2))
    hot.extend(make_messages(3, 3, size=5000))
    assert len(hot) == 0 and hot.size_bytes == 0
    assert hot.floor == hot.newest == nth(3)


def test_a_hot_buffer_drops_what_is_too_old() -> None:
    hot = HotBuffer(HotLimits(100, 1 << 20, 1000))
    hot.extend(make_messages(1, 3))
    hot.expire(START_MS + 1000)
    assert len(hot) == 3
    hot.expire(START_MS + 1001)
    assert len(hot) == 0 and hot.floor == nth(3)


def test_dropped_messages_leave_memory_at_once() -> None:
    hot = HotBuffer(UNBOUNDED)
    hot.extend(make_messages(1, 3))
    hot.shrink(hot.size_bytes - 1)
    assert hot._messages[0] is None


def test_a_hot_buffer_forgets_positions_it_dropped_for_good() -> None:
    hot = HotBuffer(HotLimits(10, 1 << 20, 3_600_000))
    for number in range(1, 2000):
        hot.extend(make_messages(number, number))
        assert len(hot._ids) < 1000
    assert id_texts(hot) == id_texts(make_messages(1990, 1999))


def test_a_page_has_one_message_even_if_that_is_too_large() -> None:
    hot = HotBuffer(UNBOUNDED)
    hot.extend(make_messages(1, 3, size=5000))
    assert id_texts(hot.after(BEGINNING, 10, 1)) == id_texts(make_messages(1, 1))


class HotBufferModel(RuleBasedStateMachine):
    """Against a plain list."""

    @initialize(
        max_messages=st.integers(0, 20), max_messages_bytes=st.integers(0, 20), start=st.integers(0, 5)
    )
    def open(self, max_messages: int, max_messages_bytes: int, start: int) -> None:
        self.limits = HotLimits(max_messages, max_messages_bytes * (MESSAGE_OVERHEAD_BYTES + 10), 1000)
        self.hot = HotBuffer(self.limits, nth(start))
        self.model: list[Message] = []
        self.floor = nth(start)
        self.last = start

    @rule(sizes=st.lists(st.integers(0, 30), max_size=8), ms=st.integers(0, 100))
    def extend(self, sizes: list[int], ms: int) -> None:
        new = []
        for size in sizes:
            self.last += 1
            prev = new[-1].id if new else (self.model[-1].id if self.model else self.floor)
            this = MessageId.of(max(START_MS + ms, prev.milliseconds), self.last)
            new.append(Message("t", this, str(this), prev, b"x" * size))
        self.hot.extend(new)
        self.model += new
        self._bound(self.limits.max_messages, self.limits.max_bytes)

    def _bound(self, count: int, size_bytes: int) -> None:
        while len(self.model) > count or (self.model and self._size(self.model) > size_bytes):
            self.floor = self.model.pop(0).id

    @rule(size_bytes=st.integers(0, 10_000))
    def shrink(self, size_bytes: int) -> None:
        self.hot.shrink(size_bytes)
        self._bound(1 << 30, size_bytes)

    @rule(ms=st.integers(900, 1200))
    def expire(self, ms: int) -> None:
        self.hot.expire(START_MS + ms)
        while self.model and self.model[0].id.milliseconds < START_MS + ms - 1000:
            self.floor = self.model.pop(0).id

    @rule()
    def clear(self) -> None:
        self.floor = self.model[-1].id if self.model else self.floor
        self.hot.clear(self.floor)
        self.model.clear()

    @rule(back=st.integers(0, 25), limit=st.integers(1, 9), size_bytes=st.integers(1, 8000))
    def read(self, back: int, limit: int, size_bytes: int) -> None:
        places = [self.floor, *(message.id for message in self.model)]
        cursor = places[max(0, len(places) - 1 - back)]
        expected: list[Message] = []
        for message in self.model:
            if message.id > cursor and len(expected) < limit:
                if expected and self._size([*expected, message]) > size_bytes:
                    break
                expected.append(message)
        found = self.hot.after(cursor, limit, size_bytes)
        assert found == expected
        assert self.hot.knows(cursor)
        if found:
            assert self.hot.size_between(cursor, found[-1].id) == self._size(found)

    @invariant()
    def they_are_the_same(self) -> None:
        if hasattr(self, "hot"):
            assert list(self.hot) == self.model
            assert len(self.hot) == len(self.model)
            assert self.hot.size_bytes == self._size(self.model)
            assert self.hot.floor == self.floor
            assert self.hot.newest == (self.model[-1].id if self.model else self.floor)

    @staticmethod
    def _size(messages: list[Message]) -> int:
        return sum(message.size_bytes for message in messages)


TestHotBufferModel = HotBufferModel.TestCase
TestHotBufferModel.settings = settings(max_examples=15 * MORE, stateful_step_count=20, deadline=None)


def test_an_id_that_is_not_in_the_hot_buffer_is_not_known() -> None:
    hot = HotBuffer(UNBOUNDED, nth(2))
    hot.extend(make_messages(3, 4))
    assert hot.knows(nth(2)) and hot.knows(nth(4))
    assert not hot.knows(nth(1))
    assert not hot.knows(nth(5))
    assert not hot.knows(MessageId.of(START_MS - 1, 9))


# Shared pages


def test_pages_are_kept_up_to_a_bound_in_bytes_the_oldest_go_first() -> None:
    pages = PageCache(100)
    made = [Batch("t", make_messages(n, n)) for n in range(1, 4)]
    for number, page in enumerate(made):
        pages.put(nth(number), 10, page, 40)
    assert pages.get(nth(0), 10) is None
    assert pages.get(nth(1), 10) is made[1] and pages.get(nth(2), 10) is made[2]
    assert pages.size_bytes == 80


def test_a_page_beyond_the_bound_is_not_kept_and_costs_no_other() -> None:
    pages = PageCache(100)
    small = Batch("t", make_messages(1, 1))
    pages.put(nth(0), 10, small, 40)
    pages.put(nth(1), 10, Batch("t", make_messages(2, 2)), 101)
    assert pages.get(nth(0), 10) is small and len(pages) == 1


def test_pages_of_another_length_are_other_pages() -> None:
    pages = PageCache(100)
    pages.put(nth(0), 10, Batch("t", make_messages(1, 1)), 40)
    assert pages.get(nth(0), 11) is None


def test_cleared_pages_cost_nothing() -> None:
    pages = PageCache(100)
    pages.put(nth(0), 10, Batch("t", make_messages(1, 1)), 40)
    pages.clear()
    assert len(pages) == 0 and pages.size_bytes == 0
