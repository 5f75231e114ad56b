"""What owners grant, by HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pulsar_relay.account_answers import GrantsAnswer
from pulsar_relay.accounts.access import NOTHING, Grant
from pulsar_relay.accounts.grants import Grantee
from tests.account_relays import AccountRelay
from tests.account_relays import account_relay as account_relay
from tests.valkeys import RealValkey

PATH = "/api/v1/topics/jobs/permissions"


def make_topic(relay: AccountRelay, token: str) -> None:
    answer = relay.ask("POST", "/api/v1/topics", token, json={"topic_name": "jobs"})
    assert answer.status_code == 201, answer.text


def test_what_is_granted_is_listed_and_taken_back(account_relay: AccountRelay) -> None:
    owner, friend = account_relay.new_user("read", "write"), account_relay.new_user("read")
    token = account_relay.token(owner["username"], owner["password"])
    make_topic(account_relay, token)
    granted = account_relay.ask("POST", PATH, token, json={"username": friend["username"]})
    assert granted.status_code == 200
    assert not GrantsAnswer().validate(granted.json())
    to_friend = {"grantee": friend["user_id"], "username": friend["username"], "actions": ["read"]}
    assert granted.json() == {
        "topic_name": "jobs",
        "owner_id": owner["user_id"],
        "permissions": [to_friend],
    }
    both = {"to": "public", "actions": ["write", "read"]}
    assert account_relay.ask("POST", PATH, token, json=both).status_code == 200
    listed = account_relay.ask("GET", PATH, token).json()["permissions"]
    assert listed == [{"grantee": "public", "username": None, "actions": ["read", "write"]}, to_friend]
    for grantee in ("public", friend["user_id"]):
        assert account_relay.ask("DELETE", f"{PATH}/{grantee}", token).status_code == 204
    assert account_relay.ask("GET", PATH, token).json()["permissions"] == []


def test_another_asks_of_their_own_topic_of_that_name(account_relay: AccountRelay) -> None:
    owner, other = account_relay.new_user("write"), account_relay.new_user("write")
    tokens = [account_relay.token(user["username"], user["password"]) for user in (owner, other)]
    for token in tokens:
        make_topic(account_relay, token)
    account_relay.ask("POST", PATH, tokens[0], json={"user_id": other["user_id"]})
    theirs = account_relay.ask("GET", PATH, tokens[1])
    assert (theirs.json()["owner_id"], theirs.json()["permissions"]) == (other["user_id"], [])


def test_a_grant_that_meets_the_deletion_of_its_topic_is_gone_with_it(
    account_relay: AccountRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = account_relay.new_user("read", "write")
    owner_id, token = user["user_id"], account_relay.token(user["username"], user["password"])
    worker = account_relay.worker.worker
    assert worker.accounts is not None
    grants, relay = worker.accounts.grants, worker.relay
    grant, delete = grants.set, relay.delete

    async def granted_and_deleted(topic: str) -> None:
        await grant(owner_id, "jobs", Grantee("public"), ["write"])
        await delete(topic)

    async def deleted_and_granted(*args: Any) -> Grant:
        await delete(f"{owner_id}/jobs")
        return await grant(*args)

    make_topic(account_relay, token)
    with monkeypatch.context() as patched:
        patched.setattr(relay, "delete", granted_and_deleted)
        assert account_relay.ask("DELETE", "/api/v1/topics/jobs", token).status_code == 204
    assert grants.known(owner_id, "jobs") == NOTHING
    make_topic(account_relay, token)
    with monkeypatch.context() as patched:
        patched.setattr(grants, "set", deleted_and_granted)
        answer = account_relay.ask("POST", PATH, token, json={"to": "public"})
        assert (answer.status_code, answer.json()["error"]) == (404, "topic_not_found")
    assert grants.known(owner_id, "jobs") == NOTHING


def test_a_topic_whose_grants_cannot_be_taken_back_now_is_not_deleted_and_that_is_told(
    tmp_path: Path,
) -> None:
    with RealValkey(tmp_path) as valkey:
        relay = AccountRelay(valkey.socket_path, valkey={"command_timeout_seconds": 0.5})
        try:
            token = relay.token()
            make_topic(relay, token)
            valkey.pause()
            refused = relay.ask("DELETE", "/api/v1/topics/jobs", token)
            valkey.resume()
            assert (refused.status_code, refused.json()["error"][:6]) == (503, "store_")
        finally:
            relay.stop()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"to": "everybody"},
        {"to": "public", "username": "x"},
        {"to": "public", "actions": []},
        {"to": "public", "actions": ["admin"]},
        {"user_id": "public"},
        {"user_id": "no id"},
    ],
)
def test_a_grant_that_means_nothing_is_refused(account_relay: AccountRelay, body: object) -> None:
    user = account_relay.new_user("write")
    token = account_relay.token(user["username"], user["password"])
    make_topic(account_relay, token)
    assert account_relay.ask("POST", PATH, token, json=body).status_code == 422


def test_of_a_topic_that_there_is_not_nothing_is_granted(account_relay: AccountRelay) -> None:
    user = account_relay.new_user("write")
    token = account_relay.token(user["username"], user["password"])
    for method in ("GET", "POST"):
        answer = account_relay.ask(method, PATH, token, json={"to": "public"})
        assert (answer.status_code, answer.json()["error"]) == (404, "topic_not_found")
    # What a topic may have left behind can be taken back all the same.
    assert account_relay.ask("DELETE", f"{PATH}/public", token).status_code == 204
    account_relay.ask("POST", "/api/v1/messages", token, json={"topic": "jobs", "payload": {}})
    assert account_relay.ask("POST", PATH, token, json={"to": "public"}).status_code == 200


def test_a_user_or_topic_that_cannot_be_is_not_found(account_relay: AccountRelay) -> None:
    user = account_relay.new_user("write")
    token = account_relay.token(user["username"], user["password"])
    make_topic(account_relay, token)
    answer = account_relay.ask("POST", PATH, token, json={"username": "nobody at all"})
    assert (answer.status_code, answer.json()["error"]) == (404, "user_not_found")
    for method in ("GET", "POST"):
        answer = account_relay.ask(
            method, "/api/v1/topics/no%20topic/permissions", token, json={"to": "public"}
        )
        assert (answer.status_code, answer.json()["error"]) == (404, "topic_not_found")
    assert account_relay.ask("DELETE", f"{PATH}/nobody", token).status_code == 404
    assert account_relay.ask("DELETE", "/api/v1/topics/a%2Fb/permissions/public", token).status_code == 404


def test_a_topic_of_one_s_own_may_be_named_with_its_owner_and_another_s_is_not_found(
    account_relay: AccountRelay,
) -> None:
    owner, other = account_relay.new_user("write"), account_relay.new_user("write")
    token = account_relay.token(owner["username"], owner["password"])
    made = account_relay.ask("POST", "/api/v1/topics", token, json={"topic_name": "named"})
    assert made.status_code == 201
    own = f"/api/v1/topics/{owner['user_id']}%2Fnamed/permissions"
    granted = account_relay.ask("POST", own, token, json={"to": "public"})
    assert (granted.status_code, granted.json()["topic_name"]) == (200, "named")
    assert account_relay.ask("DELETE", f"{own}/public", token).status_code == 204
    assert account_relay.ask("GET", own, token).json()["permissions"] == []
    theirs = f"/api/v1/topics/{other['user_id']}%2Fnamed/permissions"
    for method, path in (("GET", theirs), ("POST", theirs), ("DELETE", f"{theirs}/public")):
        asked = {"json": {"to": "public"}} if method == "POST" else {}
        assert account_relay.ask(method, path, token, **asked).status_code == 404
