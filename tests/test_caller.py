"""Callers: what their names mean inside, and that nobody gets to what is another's.

Over two workers with real users; each of these is a row of OWASP's list: access to objects (API1), to their
fields (API3), to functions (API5).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
import requests

from pulsar_relay.accounts.user import READ, WRITE
from pulsar_relay.errors import RelayError
from pulsar_relay.web.caller import ANYBODY, existing
from tests.people import Asking, Pair, Person, Stream
from tests.people import pair as pair
from tests.workers import relay_valkey as relay_valkey

NOBODYS = f"{uuid.uuid4()}/jobs"


def found(person: Person, pair: Pair, topic: str) -> list[object]:
    """What is stored of a topic, as told by the other worker."""
    answer = person.at(pair.two).history(topic)
    assert answer.status_code == 200, answer.text
    return [(message["topic"], message["payload"]) for message in answer.json()["messages"]]


def same(one: requests.Response, other: requests.Response) -> bool:
    """Whether two answers tell the same, but for when."""
    apart = {"Date"}
    return (one.status_code, one.content, {k: v for k, v in one.headers.items() if k not in apart}) == (
        other.status_code,
        other.content,
        {k: v for k, v in other.headers.items() if k not in apart},
    )


# Names


def test_topics_of_one_name_are_as_many_as_there_are_users(pair: Pair) -> None:
    one, other = Person(pair.one), Person(pair.one)
    assert one.at(pair.one).publish("jobs", {"of": "one"}).json()["topic"] == "jobs"
    assert other.at(pair.two).publish("jobs", {"of": "other"}).status_code == 201
    assert found(one, pair, "jobs") == [("jobs", {"of": "one"})]
    assert found(other, pair, "jobs") == [("jobs", {"of": "other"})]


def test_a_users_topics_are_kept_under_the_users_id(pair: Pair) -> None:
    person = Person(pair.one)
    person.at(pair.one).publish("jobs")
    streams = pair.one.wait(pair.one.worker._client.command("EXISTS", f"topic:{person.id}/jobs:stream"))
    assert streams == 1


def test_own_topics_are_told_by_their_bare_name_however_they_were_asked_for(pair: Pair) -> None:
    person = Person(pair.one)
    full = f"{person.id}/jobs"
    assert person.at(pair.one).publish(full, {"n": 1}).json()["topic"] == "jobs"
    assert found(person, pair, full) == [("jobs", {"n": 1})]
    polled = person.at(pair.one).poll(full, "jobs", since={full: "earliest"}).json()
    assert [message["topic"] for message in polled["messages"]] == ["jobs"]
    assert set(polled["cursors"]) == {"jobs"}


def test_a_list_has_the_callers_own_topics_and_leads_through_them(pair: Pair) -> None:
    one, other = Person(pair.one), Person(pair.one)
    for name in ("a", "b", "c"):
        one.at(pair.one).publish(name)
        other.at(pair.one).publish(f"their-{name}")
    answer = one.at(pair.two).ask("GET", "/api/v1/topics?limit=2")
    assert [topic["topic_name"] for topic in answer.json()] == ["a", "b"]
    following = answer.headers["Link"].partition(">")[0][1:]
    answer = one.at(pair.two).ask("GET", following)
    assert [topic["topic_name"] for topic in answer.json()] == ["c"]
    assert "Link" not in answer.headers


def test_a_topic_tells_whose_it_is(pair: Pair) -> None:
    person = Person(pair.one)
    made = person.at(pair.one).ask("POST", "/api/v1/topics", {"topic_name": "made"}).json()
    assert (made["topic_name"], made["owner_id"]) == ("made", person.id)


def test_a_topic_that_is_called_stats_is_its_owners_and_the_statistics_are_an_admins(pair: Pair) -> None:
    person, admin = Person(pair.one), Person(pair.one, ["admin", "write"])
    assert person.at(pair.one).ask("GET", "/api/v1/topics/stats").status_code == 403
    person.at(pair.one).publish("stats")
    told = person.at(pair.one).ask("GET", "/api/v1/topics/stats").json()
    assert told["topic_name"] == "stats" and "total_topics" not in told
    assert "total_topics" in admin.at(pair.one).ask("GET", "/api/v1/topics/stats").json()


def test_without_accounts_there_are_no_owners() -> None:
    assert ANYBODY.reach("jobs", READ) == ANYBODY.own("jobs", WRITE) == ANYBODY.told("jobs") == "jobs"
    with pytest.raises(RelayError, match="invalid_request"):
        ANYBODY.reach(NOBODYS, READ)


def test_what_can_be_no_name_is_not_found() -> None:
    assert existing("jobs") == "jobs"
    with pytest.raises(RelayError, match="topic_not_found"):
        existing("a.b")


# What is another's (API1)


ATTEMPTS: list[tuple[str, Callable[[Asking, str], requests.Response]]] = [
    ("publish", lambda asking, topic: asking.publish(topic)),
    ("poll", lambda asking, topic: asking.poll(topic)),
    ("poll from a cursor", lambda asking, topic: asking.poll(topic, since={topic: "earliest"})),
    ("history", lambda asking, topic: asking.history(topic)),
    ("describe", lambda asking, topic: asking.ask("GET", f"/api/v1/topics/{topic.replace('/', '%2F')}")),
    ("stream", lambda asking, topic: asking.ask("GET", f"/api/v1/stream?topics={topic}")),
    ("make", lambda asking, topic: asking.ask("POST", "/api/v1/topics", {"topic_name": topic})),
    (
        "change",
        lambda asking, topic: asking.ask(
            "PUT", f"/api/v1/topics/{topic.replace('/', '%2F')}", {"description": "taken"}
        ),
    ),
    ("delete", lambda asking, topic: asking.ask("DELETE", f"/api/v1/topics/{topic.replace('/', '%2F')}")),
    (
        "acknowledge",
        lambda asking, topic: asking.ask(
            "POST", "/api/v1/consumers/me/ack", {"topic": topic, "message_id": "1-1"}
        ),
    ),
]


@pytest.mark.parametrize("attempt", [one for _, one in ATTEMPTS], ids=[name for name, _ in ATTEMPTS])
def test_another_users_topic_is_refused_exactly_as_one_that_nobody_has(
    pair: Pair, attempt: Callable[[Asking, str], requests.Response]
) -> None:
    owner, other = Person(pair.one), Person(pair.one, ["admin", "read", "write"])
    assert owner.at(pair.one).publish("jobs", {"secret": 1}).status_code == 201
    refused = attempt(other.at(pair.one), f"{owner.id}/jobs")
    assert refused.status_code == 404
    assert refused.json()["error"] == "topic_not_found"
    assert same(refused, attempt(other.at(pair.one), f"{owner.id}/no-such-topic"))
    assert same(refused, attempt(other.at(pair.one), NOBODYS))
    assert found(owner, pair, "jobs") == [("jobs", {"secret": 1})]


def test_a_bulk_request_stores_what_is_ones_own_and_nothing_of_anothers(pair: Pair) -> None:
    owner, other = Person(pair.one), Person(pair.one)
    owner.at(pair.one).publish("jobs", {})
    theirs = f"{owner.id}/jobs"
    messages = [{"topic": topic, "payload": {"n": 1}} for topic in ("jobs", theirs, f"{other.id}/jobs")]
    answer = other.at(pair.one).ask("POST", "/api/v1/messages/bulk", {"messages": messages})
    assert [result["status"] for result in answer.json()["results"]] == ["accepted", "rejected", "accepted"]
    assert answer.json()["results"][1]["code"] == "topic_not_found"
    assert len(found(other, pair, "jobs")) == 2
    assert len(found(owner, pair, "jobs")) == 1
    answer = other.at(pair.one).ask("POST", "/api/v1/messages/bulk", {"messages": messages[1:2]})
    assert answer.status_code == 404


def test_a_websocket_is_refused_them_too_and_goes_on(pair: Pair) -> None:
    owner, other = Person(pair.one), Person(pair.one)
    owner.at(pair.one).publish("jobs", {})
    with other.at(pair.one).talk() as talk:
        for topic in (f"{owner.id}/jobs", NOBODYS):
            assert talk.ask("subscribe", "error", topics=["jobs", topic])["code"] == "topic_not_found"
            assert talk.ask("publish", "error", topic=topic, payload={})["code"] == "topic_not_found"
        talk.subscribe("jobs")
        other.at(pair.two).publish("jobs", {"mine": 1})
        assert talk.messages(1) == [{"mine": 1}]


def test_named_clients_are_each_users_own(pair: Pair) -> None:
    one, other = Person(pair.one), Person(pair.one)
    ids = {}
    for person in (one, other):
        ids[person.id] = person.at(pair.one).publish("jobs").json()["message_id"]
    for person in (one, other):
        body = {"topic": "jobs", "message_id": ids[person.id]}
        answer = person.at(pair.one).ask("POST", "/api/v1/consumers/worker/ack", body)
        assert answer.json() == {"client_id": "worker", "cursors": {"jobs": ids[person.id]}}
    assert one.at(pair.two).ask("DELETE", "/api/v1/consumers/worker").status_code == 204
    assert one.at(pair.two).ask("GET", "/api/v1/consumers/worker").status_code == 404
    assert one.at(pair.two).ask("GET", "/api/v1/consumers").json() == []
    kept = other.at(pair.two).ask("GET", "/api/v1/consumers/worker").json()
    assert kept["client_id"] == "worker"
    assert kept["topics"]["jobs"]["cursor"] == ids[other.id]
    assert [one["client_id"] for one in other.at(pair.two).ask("GET", "/api/v1/consumers").json()] == [
        "worker"
    ]


def test_idempotency_keys_are_each_users_own(pair: Pair) -> None:
    owner, other = Person(pair.one), Person(pair.one)
    owner.at(pair.one).publish("jobs", {})
    owner.grant("jobs", other.id, "write")
    key = {"Idempotency-Key": "k"}
    assert other.at(pair.one).publish(f"{owner.id}/jobs", {"from": "them"}, **key).ok
    assert owner.at(pair.two).publish("jobs", {"from": "me"}, **key).ok
    assert len(found(owner, pair, "jobs")) == 3


def test_waiting_polls_are_told_to_whose_they_are(pair: Pair) -> None:
    one, other = Person(pair.one), Person(pair.one)
    waiting = one.at(pair.one).polling("jobs")
    told = one.at(pair.one).ask("GET", "/messages/poll/stats").json()
    assert told["active_waiters"] == 1
    assert told["topic_subscriber_counts"] == {f"{one.id}/jobs": 1}
    told = other.at(pair.one).ask("GET", "/messages/poll/stats").json()
    assert told == {"active_waiters": 0, "subscribed_topics": 0, "topic_subscriber_counts": {}}
    one.at(pair.one).publish("jobs")
    assert waiting.result().status_code == 200


def test_a_cookie_holds_a_place_for_whose_it_is(pair: Pair) -> None:
    owner, one, other = Person(pair.one), Person(pair.one), Person(pair.one)
    owner.at(pair.one).publish("jobs", {"n": 1})
    owner.grant("jobs", "users", "read")
    topic = f"{owner.id}/jobs"
    polled = one.at(pair.one).poll(topic, timeout=0)
    cookie = {"Cookie": polled.headers["Set-Cookie"].partition(";")[0]}
    owner.at(pair.one).publish("jobs", {"n": 2})
    body = {"topics": [topic], "timeout": 1}
    again = one.at(pair.one).ask("POST", "/messages/poll", body, **cookie)
    assert [message["payload"] for message in again.json()["messages"]] == [{"n": 2}]
    assert other.at(pair.one).ask("POST", "/messages/poll", body, **cookie).json()["messages"] == []


# What is granted


def test_who_is_granted_a_topic_names_it_with_its_owner_and_is_told_so_on_every_transport(pair: Pair) -> None:
    owner, other = Person(pair.one), Person(pair.one)
    owner.at(pair.one).publish("jobs", {"n": 1})
    owner.grant("jobs", other.id, "read", "write")
    topic = f"{owner.id}/jobs"
    asking = other.at(pair.one)
    with asking.talk() as talk, owner.at(pair.one).talk() as own:
        told = talk.subscribe(topic, "jobs", offset={topic: "earliest"})
        assert set(told["cursors"]) == {topic, "jobs"}
        own.subscribe("jobs", offset="earliest")
        streams = Stream(asking, pair.one, topic, "&since=earliest")
        assert asking.publish(topic, {"n": 2}).json()["topic"] == topic
        assert asking.publish("jobs", {"own": 1}).json()["topic"] == "jobs"
        for n in (1, 2):
            frame, event = talk.hear("message"), streams.event("message")
            assert (frame["topic"], frame["payload"]) == (topic, {"n": n})
            assert event == frame
            assert own.hear("message") == frame | {"topic": "jobs"}
        assert talk.hear("message")["topic"] == "jobs"
        assert talk.ask("unsubscribe", "unsubscribed", topics=[topic])["topics"] == [topic]
    polled = asking.poll(topic, "jobs", since={topic: "earliest"}).json()
    assert [message["topic"] for message in polled["messages"]] == [topic, topic, "jobs"]
    assert set(polled["cursors"]) == {topic, "jobs"}
    history = asking.history(topic).json()["messages"]
    assert [message["topic"] for message in history] == [topic, topic]
    assert asking.ask("GET", f"/api/v1/topics/{owner.id}%2Fjobs").json()["topic_name"] == topic


def test_what_may_be_read_may_not_be_written_changed_or_deleted(pair: Pair) -> None:
    owner, other = Person(pair.one), Person(pair.one)
    owner.at(pair.one).publish("jobs", {})
    owner.grant("jobs", other.id, "read")
    asking, topic = other.at(pair.one), f"{owner.id}/jobs"
    assert asking.history(topic).status_code == 200
    for answer in (
        asking.publish(topic),
        asking.ask("PUT", f"/api/v1/topics/{owner.id}%2Fjobs", {"description": "taken"}),
        asking.ask("DELETE", f"/api/v1/topics/{owner.id}%2Fjobs"),
    ):
        assert (answer.status_code, answer.json()["error"]) == (404, "topic_not_found")


def test_a_topic_that_is_deleted_is_granted_to_nobody_when_it_is_made_anew(pair: Pair) -> None:
    owner, other = Person(pair.one), Person(pair.one)
    topic = f"{owner.id}/jobs"
    owner.at(pair.one).publish("jobs", {})
    owner.grant("jobs", other.id, "read", "write")
    assert owner.at(pair.one).ask("DELETE", "/api/v1/topics/jobs").status_code == 204
    assert other.at(pair.one).publish(topic).status_code == 404
    assert owner.at(pair.one).history("jobs").status_code == 404
    owner.at(pair.one).publish("jobs", {"new": 1})
    assert other.at(pair.one).history(topic).status_code == 404


def test_what_is_public_is_open_to_who_has_not_signed_in_and_nothing_else(pair: Pair) -> None:
    owner = Person(pair.one)
    owner.at(pair.one).publish("open", {"n": 1})
    owner.at(pair.one).publish("closed", {"n": 1})
    owner.grant("open", "public", "read")
    stranger, topic = Asking(pair.one, ""), f"{owner.id}/open"
    assert stranger.history(topic).json()["messages"][0]["topic"] == topic
    assert stranger.poll(topic, since={topic: "earliest"}).json()["messages"][0]["topic"] == topic
    assert Stream(stranger, pair.one, topic, "&since=earliest").event("message")["topic"] == topic
    for answer in (
        stranger.publish(topic),
        stranger.history(f"{owner.id}/closed"),
        stranger.history(NOBODYS),
        stranger.poll(topic, f"{owner.id}/closed"),
        stranger.poll(topic, client_id="me"),
        stranger.ask("GET", f"/api/v1/stream?topics={topic},{owner.id}/closed"),
    ):
        assert answer.status_code == 401


# Keys


def test_a_key_is_for_its_topics_and_actions_and_for_no_more(pair: Pair) -> None:
    person = Person(pair.one)
    person.at(pair.one).publish("jobs", {})
    person.at(pair.one).publish("other", {})
    asking = person.at(pair.one, person.key(["write"], ["jobs", "out_*"]))
    assert asking.publish("jobs").status_code == asking.publish("out_1").status_code == 201
    for answer, code in (
        (asking.publish("other"), "key_out_of_scope"),
        (asking.history("jobs"), "permission_required"),
        (asking.poll("jobs"), "permission_required"),
        (asking.ask("DELETE", "/api/v1/topics/other"), "key_out_of_scope"),
        (asking.ask("GET", "/api/v1/topics"), "key_out_of_scope"),
        (asking.ask("GET", "/api/v1/consumers"), "key_out_of_scope"),
        (asking.ask("GET", "/messages/poll/stats"), "key_out_of_scope"),
        (asking.ask("GET", "/stats"), "permission_required"),
    ):
        assert (answer.status_code, answer.json()["error"]) == (403, code)


def test_a_key_for_all_topics_lists_them(pair: Pair) -> None:
    person = Person(pair.one)
    person.at(pair.one).publish("jobs", {})
    asking = person.at(pair.one, person.key(["read"], ["*"]))
    assert [topic["topic_name"] for topic in asking.ask("GET", "/api/v1/topics").json()] == ["jobs"]
    assert asking.history("jobs").status_code == 200
    assert asking.publish("jobs").status_code == 403
