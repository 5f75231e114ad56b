"""Appender: group commit, in order, and everybody gets an answer."""

from __future__ import annotations

import pytest

from actors.counters import Counters
from actors.ports import Dedupe, Draft, Publish
from actors.protocol import Flush, Published, Refused
from actors.stream import BEGINNING
from tests.scripted_store import ModelStream, ScriptedStore, id_texts
from tests.stand_ins import Outsider, StandInRef, StandInSystem, start_topic


def publish_of(*payloads: bytes, dedupe: Dedupe | None = None) -> Publish:
    return Publish("t", tuple(map(Draft, payloads)), dedupe)


class Bench:
    """A topic, its publishers, and the store's stream."""

    def __init__(self, **limits: object) -> None:
        self.system = StandInSystem()
        self.stream = ModelStream()
        self.counters = Counters()
        self.topic: StandInRef = start_topic(
            self.system, ScriptedStore(self.stream), counters=self.counters, **limits
        )
        self.publishers: list[Outsider] = []

    def burst(self, *publishes: Publish) -> list[Outsider]:
        """Published at once: all are in the mailbox before the first is handled."""
        publishers = [Outsider(f"publisher {number}") for number, _ in enumerate(publishes)]
        for publish, publisher in zip(publishes, publishers, strict=True):
            self.system.post(self.topic, publish, publisher)
        self.system.run()
        return publishers

    def appends(self) -> list[int]:
        """Publishes in each append that is under way."""
        return [len(work.call.arguments[1]) for work in self.topic.works if work.name == "append"]


def answers(publishers: list[Outsider]) -> list[object]:
    return [answer for publisher in publishers for answer in publisher.received]


def test_a_burst_of_publishes_shares_one_append() -> None:
    bench = Bench()
    publishers = bench.burst(*(publish_of(b"%d" % n) for n in range(100)))
    assert bench.appends() == [100]
    bench.system.settle()
    assert answers(publishers) == [Published("t", (id_text,)) for id_text in bench.stream.ids()]
    assert bench.counters.append_batches == 1 and bench.counters.messages_published == 100


def test_a_topic_reminds_itself_once_a_burst_and_not_while_an_append_is_under_way() -> None:
    bench = Bench()
    for _ in range(3):
        bench.burst(*(publish_of(b"x") for _ in range(10)))
    notes = [message for _, message in bench.topic.sent if isinstance(message, Flush)]
    assert len(notes) == 1
    bench.system.settle()
    bench.burst(publish_of(b"x"))
    notes = [message for _, message in bench.topic.sent if isinstance(message, Flush)]
    assert len(notes) == 2


def test_what_is_published_during_an_append_is_the_next_batch() -> None:
    bench = Bench()
    bench.burst(publish_of(b"1"))
    publishers = bench.burst(publish_of(b"2"), publish_of(b"3"))
    assert bench.appends() == [1], "one at a time"
    bench.topic.work("append").finish()
    bench.system.run()
    assert bench.appends() == [2]
    bench.system.settle()
    assert [answer.ids for answer in answers(publishers)] == [(i,) for i in bench.stream.ids(1)]  # type: ignore[attr-defined]


def test_messages_are_in_the_stream_in_the_order_they_were_published() -> None:
    bench = Bench(batch_max_messages=3)
    bench.burst(*(publish_of(b"%d" % n, b"%da" % n) for n in range(10)))
    bench.system.settle()
    expected = [payload for n in range(10) for payload in (b"%d" % n, b"%da" % n)]
    assert [message.payload for message in bench.stream.messages] == expected


def test_an_append_is_bounded_and_a_publish_never_split() -> None:
    bench = Bench(batch_max_messages=5)
    bench.burst(*(publish_of(b"1", b"2") for _ in range(6)))
    assert bench.appends() == [2]


def test_a_publish_beyond_the_bounds_is_refused_as_overload() -> None:
    bench = Bench(pending_max_messages=2)
    publishers = bench.burst(publish_of(b"1"), publish_of(b"2"), publish_of(b"3"))
    (refused,) = publishers[2].received
    assert isinstance(refused, Refused) and refused.code == "overloaded"
    bench.system.settle()
    assert len(bench.stream.messages) == 2 and bench.counters.refused_publishes == 1


