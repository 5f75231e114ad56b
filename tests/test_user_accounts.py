"""Users, by HTTP: oneself, and for admins all of them."""

from __future__ import annotations

import pytest

from pulsar_relay.account_answers import UserAnswer, UsersStatsAnswer
from pulsar_relay.web import user_accounts
from tests.account_relays import ADMIN, AccountRelay
from tests.account_relays import account_relay as account_relay

KEYS = {"user_id", "username", "email", "is_active", "created_at", "permissions", "owned_topics"}
FORBIDDEN = [
    ("POST", "/auth/register", {"username": "abc", "password": "a long password"}),
    ("GET", "/auth/users", None),
    ("GET", "/auth/users/stats", None),
    ("PATCH", "/auth/users/x", {}),
    ("DELETE", "/auth/users/x", None),
]


def test_who_signed_in_is_told_who_they_are(account_relay: AccountRelay) -> None:
    user = account_relay.new_user("read", "write")
    me = account_relay.ask("GET", "/auth/me", account_relay.token(user["username"], user["password"])).json()
    assert set(me) == KEYS
    assert not UserAnswer().validate(me)
    assert me == {name: user[name] for name in KEYS}
    assert (me["is_active"], me["permissions"], me["owned_topics"]) == (True, ["read", "write"], [])
    assert me["created_at"].endswith("Z")


@pytest.mark.parametrize(("method", "path", "body"), FORBIDDEN)
def test_only_admins_administer(account_relay: AccountRelay, method: str, path: str, body: object) -> None:
    assert account_relay.ask(method, path, json=body).status_code == 401
    user = account_relay.new_user("read", "write")
    token = account_relay.token(user["username"], user["password"])
    refused = account_relay.ask(method, path, token, json=body)
    assert (refused.status_code, refused.json()["detail"]) == (403, "Permission 'admin' required")


@pytest.mark.parametrize(
    "shown", ["", "Bearer", "Basic YTpi", "Bearer a.b.c", "Bearer prk_0000000000000000_" + "A" * 43]
)
def test_who_shows_nothing_good_is_nobody(account_relay: AccountRelay, shown: str) -> None:
    answer = account_relay.ask("GET", "/auth/me", headers={"Authorization": shown} if shown else {})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json()["detail"] in ("Not authenticated", "Invalid or expired token")


def test_the_scheme_is_understood_in_any_case(account_relay: AccountRelay) -> None:
    headers = {"Authorization": f"bEARER {account_relay.token()}"}
    assert account_relay.ask("GET", "/auth/me", headers=headers).status_code == 200


def test_a_name_is_given_once(account_relay: AccountRelay) -> None:
    body = {"username": ADMIN, "password": "a long password"}
    answer = account_relay.ask("POST", "/auth/register", account_relay.token(), json=body)
    assert (answer.status_code, answer.json()["detail"]) == (400, f"Username '{ADMIN}' already exists")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", "ab"),
        ("username", "a" * 51),
        ("username", None),
        ("username", 5),
        ("password", "seven77"),
        ("password", None),
        ("permissions", ["root-of-all"]),
        ("permissions", "read"),
        ("permissions", None),
        ("email", 5),
        ("email", ["x"]),
    ],
)
def test_a_user_that_cannot_be_is_refused_without_an_echo(
    account_relay: AccountRelay, field: str, value: object
) -> None:
    body = {"username": "somebody", "password": "TheSecretOfThisTest", field: value}
    answer = account_relay.ask("POST", "/auth/register", account_relay.token(), json=body)
    assert answer.status_code == 422
    [wrong] = [one for one in answer.json()["detail"] if one["loc"][:2] == ["body", field]][:1]
    assert wrong["msg"]
    for sent in ("TheSecretOfThisTest", "seven77", "root-of-all"):
        assert sent not in answer.text


def test_users_are_listed_in_pages(account_relay: AccountRelay) -> None:
    account_relay.new_user("read")
    token = account_relay.token()
    everybody = account_relay.ask("GET", "/auth/users", token).json()
    assert not UserAnswer(many=True).validate(everybody)
    found, path = [], "/auth/users?limit=1"
    while path:
        page = account_relay.ask("GET", path, token)
        found += page.json()
        path = page.links.get("next", {}).get("url", "")
    assert found == everybody
    stats = account_relay.ask("GET", "/auth/users/stats", token).json()
    assert not UsersStatsAnswer().validate(stats)
    assert stats["total_users"] == len(everybody)


