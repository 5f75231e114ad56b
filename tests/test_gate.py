"""The gate: who gets to which address, and what who does not is told."""

from __future__ import annotations

import pytest
import requests

from pulsar_relay.accounts.accounts import Accounts
from pulsar_relay.web.gate import bearer
from tests.conditions import WAIT_SECONDS
from tests.people import Asking, Pair, Person, Stream
from tests.people import pair as pair
from tests.talks import Talk
from tests.workers import relay_valkey as relay_valkey

PUBLISH = {"topic": "jobs", "payload": {}}
GUARDED = [
    ("POST", "/api/v1/messages", PUBLISH),
    ("POST", "/api/v1/messages/bulk", {"messages": [PUBLISH]}),
    ("POST", "/messages/poll", {"topics": ["jobs"]}),
    ("GET", "/api/v1/poll?topics=jobs", None),
    ("GET", "/messages/poll/stats", None),
    ("GET", "/api/v1/stream?topics=jobs", None),
    ("GET", "/api/v1/topics", None),
    ("POST", "/api/v1/topics", {"topic_name": "jobs"}),
    ("GET", "/api/v1/topics/jobs", None),
    ("PUT", "/api/v1/topics/jobs", {"description": "mine"}),
    ("DELETE", "/api/v1/topics/jobs", None),
    ("GET", "/api/v1/topics/jobs/messages", None),
    ("GET", "/api/v1/topics/stats", None),
    ("GET", "/api/v1/consumers", None),
    ("GET", "/api/v1/consumers/worker", None),
    ("DELETE", "/api/v1/consumers/worker", None),
    ("POST", "/api/v1/consumers/worker/ack", {"topic": "jobs", "message_id": "1-1"}),
    ("GET", "/stats", None),
]
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize(("method", "path", "body"), GUARDED)
def test_an_address_is_closed_for_who_shows_nothing_or_nothing_good(
    pair: Pair, method: str, path: str, body: object
) -> None:
    for shown, words in (("", "Not authenticated"), ("a.b.c", "Invalid or expired token")):
        answer = Asking(pair.one, shown).ask(method, path, body)
        assert (answer.status_code, answer.json()["detail"]) == (401, words)
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_websocket_is_closed_for_them_too(pair: Pair) -> None:
    for shown in ("", "a.b.c"):
        answer = Asking(pair.one, shown).ask("GET", "/ws", **UPGRADE)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/openapi.json", "/docs", "/"])
def test_what_is_for_everybody_is_open(pair: Pair, path: str) -> None:
    assert Asking(pair.one, "").ask("GET", path).status_code == 200
    assert Asking(pair.one, "nonsense").ask("GET", path).status_code == 200


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_an_address_that_does_not_exist_is_told_to_everybody(pair: Pair, method: str) -> None:
    assert Asking(pair.one, "").ask(method, "/nowhere").status_code == 404


