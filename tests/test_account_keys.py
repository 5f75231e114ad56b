"""API keys, by HTTP."""

from __future__ import annotations

import pytest

from pulsar_relay.account_answers import KeyAnswer, KeyEntry
from tests.account_relays import AccountRelay
from tests.account_relays import account_relay as account_relay

NEW = {"name": "ci", "actions": ["write"], "topics": ["jobs_*"], "expires_in": "90d"}


def test_a_key_is_told_once_and_is_its_user(account_relay: AccountRelay) -> None:
    user = account_relay.new_user("write")
    token = account_relay.token(user["username"], user["password"])
    answer = account_relay.ask("POST", "/auth/keys", token, json=NEW)
    made = answer.json()
    assert answer.status_code == 201
    assert not KeyAnswer().validate(made)
    shown = made.pop("key")
    me = account_relay.ask("GET", "/auth/me", shown)
    assert (me.status_code, me.json()["user_id"]) == (200, user["user_id"])
    [listed] = account_relay.ask("GET", "/auth/keys", token).json()
    assert not KeyEntry().validate(listed)
    assert listed == made
    path = f"/auth/keys/{made['key_id']}"
    other = account_relay.ask("DELETE", path, account_relay.token())
    assert (other.status_code, other.json()["error"]) == (404, "api_key_not_found")
    assert account_relay.ask("DELETE", path, token).status_code == 204
    assert account_relay.ask("GET", "/auth/me", shown).status_code == 401
    assert account_relay.ask("DELETE", path, token).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/auth/keys", None),
        ("POST", "/auth/keys", NEW),
        ("GET", "/auth/sessions", None),
        ("DELETE", "/auth/sessions", None),
        ("GET", "/auth/users", None),
        ("POST", "/api/v1/topics/jobs/permissions", {"to": "public"}),
    ],
)
def test_a_key_opens_no_way_to_another(
    account_relay: AccountRelay, method: str, path: str, body: object
) -> None:
    made = account_relay.ask("POST", "/auth/keys", account_relay.token(), json=NEW).json()
    refused = account_relay.ask(method, path, made["key"], json=body)
    assert refused.status_code == 403
    assert refused.json()["error"] in ("login_required", "permission_required")


def test_an_admin_sees_and_revokes_the_keys_of_others(account_relay: AccountRelay) -> None:
    user = account_relay.new_user("write")
    token = account_relay.token(user["username"], user["password"])
    made = account_relay.ask("POST", "/auth/keys", token, json=NEW).json()
    whose = f"?user_id={user['user_id']}"
    admin = account_relay.token()
    [listed] = account_relay.ask("GET", "/auth/keys" + whose, admin).json()
    assert listed["key_id"] == made["key_id"] and "key" not in listed
    assert account_relay.ask("DELETE", f"/auth/keys/{made['key_id']}{whose}", admin).status_code == 204
    assert account_relay.ask("GET", "/auth/me", made["key"]).status_code == 401


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("actions", []),
        ("actions", ["admin"]),
        ("topics", []),
        ("topics", ["no topic"]),
        ("name", ""),
        ("expires_in", "1s"),
    ],
)
def test_a_key_that_cannot_be_is_refused(account_relay: AccountRelay, field: str, value: object) -> None:
    answer = account_relay.ask("POST", "/auth/keys", account_relay.token(), json=NEW | {field: value})
    assert answer.status_code == 422
    assert {wrong["loc"][1] for wrong in answer.json()["detail"]} == {field}
