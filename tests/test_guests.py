"""Guests: what is open ends with what let it in, on every worker, and says why."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pulsar_relay.errors import ERRORS
from pulsar_relay.web.guests import WARNING_SECONDS
from tests.conditions import until
from tests.people import Pair, Person, Stream
from tests.people import pair as pair
from tests.workers import relay_valkey as relay_valkey


def delete(person: Person) -> None:
    person.relay.wait(person.accounts.users.delete(person.id))


REVOCATIONS: list[tuple[str, Callable[[Person], None], str]] = [
    ("logout", Person.sign_out, "token_revoked"),
    ("password", lambda person: person.patch(password="another password"), "token_revoked"),
    ("permission", lambda person: person.patch(permissions=["write"]), "token_revoked"),
    ("disabled", lambda person: person.patch(is_active=False), "user_inactive"),
    ("deleted", delete, "user_unknown"),
]
REVOKED = pytest.mark.parametrize(
    ("revoke", "code"), [row[1:] for row in REVOCATIONS], ids=[row[0] for row in REVOCATIONS]
)
SECONDS = 5.0


@REVOKED
def test_a_websocket_on_another_worker_is_closed(
    pair: Pair, revoke: Callable[[Person], None], code: str
) -> None:
    person = Person(pair.one)
    with person.at(pair.two).talk() as talk:
        talk.subscribe("jobs")
        began = time.monotonic()
        revoke(person)
        assert talk.closing() == (ERRORS[code].close_code, code)
        assert time.monotonic() - began < SECONDS


@REVOKED
def test_an_event_stream_on_another_worker_ends_and_says_why(
    pair: Pair, revoke: Callable[[Person], None], code: str
) -> None:
    person = Person(pair.one)
    stream = Stream(person.at(pair.two), pair.two, "jobs")
    stream.event("subscribed")
    began = time.monotonic()
    revoke(person)
    assert stream.event(code)["code"] == code
    assert stream.ends()
    assert time.monotonic() - began < SECONDS


@REVOKED
def test_a_poll_that_waits_on_another_worker_is_answered(
    pair: Pair, revoke: Callable[[Person], None], code: str
) -> None:
    person = Person(pair.one)
    waiting = person.at(pair.two).polling("jobs")
    revoke(person)
    answer = waiting.result(SECONDS)
    assert (answer.status_code, answer.json()["error"]) == (ERRORS[code].status, code)
    until(lambda: pair.two.worker.waiters.active == 0, "nobody waits")


def test_a_key_that_is_revoked_or_whose_user_may_no_more_ends_what_it_opened(pair: Pair) -> None:
    person = Person(pair.one)
    with person.at(pair.two, person.key(["read"], ["*"])).talk() as talk:
        talk.subscribe("jobs")
        key_id = pair.one.wait(person.accounts.api_keys.list(person.id))[0].key.key_id
        pair.one.wait(person.accounts.api_keys.revoke(person.id, key_id))
        assert talk.closing() == (4005, "token_revoked")
    with person.at(pair.two, person.key(["read"], ["*"])).talk() as talk:
        talk.subscribe("jobs")
        person.patch(permissions=["write"])
        assert talk.closing() == (4008, "permission_required")


def test_what_was_granted_and_is_taken_back_ends_and_only_that(pair: Pair) -> None:
    owner, other = Person(pair.one), Person(pair.one)
    owner.at(pair.one).publish("jobs", {})
    owner.grant("jobs", other.id, "read")
    topic = f"{owner.id}/jobs"
    until(lambda: other.at(pair.two).history(topic).ok, "the grant is known")
    asking = other.at(pair.two)
    with asking.talk() as talk, asking.talk() as own, owner.at(pair.two).talk() as owners:
        talk.subscribe("jobs", topic)
        own.subscribe("jobs")
        owners.subscribe("jobs")
        stream = Stream(asking, pair.two, topic)
        stream.event("subscribed")
        waiting = asking.polling(topic)
        owner.grant("jobs", other.id)
        assert talk.closing() == (4011, "grant_revoked")
        assert stream.event("grant_revoked") and stream.ends()
        assert waiting.result(SECONDS).status_code == 403
        for one in (own, owners):
            assert one.ask("ping", "pong")


def test_who_has_not_signed_in_is_shut_out_when_a_topic_is_public_no_more(pair: Pair) -> None:
    owner = Person(pair.one)
    owner.at(pair.one).publish("open", {})
    owner.grant("open", "public", "read")
    topic, stranger = f"{owner.id}/open", owner.at(pair.two, "")
    until(lambda: stranger.history(topic).ok, "the grant is known")
    stream = Stream(stranger, pair.two, topic)
    stream.event("subscribed")
    owner.grant("open", "public")
    assert stream.event("grant_revoked") and stream.ends()


def test_one_token_that_is_logged_out_leaves_the_others_alone(pair: Pair) -> None:
    person = Person(pair.one)
    another = person.another_token()
    with person.at(pair.two).talk() as talk, person.at(pair.two, another).talk() as stays:
        person.sign_out()
        assert talk.close_code() == 4005
        assert stays.ask("ping", "pong")


# Time


def test_a_token_that_expires_ends_what_it_opened_within_a_second(pair: Pair) -> None:
    person = Person(pair.one, seconds=3)
    ends_at = time.time() + 3
    waiting = person.at(pair.two).polling("jobs")
    with person.at(pair.two).talk() as talk:
        talk.hear("token_expiring")
        talk.subscribe("jobs")
        stream = Stream(person.at(pair.two), pair.two, "jobs")
        assert talk.closing() == (4004, "token_expired")
        assert -1.1 < time.time() - ends_at < 1
        assert stream.event("token_expired") and stream.ends()
        answer = waiting.result(SECONDS)
        assert (answer.status_code, answer.json()["error"]) == (401, "token_expired")
        assert time.time() - ends_at < 1


def test_who_comes_with_a_token_that_is_about_to_expire_is_warned(pair: Pair) -> None:
    person = Person(pair.one, seconds=int(WARNING_SECONDS))
    with person.at(pair.one).talk() as talk:
        assert talk.hear("token_expiring")["expires_at"].endswith("Z")
    person.shown = person.another_token()
    with person.at(pair.one).talk() as talk:
        assert talk.ask("ping", "pong")


def test_a_warning_comes_when_it_is_time(pair: Pair) -> None:
    person = Person(pair.one, seconds=int(WARNING_SECONDS) + 2)
    with person.at(pair.one).talk() as talk:
        talk.subscribe("jobs")
        began = time.monotonic()
        talk.hear("token_expiring")
        assert 0.2 < time.monotonic() - began < 3
        stream = Stream(person.at(pair.one), pair.one, "jobs")
        stream.event("token_expiring")


def test_a_socket_goes_on_with_another_token_of_the_same_user(pair: Pair) -> None:
    person = Person(pair.one, seconds=3)
    with person.at(pair.one).talk() as talk:
        talk.hear("token_expiring")
        talk.subscribe("jobs")
        told = talk.ask("authenticate", "authenticated", token=person.another_token(), ref=1)
        assert told["ref"] == 1 and told["expires_at"] is not None
        asking = person.at(pair.one)
        until(lambda: asking.publish("jobs").status_code == 401, "the first token has expired")
        person.at(pair.one, person.another_token()).publish("jobs", {"late": 1})
        while talk.hear("message")["payload"] != {"late": 1}:
            pass
        person.patch(is_active=False)
        assert talk.close_code() == 4007


def test_it_does_not_with_one_of_another_user_or_one_that_is_worth_nothing(pair: Pair) -> None:
    person, other = Person(pair.one), Person(pair.one)
    with person.at(pair.one).talk() as talk:
        for token, code in ((other.shown, "another_user"), ("a.b.c", "invalid_token")):
            assert talk.ask("authenticate", "error", token=token)["code"] == code
        assert talk.ask("authenticate", "error", token=1)["code"] == "invalid_request"
        assert talk.ask("ping", "pong")
        person.sign_out()
        assert talk.close_code() == 4005


def test_nothing_is_kept_of_guests_who_have_left(pair: Pair) -> None:
    person = Person(pair.one)
    guests = pair.one.worker._guests
    assert guests is not None
    shown = person.key(["read"], ["*"])
    until(lambda: len(guests) == 0, "those before have left")
    for show in (person.shown, shown):
        asking = person.at(pair.one, show)
        with asking.talk() as talk:
            talk.ask("ping", "pong")
            assert len(guests) == 1
        assert asking.poll("jobs", timeout=0).status_code == 200
        until(lambda: len(guests) == 0, "they have left")
