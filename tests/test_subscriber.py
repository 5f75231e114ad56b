"""SubscriberActor: one loop from subscribing to live and back, and nothing else reaches the connection."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from thespian.actors import ActorExitRequest

from actors.counters import Counters
from actors.ports import Notice
from actors.protocol import (
    Delivered,
    Disconnect,
    Drained,
    Evicted,
    Expire,
    Fetch,
    FetchFailed,
    Filled,
    Leave,
    Locate,
    Located,
    Page,
    SinkFailed,
    Start,
    Subscribe,
    Unsubscribe,
    Wanted,
    WentLive,
)
from actors.stream import BEGINNING, Batch, MessageId
from actors.subscriber import RETRY_SECONDS
from actors.subscription import FETCHES_AT_ONCE
from tests.scripted_store import ScriptedStore, id_texts, make_messages, nth
from tests.stand_ins import Outsider, PoisonedError, RecordingSink, StandInSystem, start_subscriber


class Bench:
    """A subscriber whose directory answers by hand: each topic's last question is kept."""

    def __init__(self, *, page_max_messages: int = 10, **changed: bool) -> None:
        self.system = StandInSystem()
        self.directory = Outsider("directory")
        self.store = ScriptedStore()
        self.sink = RecordingSink()
        self.counters = Counters()
        self.subscriber = start_subscriber(
            self.system,
            self.directory,
            self.store,
            self.sink,
            counters=self.counters,
            page_max_messages=page_max_messages,
            **changed,
        )

    def subscribe(self, *wanted: Wanted, ref: object = "ref", client_id: str | None = None) -> None:
        self.subscriber.tell(Subscribe(wanted, ref, client_id))

    def locates(self) -> dict[str, Locate]:
        return {locate.topic: locate for locate in self.directory.take(Locate)}

    def fetches(self) -> dict[str, Fetch]:
        return {fetch.topic: fetch for fetch in self.directory.take(Fetch)}

    def fetch(self, topic: str = "a") -> Fetch:
        """The only question that is open."""
        (fetch,) = self.directory.take(Fetch)
        assert fetch.topic == topic
        return fetch

    def locate(self, newest: int = 5, epoch: str = "e") -> None:
        """Answer all that are asked."""
        for locate in self.directory.take(Locate):
            self.subscriber.tell(Located(locate.topic, locate.ticket, nth(newest), epoch))

    def page(self, fetch: Fetch, first: int, last: int, notice: Notice | None = None) -> None:
        batch = Batch(fetch.topic, make_messages(first, last, topic=fetch.topic))
        self.subscriber.tell(Page(fetch.topic, fetch.ticket, batch, False, notice))

    def went_live(self, fetch: Fetch, notice: Notice | None = None, epoch: str = "e") -> None:
        self.subscriber.tell(WentLive(fetch.topic, fetch.ticket, fetch.cursor, epoch, notice))

    def go_live(self, topic: str = "a", newest: int = 5) -> None:
        self.subscribe(Wanted(topic, Start.LATEST))
        self.locate(newest)
        self.went_live(self.fetch(topic))

    def deliver(self, first: int, last: int, topic: str = "a") -> None:
        self.subscriber.tell(Delivered(topic, Batch(topic, make_messages(first, last, topic=topic))))

    def drain(self) -> None:
        self.sink.is_full = False
        self.subscriber.tell(Drained())


GAP = Notice("gap", "a", "trimmed", 2, str(nth(4)))


# Subscribing


def test_a_subscription_is_confirmed_with_its_place_before_it_reads() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", Start.LATEST))
    assert not bench.sink.log and not bench.fetches()
    bench.locate(5)
    assert bench.sink.entries("subscribed") == [({"a": nth(5)}, {"a": "e"}, "ref")]
    fetch = bench.fetch()
    assert fetch.cursor == nth(5) and fetch.proves and fetch.epoch == "e"


