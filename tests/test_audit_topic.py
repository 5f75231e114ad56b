"""The audit topic: what is done becomes a message there, for admins only, and nobody waits for it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pulsar_relay import audit_topic
from pulsar_relay.audit_topic import AUDIT_TOPIC
from tests.account_relays import AccountRelay
from tests.account_relays import account_relay as account_relay
from tests.account_relays import make_account_relay as make_account_relay
from tests.conditions import WAIT_SECONDS, until
from tests.people import Asking, Stream
from tests.talks import Talk
from tests.valkeys import RealValkey

PATH = "/api/v1/topics/system%2Faudit"
_numbers = itertools.count(1)


def records(relay: AccountRelay, token: str) -> list[dict[str, Any]]:
    """The newest first."""
    answer = relay.ask("GET", f"{PATH}/messages?limit=100", token)
    assert answer.status_code == 200, answer.text
    return [message["payload"] for message in answer.json()["messages"]]


def told(relay: AccountRelay, token: str, **fields: object) -> dict[str, Any]:
    """The newest record with these fields, once there is one."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found[:] = [one for one in records(relay, token) if fields.items() <= one.items()]
        return bool(found)

    until(is_there, f"a record of {fields} is published")
    return found[0]


def make_something(relay: AccountRelay, token: str) -> str:
    """Have something recorded; the id of the key that was made."""
    asked = {"name": f"key {next(_numbers)}", "actions": ["write"], "topics": ["*"]}
    answer = relay.ask("POST", "/auth/keys", token, json=asked)
    assert answer.status_code == 201, answer.text
    key_id: str = answer.json()["key_id"]
    return key_id


def test_an_admin_receives_records_over_every_transport(account_relay: AccountRelay) -> None:
    token = account_relay.token()
    make_something(account_relay, token)
    told(account_relay, token, deed="make_key")
    asking = Asking(account_relay.worker, token)
    with Talk(account_relay.worker.ws_url, additional_headers=asking.headers) as talk:
        talk.subscribe(AUDIT_TOPIC)
        stream = Stream(asking, account_relay.worker, AUDIT_TOPIC)
        waiting = asking.polling(AUDIT_TOPIC)
        key_id = make_something(account_relay, token)
        frame = talk.hear("message")
        assert (frame["topic"], frame["payload"]["target"]) == (AUDIT_TOPIC, key_id)
        assert stream.event("message")["payload"] == frame["payload"]
        (message,) = waiting.result(WAIT_SECONDS).json()["messages"]
        assert (message["topic"], message["payload"]) == (AUDIT_TOPIC, frame["payload"])
    assert told(account_relay, token, target=key_id)["deed"] == "make_key"


def test_to_all_others_there_is_no_such_topic(account_relay: AccountRelay) -> None:
    admin = account_relay.token()
    told(account_relay, admin, deed="sign_in")
    user = account_relay.new_user("read", "write")
    asked = {"name": "an admin's", "actions": ["read", "write"], "topics": ["*", AUDIT_TOPIC]}
    key = account_relay.ask("POST", "/auth/keys", admin, json=asked).json()["key"]
    for shown in (account_relay.token(user["username"], user["password"]), key):
        for path in (PATH, f"{PATH}/messages"):
            assert account_relay.ask("GET", path, shown).status_code == 404
        asking = Asking(account_relay.worker, shown)
        assert asking.poll(AUDIT_TOPIC).status_code == 404
        query = f"/api/v1/stream?topics={AUDIT_TOPIC}"
        assert asking.ask("GET", query).status_code == 404
        with Talk(account_relay.worker.ws_url, additional_headers=asking.headers) as talk:
            talk.say("subscribe", topics=[AUDIT_TOPIC])
            assert talk.hear("error")["code"] == "topic_not_found"
    assert account_relay.ask("GET", f"{PATH}/messages").status_code == 401


def test_nobody_publishes_to_it_changes_or_deletes_it_or_grants_it(account_relay: AccountRelay) -> None:
    admin = account_relay.token()
    told(account_relay, admin, deed="sign_in")
    before = account_relay.ask("GET", PATH, admin).json()
    asking = Asking(account_relay.worker, admin)
    assert asking.publish(AUDIT_TOPIC, {"deed": "forged"}).status_code == 404
    assert asking.ask("PUT", PATH, {"description": "mine"}).status_code == 404
    assert asking.ask("POST", "/api/v1/topics", {"topic_name": AUDIT_TOPIC}).status_code in (404, 422)
    assert asking.ask("DELETE", PATH).status_code == 404
    assert asking.ask("POST", f"{PATH}/permissions", {"to": "public"}).status_code == 404
    after = account_relay.ask("GET", PATH, admin).json()
    assert (after["owner_id"], after["epoch"]) == ("system", before["epoch"])
    assert after["description"] == audit_topic.DESCRIPTION
    assert not [one for one in records(account_relay, admin) if one["deed"] == "forged"]


def test_it_is_in_nobody_s_list_of_topics(account_relay: AccountRelay) -> None:
    admin = account_relay.token()
    told(account_relay, admin, deed="sign_in")
    user = account_relay.new_user("read")
    for token in (admin, account_relay.token(user["username"], user["password"])):
        listed = account_relay.ask("GET", "/api/v1/topics?limit=1000", token).json()
        assert not [one for one in listed if "audit" in one["topic_name"]]
    assert "audit" not in account_relay.ask("GET", "/auth/me", admin).json()["owned_topics"]