@pytest.mark.parametrize("body", [b"", b"{", b'{"topic": 1}', b"\xff"])
def test_who_has_not_signed_in_is_told_that_and_not_what_else_is_wrong(pair: Pair, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    for path in ("/api/v1/messages", "/api/v1/messages/bulk", "/messages/poll"):
        answer = requests.post(pair.one.url + path, body, headers=headers, timeout=WAIT_SECONDS)
        assert answer.status_code == 401


def test_each_reason_has_its_words(pair: Pair) -> None:
    person = Person(pair.one)
    expired = person.another_token(seconds=0)
    me = person.at(pair.two)
    assert me.publish("jobs").status_code == 201
    answer = person.at(pair.two, expired).publish("jobs")
    assert (answer.status_code, answer.json()["detail"]) == (401, "Invalid or expired token")
    person.sign_out()
    pair.two.wait(_refreshed(pair))
    answer = me.publish("jobs")
    assert (answer.status_code, answer.json()["detail"]) == (401, "Token has been revoked")
    person.patch(is_active=False)
    pair.two.wait(_refreshed(pair))
    answer = person.at(pair.two, person.another_token()).publish("jobs")
    assert (answer.status_code, answer.json()["detail"]) == (403, "User is inactive")
    pair.one.wait(person.accounts.users.delete(person.id))
    pair.two.wait(_refreshed(pair))
    answer = person.at(pair.two, person.another_token()).publish("jobs")
    assert (answer.status_code, answer.json()["detail"]) == (401, "User not found")


async def _refreshed(pair: Pair) -> None:
    accounts = pair.two.worker.accounts
    assert isinstance(accounts, Accounts)
    await accounts.roster.refresh()


PERMITTED = [
    ("POST", "/api/v1/messages", PUBLISH, "write"),
    ("POST", "/api/v1/messages/bulk", {"messages": [PUBLISH]}, "write"),
    ("POST", "/api/v1/topics", {"topic_name": "made"}, "write"),
    ("PUT", "/api/v1/topics/jobs", {"description": "mine"}, "write"),
    ("DELETE", "/api/v1/topics/jobs", None, "write"),
    ("POST", "/messages/poll", {"topics": ["jobs"], "timeout": 1}, "read"),
    ("GET", "/api/v1/poll?topics=jobs&timeout=1", None, "read"),
    ("GET", "/api/v1/stream?topics=jobs", None, "read"),
    ("GET", "/api/v1/topics/jobs/messages", None, "read"),
    ("DELETE", "/api/v1/consumers/worker", None, "read"),
    ("POST", "/api/v1/consumers/worker/ack", {"topic": "jobs", "message_id": "1-1"}, "read"),
    ("GET", "/api/v1/topics/stats", None, "admin"),
    ("GET", "/stats", None, "admin"),
]


@pytest.mark.parametrize(("method", "path", "body", "permission"), PERMITTED)
def test_what_needs_a_permission_is_refused_without_it_and_one_is_not_another(
    pair: Pair, method: str, path: str, body: object, permission: str
) -> None:
    others = {"admin", "read", "write"} - {permission}
    answer = Person(pair.one, sorted(others)).at(pair.one).ask(method, path, body)
    assert answer.status_code == 403
    assert f"Permission '{permission}' required" in answer.json()["detail"]
    has_it = requests.Request(method, pair.one.url + path, json=body).prepare()
    has_it.headers.update(Person(pair.one, [permission]).at(pair.one).headers)
    with requests.Session() as session:
        assert session.send(has_it, stream=True, timeout=WAIT_SECONDS).status_code not in (401, 403)


@pytest.mark.parametrize("path", ["/api/v1/topics", "/api/v1/consumers", "/messages/poll/stats"])
def test_what_is_only_listed_needs_no_permission(pair: Pair, path: str) -> None:
    assert Person(pair.one, []).at(pair.one).ask("GET", path).status_code == 200


def test_a_websocket_needs_read(pair: Pair) -> None:
    assert Person(pair.one, ["write", "admin"]).at(pair.one).ask("GET", "/ws", **UPGRADE).status_code == 403


def test_a_request_that_is_not_plain_is_let_in_by_the_same_rules(pair: Pair) -> None:
    # Chunked, so that Tornado reads it.
    person = Person(pair.one)
    body = (part for part in [b'{"topic": "jobs", ', b'"payload": 1}'])
    headers = {"Content-Type": "application/json"}
    url = f"{pair.one.url}/api/v1/messages"
    mine = headers | person.at(pair.one).headers
    assert requests.post(url, body, headers=mine, timeout=WAIT_SECONDS).status_code == 201
    body = (part for part in [b'{"topic": "jobs", ', b'"payload": 1}'])
    assert requests.post(url, body, headers=headers, timeout=WAIT_SECONDS).status_code == 401


def test_a_socket_and_a_stream_are_let_in_by_what_a_page_can_show_and_no_log_has_it(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    person = Person(pair.one)
    query = f"access_token={person.shown}"
    for _ in ("new", "recalled"):
        with Talk(pair.one.ws_url, subprotocols=["bearer", f"bearer.{person.shown}"]) as talk:
            assert talk.socket.subprotocol == "bearer"
            assert talk.ask("ping", "pong")
        with Talk(f"{pair.one.ws_url}?{query}") as talk:
            assert talk.ask("ping", "pong")
        stream = Stream(Asking(pair.one, ""), pair.one, "jobs", f"&{query}")
        stream.event("subscribed")
    with caplog.at_level("DEBUG"):
        assert Asking(pair.one, "").ask("GET", f"/ws?{query}").status_code == 404
        # Elsewhere an address shows nothing.
        assert Asking(pair.one, "").ask("GET", f"/api/v1/topics?{query}").status_code == 401
        assert Asking(pair.one, "").ask("GET", f"/api/v1/poll?topics=jobs&{query}").status_code == 401
    relays = [record for record in caplog.records if record.name.startswith(("pulsar_relay", "tornado"))]
    assert not [record for record in relays if person.shown in record.getMessage()]


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ("Bearer a.b.c", "a.b.c"),
        ("bearer  a.b.c ", "a.b.c"),
        ("BEARER x", "x"),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic dTpw", None),
        ("", None),
        (None, None),
    ],
)
def test_only_the_bearer_scheme_shows_something(header: str | None, shown: str | None) -> None:
    assert bearer(header) == shown
