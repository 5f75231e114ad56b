"""Proof of position: what a cursor is told, case by case."""

from __future__ import annotations

import pytest

from actors.ports import Draft, Notice, Publish
from actors.proof import judge, unbroken
from actors.stream import BEGINNING, MessageId
from tests.scripted_store import START_MS, ModelStream, id_texts, nth


def stream_of(count: int) -> ModelStream:
    stream = ModelStream()
    stream.add(*(b"x" for _ in range(count)))
    return stream


def judged(stream: ModelStream, cursor: MessageId, epoch: str | None = None) -> Notice | None:
    return judge("t", cursor, epoch, stream.read(cursor, 10))


@pytest.mark.parametrize("number", range(6))
def test_a_cursor_in_the_stream_is_contiguous(number: int) -> None:
    assert judged(stream_of(5), nth(number)) is None


def test_the_newest_of_a_stream_that_is_all_trimmed_is_contiguous() -> None:
    stream = stream_of(5)
    stream.trim(5)
    assert judged(stream, nth(5)) is None


def test_the_last_of_the_trimmed_is_contiguous_with_the_oldest() -> None:
    stream = stream_of(5)
    stream.trim(2)
    assert judged(stream, nth(2)) is None


def test_a_cursor_before_the_oldest_has_a_gap_of_what_was_trimmed() -> None:
    stream = stream_of(9)
    stream.trim(6)
    assert judged(stream, nth(2)) == Notice("gap", "t", "trimmed", 4, str(nth(7)))


def test_a_cursor_whose_stream_is_all_trimmed_has_a_gap_and_nothing_is_available() -> None:
    stream = stream_of(9)
    stream.trim(9)
    assert judged(stream, nth(2)) == Notice("gap", "t", "trimmed", 7, None)


def test_entries_deleted_behind_a_cursor_that_is_still_there_are_a_gap() -> None:
    stream = stream_of(5)
    del stream.messages[2:4]
    assert judged(stream, nth(2)) == Notice("gap", "t", "deleted", 2, str(nth(5)))


def test_a_cursor_the_stream_never_had_is_reset() -> None:
    stream = stream_of(2)
    stream.clock_ms += 1000
    stream.add(b"x")
    stranger = MessageId.of(START_MS + 500, 2)
    assert judged(stream, stranger) == Notice("reset", "t", "unknown_cursor", None, stream.ids()[-1])


def test_a_cursor_ahead_of_the_stream_is_reset() -> None:
    assert judged(stream_of(2), nth(3)) == Notice("reset", "t", "ahead_of_stream")


def test_a_cursor_in_a_stream_that_does_not_exist_is_ahead_of_it() -> None:
    assert judged(ModelStream(), nth(3)) == Notice("reset", "t", "ahead_of_stream")
    assert judged(ModelStream(), BEGINNING) is None


def test_a_cursor_in_a_lost_tail_whose_ids_were_given_out_again_is_reset() -> None:
    stream = stream_of(5)
    lost = stream.messages[-1].id
    stream.lose(2)
    stream.clock_ms += 1
    stream.add(b"y", b"y", b"y")
    assert judged(stream, lost) == Notice("reset", "t", "unknown_cursor", None, stream.ids()[3])


@pytest.mark.parametrize("left", [0, 3])
def test_cursors_in_a_lost_tail_are_reset_where_history_goes_on_above_it(left: int) -> None:
    stream = stream_of(5)
    stream.lose(5 - left)
    stream.append([Publish("t", (Draft(b"y"),))], floor=nth(5))
    first = stream.ids()[left]
    for number in range(left + 1, 6):
        assert judged(stream, nth(number)) == Notice("reset", "t", "unknown_cursor", None, first)
    assert judged(stream, stream.newest) is None


def test_the_last_cursor_before_a_lost_tail_is_reset_and_told_how_much_was_lost() -> None:
    stream = stream_of(5)
    stream.lose(2)
    stream.append([Publish("t", (Draft(b"y"),))], floor=nth(5))
    assert judged(stream, nth(3)) == Notice("reset", "t", "epoch_changed", 2, stream.ids()[3])


def test_another_epoch_is_reset_even_where_the_ids_agree() -> None:
    stream = stream_of(5)
    assert judged(stream, nth(3), stream.epoch) is None
    assert judged(stream, nth(3), "other") == Notice("reset", "t", "epoch_changed", None, str(nth(4)))
    assert judged(stream, nth(5), "other") == Notice("reset", "t", "epoch_changed", None, None)


def test_a_deleted_topic_has_no_epoch_to_disagree_with() -> None:
    stream = stream_of(5)
    stream.delete()
    assert judged(stream, nth(5), "epoch-1") is None
    assert judged(stream, nth(3), "epoch-1") == Notice("gap", "t", "trimmed", 2, None)


def test_a_page_ends_where_a_message_does_not_name_the_one_before_it() -> None:
    stream = stream_of(5)
    del stream.messages[2]
    page = unbroken(stream.read(nth(0), 10))
    assert id_texts(page.batch.messages) == stream.ids()[:2]
    assert page.batch.last == nth(2) and page.has_more
    assert judged(stream, page.batch.last) == Notice("gap", "t", "deleted", 1, str(nth(4)))


def test_a_page_without_a_break_stays_as_it_is() -> None:
    page = stream_of(5).read(nth(1), 3)
    assert unbroken(page) is page
    empty = ModelStream().read(BEGINNING)
    assert unbroken(empty) is empty


def test_a_loss_that_ids_of_another_server_cannot_count_is_not_counted() -> None:
    stream = stream_of(9)
    stream.trim(6)
    foreign = MessageId.of(START_MS - 1, 77)
    assert judged(stream, foreign) == Notice("gap", "t", "trimmed", None, str(nth(7)))
    foreign = MessageId.of(START_MS - 1, 6)
    assert judged(stream, foreign) == Notice("gap", "t", "trimmed", None, str(nth(7)))