def test_who_is_admin_no_more_is_shut_out(account_relay: AccountRelay) -> None:
    admin = account_relay.token()
    other = account_relay.new_user("read", "admin")
    token = account_relay.token(other["username"], other["password"])
    with Talk(account_relay.worker.ws_url, additional_headers={"Authorization": f"Bearer {token}"}) as talk:
        talk.subscribe(AUDIT_TOPIC)
        answer = account_relay.ask(
            "PATCH", f"/auth/users/{other['user_id']}", admin, json={"permissions": ["read"]}
        )
        assert answer.status_code == 200
        assert talk.close_code() == 4005


def test_topics_sessions_and_refused_logins_are_told(account_relay: AccountRelay) -> None:
    admin = account_relay.token()
    user = account_relay.new_user("read", "write")
    name, own = f"jobs-{next(_numbers)}", user["user_id"]
    login = account_relay.login(user["username"], user["password"]).json()
    token, topic = login["access_token"], f"{own}/{name}"
    account_relay.ask("POST", "/api/v1/topics", token, json={"topic_name": name})
    account_relay.ask("PUT", f"/api/v1/topics/{name}", token, json={"description": "x", "retention": "1h"})
    account_relay.ask("DELETE", f"/api/v1/topics/{name}", token)
    by_user = {"kind": "topic", "target": topic, "user_id": own, "outcome": "done", "address": "127.0.0.1"}
    told(account_relay, admin, deed="make_topic", **by_user)
    told(account_relay, admin, deed="change_topic", fields="description,limits", **by_user)
    told(account_relay, admin, deed="delete_topic", **by_user)
    account_relay.login(user["username"], "a wrong password")
    told(account_relay, admin, deed="sign_in", outcome="refused", error="wrong_password", target=own)
    account_relay.ask("POST", "/auth/logout", token)
    told(account_relay, admin, deed="sign_out", user_id=own)


def test_a_refresh_token_that_is_used_again_is_told_with_its_session(
    make_account_relay: Callable[..., AccountRelay],
) -> None:
    relay = make_account_relay(auth={"refresh_grace_seconds": 0.0})
    first = relay.login().json()["refresh_token"]
    for status in (200, 401):
        answer = relay.ask("POST", "/auth/token/refresh", json={"refresh_token": first})
        assert answer.status_code == status
    jti = first.partition(".")[0]
    found = told(relay, relay.token(), deed="replay", kind="session", target=jti)
    assert first.partition(".")[2] not in json.dumps(found)


def test_a_login_that_must_wait_is_told(make_account_relay: Callable[..., AccountRelay]) -> None:
    relay = make_account_relay(limits={"login_backoff_after": 1, "login_backoff_first_seconds": 60.0})
    token, user = relay.token(), relay.new_user("read")
    for _ in range(2):
        relay.login(user["username"], "a wrong password")
    found = told(relay, token, deed="sign_in", error="login_backoff")
    assert (found["target"], found["outcome"]) == (user["user_id"], "refused")


def test_it_keeps_what_the_settings_say(make_account_relay: Callable[..., AccountRelay]) -> None:
    for days in (30, 31):
        relay = make_account_relay(
            auth={"audit_retention_seconds": days * 86400.0, "audit_max_messages": 5000}
        )
        token = relay.token()

        def is_kept(relay: AccountRelay = relay, token: str = token, days: int = days) -> bool:
            kept = relay.ask("GET", PATH, token).json()
            return (kept.get("retention"), kept.get("max_messages")) == (days * 86400, 5000)

        until(is_kept, "the topic says how long it keeps a record")


@pytest.fixture
def own_store(make_valkey: Callable[..., RealValkey]) -> Iterator[tuple[RealValkey, AccountRelay]]:
    valkey = make_valkey().start()
    relay = AccountRelay(valkey.socket_path)
    yield valkey, relay
    relay.stop()


def test_while_the_store_is_away_records_wait_and_then_are_there_once_and_in_order(
    own_store: tuple[RealValkey, AccountRelay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_topic, "WAITING_MOST", 150)
    valkey, relay = own_store
    token = relay.token()
    told(relay, token, deed="sign_in")
    topic = relay.worker.worker.audit_topic
    assert topic is not None

    def add_many() -> int:
        for number in range(400):
            topic.add(json.dumps({"number": number}).encode())
        return topic.dropped

    valkey.pause()
    try:
        assert relay.worker.call(add_many) == 250
        until(lambda: topic.is_failing, "the store is found to be away")
    finally:
        valkey.resume()

    def numbers() -> list[int]:
        answer = relay.ask("GET", f"{PATH}/messages?limit=1000&order=asc", token)
        found = answer.json()["messages"] if answer.ok else []
        return [one["payload"]["number"] for one in found if "number" in one["payload"]]

    until(lambda: len(numbers()) >= 150, "what waited is published")
    assert numbers() == list(range(150))


def test_the_end_of_a_worker_publishes_what_it_has_still_to_tell(
    make_account_relay: Callable[..., AccountRelay], account_relay: AccountRelay
) -> None:
    relay = make_account_relay()
    key_id = make_something(relay, relay.token())
    relay.stop()
    token = account_relay.token()
    assert [one for one in records(account_relay, token) if one.get("target") == key_id]
