"""Limits as clients meet them: what one user, or one address, may ask for, by whatever way it is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import requests

from pulsar_relay.kinds import Rate
from tests.account_relays import AccountRelay
from tests.account_relays import make_account_relay as make_account_relay
from tests.conditions import WAIT_SECONDS, until
from tests.people import Asking, Person, Stream
from tests.workers import RunningWorker
from tests.workers import make_relay as make_relay
from tests.workers import relay_valkey as relay_valkey

THREE = Rate(3, 86_400.0)
MakeAccountRelay = Callable[..., AccountRelay]


@pytest.fixture
def limited(make_account_relay: MakeAccountRelay) -> Callable[..., RunningWorker]:
    """A relay with accounts and these limits."""
    return lambda **limits: make_account_relay(limits=limits).worker


def told(answer: requests.Response) -> tuple[int, ...]:
    return tuple(int(answer.headers[f"X-RateLimit-{name}"]) for name in ("Limit", "Remaining"))


def refused(answer: requests.Response, code: str = "rate_limited") -> bool:
    if answer.status_code != 429:
        return False
    assert answer.json()["error"] == code
    assert int(answer.headers["Retry-After"]) >= 1
    return True


# Rates


def test_who_publishes_more_than_one_may_is_refused_and_told_when_to_come_back(
    limited: Callable[..., RunningWorker],
) -> None:
    relay = limited(publish=THREE)
    person, other = Person(relay), Person(relay)
    asking = person.at(relay)
    answers = [asking.publish("jobs") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [201, 201, 201, 429]
    assert [told(answer) for answer in answers] == [(3, 2), (3, 1), (3, 0), (3, 0)]
    assert refused(answers[3])
    assert int(answers[3].headers["Retry-After"]) <= int(answers[3].headers["X-RateLimit-Reset"])
    assert len(asking.history("jobs").json()["messages"]) == 3
    assert other.at(relay).publish("jobs").status_code == 201


def test_a_rate_that_many_requests_share_is_counted_without_asking_for_each(
    limited: Callable[..., RunningWorker],
) -> None:
    relay = limited(publish=Rate(10_000, 100.0), read=Rate(20_000, 100.0))
    asking = Person(relay).at(relay)
    first = asking.publish("jobs")
    assert told(first)[0] == 10_000
    assert told(asking.history("jobs"))[0] == 20_000
    until(lambda: told(asking.publish("jobs"))[1] < 10_000, "the bucket was asked")


def test_all_tokens_of_a_user_share_one_rate_and_so_do_workers(
    make_account_relay: MakeAccountRelay,
) -> None:
    one, two = (make_account_relay(limits={"publish": THREE}).worker for _ in range(2))
    person = Person(one)
    for relay, shown in ((one, person.shown), (two, person.another_token()), (two, person.shown)):
        until(lambda relay=relay: person.id in accounts_of(relay), "the user is known")
        assert person.at(relay, shown).publish("jobs").status_code == 201
    assert refused(person.at(one, person.key(["write"], ["*"])).publish("jobs"))


def accounts_of(relay: RunningWorker) -> Any:
    assert relay.worker.accounts is not None
    return relay.worker.accounts.roster.users


@pytest.mark.parametrize("is_lines", [False, True])
def test_each_message_of_a_bulk_request_counts(limited: Callable[..., RunningWorker], is_lines: bool) -> None:
    relay = limited(publish=THREE)
    person = Person(relay)

    def bulk(*topics: str) -> requests.Response:
        messages = [{"topic": topic, "payload": {}} for topic in topics]
        if is_lines:
            kind, body = "application/x-ndjson", "\n".join(map(json.dumps, messages))
        else:
            kind, body = "application/json", json.dumps({"messages": messages})
        headers = {"Content-Type": kind, "Authorization": f"Bearer {person.shown}"}
        address = f"{relay.url}/api/v1/messages/bulk"
        return requests.post(address, body, headers=headers, timeout=WAIT_SECONDS)

    assert told(bulk("a", "b")) == (3, 1)
    answer = bulk("a", "a")
    assert refused(answer)
    assert len(person.at(relay).history("a").json()["messages"]) == 1
    # What nobody may write costs nothing.
    assert "X-RateLimit-Limit" not in bulk(f"{Person(relay).id}/x").headers
    assert told(bulk("a")) == (3, 0)


def test_what_is_wrong_or_not_allowed_costs_nothing(limited: Callable[..., RunningWorker]) -> None:
    relay = limited(publish=THREE)
    person = Person(relay)
    asking = person.at(relay)
    reader = person.at(relay, person.key(["read"], ["*"]))
    for _ in range(3):
        assert asking.publish("no topic").status_code == 422
        assert reader.publish("jobs").status_code == 403
    assert told(asking.publish("jobs")) == (3, 2)


@pytest.mark.parametrize("rate", [THREE, Rate(300, 86_400.0)])
def test_a_publish_on_a_websocket_beyond_the_rate_is_answered_with_the_time_to_wait(
    limited: Callable[..., RunningWorker], rate: Rate
) -> None:
    relay = limited(publish=rate)
    person = Person(relay)
    with person.at(relay).talk() as talk:
        for number in range(rate.count + 1):
            talk.say("publish", topic="jobs", payload={"n": number}, ref=number)
        heard = [talk.hear() for _ in range(rate.count + 1)]
        assert [frame["ref"] for frame in heard if frame["type"] == "published"] == list(range(rate.count))
        (error,) = (frame for frame in heard if frame["type"] == "error")
        assert (error["ref"], error["code"], error["retry"]) == (rate.count, "rate_limited", True)
        assert error["retry_after"] >= 1
        assert talk.ask("ping", "pong")
    newest = person.at(relay).ask("GET", "/api/v1/topics/jobs/messages?limit=1").json()["messages"]
    assert newest[0]["payload"] == {"n": rate.count - 1}


READS: list[Callable[[Asking], requests.Response]] = [
    lambda asking: asking.poll("jobs", since={"jobs": "earliest"}),
    lambda asking: asking.ask("GET", "/api/v1/poll?topics=jobs&timeout=1"),
    lambda asking: asking.history("jobs"),
    lambda asking: asking.ask("GET", "/api/v1/topics"),
    lambda asking: asking.ask("GET", "/api/v1/topics/jobs"),
    lambda asking: asking.ask("GET", "/api/v1/consumers"),
    lambda asking: asking.ask("GET", "/auth/me"),
]


def test_polls_history_and_topics_share_the_rate_of_reads(limited: Callable[..., RunningWorker]) -> None:
    relay = limited(read=Rate(len(READS), 86_400.0))
    asking = Person(relay).at(relay)
    asking.publish("jobs")
    for number, read in enumerate(READS, 1):
        answer = read(asking)
        assert answer.status_code == 200, answer.text
        assert told(answer) == (len(READS), len(READS) - number)
    assert all(refused(read(asking)) for read in READS)
    assert asking.publish("jobs").status_code == 201


def test_who_opens_and_subscribes_reads(limited: Callable[..., RunningWorker]) -> None:
    relay = limited(read=THREE)
    person = Person(relay)
    with person.at(relay).talk() as talk:
        talk.subscribe("jobs")
        assert talk.ask("subscribe", "subscribed", topics=["more"])
        assert talk.ask("subscribe", "error", topics=["and_more"])["code"] == "rate_limited"
        stream = person.at(relay).ask("GET", "/api/v1/stream?topics=jobs")
        assert refused(stream)


def test_deeds_and_those_shut_out_are_counted(make_account_relay: MakeAccountRelay) -> None:
    relay = make_account_relay()
    person = Person(relay.worker)
    assert relay.login("nobody", "a wrong password").status_code == 401
    with person.at(relay.worker).talk() as talk:
        talk.subscribe("jobs")
        person.patch(is_active=False)
        assert talk.close_code() == 4007
    relay.token()
    counted = relay.ask("GET", "/metrics").text.splitlines()
    for line in (
        'relay_account_deeds_total{deed="sign_in"} 1.0',
        'relay_account_deeds_refused_total{deed="sign_in"} 1.0',
        'relay_guests_shut_out_total{code="user_inactive"} 1.0',
    ):
        assert line in counted


# Seats


def test_a_user_has_as_many_connections_as_one_may_on_all_workers_together(
    make_account_relay: MakeAccountRelay,
) -> None:
    one, two = (make_account_relay(limits={"connections_per_user": 2}).worker for _ in range(2))
    person = Person(one)
    until(lambda: person.id in accounts_of(two), "the user is known")
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }

    def attempts() -> list[requests.Response]:
        asking = person.at(two)
        return [
            asking.ask("GET", "/ws", **upgrade),
            asking.ask("GET", "/api/v1/stream?topics=jobs"),
        ]

    with person.at(one).talk() as talk:
        stream = Stream(person.at(two), two, "jobs")
        stream.event("subscribed")
        assert talk.ask("ping", "pong")
        assert all(refused(answer, "too_many_user_connections") for answer in attempts())
        assert Person(two).at(two).talk().ask("ping", "pong")
        stream.response.close()
        person.at(one).publish("jobs")
        until(lambda: two.worker._limits.connections.taken_by(f"user:{person.id}") == 0, "it has left")
    until(lambda: one.worker._limits.connections.taken_by(f"user:{person.id}") == 0, "it has left")
    for _ in range(3):
        with person.at(two).talk() as talk:
            assert talk.ask("ping", "pong")


def test_a_user_has_as_many_polls_waiting_as_one_may(limited: Callable[..., RunningWorker]) -> None:
    relay = limited(polls_per_user=2)
    person = Person(relay)
    waiting = [person.at(relay).polling("jobs") for _ in range(2)]
    assert refused(person.at(relay).poll("jobs"), "too_many_polls")
    assert Person(relay).at(relay).poll("jobs").status_code == 200
    person.at(relay).publish("jobs", {"n": 1})
    assert all(answer.result(WAIT_SECONDS).json()["messages"] for answer in waiting)
    assert person.at(relay).poll("jobs").status_code == 200


def test_the_seat_of_a_poller_that_hangs_up_is_free(limited: Callable[..., RunningWorker]) -> None:
    relay = limited(polls_per_user=1)
    person = Person(relay)
    address, body = f"{relay.url}/messages/poll", {"topics": ["jobs"], "timeout": 60}
    with pytest.raises(requests.Timeout):
        requests.post(address, json=body, headers=person.at(relay).headers, timeout=0.5)
    until(lambda: person.at(relay).poll("jobs", timeout=1).status_code == 200, "it can be taken")


# Addresses


def test_without_accounts_nobody_is_counted_unless_that_is_asked_for(
    make_relay: Callable[..., RunningWorker],
) -> None:
    limits = {"publish": THREE, "read": THREE, "polls_per_user": 1, "connections_per_user": 1}
    free = make_relay(limits=limits)
    for _ in range(5):
        assert "X-RateLimit-Limit" not in Asking(free, "").publish("jobs").headers
    relay = make_relay(limits=limits | {"counts_addresses": True}, server={"trusted_proxies": ("127.0.0.1",)})

    def asking(address: str) -> Asking:
        one = Asking(relay, "")
        one.headers["X-Forwarded-For"] = address
        return one

    for address in ("192.0.2.1", "2001:db8::1"):
        one = asking(address)
        assert [one.publish("jobs").status_code for _ in range(4)] == [201, 201, 201, 429]
        for _ in range(3):
            assert one.poll("jobs", since={"jobs": "earliest"}).status_code == 200
        assert refused(one.poll("jobs")) and refused(one.ask("GET", "/api/v1/topics"))
    # Of one household.
    assert refused(asking("2001:db8::2").publish("jobs"))
    with asking("192.0.2.2").talk() as talk:
        talk.subscribe("jobs")
        second = asking("192.0.2.2").ask("GET", "/api/v1/stream?topics=jobs")
        assert refused(second, "too_many_user_connections")
        with asking("192.0.2.3").talk() as other:
            assert other.ask("ping", "pong")


def test_with_accounts_who_has_not_signed_in_is_counted_by_address(
    limited: Callable[..., RunningWorker],
) -> None:
    relay = limited(read=THREE)
    owner = Person(relay)
    owner.at(relay).publish("open")
    owner.grant("open", "public", "read")
    topic, stranger = f"{owner.id}/open", Asking(relay, "")
    assert [stranger.history(topic).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert owner.at(relay).history("open").status_code == 200