@pytest.mark.parametrize(
    ("wanted", "cursor", "proves"),
    [
        (Wanted("a", Start.EARLIEST), BEGINNING, False),
        (Wanted("a", nth(3)), nth(3), True),
        (Wanted("a", nth(3), proves=False), nth(3), False),
    ],
)
def test_a_place_that_is_given_is_where_it_reads_from(
    wanted: Wanted, cursor: MessageId, proves: bool
) -> None:
    bench = Bench()
    bench.subscribe(wanted)
    bench.locate()
    assert bench.sink.entries("subscribed") == [({"a": cursor}, {"a": "e"}, "ref")]
    fetch = bench.fetch()
    assert (fetch.cursor, fetch.proves) == (cursor, proves)


def test_an_epoch_that_is_given_is_what_is_checked() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", nth(3), "mine"))
    bench.locate(epoch="theirs")
    assert bench.fetch().epoch == "mine"


def test_a_request_is_confirmed_once_when_all_its_topics_are_located() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", Start.LATEST), Wanted("b", Start.LATEST))
    locates = bench.locates()
    bench.subscriber.tell(Located("b", locates["b"].ticket, nth(2), "e"))
    assert not bench.sink.log and not bench.fetches(), "no message before the confirmation"
    bench.subscriber.tell(Located("a", locates["a"].ticket, nth(1), "e"))
    assert bench.sink.entries("subscribed") == [({"a": nth(1), "b": nth(2)}, {"a": "e", "b": "e"}, "ref")]
    assert set(bench.fetches()) == {"a", "b"}


def test_a_topic_named_twice_in_one_request_is_subscribed_once() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", nth(1)), Wanted("a", nth(2)))
    bench.locate()
    assert bench.sink.entries("subscribed") == [({"a": nth(2)}, {"a": "e"}, "ref")]


def test_a_request_for_nothing_is_confirmed() -> None:
    bench = Bench()
    bench.subscribe()
    assert bench.sink.entries("subscribed") == [({}, {}, "ref")]


def test_a_topic_unsubscribed_while_it_is_located_does_not_keep_its_request_waiting() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", Start.LATEST), Wanted("b", Start.LATEST))
    locates = bench.locates()
    bench.subscriber.tell(Located("b", locates["b"].ticket, nth(2), "e"))
    bench.subscriber.tell(Unsubscribe(("a",), "u"))
    assert [entry[0] for entry in bench.sink.log] == ["subscribed", "unsubscribed"]
    assert bench.sink.entries("subscribed") == [({"b": nth(2)}, {"b": "e"}, "ref")]
    bench.subscriber.tell(Located("a", locates["a"].ticket, nth(1), "e"))
    assert set(bench.fetches()) == {"b"}


def test_a_located_topic_that_is_unsubscribed_is_not_confirmed() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", Start.LATEST), Wanted("b", Start.LATEST))
    locates = bench.locates()
    bench.subscriber.tell(Located("a", locates["a"].ticket, nth(1), "e"))
    bench.subscriber.tell(Unsubscribe(("a",)))
    bench.subscriber.tell(Located("b", locates["b"].ticket, nth(2), "e"))
    assert bench.sink.entries("subscribed") == [({"b": nth(2)}, {"b": "e"}, "ref")]


def test_a_topic_wanted_anew_by_another_request_does_not_keep_the_first_waiting() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", Start.LATEST), Wanted("b", Start.LATEST), ref="first")
    first = bench.locates()
    bench.subscribe(Wanted("a", nth(1)), Wanted("c", Start.LATEST), ref="second")
    second = bench.locates()
    bench.subscriber.tell(Located("a", first["a"].ticket, nth(5), "e"))
    bench.subscriber.tell(Located("b", first["b"].ticket, nth(5), "e"))
    assert [entry[2] for entry in bench.sink.entries("subscribed")] == ["first"]
    assert set(bench.fetches()) == {"b"}
    bench.subscriber.tell(Located("a", second["a"].ticket, nth(5), "e"))
    assert not bench.fetches(), "not before its own request is confirmed"
    bench.subscriber.tell(Located("c", second["c"].ticket, nth(7), "e"))
    assert bench.sink.entries("subscribed")[1][0] == {"a": nth(1), "c": nth(7)}
    assert set(bench.fetches()) == {"a", "c"}


