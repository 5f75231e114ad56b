"""Consumer: a connection that speaks for a named client: its claim, and marks of what it was given."""

from __future__ import annotations

from typing import Any

from actors.consumer_protocol import Claimed, Hold, LetGo
from actors.ports import Notice
from actors.protocol import (
    Delivered,
    Disconnect,
    Expire,
    Fetch,
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
from tests.scripted_store import ScriptedStore, make_messages, nth
from tests.stand_ins import Outsider, RecordingSink, StandInSystem, start_subscriber


class Bench:
    """One connection of client "c"; the test plays the topics."""

    def __init__(self, *, store: ScriptedStore | None = None, completes: bool = False) -> None:
        self.system = StandInSystem()
        self.store = store or ScriptedStore()
        self.sink = RecordingSink()
        self.directory, self.claims = Outsider("directory"), Outsider("claims")
        self.subscriber = start_subscriber(
            self.system, self.directory, self.store, self.sink, claims=self.claims, completes=completes
        )

    def subscribe(self, start: MessageId | Start = Start.ACKED, topic: str = "a", **fields: Any) -> None:
        self.subscriber.tell(Subscribe((Wanted(topic, start),), client_id="c", **fields))

    def go_on(self) -> Fetch:
        """Claim, locate; the fetch that follows."""
        self.system.settle()
        for locate in self.directory.take(Locate):
            self.subscriber.tell(Located(locate.topic, locate.ticket, nth(9), "e"))
        (fetch,) = self.directory.take(Fetch)
        return fetch

    def page(self, fetch: Fetch, first: int, last: int, notice: Notice | None = None) -> None:
        batch = Batch(fetch.topic, make_messages(first, last, topic=fetch.topic))
        self.subscriber.tell(Page(fetch.topic, fetch.ticket, batch, False, notice))

    @property
    def marked(self) -> list[int]:
        """The numbers of the messages that were given as redelivered."""
        return [message.id.number for message in self.sink.messages if message.is_redelivered]

    @property
    def plain(self) -> list[int]:
        return [message.id.number for message in self.sink.messages if not message.is_redelivered]


def stored(cursor: int | None, mark: int | None) -> ScriptedStore:
    store = ScriptedStore()
    store.stored_cursors = {"c": {} if cursor is None else {"a": nth(cursor)}}
    store.marks = {"c": {} if mark is None else {"a": nth(mark)}}
    return store


# The claim


def test_a_claim_that_is_under_way_is_given_up_with_its_connection() -> None:
    bench = Bench()
    bench.subscribe()
    assert bench.subscriber.work("claim")
    bench.subscriber.tell(Disconnect())
    bench.system.settle()
    assert "c" not in bench.store.claimed


def test_whoever_claims_a_name_listens_before() -> None:
    bench = Bench()
    bench.subscribe()
    assert bench.claims.received == [Hold("c", 1)]
    assert bench.subscriber.work("claim").call.arguments == ("c", 1, ("a",), False)


def test_a_claim_heard_before_the_answer_to_an_earlier_one_does_not_depose() -> None:
    bench = Bench()
    bench.store.claimed = {"c": (6, 99)}
    bench.subscribe()
    bench.subscriber.tell(Claimed("c", 6))
    bench.system.settle()
    bench.subscriber.tell(Claimed("c", 7))
    assert bench.subscriber.is_alive


def test_a_later_claim_heard_before_the_answer_deposes_with_it() -> None:
    bench = Bench()
    bench.subscribe()
    work = bench.subscriber.work("claim")
    work.run()
    bench.subscriber.tell(Claimed("c", 2))
    assert bench.subscriber.is_alive
    work.finish()
    bench.system.settle()
    assert bench.sink.log[-1] == ("taken_over",)
    assert not bench.subscriber.is_alive


def test_who_is_deposed_leaves_the_topics_and_the_name_and_is_counted_once() -> None:
    bench = Bench()
    bench.subscribe()
    fetch = bench.go_on()
    bench.subscriber.tell(WentLive("a", fetch.ticket, nth(9), "e"))
    bench.subscriber.tell(Claimed("c", 2))
    bench.subscriber.tell(Claimed("c", 3))
    bench.system.settle()
    assert bench.sink.entries("taken_over") == [()]
    assert bench.directory.take(Leave) == [Leave("a", 1)]
    assert bench.claims.take(LetGo) == [LetGo("c", 1)]


def test_a_claim_whose_outcome_is_unknown_is_made_again() -> None:
    bench = Bench()
    bench.subscribe()
    work = bench.subscriber.work("claim")
    work.run()
    work.fail(is_outcome_unknown=True)
    bench.system.run()
    bench.system.fire_timers()
    assert bench.subscriber.work("claim").call.arguments == ("c", 1, ("a",), False)
    bench.go_on()
    assert bench.store.claimed == {"c": (1, 1)}


def test_more_topics_are_asked_for_under_the_same_claim() -> None:
    bench = Bench()
    bench.subscribe()
    bench.go_on()
    bench.subscribe(topic="b")
    assert bench.subscriber.work("claim").call.arguments == ("c", 1, ("b",), True)


def test_another_name_on_the_same_connection_is_refused() -> None:
    bench = Bench()
    bench.subscribe()
    bench.go_on()
    bench.subscriber.tell(Subscribe((Wanted("b", Start.EARLIEST),), "ref", "another"))
    assert bench.sink.entries("refused") == [("client_id_changed", "ref")]
    assert bench.subscriber.works == []


def test_who_leaves_before_the_claim_is_answered_lets_go_of_it() -> None:
    bench = Bench()
    bench.subscribe()
    bench.subscriber.work("claim").run()
    bench.subscriber.tell(Disconnect())
    bench.system.settle()
    assert bench.store.claimed == {"c": (1, None)}


# What was given before


def test_what_was_given_and_not_acknowledged_comes_again_and_is_marked() -> None:
    bench = Bench(store=stored(2, 4))
    bench.subscribe()
    bench.page(bench.go_on(), 3, 6)
    assert (bench.marked, bench.plain) == ([3, 4], [5, 6])


def test_what_was_never_given_is_not_marked() -> None:
    for store in (stored(2, None), stored(2, 2), stored(None, None)):
        bench = Bench(store=store)
        bench.subscribe()
        fetch = bench.go_on()
        bench.page(fetch, fetch.cursor.number + 1, 5)
        assert bench.marked == []


def test_who_has_nothing_given_before_shares_the_batch_itself() -> None:
    bench = Bench(store=stored(4, 4))
    bench.subscribe()
    batch = Batch("a", make_messages(5, 6, topic="a"))
    fetch = bench.go_on()
    bench.subscriber.tell(Page("a", fetch.ticket, batch, False, None))
    assert bench.sink.batches[0] is batch


def test_a_mark_holds_over_pages_and_live_batches_until_it_is_passed() -> None:
    bench = Bench(store=stored(1, 5))
    bench.subscribe()
    bench.page(bench.go_on(), 2, 3)
    (fetch,) = bench.directory.take(Fetch)
    # This worker has not heard of the rest yet.
    bench.subscriber.tell(WentLive("a", fetch.ticket, nth(3), "e"))
    bench.subscriber.tell(Delivered("a", Batch("a", make_messages(4, 6, topic="a"))))
    bench.subscriber.tell(Delivered("a", Batch("a", make_messages(7, 7, topic="a"))))
    assert (bench.marked, bench.plain) == ([2, 3, 4, 5], [6, 7])


def test_a_topic_read_again_on_the_same_connection_is_marked_without_the_store() -> None:
    bench = Bench()
    bench.subscribe(Start.EARLIEST)
    bench.page(bench.go_on(), 1, 3)
    bench.directory.take(Fetch)
    bench.store.marks = {}
    bench.subscribe(Start.EARLIEST)
    bench.subscriber.work("claim").finish()
    bench.page(bench.go_on(), 1, 4)
    assert (bench.marked, bench.plain) == ([1, 2, 3], [1, 2, 3, 4])


def test_after_a_reset_nothing_is_marked() -> None:
    bench = Bench(store=stored(7, 9))
    bench.subscribe()
    bench.page(bench.go_on(), 8, 9, Notice("reset", "a", "epoch_changed"))
    assert bench.marked == []


# Storing marks


def test_marks_are_stored_soon_and_not_for_each_message() -> None:
    bench = Bench()
    bench.subscribe(Start.EARLIEST)
    fetch = bench.go_on()
    bench.page(fetch, 1, 3)
    (fetch,) = bench.directory.take(Fetch)
    bench.page(fetch, 4, 6)
    assert bench.subscriber.works == []
    assert len(bench.system.timers) == 1
    bench.system.fire_timers()
    assert bench.subscriber.work("mark").call.arguments == ("c", {"a": nth(6)})
    bench.system.settle()
    assert bench.store.marks == {"c": {"a": nth(6)}}
    assert bench.system.timers == []


def test_marks_that_were_not_stored_are_stored_later() -> None:
    bench = Bench()
    bench.subscribe(Start.EARLIEST)
    bench.page(bench.go_on(), 1, 3)
    bench.system.fire_timers()
    bench.subscriber.work("mark").fail()
    bench.system.run()
    bench.system.fire_timers()
    bench.system.settle()
    assert bench.store.marks == {"c": {"a": nth(3)}}


def test_what_was_given_last_is_stored_at_the_end() -> None:
    bench = Bench()
    bench.subscribe(Start.EARLIEST)
    bench.page(bench.go_on(), 1, 3)
    bench.subscriber.tell(Disconnect())
    bench.system.settle()
    assert bench.store.marks == {"c": {"a": nth(3)}}
    assert bench.store.claimed == {"c": (1, None)}


def test_a_poll_is_answered_once_its_marks_are_stored() -> None:
    bench = Bench(completes=True)
    bench.subscribe(Start.EARLIEST)
    bench.page(bench.go_on(), 1, 3)
    assert not bench.sink.entries("completed")
    bench.subscriber.work("release").finish()
    bench.system.run()
    assert bench.store.marks == {"c": {"a": nth(3)}}
    assert bench.sink.entries("completed") == [({"a": nth(3)}, False, None)]
    assert not bench.subscriber.is_alive
    assert bench.system.timers == [] and bench.system.works == []


def test_a_poll_is_answered_also_if_its_marks_cannot_be_stored() -> None:
    bench = Bench(completes=True)
    bench.subscribe(Start.EARLIEST)
    bench.page(bench.go_on(), 1, 3)
    bench.subscriber.work("release").fail()
    bench.system.run()
    assert bench.sink.entries("completed") == [({"a": nth(3)}, False, None)]


def test_a_poll_that_is_about_to_be_answered_takes_nothing_more() -> None:
    bench = Bench(completes=True)
    wanted = (Wanted("a", Start.EARLIEST), Wanted("b", Start.EARLIEST))
    bench.subscriber.tell(Subscribe(wanted, client_id="c"))
    bench.system.settle()
    fetches = {fetch.topic: fetch for fetch in bench.directory.take(Fetch)}
    bench.subscriber.tell(WentLive("b", fetches["b"].ticket, nth(0), "e"))
    bench.page(fetches["a"], 1, 1)
    bench.subscriber.tell(Delivered("b", Batch("b", make_messages(1, 1, topic="b"))))
    bench.subscriber.tell(Expire())
    bench.system.settle()
    assert bench.sink.entries("completed") == [({"a": nth(1), "b": nth(0)}, False, None)]
    assert bench.store.marks == {"c": {"a": nth(1)}}


def test_a_poll_superseded_before_its_answer_is_told_so() -> None:
    bench = Bench(completes=True)
    bench.subscribe(Start.EARLIEST)
    bench.page(bench.go_on(), 1, 3)
    bench.subscriber.tell(Claimed("c", 2))
    bench.system.settle()
    assert bench.sink.entries("taken_over") == [()]
    assert not bench.sink.entries("completed")
