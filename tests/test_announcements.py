"""Announcements: before the next message, and counted by what they are."""

from __future__ import annotations

import pytest

from actors.announcements import Announcements
from actors.counters import Counters
from actors.ports import Notice
from actors.protocol import Start, Wanted
from actors.stream import BEGINNING, Batch, MessageId
from actors.subscription import SubscribeRequest, Subscription
from tests.scripted_store import make_messages, nth
from tests.stand_ins import RecordingSink


def subscription(start: MessageId | Start) -> Subscription:
    wanted = Wanted("t", start)
    return Subscription(wanted, SubscribeRequest(None, (wanted,)))


class Bench:
    def __init__(self) -> None:
        self.sink = RecordingSink()
        self.counters = Counters()
        self.announcements = Announcements(self.sink, self.counters)


def test_an_answer_that_follows_the_cursor_announces_nothing_and_proves_it() -> None:
    bench, here = Bench(), subscription(nth(3))
    here.failures = 2
    bench.announcements.answered(here, None, nth(3))
    assert bench.sink.log == []
    assert here.is_answered and here.proves and here.failures == 0


def test_what_begins_behind_the_cursor_is_a_gap_even_if_the_topic_told_of_none() -> None:
    bench = Bench()
    bench.announcements.answered(subscription(nth(3)), None, nth(5))
    assert bench.sink.notices == [Notice("gap", "t", "unknown", 2)]
    assert (bench.counters.gaps, bench.counters.unannounced_gaps) == (1, 1)


def test_a_place_that_never_was_is_announced_with_what_comes() -> None:
    bench, here = Bench(), subscription(Start.UNKNOWN)
    bench.announcements.answered(here, None, nth(3), Batch("t", make_messages(4, 5)))
    here.cursor = nth(5)
    bench.announcements.answered(here, None, nth(5))
    assert bench.sink.notices == [Notice("reset", "t", "unknown_cursor", None, str(nth(4)))]
    assert (bench.counters.resets, bench.counters.unannounced_gaps) == (1, 0)


@pytest.mark.parametrize(("kind", "given"), [("gap", nth(9)), ("reset", BEGINNING)])
def test_a_reset_and_no_gap_makes_forget_what_was_given(kind: str, given: MessageId) -> None:
    bench, here = Bench(), subscription(nth(3))
    here.epoch, here.given = "e", nth(9)
    bench.announcements.answered(here, Notice(kind, "t", "trimmed"), nth(5))
    assert here.given == given
    assert here.epoch is None