def test_a_request_whose_topics_are_all_wanted_anew_is_still_answered() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", Start.LATEST), ref="first")
    bench.subscribe(Wanted("a", nth(1)), ref="second")
    bench.locate()
    assert [entry[2] for entry in bench.sink.entries("subscribed")] == ["first", "second"]


def test_a_live_topic_that_is_subscribed_again_starts_from_its_new_place() -> None:
    bench = Bench()
    bench.go_live()
    bench.subscribe(Wanted("a", nth(1)), ref="again")
    assert bench.directory.take(Leave) == [Leave("a", 1)]
    bench.deliver(6, 6)
    assert not bench.sink.messages, "it is on its way from the new place"
    bench.locate()
    fetch = bench.fetch()
    assert fetch.cursor == nth(1)
    bench.page(fetch, 2, 6)
    assert bench.sink.ids == id_texts(make_messages(2, 6))


def test_a_topic_that_cannot_be_located_is_tried_again_after_ever_longer_pauses() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", Start.LATEST))
    pauses = []
    for _ in range(len(RETRY_SECONDS) + 1):
        (locate,) = bench.directory.take(Locate)
        bench.subscriber.tell(FetchFailed("a", locate.ticket, "store_unavailable"))
        (timer,) = bench.system.timers
        pauses.append(timer.seconds)
        bench.system.fire_timers()
    assert pauses == [*RETRY_SECONDS, RETRY_SECONDS[-1]]
    bench.locate()
    assert bench.sink.entries("subscribed")


def test_an_unsubscribed_topic_is_confirmed_and_sends_nothing_more() -> None:
    bench = Bench()
    bench.go_live()
    bench.subscriber.tell(Unsubscribe(("a", "unknown"), "u"))
    assert bench.sink.entries("unsubscribed") == [(("a", "unknown"), "u")]
    assert bench.directory.take(Leave) == [Leave("a", 1)]
    bench.deliver(6, 6)
    assert not bench.sink.messages


def test_a_topic_unsubscribed_while_it_fetches_leaves_and_ignores_the_answer() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", nth(1)))
    bench.locate()
    fetch = bench.fetch()
    bench.subscriber.tell(Unsubscribe(("a",)))
    assert bench.directory.take(Leave) == [Leave("a", 1)]
    bench.page(fetch, 2, 3)
    bench.went_live(fetch)
    assert not bench.sink.messages and not bench.directory.received


def test_who_neither_fetches_nor_is_live_has_nothing_to_leave() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", Start.LATEST))
    bench.subscriber.tell(Unsubscribe(("a",)))
    assert not bench.directory.take(Leave)


# Acknowledged places


def test_an_acknowledged_place_is_recalled() -> None:
    bench = Bench()
    bench.store.stored_cursors = {"c": {"a": nth(3)}}
    bench.subscribe(Wanted("a", Start.ACKED), Wanted("b", Start.ACKED), client_id="c")
    bench.system.settle()
    bench.locate()
    assert bench.sink.entries("subscribed")[0][0] == {"a": nth(3), "b": BEGINNING}
    fetches = bench.fetches()
    assert fetches["a"].proves and not fetches["b"].proves


def test_a_recall_that_fails_is_tried_again() -> None:
    bench = Bench()
    bench.store.stored_cursors = {"c": {"a": nth(3)}}
    bench.subscribe(Wanted("a", Start.ACKED), Wanted("b", nth(1)), client_id="c")
    bench.locate()
    bench.subscriber.work("claim").fail()
    bench.system.run()
    assert not bench.sink.log
    bench.system.fire_timers()
    bench.system.settle()
    bench.locate()
    assert bench.sink.entries("subscribed")[0][0] == {"a": nth(3), "b": nth(1)}


def test_a_topic_unsubscribed_during_the_recall_stays_unsubscribed() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", Start.ACKED), client_id="c")
    bench.subscriber.tell(Unsubscribe(("a",)))
    bench.system.settle()
    assert not bench.locates() and not bench.fetches()


