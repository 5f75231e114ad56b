"""Acknowledgements: stored in batches, confirmed or refused one by one."""

from __future__ import annotations

import pytest

from actors.acknowledgements import WAITING_MAX
from actors.protocol import (
    Acknowledge,
    Disconnect,
    Fetch,
    Locate,
    Located,
    Start,
    Subscribe,
    Unsubscribe,
    Wanted,
    WentLive,
)
from tests.scripted_store import ScriptedStore, nth
from tests.stand_ins import Outsider, RecordingSink, StandInSystem, start_subscriber

GIVEN = 9


class Bench:
    """A connection that is live in its topics, each of which has given `GIVEN` messages."""

    def __init__(self, *topics: str, client_id: str | None = "c") -> None:
        self.system = StandInSystem()
        self.store = ScriptedStore()
        self.sink = RecordingSink()
        self.directory = Outsider("directory")
        self.subscriber = start_subscriber(self.system, self.directory, self.store, self.sink)
        wanted = tuple(Wanted(topic, Start.LATEST) for topic in topics)
        for topic in topics:
            self.store.stream(topic).add(*[b"x"] * GIVEN)
        self.subscriber.tell(Subscribe(wanted, client_id=client_id))
        self.system.settle()
        for locate in self.directory.take(Locate):
            self.subscriber.tell(Located(locate.topic, locate.ticket, nth(GIVEN), "e"))
        for fetch in self.directory.take(Fetch):
            self.subscriber.tell(WentLive(fetch.topic, fetch.ticket, nth(GIVEN), "e"))

    def acknowledge(self, number: int, ref: object = None, topic: str | None = None) -> None:
        self.subscriber.tell(Acknowledge(topic, nth(number), ref))


def test_an_acknowledgement_is_confirmed_once_it_is_stored() -> None:
    bench = Bench("a")
    bench.acknowledge(3, "r")
    assert not bench.sink.entries("acknowledged")
    bench.system.settle()
    assert bench.sink.entries("acknowledged") == [("a", nth(3), "r")]
    assert bench.store.stored_cursors == {"c": {"a": nth(3)}}


def test_what_is_acknowledged_meanwhile_shares_the_next_store_call() -> None:
    bench = Bench("a", "b")
    bench.acknowledge(1, "r1", "a")
    for number in range(2, 9):
        bench.acknowledge(number, f"r{number}", "ab"[number % 2])
    assert len(bench.subscriber.works) == 1
    bench.subscriber.work("acknowledge").finish()
    bench.system.run()
    assert bench.subscriber.work("acknowledge").call.arguments == ("c", {"a": nth(8), "b": nth(7)}, False)
    bench.system.settle()
    assert [ref for _, _, ref in bench.sink.entries("acknowledged")] == [f"r{n}" for n in range(1, 9)]


def test_an_older_acknowledgement_does_not_take_a_newer_one_back() -> None:
    bench = Bench("a")
    bench.acknowledge(1)
    bench.acknowledge(5)
    bench.acknowledge(3)
    bench.system.settle()
    assert bench.store.stored_cursors == {"c": {"a": nth(5)}}


def test_an_acknowledgement_that_was_not_stored_is_refused_and_the_next_is_tried() -> None:
    bench = Bench("a")
    bench.acknowledge(1, "r1")
    bench.acknowledge(2, "r2")
    bench.subscriber.work("acknowledge").fail("store_full")
    bench.system.settle()
    assert bench.sink.entries("refused") == [("store_full", "r1")]
    assert bench.sink.entries("acknowledged") == [("a", nth(2), "r2")]


def test_acknowledgements_that_wait_for_the_store_are_bounded() -> None:
    bench = Bench("a")
    for number in range(WAITING_MAX + 2):
        bench.acknowledge(1, number)
    assert bench.sink.entries("refused") == [("overloaded", WAITING_MAX + 1)]
    bench.system.settle()
    assert len(bench.sink.entries("acknowledged")) == WAITING_MAX + 1


def test_what_was_acknowledged_just_before_leaving_is_stored() -> None:
    bench = Bench("a")
    bench.acknowledge(1)
    bench.acknowledge(9)
    bench.subscriber.tell(Disconnect())
    bench.system.settle()
    assert bench.store.stored_cursors == {"c": {"a": nth(9)}}


def test_an_id_the_topic_never_gave_is_refused_alone() -> None:
    bench = Bench("a")
    bench.acknowledge(1, "r1")
    bench.acknowledge(GIVEN + 1, "ahead")
    bench.acknowledge(2, "r2")
    bench.system.settle()
    assert bench.sink.entries("refused") == [("ahead_of_stream", "ahead")]
    assert [ref for _, _, ref in bench.sink.entries("acknowledged")] == ["r1", "r2"]
    assert bench.store.stored_cursors == {"c": {"a": nth(2)}}


def test_an_id_beyond_what_the_connection_was_given_may_be_one_the_topic_gave() -> None:
    bench = Bench("a")
    (added,) = bench.store.stream("a").add(b"not delivered yet")
    bench.subscriber.tell(Acknowledge("a", added.id, "r"))
    bench.system.settle()
    assert bench.sink.entries("acknowledged") == [("a", added.id, "r")]


def test_nothing_is_acknowledged_before_the_name_is_claimed() -> None:
    bench = Bench("a", client_id=None)
    bench.subscriber.tell(Subscribe((), client_id="c"))
    bench.acknowledge(1, "r")
    bench.subscriber.work("claim").finish()
    assert not bench.sink.entries("acknowledged")
    bench.system.settle()
    assert bench.sink.entries("acknowledged") == [("a", nth(1), "r")]


def test_an_acknowledgement_after_another_connection_has_claimed_the_name_ends_this_one() -> None:
    bench = Bench("a")
    bench.acknowledge(1, "r1")
    bench.system.settle()
    bench.store.claimed["c"] = (2, 99)
    bench.acknowledge(2, "r2")
    bench.system.settle()
    assert bench.sink.entries("refused") == [("taken_over", "r2")]
    assert bench.sink.log[-1] == ("taken_over",)
    assert not bench.subscriber.is_alive
    assert bench.store.stored_cursors == {"c": {"a": nth(1)}}
    assert bench.store.claimed["c"] == (2, 99)


@pytest.mark.parametrize(
    ("topics", "client_id", "topic", "code"),
    [
        (["a"], None, None, "client_id_required"),
        (["a", "b"], "c", None, "topic_ambiguous"),
        (["a"], "c", "b", "not_subscribed"),
        ([], "c", None, "not_subscribed"),
    ],
)
def test_what_cannot_be_acknowledged_is_refused_by_name(
    topics: list[str], client_id: str | None, topic: str | None, code: str
) -> None:
    bench = Bench(*topics, client_id=client_id)
    bench.acknowledge(1, "r", topic)
    assert bench.sink.entries("refused") == [(code, "r")]
    assert bench.subscriber.works == []


def test_after_unsubscribing_nothing_of_the_topic_is_acknowledged() -> None:
    bench = Bench("a", "b")
    bench.subscriber.tell(Unsubscribe(("a",)))
    bench.acknowledge(1, "r", "a")
    assert bench.sink.entries("refused") == [("not_subscribed", "r")]
    bench.acknowledge(1, "s")
    bench.system.settle()
    assert bench.sink.entries("acknowledged") == [("b", nth(1), "s")]