def test_a_user_is_changed_and_what_is_absent_stays(account_relay: AccountRelay) -> None:
    user, token = account_relay.new_user("read"), account_relay.token()
    path = f"/auth/users/{user['user_id']}"
    same = account_relay.ask("PATCH", path, token, json={})
    assert same.json() == {name: user[name] for name in KEYS}
    changed = account_relay.ask("PATCH", path, token, json={"email": "a@b.example", "permissions": ["write"]})
    assert (changed.json()["email"], changed.json()["permissions"]) == ("a@b.example", ["write"])
    assert account_relay.ask("PATCH", path, token, json={"email": None}).json()["email"] is None
    ignored = account_relay.ask("PATCH", path, token, json={"username": "another", "is_active": "yes"})
    assert (ignored.json()["username"], ignored.json()["is_active"]) == (user["username"], True)


@pytest.mark.parametrize("field", ["permissions", "is_active", "password"])
def test_a_null_changes_nothing_and_is_refused(account_relay: AccountRelay, field: str) -> None:
    user, token = account_relay.new_user("read"), account_relay.token()
    path = f"/auth/users/{user['user_id']}"
    assert account_relay.ask("PATCH", path, token, json={field: None}).status_code == 422
    listed = account_relay.ask("GET", "/auth/users", token)
    assert listed.status_code == 200
    assert {name: user[name] for name in KEYS} in listed.json()


def test_a_new_password_and_a_permission_less_end_access_tokens(account_relay: AccountRelay) -> None:
    for change in ({"password": "another password"}, {"permissions": []}, {"is_active": False}):
        user = account_relay.new_user("read")
        token = account_relay.token(user["username"], user["password"])
        path = f"/auth/users/{user['user_id']}"
        assert account_relay.ask("PATCH", path, account_relay.token(), json=change).status_code == 200
        assert account_relay.ask("GET", "/auth/me", token).status_code == (
            403 if "is_active" in change else 401
        )


def test_a_deleted_user_is_gone_and_oneself_cannot_be(account_relay: AccountRelay) -> None:
    user, token = account_relay.new_user("read"), account_relay.token()
    theirs = account_relay.token(user["username"], user["password"])
    path = f"/auth/users/{user['user_id']}"
    assert account_relay.ask("DELETE", path, token).status_code == 204
    for method, body in (("DELETE", None), ("PATCH", {"email": None})):
        again = account_relay.ask(method, path, token, json=body)
        assert (again.status_code, again.json()["detail"]) == (
            404,
            f"User with ID '{user['user_id']}' not found",
        )
    gone = account_relay.ask("GET", "/auth/me", theirs)
    assert (gone.status_code, gone.json()["detail"]) == (401, "User not found")
    assert account_relay.login(user["username"], user["password"]).status_code == 401
    own = account_relay.ask("GET", "/auth/me", token).json()["user_id"]
    refused = account_relay.ask("DELETE", f"/auth/users/{own}", token)
    assert (refused.status_code, refused.json()["detail"]) == (400, "Cannot delete your own user account")


@pytest.mark.parametrize("count", [5, 6, 7])
def test_of_many_topics_all_are_told_and_all_go_with_their_owner(
    account_relay: AccountRelay, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(user_accounts, "TOPICS_AT_ONCE", 3)
    user = account_relay.new_user("read", "write")
    token = account_relay.token(user["username"], user["password"])
    names = [f"topic-{number}" for number in range(count)]
    for name in names:
        made = account_relay.ask("POST", "/api/v1/topics", token, json={"topic_name": name})
        assert made.status_code == 201
    assert account_relay.ask("GET", "/auth/me", token).json()["owned_topics"] == names
    gone = account_relay.ask("DELETE", f"/auth/users/{user['user_id']}", account_relay.token())
    assert gone.status_code == 204
    worker = account_relay.worker
    left = worker.wait(user_accounts.OwnedTopics(worker.worker.relay).names(user["user_id"]))
    assert left == []


def test_a_users_address_knows_no_other_methods(account_relay: AccountRelay) -> None:
    for method in ("GET", "PUT"):
        answer = account_relay.ask(method, "/auth/users/x", account_relay.token())
        assert (answer.status_code, answer.headers["Allow"]) == (405, "PATCH, DELETE")