def test_a_topic_subscribed_again_during_the_recall_keeps_its_newer_place() -> None:
    bench = Bench()
    bench.store.stored_cursors = {"c": {"a": nth(3)}}
    bench.subscribe(Wanted("a", Start.ACKED), client_id="c")
    bench.subscribe(Wanted("a", nth(1)), ref="newer")
    bench.system.settle()
    bench.locate()
    assert bench.fetch().cursor == nth(1)


def test_a_client_is_known_from_its_first_request_on() -> None:
    bench = Bench()
    bench.store.stored_cursors = {"c": {"a": nth(3)}}
    bench.subscribe(Wanted("b", nth(1)), client_id="c")
    bench.subscribe(Wanted("d", nth(1)))
    bench.subscribe(Wanted("a", Start.ACKED))
    bench.system.settle()
    bench.locate()
    assert bench.sink.entries("subscribed")[-1][0] == {"a": nth(3)}


def test_a_pause_is_over_for_the_recall_that_failed_only() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", Start.ACKED), client_id="c")
    bench.subscriber.work("claim").fail()
    bench.system.run()
    (earlier,) = bench.system.timers
    bench.subscribe(Wanted("a", Start.ACKED))
    bench.subscriber.work("claim").fail()
    bench.system.run()
    earlier.fire()
    bench.system.run()
    assert bench.subscriber.works == []


def test_an_acknowledged_place_needs_a_client_id() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", Start.ACKED))
    assert bench.sink.entries("refused") == [("client_id_required", "ref")]
    assert not bench.directory.received


# Receiving


def test_pages_are_fetched_one_after_the_other_until_live() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", nth(1)))
    bench.locate()
    bench.page(bench.fetch(), 2, 3)
    fetch = bench.fetch()
    assert fetch.cursor == nth(3)
    bench.page(fetch, 4, 4)
    bench.went_live(bench.fetch())
    bench.deliver(5, 6)
    assert bench.sink.ids == id_texts(make_messages(2, 6))
    assert not bench.fetches() and bench.counters.messages_delivered == 5
    assert bench.counters.duplicates == bench.counters.unannounced_gaps == 0


def test_messages_that_arrive_at_or_below_the_cursor_are_not_delivered_again() -> None:
    bench = Bench()
    bench.go_live(newest=5)
    bench.deliver(4, 6)
    bench.deliver(5, 6)
    bench.deliver(6, 7)
    assert bench.sink.ids == id_texts(make_messages(6, 7))
    assert bench.counters.duplicates == 3


def test_what_does_not_follow_the_cursor_is_read_instead_of_delivered() -> None:
    bench = Bench()
    bench.go_live(newest=5)
    bench.deliver(7, 7)
    assert bench.sink.ids == []
    assert bench.counters.unannounced_gaps == 1
    assert bench.directory.take(Leave) == [Leave("a", 1)]
    bench.page(bench.fetch(), 6, 7)
    bench.went_live(bench.fetch())
    bench.deliver(8, 8)
    assert bench.sink.ids == id_texts(make_messages(6, 8))
    assert bench.counters.unannounced_gaps == 1


def test_a_page_that_begins_behind_the_cursor_is_announced_as_a_gap_also_if_the_topic_did_not() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", nth(1)))
    bench.locate()
    bench.page(bench.fetch(), 4, 4)
    assert bench.sink.entries("notice") == [(Notice("gap", "a", "unknown", 2, str(nth(4))),)]
    assert bench.sink.ids == id_texts(make_messages(4, 4))
    assert bench.counters.unannounced_gaps == 1


def test_expired_messages_that_are_left_out_are_no_gap() -> None:
    bench = Bench()
    bench.go_live(newest=5)
    batch = Batch("a", make_messages(6, 7, topic="a", expires_at_ms=1)).unexpired(now_ms=1)
    bench.subscriber.tell(Delivered("a", batch))
    bench.deliver(8, 8)
    assert bench.sink.ids == id_texts(make_messages(8, 8))
    assert bench.counters.unannounced_gaps == bench.counters.duplicates == 0


