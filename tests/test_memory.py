"""TopicMemory: a worker's copy of a topic stays the stream's, whatever the feed does."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.memory import FILL_MESSAGES, HELD_MAX_BYTES, Run, Standing, TopicMemory
from actors.ports import Draft, Position, Publish, StreamPage
from actors.protocol import Fed
from actors.stream import BEGINNING, Batch, HotLimits, Message, MessageId
from tests.scripted_store import START_MS, ModelStream, id_texts, make_messages, nth

MORE = int(os.environ.get("TEST_EXAMPLES_SCALE", "1"))
"""Multiplies the examples that are tried."""

PLENTY = HotLimits(1000, 1 << 20, 3_600_000)


def make_memory(limits: HotLimits = PLENTY) -> TopicMemory:
    return TopicMemory("t", limits, 1 << 20)


def following(newest: int = 0, epoch: str = "e") -> TopicMemory:
    """In step with a stream that stands at this message."""
    memory = make_memory()
    memory.join()
    memory.joined(Position(epoch, nth(newest)))
    assert memory.is_in_step
    return memory


def run_of(first: int, last: int, epoch: str = "e") -> Run:
    messages = make_messages(first, last)
    return Run(messages[0].prev, messages, messages[-1].id, epoch)


def announced(last: int, epoch: str = "e") -> Run:
    return Run(nth(last - 1), (), nth(last), epoch)


def page_of(
    first: int, last: int, *, newest: int | None = None, epoch: str = "e", has_more: bool = False
) -> StreamPage:
    """What a read after `first - 1` finds."""
    messages = make_messages(first, last)
    return StreamPage(
        Position(epoch, nth(last if newest is None else newest)),
        Batch("t", messages),
        has_more,
        messages[0].id,
        messages[0].prev,
        True,
        BEGINNING,
    )


def empty_page(newest: int, epoch: str = "e", after: int | None = None) -> StreamPage:
    batch = Batch("t", [], nth(newest if after is None else after))
    return StreamPage(Position(epoch, nth(newest)), batch, False, None, None, True, BEGINNING)


def hot_ids(memory: TopicMemory) -> list[str]:
    return id_texts(memory.hot)


# In step


def test_messages_that_follow_the_newest_are_kept_and_new() -> None:
    memory = following(0)
    assert id_texts(memory.absorb(run_of(1, 2))) == id_texts(make_messages(1, 2))
    assert memory.newest == nth(2)
    assert hot_ids(memory) == id_texts(make_messages(1, 2))


def test_messages_seen_before_are_dropped() -> None:
    memory = following(3)
    assert not memory.absorb(run_of(2, 3))
    assert memory.is_in_step and memory.newest == nth(3)


def test_of_messages_seen_in_part_the_rest_is_new() -> None:
    memory = following(3)
    assert id_texts(memory.absorb(run_of(2, 5))) == id_texts(make_messages(4, 5))


def test_a_gap_is_held_and_read() -> None:
    memory = following(1)
    assert not memory.absorb(run_of(3, 3))
    assert memory.is_behind and memory.newest == nth(1)
    new = memory.fill(nth(1), page_of(2, 2, newest=3))
    assert new is not None and id_texts(new) == id_texts(make_messages(2, 3))
    assert memory.is_in_step


def test_what_was_read_already_is_not_taken_from_what_was_held() -> None:
    memory = following(1)
    memory.absorb(run_of(3, 3))
    memory.absorb(run_of(4, 4))
    new = memory.fill(nth(1), page_of(2, 4))
    assert new is not None and id_texts(new) == id_texts(make_messages(2, 4))


def test_an_announcement_without_messages_is_read() -> None:
    memory = following(1)
    assert not memory.absorb(announced(2))
    assert memory.is_behind


def test_an_announcement_of_what_is_known_needs_no_read() -> None:
    memory = following(2)
    memory.absorb(announced(2))
    assert memory.is_in_step


def test_an_announcement_of_what_is_known_in_part_is_read() -> None:
    memory = following(3)
    assert not memory.absorb(Run(nth(2), (), nth(5), "e"))
    assert memory.is_behind


def test_what_was_held_in_a_row_needs_no_other_read() -> None:
    memory = following(1)
    memory.absorb(run_of(3, 3))
    memory.absorb(run_of(4, 4))
    new = memory.fill(nth(1), page_of(2, 2, newest=4))
    assert new is not None and id_texts(new) == id_texts(make_messages(2, 4))
    assert memory.is_in_step


def test_an_announcement_that_came_during_a_read_is_not_forgotten() -> None:
    memory = following(1)
    memory.absorb(announced(2))
    memory.absorb(announced(3))
    memory.fill(nth(1), page_of(2, 2))
    assert memory.is_behind and memory.newest == nth(2)
    memory.fill(nth(2), page_of(3, 3))
    assert memory.is_in_step


def test_a_long_gap_is_read_page_by_page() -> None:
    memory = following(1)
    memory.absorb(announced(5))
    new = memory.fill(nth(1), page_of(2, 3, newest=5, has_more=True))
    assert new is not None and id_texts(new) == id_texts(make_messages(2, 3))
    assert memory.is_behind
    memory.fill(nth(3), page_of(4, 5))
    assert memory.is_in_step


def test_entries_that_are_no_messages_are_passed_over() -> None:
    memory = following(1)
    memory.absorb(announced(3))
    foreign = StreamPage(
        Position("e", nth(3)), Batch("t", [], nth(3)), False, nth(2), nth(1), True, BEGINNING
    )
    assert memory.fill(nth(1), foreign) == []
    assert memory.is_in_step and memory.newest == nth(3)
    assert memory.page(nth(1), 10) is None
    assert memory.covers(nth(3), proves=True, epoch=None), "it is where the stream ends"
    assert id_texts(memory.absorb(run_of(4, 4))) == id_texts(make_messages(4, 4))


def test_what_is_held_is_bounded_and_what_was_dropped_is_read() -> None:
    memory = following(1)
    size = HELD_MAX_BYTES // 4
    for number in range(3, 20):
        messages = make_messages(number, number, size=size)
        memory.absorb(Run(nth(number - 1), messages, nth(number), "e"))
        assert memory._held_bytes <= HELD_MAX_BYTES
    memory.fill(nth(1), page_of(2, 2, newest=19))
    assert memory.is_behind, "the dropped ones are missing"
    memory.fill(nth(2), page_of(3, 18, newest=19))
    assert memory.is_in_step and memory.newest == nth(19)


def test_a_page_for_an_earlier_need_changes_nothing() -> None:
    memory = following(3)
    assert memory.fill(nth(1), page_of(2, 3)) == ()
    memory.absorb(announced(5))
    assert memory.fill(nth(1), page_of(2, 5)) == ()
    assert memory.newest == nth(3) and memory.is_behind


def test_what_was_announced_and_then_lost_by_the_store_is_not_sought_for_ever() -> None:
    for run in (announced(2), run_of(3, 3)):
        memory = following(1)
        memory.absorb(run)
        assert memory.fill(nth(1), empty_page(1)) == []
        assert memory.is_in_step


def test_what_came_during_a_read_is_sought_by_one_more() -> None:
    memory = following(1)
    memory.doubt()
    memory.absorb(run_of(3, 3))
    memory.fill(nth(1), empty_page(1))
    assert memory.is_behind, "the read may have been too early for it"
    memory.fill(nth(1), empty_page(1))
    assert memory.is_in_step


def test_a_page_that_nobody_needs_changes_nothing() -> None:
    memory = following(3)
    assert memory.fill(nth(3), page_of(4, 4)) == ()
    assert memory.newest == nth(3)


# Other histories


def test_another_epoch_is_not_believed_before_the_stream_is_read() -> None:
    memory = following(3)
    assert not memory.absorb(run_of(4, 4, epoch="f"))
    assert memory.is_behind and memory.epoch == "e"


def test_a_late_announcement_of_a_past_history_is_forgotten_after_a_read() -> None:
    memory = following(3, epoch="f")
    memory.absorb(run_of(7, 7, epoch="e"))
    assert memory.fill(nth(3), empty_page(3, epoch="f")) == []
    assert memory.is_in_step and memory.newest == nth(3) and memory.epoch == "f"


def test_a_stream_of_another_epoch_starts_memory_anew() -> None:
    memory = following(3)
    memory.absorb(run_of(4, 4, epoch="f"))
    assert memory.fill(nth(3), page_of(4, 4, epoch="f")) is None
    assert memory.is_in_step and memory.newest == nth(4) and memory.epoch == "f"
    assert not hot_ids(memory)


def test_a_stream_that_does_not_name_our_newest_starts_memory_anew() -> None:
    memory = following(1)
    memory.absorb(announced(9))
    assert memory.fill(nth(1), page_of(5, 9)) is None
    assert memory.newest == nth(9) and memory.is_in_step


def test_a_stream_that_ends_before_our_newest_has_lost_history() -> None:
    memory = following(5)
    memory.compare(Position("e", nth(3)))
    assert memory.is_behind
    assert memory.fill(nth(5), empty_page(3, after=5)) is None
    assert memory.newest == nth(3) and memory.floor == nth(5)


def test_a_stream_whose_messages_after_ours_are_all_gone_starts_memory_anew() -> None:
    memory = following(5)
    memory.compare(Position("e", nth(8)))
    assert memory.fill(nth(5), empty_page(8, after=5)) is None
    assert memory.newest == nth(8)


def test_a_break_inside_a_page_is_not_read_over() -> None:
    memory = following(1)
    memory.absorb(announced(6))
    page = page_of(2, 6)
    del page.batch.messages[2]  # type: ignore[attr-defined]
    new = memory.fill(nth(1), page)
    assert new is not None and id_texts(new) == id_texts(make_messages(2, 3))
    assert memory.is_behind
    assert memory.fill(nth(3), page_of(5, 6)) is None, "the rest does not follow"


def test_a_comparison_that_was_read_too_early_costs_a_read_and_nothing_else() -> None:
    memory = following(5)
    memory.compare(Position("e", nth(4)))
    assert memory.fill(nth(5), empty_page(5)) == []
    assert memory.is_in_step and memory.newest == nth(5)


def test_a_comparison_that_agrees_costs_nothing() -> None:
    memory = following(5)
    memory.compare(Position("e", nth(5)))
    assert memory.is_in_step


def test_a_comparison_that_differs_in_its_epoch_only_is_looked_into() -> None:
    memory = following(5)
    memory.compare(Position("f", nth(5)))
    assert memory.is_behind


@pytest.mark.parametrize("is_joining", [False, True])
def test_a_comparison_is_for_memory_that_follows(is_joining: bool) -> None:
    memory = make_memory()
    if is_joining:
        memory.join()
    memory.compare(Position("e", nth(5)))
    assert not memory.is_behind and memory.floor == nth(5)


def test_what_was_held_is_looked_at_also_where_memory_starts_anew() -> None:
    memory = following(3)
    memory.absorb(run_of(4, 4, epoch="f"))
    memory.absorb(run_of(6, 6, epoch="f"))
    assert memory.fill(nth(3), page_of(4, 5, epoch="f")) is None
    assert memory.is_in_step and memory.newest == nth(6)


def test_a_history_found_by_a_read_has_its_name_from_there() -> None:
    memory = following(0, epoch="")
    memory.absorb(announced(1))
    memory.fill(nth(0), page_of(1, 1))
    assert memory.epoch == "e"


def test_the_first_message_of_a_topic_names_its_history() -> None:
    memory = following(0, epoch="")
    assert id_texts(memory.absorb(run_of(1, 1))) == id_texts(make_messages(1, 1))
    assert memory.epoch == "e"


def test_the_floor_is_the_highest_id_ever_heard_of() -> None:
    memory = following(3)
    memory.absorb(run_of(7, 8, epoch="f"))
    memory.fill(nth(3), empty_page(3))
    assert memory.newest == nth(3) and memory.floor == nth(8)
    memory.doubt()
    memory.fill(nth(3), page_of(4, 4, newest=9, has_more=True))
    assert memory.floor == nth(9)


def test_a_doubt_during_a_read_has_the_stream_read_again() -> None:
    memory = following(3)
    memory.doubt()
    memory.doubt()
    memory.fill(nth(3), empty_page(3))
    assert memory.is_behind, "the read may have been too early to tell"
    memory.fill(nth(3), empty_page(3))
    assert memory.is_in_step


# Cold, and joining


def test_cold_memory_keeps_appends_that_follow_each_other() -> None:
    memory = make_memory()
    memory.absorb(run_of(1, 2))
    memory.absorb(run_of(3, 3))
    assert hot_ids(memory) == id_texts(make_messages(1, 3))


def test_cold_memory_starts_anew_where_another_workers_append_came_between() -> None:
    memory = make_memory()
    memory.absorb(run_of(1, 2))
    memory.absorb(run_of(4, 4))
    assert hot_ids(memory) == id_texts(make_messages(4, 4))
    assert memory.hot.floor == nth(3)


def test_cold_memory_starts_anew_in_another_history_even_if_ids_go_on() -> None:
    memory = make_memory()
    memory.absorb(run_of(1, 2))
    memory.absorb(run_of(3, 3, epoch="f"))
    assert hot_ids(memory) == id_texts(make_messages(3, 3)), "the store may have lost the first two"


def test_cold_memory_keeps_nothing_that_it_only_hears_of() -> None:
    memory = make_memory()
    memory.absorb(run_of(1, 2))
    assert not memory.absorb(announced(5))
    assert hot_ids(memory) == id_texts(make_messages(1, 2)) and memory.newest == nth(2)


def test_cold_memory_does_not_go_back() -> None:
    memory = make_memory()
    memory.absorb(run_of(1, 4))
    assert not memory.absorb(run_of(2, 3))
    assert hot_ids(memory) == id_texts(make_messages(1, 4)) and memory.newest == nth(4)


def test_cold_memory_has_no_doubts() -> None:
    memory = make_memory()
    memory.doubt()
    memory.join()
    memory.joined(Position("e", nth(3)))
    assert memory.is_in_step


def test_joining_where_nothing_is_new_keeps_the_hot_buffer() -> None:
    memory = make_memory()
    memory.absorb(run_of(1, 2))
    memory.join()
    memory.joined(Position("e", nth(2)))
    assert memory.is_in_step and hot_ids(memory) == id_texts(make_messages(1, 2))


def test_joining_holds_what_comes_until_the_position_is_known() -> None:
    memory = make_memory()
    memory.join()
    assert not memory.absorb(run_of(6, 6))
    memory.joined(Position("e", nth(5)))
    assert memory.is_in_step and memory.newest == nth(6)
    assert hot_ids(memory) == id_texts(make_messages(6, 6))


def test_an_announcement_that_came_while_joining_is_not_forgotten() -> None:
    memory = make_memory()
    memory.join()
    memory.absorb(announced(6))
    memory.joined(Position("e", nth(5)))
    assert memory.is_behind


def test_joining_a_little_behind_fills_up_before_following() -> None:
    memory = make_memory()
    memory.absorb(run_of(1, 2))
    memory.join()
    memory.joined(Position("e", nth(4)))
    assert memory.standing is Standing.JOINING and memory.is_behind
    memory.fill(nth(2), page_of(3, 4))
    assert memory.is_in_step
    assert hot_ids(memory) == id_texts(make_messages(1, 4))


def test_joining_far_behind_starts_afresh() -> None:
    memory = make_memory()
    memory.absorb(run_of(1, 2))
    memory.join()
    memory.joined(Position("e", nth(3 + FILL_MESSAGES)))
    assert memory.is_in_step and not hot_ids(memory)


def test_joining_behind_by_one_read_reads() -> None:
    memory = make_memory()
    memory.absorb(run_of(1, 2))
    memory.join()
    memory.joined(Position("e", nth(2 + FILL_MESSAGES)))
    assert memory.is_behind and hot_ids(memory)


def test_joining_a_stream_that_turns_out_to_be_another_follows_that() -> None:
    memory = make_memory()
    memory.absorb(run_of(1, 2))
    memory.join()
    memory.joined(Position("e", nth(4)))
    assert memory.fill(nth(2), page_of(4, 4)) is None
    assert memory.is_in_step and memory.newest == nth(4)


def test_joining_a_stream_that_lost_history_starts_afresh() -> None:
    memory = make_memory()
    memory.absorb(run_of(1, 5))
    memory.join()
    memory.joined(Position("e", nth(3)))
    assert memory.is_in_step and memory.newest == nth(3) and not hot_ids(memory)


def test_a_doubt_while_joining_has_the_stream_read_before_following() -> None:
    memory = make_memory()
    memory.join()
    memory.doubt()
    memory.joined(Position("e", nth(3)))
    assert memory.standing is Standing.JOINING and memory.is_behind


def test_leaving_goes_cold_with_what_was_held() -> None:
    memory = make_memory()
    memory.join()
    memory.absorb(run_of(1, 1))
    memory.leave()
    assert memory.standing is Standing.COLD and not memory.is_behind
    assert hot_ids(memory) == id_texts(make_messages(1, 1))


def test_leaving_while_behind_is_behind_no_more() -> None:
    memory = following(1)
    memory.absorb(announced(5))
    memory.doubt()
    memory.leave()
    assert not memory.is_behind
    memory.join()
    memory.joined(Position("e", nth(1)))
    assert memory.is_in_step, "nor in doubt"


# Serving and giving back


def test_a_cursor_below_the_hot_buffer_is_not_covered() -> None:
    memory = TopicMemory("t", HotLimits(2, 1 << 20, 3_600_000), 1 << 20)
    memory.absorb(run_of(1, 4))
    assert not memory.covers(nth(1), proves=False, epoch=None)
    assert memory.covers(nth(2), proves=True, epoch=None)


def test_a_cursor_ahead_of_memory_is_not_covered() -> None:
    assert not following(3).covers(nth(4), proves=False, epoch=None)


def test_a_cursor_that_is_no_place_in_the_stream_proves_nothing() -> None:
    memory = following(0)
    memory.absorb(run_of(1, 3))
    stranger = MessageId.of(START_MS - 1, 7)
    assert memory.covers(stranger, proves=False, epoch=None)
    assert not memory.covers(stranger, proves=True, epoch=None)


def test_a_cursor_of_another_history_is_not_covered() -> None:
    memory = following(3)
    assert memory.covers(nth(3), proves=True, epoch="e")
    assert not memory.covers(nth(3), proves=True, epoch="f")
    memory.doubt()
    memory.fill(nth(3), empty_page(3, epoch=""))
    assert memory.covers(nth(3), proves=True, epoch="f"), "deleted: there is no history to disagree with"


def test_readers_of_one_page_share_it() -> None:
    memory = following(0)
    memory.absorb(run_of(1, 5))
    page = memory.page(nth(1), 2)
    assert page is not None and page is memory.page(nth(1), 2)
    assert id_texts(page.messages) == id_texts(make_messages(2, 3))
    assert memory.page(nth(5), 2) is None


def test_a_page_from_inside_the_stream_is_kept_for_those_who_come_soon_after() -> None:
    memory = following(9)
    page = page_of(2, 4, newest=9, has_more=True)
    before = memory.size_bytes
    memory.share(nth(1), 3, page)
    assert memory.shared(nth(1), 3, None) is memory.shared(nth(1), 3, "e") is page.batch
    assert memory.size_bytes > before
    assert memory.shared(nth(1), 2, None) is memory.shared(nth(0), 3, None) is None
    assert memory.shared(nth(1), 3, "f") is None, "its history is another one"
    memory.age(0)
    assert memory.shared(nth(1), 3, None) is None


@pytest.mark.parametrize(
    ("cursor", "page"),
    [
        (1, page_of(3, 4, newest=9, has_more=True)),
        (1, page_of(2, 9)),
        (1, page_of(2, 4, newest=9, epoch="f", has_more=True)),
    ],
    ids=["behind a gap", "at the end", "of another history"],
)
def test_other_pages_are_not(cursor: int, page: StreamPage) -> None:
    memory = following(9)
    memory.share(nth(cursor), 3, page)
    assert memory.shared(nth(cursor), 3, None) is None


def test_shared_pages_are_counted_and_given_back() -> None:
    memory = following(0)
    memory.absorb(run_of(1, 5))
    before = memory.size_bytes
    memory.page(nth(1), 2)
    assert memory.size_bytes > before
    memory.age(0)
    assert memory.size_bytes == before


def shrunk(memory: TopicMemory) -> None:
    memory.shrink(0)
    assert memory.newest == nth(5)


def rewritten(memory: TopicMemory) -> None:
    memory.doubt()
    assert memory.fill(nth(5), page_of(9, 9)) is None


@pytest.mark.parametrize("give_back", [shrunk, rewritten, TopicMemory.drop_messages])
def test_what_is_given_back_is_all_given_back(give_back: Callable[[TopicMemory], None]) -> None:
    memory = following(0)
    memory.absorb(run_of(1, 5))
    memory.page(nth(1), 2)
    give_back(memory)
    assert memory.size_bytes == 0


def test_deleted_messages_are_served_to_nobody() -> None:
    memory = following(0)
    memory.absorb(run_of(1, 5))
    memory.page(nth(1), 2)
    memory.drop_messages()
    assert not memory.covers(nth(1), proves=False, epoch=None)
    assert memory.newest == nth(5)


# Against a naive model


class MemoryModel(RuleBasedStateMachine):
    """Appends here and elsewhere, heard of in any order, more than once, or not at all; reads at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = ModelStream()
        self.on_the_way: list[Fed] = []
        self.read: tuple[StreamPage, object] | None = None
        self.given: list[Message] = []
        self.start = BEGINNING
        self.count = 0

    @initialize(before=st.integers(0, 3), hot=st.integers(0, 6))
    def open(self, before: int, hot: int) -> None:
        self.memory = TopicMemory("t", HotLimits(hot, 1 << 20, 3_600_000), 1 << 20)
        if before:
            self.stream.add(*(b"x" for _ in range(before)))
        self.stream.announced.clear()

    def _take(self, new: object) -> None:
        assert new is not None, "nothing was lost, and memory says so"
        assert isinstance(new, tuple | list)
        if self.memory.standing is not Standing.COLD:
            self.given += new

    @rule(count=st.integers(1, 3))
    def append_here(self, count: int) -> None:
        publish = Publish("t", tuple(Draft(b"x") for _ in range(count)))
        appended = self.stream.append([publish], self.memory.floor)
        self.stream.announced.clear()
        run = Run(appended.prev, appended.messages, appended.messages[-1].id, appended.epoch)
        self._take(self.memory.absorb(run))

    @rule(count=st.integers(1, 3), is_inline=st.booleans(), copies=st.integers(0, 2))
    def append_elsewhere(self, count: int, is_inline: bool, copies: int) -> None:
        self.stream.is_inline = is_inline
        self.stream.add(*(b"x" for _ in range(count)))
        _, fed = self.stream.announced.pop()
        if self.memory.standing is not Standing.COLD:
            self.on_the_way += [fed] * copies

    @precondition(lambda self: self.on_the_way)
    @rule(which=st.integers(0, 100))
    def hear(self, which: int) -> None:
        fed = self.on_the_way.pop(which % len(self.on_the_way))
        self._take(self.memory.absorb(Run(fed.prev, fed.messages or (), fed.newest, fed.epoch)))

    @precondition(lambda self: self.memory.standing is Standing.COLD)
    @rule()
    def join(self) -> None:
        self.memory.join()
        self.joined_at: Position | None = self.stream.position()

    @precondition(lambda self: self.memory.standing is Standing.JOINING and self.joined_at is not None)
    @rule()
    def joined(self) -> None:
        assert self.joined_at is not None
        self.memory.joined(self.joined_at)
        self.joined_at = None
        self._follow()

    def _follow(self) -> None:
        if self.memory.standing is Standing.FOLLOWING:
            self.start, self.given = self.memory.newest, []

    @precondition(lambda self: self.memory.standing is Standing.FOLLOWING)
    @rule()
    def leave(self) -> None:
        self.memory.leave()
        self.on_the_way.clear()
        self.given = []

    @precondition(lambda self: self.memory.is_behind and self.read is None)
    @rule(limit=st.integers(1, 4))
    def begin_read(self, limit: int) -> None:
        after = self.memory.newest
        self.read = (self.stream.read(after, limit), after)

    @precondition(lambda self: self.read is not None)
    @rule()
    def end_read(self) -> None:
        assert self.read is not None
        (page, after), self.read = self.read, None
        was_joining = self.memory.standing is Standing.JOINING
        self._take(self.memory.fill(after, page))  # type: ignore[arg-type]
        if was_joining:
            self._follow()

    @precondition(lambda self: self.memory.standing is not Standing.COLD)
    @rule()
    def compare(self) -> None:
        self.memory.compare(self.stream.position())

    @rule()
    def doubt(self) -> None:
        self.memory.doubt()

    @rule(max_bytes=st.sampled_from([0, 2000]))
    def shrink(self, max_bytes: int) -> None:
        self.memory.shrink(max_bytes)

    @invariant()
    def what_was_given_is_the_stream_in_order(self) -> None:
        if self.memory_is_open and self.memory.standing is Standing.FOLLOWING:
            expected = [m for m in self.stream.history if self.start < m.id <= self.memory.newest]
            assert id_texts(self.given) == id_texts(expected)

    @invariant()
    def the_hot_buffer_is_the_streams_end_as_far_as_memory_goes(self) -> None:
        if self.memory_is_open:
            memory = self.memory
            expected = [m for m in self.stream.history if memory.hot.floor < m.id <= memory.newest]
            assert hot_ids(memory) == id_texts(expected)

    @property
    def memory_is_open(self) -> bool:
        return hasattr(self, "memory")

    def teardown(self) -> None:
        """Compared and read until nothing is missing, memory has all there is."""
        if not self.memory_is_open or self.memory.standing is Standing.COLD:
            return
        if self.memory.standing is Standing.JOINING and self.joined_at is not None:
            self.joined()
        self.read = None
        for _ in range(3):
            self.memory.compare(self.stream.position())
            while self.memory.is_behind:
                self.begin_read(1000)
                self.end_read()
        self.what_was_given_is_the_stream_in_order()
        assert self.memory.is_in_step and self.memory.newest == self.stream.newest


TestMemoryModel = MemoryModel.TestCase
TestMemoryModel.settings = settings(
    max_examples=20 * MORE,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