def test_a_key_appends_once_and_the_repetition_is_answered_with_the_first_ids() -> None:
    bench = Bench()
    publishers = bench.burst(*(publish_of(b"1", dedupe=Dedupe("k", "d")) for _ in range(2)))
    bench.system.settle()
    ids = tuple(bench.stream.ids())
    assert answers(publishers) == [Published("t", ids), Published("t", ids, is_replay=True)]
    assert len(ids) == 1 and bench.counters.replayed_publishes == 1


def test_a_key_used_for_another_body_is_refused_and_others_are_appended() -> None:
    bench = Bench()
    publishers = bench.burst(
        publish_of(b"1", dedupe=Dedupe("k", "d")), publish_of(b"2", dedupe=Dedupe("k", "e")), publish_of(b"3")
    )
    bench.system.settle()
    kinds = [type(answer) for answer in answers(publishers)]
    assert kinds == [Published, Refused, Published]
    assert publishers[1].received == [Refused("idempotency_conflict")]


def test_a_refused_append_is_answered_and_the_next_batch_is_tried() -> None:
    bench = Bench()
    first = bench.burst(publish_of(b"1"))
    second = bench.burst(publish_of(b"2"))
    bench.topic.work("append").fail("store_full")
    bench.system.run()
    assert answers(first) == [Refused("store_full")]
    bench.system.settle()
    assert [type(answer) for answer in answers(second)] == [Published]


@pytest.mark.parametrize("is_outcome_unknown", [True, False], ids=["unknown", "never sent"])
def test_a_store_that_was_away_is_told_to_those_behind_too(is_outcome_unknown: bool) -> None:
    bench = Bench()
    first = bench.burst(publish_of(b"1"))
    second = bench.burst(publish_of(b"2"))
    bench.topic.work("append").fail("store_unavailable", is_outcome_unknown=is_outcome_unknown)
    bench.system.run()
    assert answers(first) == answers(second) == [Refused("store_unavailable")]
    assert bench.appends() == []


def test_after_a_failed_append_publishing_goes_on() -> None:
    bench = Bench()
    bench.burst(publish_of(b"1"))
    bench.topic.work("append").fail(is_outcome_unknown=True)
    publishers = bench.burst(publish_of(b"2"))
    bench.system.settle()
    assert [type(answer) for answer in answers(publishers)] == [Published]


def test_an_append_is_made_above_the_highest_id_ever_seen() -> None:
    bench = Bench()
    bench.burst(publish_of(b"1"), publish_of(b"2"))
    bench.system.settle()
    newest = bench.stream.newest
    assert newest > BEGINNING
    bench.stream.lose(2)
    bench.burst(publish_of(b"3"))
    assert bench.topic.work("append").call.arguments[2] == newest
    bench.system.settle()
    assert bench.stream.newest > newest and bench.stream.epochs == 2


def test_publishers_are_answered_before_the_next_append_can_fail_them() -> None:
    bench = Bench()
    first = bench.burst(publish_of(b"1"))
    second = bench.burst(publish_of(b"2"))
    bench.topic.work("append").finish()
    bench.system.run()
    bench.topic.work("append").fail(is_outcome_unknown=True)
    bench.system.run()
    assert [type(answer) for answer in answers(first) + answers(second)] == [Published, Refused]


@pytest.mark.parametrize("is_run", [False, True])
def test_an_append_ends_with_its_topic_and_is_not_repeated_by_the_next(is_run: bool) -> None:
    bench = Bench()
    bench.burst(publish_of(b"1"))
    work = bench.topic.work("append")
    assert work.cancel_on_exit
    if is_run:
        work.run()
    bench.system.end(bench.topic)
    assert bench.system.works == []
    assert id_texts(bench.stream.messages) == bench.stream.ids() and len(bench.stream.messages) == is_run