def test_what_is_delivered_to_a_live_subscriber_is_not_cut_into_pages() -> None:
    bench = Bench(page_max_messages=2)
    bench.go_live()
    bench.deliver(6, 15)
    assert bench.sink.ids == id_texts(make_messages(6, 15))


def test_the_cursor_of_a_live_subscription_is_lent_with_its_sink() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", Start.LATEST))
    bench.locate(5)
    fetch = bench.fetch()
    live = fetch.live
    assert live is not None and live.sink is None
    bench.went_live(fetch)
    assert live.sink is bench.sink and live.cursor == nth(5)
    live.cursor = nth(7)  # as the topic does when it has delivered
    bench.deliver(8, 8)
    assert bench.sink.ids == id_texts(make_messages(8, 8)) and live.cursor == nth(8)


@pytest.mark.parametrize(
    "ending",
    [
        Unsubscribe(("a",)),
        Subscribe((Wanted("a", nth(1)),)),
        Subscribe((Wanted("b", nth(1)),), client_id="named now"),
        Evicted("a"),
        Filled(),
        Disconnect(),
        ActorExitRequest(),
    ],
    ids=lambda ending: type(ending).__name__,
)
def test_the_sink_is_taken_away_at_once_when_its_subscriber_must_know_what_comes(ending: Any) -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", Start.LATEST))
    bench.locate()
    fetch = bench.fetch()
    bench.went_live(fetch)
    assert fetch.live is not None and fetch.live.sink is bench.sink
    bench.subscriber.actor.receiveMessage(ending, None)
    assert fetch.live.sink is None


def test_a_full_sink_takes_away_the_cursors_of_all_topics() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", Start.LATEST), Wanted("b", Start.LATEST))
    bench.locate()
    fetches = bench.fetches()
    for fetch in fetches.values():
        bench.went_live(fetch)
    bench.subscriber.tell(Filled())
    bench.subscriber.tell(Filled())  # the other topic has delivered, too, before it heard
    assert all(fetch.live is not None and fetch.live.sink is None for fetch in fetches.values())
    assert (bench.counters.demotions, bench.counters.lagging_subscribers) == (1, 1)
    bench.drain()
    assert set(bench.fetches()) == {"a", "b"}


@pytest.mark.parametrize("changed", [{"completes": True}, {"is_counted": False}])
def test_a_poll_and_what_is_not_counted_is_delivered_to_by_message(changed: dict[str, bool]) -> None:
    bench = Bench(**changed)
    bench.subscribe(Wanted("a", nth(5)))
    bench.locate()
    fetch = bench.fetch()
    bench.went_live(fetch)
    assert fetch.live is not None and fetch.live.sink is None


def test_a_subscriber_whose_sink_fails_as_its_topic_delivers_ends() -> None:
    bench = Bench()
    bench.go_live()
    bench.subscriber.tell(SinkFailed(PoisonedError()))
    assert not bench.subscriber.is_alive and bench.sink.entries("failed")
    assert bench.directory.take(Leave) == [Leave("a", 1)]


def test_an_answer_to_an_earlier_question_is_ignored() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", nth(1)))
    bench.locate()
    fetch = bench.fetch()
    bench.page(fetch, 2, 3)
    bench.page(fetch, 2, 3)
    bench.subscriber.tell(FetchFailed("a", fetch.ticket, "store_unavailable"))
    assert bench.sink.ids == id_texts(make_messages(2, 3))
    assert not bench.system.timers


def test_a_break_is_told_before_the_next_message() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", nth(1)))
    bench.locate()
    bench.page(bench.fetch(), 4, 5, GAP)
    assert [entry[0] for entry in bench.sink.log] == ["subscribed", "notice", "messages"]
    assert bench.sink.notices == [GAP] and bench.counters.gaps == 1


def test_a_break_with_nothing_behind_it_is_told_too() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", nth(9)))
    bench.locate()
    reset = Notice("reset", "a", "ahead_of_stream")
    bench.went_live(bench.fetch(), reset)
    assert bench.sink.notices == [reset] and bench.counters.resets == 1


