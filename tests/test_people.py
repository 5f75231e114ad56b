"""The predecessor's users and refresh tokens, as they stand in its records."""

from __future__ import annotations

import pytest

from pulsar_relay.predecessor.people import sessions_of, user_of

TIME = "2026-01-02T03:04:05.678901+00:00"
USER = {
    "user_id": "u",
    "username": "galaxy",
    "email": "",
    "hashed_password": "$argon2id$...",
    "is_active": "True",
    "created_at": TIME,
    "permissions": '["write", "admin", "nonsense", "admin"]',
    "federated_identities": "[]",
}


def token(jti: str, parent: str = "", revoked: str = "", **fields: str) -> tuple[str, dict[str, str]]:
    return jti, {
        "user_id": "u",
        "secret_hash": f"hash of {jti}",
        "parent_jti": parent,
        "issued_at": TIME,
        "expires_at": "2099-01-02T03:04:05+00:00",
        "revoked": "1" if revoked else "0",
        "revoked_reason": revoked,
        "client_hint": "password-login",
        **fields,
    }


def test_a_user_is_read() -> None:
    user, others = user_of("u", USER)
    assert (user.user_id, user.username, user.email, user.is_active) == ("u", "galaxy", None, True)
    assert user.permissions == ("admin", "write") and not others
    assert user.created_at_ms == 1_767_323_045_679


@pytest.mark.parametrize("text", ["False", "", "None", "1"])
def test_an_account_of_which_it_is_not_certain_that_it_is_open_is_closed(text: str) -> None:
    assert not user_of("u", {**USER, "is_active": text})[0].is_active


def test_a_time_without_a_zone_means_utc() -> None:
    assert user_of("u", {**USER, "created_at": TIME[:-6]})[0].created_at_ms == 1_767_323_045_679


def test_of_several_identities_the_first_is_kept_and_the_others_are_told() -> None:
    identities = '[{"issuer": "https://a", "sub": "1"}, {"issuer": "https://b", "sub": "2"}]'
    user, others = user_of("u", {**USER, "federated_identities": identities})
    assert user.federated is not None and user.federated.key == "https://a|1"
    assert others == ["https://b"]


@pytest.mark.parametrize("change", [{"created_at": "x"}, {"permissions": "{"}, {"permissions": "{}"}])
def test_a_user_that_cannot_be_read_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        user_of("u", {**USER, **change})


def test_a_chain_is_its_good_token_with_those_it_came_from() -> None:
    chain = [token("a", revoked="rotated"), token("b", "a", "rotated"), token("c", "b")]
    (session,) = sessions_of(chain)
    assert session.current.jti == "c" and session.current.digest == "hash of c"
    assert [former.jti for former in session.former] == ["b", "a"]
    assert not session.is_spare


def test_a_login_whose_token_was_never_used_is_spare() -> None:
    assert sessions_of([token("a")])[0].is_spare
    assert not sessions_of([token("a", client_hint="a device")])[0].is_spare


def test_pairs_and_logins_are_sessions_of_their_own() -> None:
    found = sessions_of([token("late", issued_at="2026-02-01T00:00:00+00:00"), token("early")])
    assert [session.current.jti for session in found] == ["early", "late"]


@pytest.mark.parametrize("reason", ["logout", "replay", "admin", "expired", "rotated"])
def test_a_chain_without_a_good_token_is_over(reason: str) -> None:
    assert sessions_of([token("a", revoked="rotated"), token("b", "a", reason)]) == []


def test_records_that_go_round_in_circles_or_lack_something_do_no_harm() -> None:
    records = [
        token("a", "b"),
        token("b", "a", "rotated"),
        ("c", {"user_id": "u"}),
        token("d", expires_at="x"),
    ]
    (session,) = sessions_of(records)
    assert [former.jti for former in session.former] == ["b"]
