"""Lag: counted by the numbers in ids, and judged as a resuming subscriber would be."""

from __future__ import annotations

import pytest

from actors.lag import Lag, lag
from actors.ports import Place, RetentionLimits
from actors.stream import BEGINNING, MessageId
from tests.scripted_store import START_MS, ModelStream, nth

KEPT_MESSAGES = 100
RETENTION_MS = 60_000


def stream(appended: int, trimmed: int = 0) -> ModelStream:
    found = ModelStream()
    if appended:
        found.add(*[b"x"] * appended)
    found.trim(trimmed)
    return found


def lag_in(stream: ModelStream, cursor: MessageId | None, age_ms: int = 1500) -> Lag:
    limits = RetentionLimits(KEPT_MESSAGES, RETENTION_MS)
    return lag(Place("t", cursor, None, stream.read(cursor or BEGINNING, 1), limits), START_MS + age_ms)


def test_who_has_everything_lacks_nothing_and_can_lose_nothing() -> None:
    assert lag_in(stream(5), nth(5)) == Lag(0, 0.0, 0, None, None)


def test_the_lag_is_counted_from_the_cursor_and_aged_by_the_oldest_message_after_it() -> None:
    assert lag_in(stream(5), nth(2)) == Lag(3, 1.5, 0, 97, 58.5)


def test_what_is_trimmed_counts_as_lag_and_as_lost() -> None:
    assert lag_in(stream(9, trimmed=6), nth(2)) == Lag(7, 1.5, 4, 97, 58.5)


def test_where_all_is_gone_the_loss_is_the_lag() -> None:
    assert lag_in(stream(9, trimmed=9), nth(2)) == Lag(7, None, 7, None, None)


def test_without_a_cursor_it_is_behind_what_is_kept_and_has_lost_nothing() -> None:
    assert lag_in(stream(9, trimmed=6), None) == Lag(3, 1.5, 0, 97, 58.5)
    assert lag_in(stream(9, trimmed=9), None) == Lag(0, 0.0, 0, None, None)
    assert lag_in(stream(0), None) == Lag(0, 0.0, 0, None, None)


def test_the_newest_message_is_taken_by_no_age() -> None:
    assert lag_in(stream(5), nth(4)) == Lag(1, 1.5, 0, 99, None)


def test_what_retention_may_take_any_time_has_nothing_left() -> None:
    late = lag_in(stream(150), nth(2), age_ms=RETENTION_MS + 1)
    assert (late.messages_to_loss, late.seconds_to_loss) == (0, 0.0)


def test_a_clock_that_is_behind_the_stores_makes_nobody_early() -> None:
    assert lag_in(stream(5), nth(2), age_ms=-5000).seconds == 0.0


def test_a_cursor_of_another_history_has_no_lag_that_could_be_counted() -> None:
    assert lag_in(stream(5), nth(9)) == Lag(None, None, None, None, None)


@pytest.mark.parametrize("cursor", [MessageId.of(START_MS - 1, 99), MessageId.of(START_MS - 5, 0)])
def test_a_cursor_whose_number_counts_nothing_is_no_negative_lag(cursor: MessageId) -> None:
    found = lag_in(stream(5), cursor)
    assert found.messages is None or found.messages > 0
    assert found.lost is None or found.lost >= 0