def test_a_break_is_told_once_and_its_epoch_is_not_asked_about_again() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", nth(1), "old"))
    bench.locate()
    bench.page(bench.fetch(), 4, 5, Notice("reset", "a", "epoch_changed"))
    assert bench.fetch().epoch is None


def test_a_place_of_another_server_reads_from_the_oldest_and_is_told_so() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", Start.UNKNOWN))
    bench.locate()
    fetch = bench.fetch()
    assert fetch.cursor == BEGINNING and not fetch.proves
    bench.page(fetch, 4, 5)
    assert bench.sink.notices == [Notice("reset", "a", "unknown_cursor", None, str(nth(4)))]
    bench.page(bench.fetch(), 6, 6)
    assert len(bench.sink.notices) == 1 and bench.counters.resets == 1


def test_a_place_of_another_server_in_an_empty_topic_is_told_too() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", Start.UNKNOWN), Wanted("b", Start.UNKNOWN))
    bench.locate()
    fetches = bench.fetches()
    bench.went_live(fetches["a"])
    bench.subscriber.tell(Page("b", fetches["b"].ticket, Batch("b", [], nth(7)), False))
    reset = Notice("reset", "a", "unknown_cursor")
    assert bench.sink.notices == [reset, replace(reset, topic="b")]


def test_what_was_delivered_once_must_be_proved_ever_after() -> None:
    """Also a place that was only one to begin at: while it waits, retention may pass it."""
    bench = Bench()
    bench.subscribe(Wanted("a", Start.EARLIEST))
    bench.locate()
    bench.page(bench.fetch(), 4, 5)
    assert bench.fetch().proves


def test_a_page_of_expired_messages_moves_the_cursor_and_nothing_else() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", nth(1)))
    bench.locate()
    fetch = bench.fetch()
    bench.subscriber.tell(Page("a", fetch.ticket, Batch("a", [], nth(7)), True))
    assert not bench.sink.messages and bench.fetch().cursor == nth(7)


def test_an_evicted_subscription_fetches_from_its_cursor_under_its_epoch() -> None:
    bench = Bench()
    bench.go_live()
    bench.deliver(6, 7)
    bench.subscriber.tell(Evicted("a"))
    fetch = bench.fetch()
    assert (fetch.cursor, fetch.proves, fetch.epoch) == (nth(7), True, "e")


def test_the_history_a_subscription_went_live_in_is_the_one_it_is_checked_against() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", nth(5)))
    bench.locate()
    fetch = bench.fetch()
    assert fetch.epoch is None
    bench.went_live(fetch, epoch="present")
    bench.subscriber.tell(Evicted("a"))
    assert bench.fetch().epoch == "present"


def test_an_eviction_that_comes_while_it_fetches_changes_nothing() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", nth(1)))
    bench.locate()
    fetch = bench.fetch()
    bench.subscriber.tell(Evicted("a"))
    bench.subscriber.tell(Evicted("unknown"))
    assert not bench.fetches()
    bench.page(fetch, 2, 2)
    assert bench.sink.ids == id_texts(make_messages(2, 2))


def test_a_failed_fetch_is_tried_again_from_the_same_cursor() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", nth(1)))
    bench.locate()
    fetch = bench.fetch()
    bench.subscriber.tell(FetchFailed("a", fetch.ticket, "store_unavailable"))
    assert not bench.fetches()
    bench.system.fire_timers()
    again = bench.fetch()
    assert again.cursor == nth(1) and again.ticket != fetch.ticket


def test_pauses_between_tries_are_short_again_after_an_answer() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", nth(1)))
    bench.locate()
    for _ in range(3):
        bench.subscriber.tell(FetchFailed("a", bench.fetch().ticket, "store_unavailable"))
        bench.system.fire_timers()
    bench.page(bench.fetch(), 2, 2)
    bench.subscriber.tell(FetchFailed("a", bench.fetch().ticket, "store_unavailable"))
    assert [timer.seconds for timer in bench.system.timers] == [RETRY_SECONDS[0]]


