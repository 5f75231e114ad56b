"""Signing in, refreshing and signing out, by HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
from pulsar_relay_client.auth import RelayAuthManager
from pulsar_relay_client.credentials import CredentialsFile
from pulsar_relay_client.topics import HttpRelayClient, RefreshTokenRejectedError

from pulsar_relay.account_answers import SessionEntry, TokenAnswer
from pulsar_relay.kinds import Rate
from tests.account_relays import ADMIN, PASSWORD, AccountRelay
from tests.account_relays import account_relay as account_relay
from tests.account_relays import make_account_relay as make_account_relay

KEYS = {"access_token", "token_type", "expires_in", "refresh_token", "refresh_token_secondary"}


def test_a_login_is_answered_with_all_five_keys(account_relay: AccountRelay) -> None:
    answer = account_relay.login()
    told = answer.json()
    assert (answer.status_code, set(told)) == (200, KEYS)
    assert not TokenAnswer().validate(told)
    assert (told["token_type"], told["expires_in"], told["refresh_token_secondary"]) == ("bearer", 600, None)
    assert told["refresh_token"].count(".") == 1
    claims = jwt.decode(told["access_token"], options={"verify_signature": False})
    me = account_relay.ask("GET", "/auth/me", told["access_token"]).json()
    assert claims["sub"] == me["user_id"]
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("username", "password"), [(ADMIN, "wrong"), ("nobody", PASSWORD), ("x" * 4096, "y" * 4096)]
)
def test_a_wrong_password_and_nobodys_are_answered_alike(
    make_account_relay: Callable[..., AccountRelay], username: str, password: str
) -> None:
    answer = make_account_relay().login(username, password)
    assert answer.status_code == 401
    assert answer.json()["detail"] == "Incorrect username or password"
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"username": ADMIN},
        {"password": PASSWORD},
        {"username": ADMIN, "password": ""},
        {"username": ADMIN, "password": PASSWORD, "grant_type": "client_credentials"},
        {"username": ADMIN, "password": "y" * 4097},
    ],
)
def test_a_form_that_is_not_valid_is_refused_without_an_echo(
    account_relay: AccountRelay, form: dict[str, str]
) -> None:
    answer = account_relay.ask("POST", "/auth/login", data=form)
    assert answer.status_code == 422
    assert PASSWORD not in answer.text and "y" * 4097 not in answer.text
    assert all(wrong["loc"][0] == "body" for wrong in answer.json()["detail"])


def test_a_login_is_a_form_and_a_refresh_is_not(account_relay: AccountRelay) -> None:
    asked = {"username": ADMIN, "password": PASSWORD}
    assert account_relay.ask("POST", "/auth/login", json=asked).status_code == 422
    form = {"refresh_token": account_relay.login().json()["refresh_token"]}
    assert account_relay.ask("POST", "/auth/token/refresh", data=form).status_code == 422
    assert account_relay.ask("POST", "/auth/token/refresh", json=form).status_code == 200
    assert account_relay.ask("POST", "/auth/token/refresh", json={}).status_code == 422


def test_the_form_of_a_login_may_be_sent_with_a_character_set(account_relay: AccountRelay) -> None:
    answer = account_relay.ask(
        "POST",
        "/auth/login",
        data=f"username={ADMIN}&password={PASSWORD.replace(' ', '+')}&scope=&client_id=a",
        headers={"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"},
    )
    assert answer.status_code == 200


def test_the_form_of_a_login_may_be_sent_in_parts(account_relay: AccountRelay) -> None:
    parts = {"username": (None, ADMIN), "password": (None, PASSWORD), "grant_type": (None, "password")}
    assert account_relay.ask("POST", "/auth/login", files=parts).status_code == 200


def test_a_closed_account_is_told_so_only_after_its_password(account_relay: AccountRelay) -> None:
    user = account_relay.new_user("read")
    path = f"/auth/users/{user['user_id']}"
    closed = account_relay.ask("PATCH", path, account_relay.token(), json={"is_active": False})
    assert closed.json()["is_active"] is False
    answer = account_relay.login(user["username"], user["password"])
    assert (answer.status_code, answer.json()["detail"]) == (403, "User account is inactive")
    assert account_relay.login(user["username"], "wrong").status_code == 401


def test_a_refresh_gives_another_token_and_an_old_one_is_refused(account_relay: AccountRelay) -> None:
    first = account_relay.login().json()["refresh_token"]
    answer = account_relay.ask("POST", "/auth/token/refresh", json={"refresh_token": first})
    assert (answer.status_code, set(answer.json())) == (200, KEYS)
    assert answer.json()["refresh_token"] != first
    for bad in ("", "a", "a.b", first + "x", "." + first, "\u00e4.b"):
        refused = account_relay.ask("POST", "/auth/token/refresh", json={"refresh_token": bad})
        assert (refused.status_code, refused.json()["detail"]) == (401, "invalid refresh token")


def test_no_answer_that_holds_a_token_or_key_is_kept_by_anybody(account_relay: AccountRelay) -> None:
    login = account_relay.login()
    refresh = {"refresh_token": login.json()["refresh_token"]}
    key = {"name": "k", "actions": ["read"], "topics": ["*"]}
    answers = [
        login,
        account_relay.ask("POST", "/auth/token/refresh", json=refresh),
        account_relay.ask("POST", "/auth/keys", login.json()["access_token"], json=key),
    ]
    for answer in answers:
        assert answer.ok
        assert (answer.headers["Cache-Control"], answer.headers["X-Content-Type-Options"]) == (
            "no-store",
            "nosniff",
        )


def test_a_revoked_token_does_not_refresh(account_relay: AccountRelay) -> None:
    token = account_relay.login().json()["refresh_token"]
    revoked = account_relay.ask("POST", "/auth/token/revoke", json={"refresh_token": token})
    assert (revoked.status_code, revoked.content) == (204, b"")
    assert account_relay.ask("POST", "/auth/token/refresh", json={"refresh_token": token}).status_code == 401
    for unknown in (token, "nobody.knows"):
        again = account_relay.ask("POST", "/auth/token/revoke", json={"refresh_token": unknown})
        assert again.status_code == 204
    bad = account_relay.ask("POST", "/auth/token/revoke", json={"refresh_token": "no dot"})
    assert (bad.status_code, bad.json()["detail"]) == (400, "malformed refresh token")
    assert account_relay.ask("POST", "/auth/token/revoke", json={}).status_code == 422


def test_an_api_key_is_revoked_and_not_signed_out(account_relay: AccountRelay) -> None:
    token = account_relay.token()
    asked = {"name": "k", "actions": ["read"], "topics": ["*"]}
    key = account_relay.ask("POST", "/auth/keys", token, json=asked).json()["key"]
    refused = account_relay.ask("POST", "/auth/logout", key)
    assert (refused.status_code, refused.json()["error"]) == (403, "login_required")


def test_a_logout_ends_this_token_and_no_other(account_relay: AccountRelay) -> None:
    one, other = account_relay.login().json(), account_relay.login().json()
    assert account_relay.ask("POST", "/auth/logout", one["access_token"]).status_code == 204
    refused = account_relay.ask("POST", "/auth/logout", one["access_token"])
    assert (refused.status_code, refused.json()["detail"]) == (401, "Token has been revoked")
    assert account_relay.ask("GET", "/auth/me", other["access_token"]).status_code == 200
    asked = {"refresh_token": one["refresh_token"]}
    assert account_relay.ask("POST", "/auth/token/refresh", json=asked).status_code == 200


def test_sessions_are_listed_and_ended(account_relay: AccountRelay) -> None:
    user = account_relay.new_user("read")
    login = account_relay.login(user["username"], user["password"]).json()
    token, jti = login["access_token"], login["refresh_token"].partition(".")[0]
    [session] = account_relay.ask("GET", "/auth/sessions", token).json()
    assert not SessionEntry().validate(session)
    assert (session["jti"], session["client_hint"]) == (jti, "password-login")
    assert session["issued_at"].endswith("Z") and session["last_used_at"] is None
    other = account_relay.ask("DELETE", f"/auth/sessions/{jti}", account_relay.token())
    assert (other.status_code, other.json()["detail"]) == (404, "session not found")
    for _ in range(2):
        assert account_relay.ask("DELETE", f"/auth/sessions/{jti}", token).status_code == 204
    assert account_relay.ask("GET", "/auth/sessions", token).json() == []
    asked = {"refresh_token": login["refresh_token"]}
    assert account_relay.ask("POST", "/auth/token/refresh", json=asked).status_code == 401


def test_an_admin_and_nobody_else_sees_and_ends_what_others_have_open(account_relay: AccountRelay) -> None:
    user, curious = account_relay.new_user("read"), account_relay.new_user("read", "write")
    login = account_relay.login(user["username"], user["password"]).json()
    path = f"/auth/sessions?user_id={user['user_id']}"
    theirs = account_relay.token(curious["username"], curious["password"])
    for method in ("GET", "DELETE"):
        assert account_relay.ask(method, path, theirs).status_code == 403
    assert len(account_relay.ask("GET", path, account_relay.token()).json()) == 1
    assert account_relay.ask("DELETE", path, account_relay.token()).status_code == 204
    assert account_relay.ask("GET", "/auth/me", login["access_token"]).status_code == 401
    nobody = account_relay.ask("DELETE", "/auth/sessions?user_id=none", account_relay.token())
    assert nobody.status_code == 404


def test_the_rate_of_logins_is_told_and_held(make_account_relay: Callable[..., AccountRelay]) -> None:
    relay = make_account_relay(limits={"login": Rate(2, 3600.0), "login_backoff_after": 1000})
    statuses = []
    for _ in range(3):
        answer = relay.login("nobody", "wrong")
        statuses.append(answer.status_code)
        assert answer.headers["X-RateLimit-Limit"] == "2"
    # The bucket is of this machine's address, and may be somebody's who asked before.
    assert statuses[-1] == 429 and set(statuses) <= {401, 429}
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json()["error"] == "rate_limited"


def test_after_wrong_passwords_one_waits(make_account_relay: Callable[..., AccountRelay]) -> None:
    relay = make_account_relay(limits={"login_backoff_after": 2, "login_backoff_first_seconds": 600.0})
    user = relay.new_user("read")
    for _ in range(2):
        assert relay.login(user["username"], "wrong").status_code == 401
    answer = relay.login(user["username"], user["password"])
    assert (answer.status_code, answer.json()["error"]) == (429, "login_backoff")
    assert int(answer.headers["Retry-After"]) > 500


def test_the_real_client_logs_in_and_asks_who_it_is(account_relay: AccountRelay) -> None:
    manager = RelayAuthManager(account_relay.url, username=ADMIN, password=PASSWORD)
    token = manager.get_token()
    assert manager.get_token() == token
    assert HttpRelayClient(account_relay.url).whoami(token)["username"] == ADMIN
    manager.invalidate()
    assert manager.get_token() != token


def test_the_real_client_refreshes_from_its_credentials(account_relay: AccountRelay, tmp_path: Path) -> None:
    login = account_relay.login().json()
    store = CredentialsFile(str(tmp_path / "credentials.json"))
    store.save({"relay_url": account_relay.url, "refresh_token": login["refresh_token"]})
    manager = RelayAuthManager(account_relay.url, credentials_store=store)
    assert manager.get_token()
    kept = store.load()
    assert kept is not None and kept["refresh_token"] != login["refresh_token"]
    manager.invalidate()
    assert manager.get_token()


def test_the_real_client_is_told_that_a_refresh_token_is_worth_nothing(account_relay: AccountRelay) -> None:
    client = HttpRelayClient(account_relay.url)
    token = account_relay.login().json()["refresh_token"]
    assert client.exchange_refresh_token(token)["refresh_token"] != token
    with pytest.raises(RefreshTokenRejectedError):
        client.exchange_refresh_token("none.such")


def test_each_sign_in_is_recorded_and_no_password(
    account_relay: AccountRelay, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    user = account_relay.new_user("read")
    account_relay.login(user["username"], user["password"])
    account_relay.login(user["username"], "a wrong password")
    records = [record.__dict__ for record in caplog.records if getattr(record, "audit", False)]
    theirs = [record for record in records if record.get("target") == user["user_id"]]
    told = [(record["deed"], record["outcome"], record.get("error")) for record in theirs]
    assert told == [
        ("make_user", "done", None),
        ("sign_in", "done", None),
        ("sign_in", "refused", "wrong_password"),
    ]
    assert all(record["address"] == "127.0.0.1" for record in theirs)
    assert user["password"] not in str(records) and "a wrong password" not in str(records)
