"""Subscriptions: where each begins, and whose turn it is."""

from __future__ import annotations

import pytest

from actors.protocol import Fetch, Start, Wanted
from actors.stream import BEGINNING
from actors.subscription import FETCHES_AT_ONCE, Stage, SubscribeRequest, Subscription, Subscriptions
from tests.scripted_store import nth


def subscription_of(wanted: Wanted) -> Subscription:
    return SubscribeRequest("ref", [wanted]).subscriptions[wanted.topic]


@pytest.mark.parametrize(
    ("wanted", "has_place", "proves"),
    [
        (Wanted("t", nth(3)), True, True),
        (Wanted("t", nth(3), proves=False), True, False),
        (Wanted("t", Start.EARLIEST), True, False),
        (Wanted("t", Start.UNKNOWN), True, False),
        (Wanted("t", Start.LATEST), False, False),
        (Wanted("t", Start.ACKED), False, False),
    ],
)
def test_where_a_subscription_begins(wanted: Wanted, has_place: bool, proves: bool) -> None:
    subscription = subscription_of(wanted)
    assert subscription.has_place == has_place
    assert subscription.proves == proves
    assert subscription.cursor == (wanted.start if wanted.start == nth(3) else BEGINNING)


def test_a_place_in_the_stream_must_be_proved_from_then_on() -> None:
    subscription = subscription_of(Wanted("t", Start.LATEST))
    subscription.place(nth(5), "e")
    assert subscription.has_place and subscription.proves
    assert (subscription.cursor, subscription.epoch) == (nth(5), "e")


def test_a_place_without_an_epoch_keeps_the_one_the_client_gave() -> None:
    subscription = subscription_of(Wanted("t", Start.ACKED, "mine"))
    subscription.place(nth(5))
    assert subscription.epoch == "mine"


def test_no_acknowledged_place_is_the_oldest_message() -> None:
    subscription = subscription_of(Wanted("t", Start.ACKED))
    subscription.place(None)
    assert subscription.has_place and not subscription.proves
    assert subscription.cursor == BEGINNING


def test_a_topic_named_twice_in_a_request_begins_at_the_last_place() -> None:
    request = SubscribeRequest("ref", [Wanted("t", nth(1)), Wanted("t", nth(2))])
    assert [one.cursor for one in request.subscriptions.values()] == [nth(2)]


def test_a_request_is_located_when_all_its_topics_are() -> None:
    request = SubscribeRequest("ref", [Wanted("a", nth(1)), Wanted("b", nth(2))])
    request.subscriptions["a"].stage = Stage.LOCATED
    assert not request.is_located
    request.withdraw("b")
    assert request.is_located


def parked(count: int) -> tuple[Subscriptions, list[Subscription]]:
    subscriptions = Subscriptions()
    made = [subscription_of(Wanted(f"t{number}", nth(number))) for number in range(count)]
    for subscription in made:
        subscriptions.add(subscription)
        subscriptions.enter(subscription, Stage.PARKED)
    return subscriptions, made


def test_few_fetch_at_a_time_and_in_turn() -> None:
    subscriptions, made = parked(FETCHES_AT_ONCE + 2)
    fetching = []
    while (subscription := subscriptions.next_to_fetch()) is not None:
        fetching.append(subscription)
    assert fetching == made[:FETCHES_AT_ONCE]
    subscriptions.enter(made[0], Stage.PARKED)
    assert subscriptions.next_to_fetch() is made[FETCHES_AT_ONCE], "who had a page waits behind the others"
    subscriptions.enter(made[1], Stage.LIVE)
    subscriptions.enter(made[2], Stage.RETRYING)
    assert subscriptions.next_to_fetch() is made[FETCHES_AT_ONCE + 1]
    assert subscriptions.next_to_fetch() is made[0]


def test_who_is_removed_frees_its_turn() -> None:
    subscriptions, made = parked(FETCHES_AT_ONCE + 2)
    while subscriptions.next_to_fetch() is not None:
        pass
    subscriptions.remove(made[0])
    subscriptions.remove(made[FETCHES_AT_ONCE])
    assert subscriptions.next_to_fetch() is made[FETCHES_AT_ONCE + 1]
    assert len(subscriptions) == FETCHES_AT_ONCE and "t0" not in subscriptions


def test_an_answer_to_an_earlier_question_is_for_nobody() -> None:
    subscriptions, (subscription,) = parked(1)
    assert subscriptions.next_to_fetch() is subscription
    ticket = subscription.ticket
    assert subscriptions.current("t0", ticket, Stage.FETCHING) is subscription
    assert subscriptions.current("t0", ticket, Stage.LOCATING) is None
    assert subscriptions.current("elsewhere", ticket, Stage.FETCHING) is None
    subscriptions.ask(subscription)
    assert subscriptions.current("t0", ticket, Stage.FETCHING) is None


def test_every_question_has_a_ticket_of_its_own() -> None:
    subscriptions, made = parked(3)
    tickets = [subscriptions.ask(subscription) for subscription in made * 2]
    assert len(set(tickets)) == 6


def test_a_fetch_says_where_and_under_which_ticket() -> None:
    subscriptions, (subscription,) = parked(1)
    subscription.epoch = "e"
    subscriptions.ask(subscription)
    asked = Fetch("t0", 7, subscription.ticket, nth(0), 10, True, "e", completes=True)
    assert subscription.fetch(7, 10, completes=True) == asked