def test_a_retry_for_a_subscription_that_is_over_is_ignored() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", nth(1)))
    bench.locate()
    bench.subscriber.tell(FetchFailed("a", bench.fetch().ticket, "store_unavailable"))
    bench.subscribe(Wanted("a", nth(2)))
    bench.locate()
    fetch = bench.fetch()
    bench.system.fire_timers()
    assert not bench.fetches()
    bench.page(fetch, 3, 3)
    assert bench.sink.ids == id_texts(make_messages(3, 3))


# The outbox


def test_a_full_outbox_takes_every_topic_out_of_live_and_keeps_only_its_cursor() -> None:
    bench = Bench()
    bench.go_live("a")
    bench.go_live("b")
    bench.sink.is_full = True
    bench.deliver(6, 6, "a")
    assert {leave.topic for leave in bench.directory.take(Leave)} == {"a", "b"}
    bench.deliver(7, 7, "a")
    bench.deliver(6, 6, "b")
    assert len(bench.sink.messages) == 1
    assert bench.counters.demotions == 1 and bench.counters.lagging_subscribers == 1


def test_a_full_outbox_does_not_disturb_a_topic_that_is_being_located() -> None:
    bench = Bench()
    bench.go_live("a")
    bench.subscribe(Wanted("b", Start.LATEST), ref="b")
    bench.sink.is_full = True
    bench.deliver(6, 6, "a")
    bench.locate()
    assert bench.sink.entries("subscribed")[-1][2] == "b"
    bench.drain()
    assert set(bench.fetches()) == {"a", "b"}


def test_a_drained_outbox_reads_on_from_the_cursors() -> None:
    bench = Bench()
    bench.go_live("a")
    bench.go_live("b")
    bench.sink.is_full = True
    bench.deliver(6, 6, "a")
    bench.drain()
    fetches = bench.fetches()
    assert fetches["a"].cursor == nth(6) and fetches["b"].cursor == nth(5)
    assert bench.counters.lagging_subscribers == 0
    bench.drain()
    assert not bench.fetches() and bench.counters.lagging_subscribers == 0


def test_a_page_that_arrives_while_the_outbox_is_full_is_read_again_later() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", nth(1)), Wanted("b", nth(1)))
    bench.locate()
    fetches = bench.fetches()
    bench.sink.is_full = True
    bench.page(fetches["a"], 2, 2)
    bench.page(fetches["b"], 2, 2, GAP)
    assert len(bench.sink.messages) == 1 and not bench.sink.notices
    bench.drain()
    again = bench.fetches()
    assert again["b"].cursor == nth(1) and again["a"].cursor == nth(2)


def test_going_live_while_the_outbox_is_full_is_taken_back() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", nth(1)), Wanted("b", nth(1)))
    bench.locate()
    fetches = bench.fetches()
    bench.sink.is_full = True
    bench.page(fetches["a"], 2, 2)
    bench.went_live(fetches["b"])
    assert bench.directory.take(Leave) == [Leave("b", 1)]
    bench.drain()
    assert set(bench.fetches()) == {"a", "b"}


def test_a_subscription_made_while_the_outbox_is_full_waits_for_it() -> None:
    bench = Bench()
    bench.go_live("a")
    bench.sink.is_full = True
    bench.deliver(6, 6)
    bench.subscribe(Wanted("b", nth(1)))
    bench.locate()
    assert len(bench.sink.entries("subscribed")) == 2 and not bench.fetches()
    bench.drain()
    assert set(bench.fetches()) == {"a", "b"}


def test_a_retry_while_the_outbox_is_full_waits_for_it() -> None:
    bench = Bench()
    bench.subscribe(Wanted("a", nth(1)), Wanted("b", nth(1)))
    bench.locate()
    fetches = bench.fetches()
    bench.subscriber.tell(FetchFailed("b", fetches["b"].ticket, "store_unavailable"))
    bench.sink.is_full = True
    bench.page(fetches["a"], 2, 2)
    bench.system.fire_timers()
    assert not bench.fetches()
    bench.drain()
    assert set(bench.fetches()) == {"a", "b"}


def test_a_drained_outbox_that_fills_again_is_counted_again() -> None:
    bench = Bench()
    bench.go_live("a")
    for number in (6, 7):
        bench.sink.is_full = True
        bench.deliver(number, number)
        bench.drain()
        bench.went_live(bench.fetch())
    assert bench.counters.demotions == 2 and bench.counters.lagging_subscribers == 0


def test_few_topics_of_one_connection_fetch_at_a_time_and_all_have_their_turn() -> None:
    bench = Bench()
    topics = [f"t{number}" for number in range(3 * FETCHES_AT_ONCE)]
    bench.subscribe(*(Wanted(topic, nth(1)) for topic in topics))
    bench.locate()
    served: list[str] = []
    fetches = bench.fetches()
    while len(served) < 2 * len(topics):
        assert len(fetches) == FETCHES_AT_ONCE
        topic = next(iter(fetches))
        fetch = fetches.pop(topic)
        bench.page(fetch, fetch.cursor.number + 1, fetch.cursor.number + 1)
        served.append(topic)
        fetches.update(bench.fetches())
    assert served == topics * 2


@pytest.mark.parametrize("end", ["live", "failed", "unsubscribed", "subscribed again"])
def test_a_topic_that_needs_its_turn_no_more_gives_it_to_the_next(end: str) -> None:
    bench = Bench()
    topics = [f"t{number}" for number in range(FETCHES_AT_ONCE + 1)]
    bench.subscribe(*(Wanted(topic, nth(1)) for topic in topics))
    bench.locate()
    fetches = bench.fetches()
    if end == "live":
        bench.went_live(fetches["t0"])
    elif end == "failed":
        bench.subscriber.tell(FetchFailed("t0", fetches["t0"].ticket, "store_unavailable"))
    elif end == "unsubscribed":
        bench.subscriber.tell(Unsubscribe(("t0",)))
    else:
        bench.subscribe(Wanted("t0", nth(2)))
    assert set(bench.fetches()) == {topics[-1]}


# The end


@pytest.mark.parametrize("message", [Disconnect(), ActorExitRequest()], ids=["disconnect", "exit"])
def test_a_connection_that_ends_leaves_every_topic(message: Any) -> None:
    bench = Bench()
    bench.go_live("a")
    bench.subscribe(Wanted("b", nth(1)))
    bench.locate()
    bench.subscriber.tell(message)
    assert {leave.topic for leave in bench.directory.take(Leave)} == {"a", "b"}
    assert not bench.subscriber.is_alive and bench.counters.lagging_subscribers == 0


def test_a_slow_connection_that_ends_is_not_counted_as_lagging_any_more() -> None:
    bench = Bench()
    bench.go_live()
    bench.sink.is_full = True
    bench.deliver(6, 6)
    bench.subscriber.tell(Disconnect())
    assert bench.counters.lagging_subscribers == 0


def test_time_does_not_end_what_is_no_long_poll() -> None:
    bench = Bench()
    bench.go_live()
    bench.subscriber.tell(Expire())
    bench.deliver(6, 6)
    assert bench.sink.messages and not bench.sink.entries("completed")


class BrokenSink(RecordingSink):
    def deliver(self, batch: Batch) -> bool:
        raise BrokenPipeError


def test_a_subscriber_that_fails_leaves_its_topics_even_if_its_sink_is_what_failed() -> None:
    system, directory, sink = StandInSystem(), Outsider("directory"), BrokenSink()
    system.failures = (BrokenPipeError,)
    subscriber = start_subscriber(system, directory, ScriptedStore(), sink)
    subscriber.tell(Subscribe((Wanted("a", nth(1)),)))
    (locate,) = directory.take(Locate)
    subscriber.tell(Located("a", locate.ticket, nth(1), "e"))
    (fetch,) = directory.take(Fetch)
    subscriber.tell(WentLive("a", fetch.ticket, nth(1), "e"))
    subscriber.tell(Delivered("a", Batch("a", make_messages(2, 2))))
    assert directory.take(Leave) == [Leave("a", 1)]
    assert sink.log[-1] == ("failed",) and not subscriber.is_alive
