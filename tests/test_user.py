"""Users as values, and what may be wanted of one."""

from __future__ import annotations

from typing import Any

import pytest

from pulsar_relay.accounts.user import FederatedIdentity, NewUser, User, UserPatch
from pulsar_relay.errors import RelayError


def fields_of(refused: RelayError) -> list[str]:
    return [str(error.loc[-1]) for error in refused.errors]


def somebody(**changes: Any) -> User:
    values: dict[str, Any] = {"email": None, "permissions": ("read", "write"), "is_active": True}
    values |= {"user_id": "u", "username": "galaxy", "created_at_ms": 1, **changes}
    return User(**values)


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({"username": "ab"}, ["username"]),
        ({"username": "x" * 51}, ["username"]),
        ({"username": "a\nb"}, ["username"]),
        ({"username": "lone \ud800"}, ["username"]),
        ({"username": None}, ["username"]),
        ({"username": "galaxy", "email": "x" * 321}, ["email"]),
        ({"username": "galaxy", "email": 3}, ["email"]),
        ({"username": "galaxy", "permissions": ["read", "root"]}, ["permissions"]),
        ({"username": "galaxy", "permissions": "read"}, ["permissions"]),
        ({"username": "galaxy", "permissions": None}, ["permissions"]),
        ({"username": "galaxy", "federated": FederatedIdentity("a|b", "c")}, ["federated"]),
        ({"username": "galaxy", "federated": FederatedIdentity("a", "")}, ["federated"]),
        ({"username": "x", "email": 3, "permissions": 3}, ["username", "email", "permissions"]),
    ],
)
def test_who_cannot_be_a_user_is_refused_with_each_reason(
    arguments: dict[str, Any], wrong: list[str]
) -> None:
    with pytest.raises(RelayError) as refused:
        NewUser(**arguments)
    assert refused.value.kind.status == 422
    assert fields_of(refused.value) == wrong


@pytest.mark.parametrize("username", ["abc", "x" * 50, "jo@example.org", "J. Ö. 大", "a|b:{c}"])
def test_a_name_may_have_any_characters_one_can_see(username: str) -> None:
    assert NewUser(username).user(0).username == username


def test_each_user_has_an_id_of_its_own_and_a_permission_once() -> None:
    new = NewUser("galaxy", permissions=["write", "read", "write"])
    one, two = new.user(5), new.user(5)
    assert one.user_id != two.user_id
    assert one.permissions == ("write", "read")
    assert one.created_at_ms == 5


def test_a_user_is_read_as_it_was_written() -> None:
    for user in (somebody(), somebody(email="a@b", federated=FederatedIdentity("https://i", "s|1"))):
        assert User.decode(user.encode()) == user


@pytest.mark.parametrize(
    "null", [{"permissions": None}, {"is_active": None}, {"password": None}, {"is_active": 1}]
)
def test_null_changes_nothing_where_it_says_nothing(null: dict[str, Any]) -> None:
    with pytest.raises(RelayError) as refused:
        UserPatch(**null)
    assert refused.value.kind.status == 422
    assert fields_of(refused.value) == list(null)


@pytest.mark.parametrize("password", ["short", "x" * 1025, 12345678, "lone \ud800 surrogate"])
def test_a_refused_password_is_not_repeated(password: Any) -> None:
    with pytest.raises(RelayError) as refused:
        UserPatch(password=password)
    assert fields_of(refused.value) == ["password"]
    assert str(password) not in str(refused.value.details)


def test_an_email_can_be_taken_away_and_is_left_alone_if_nothing_is_said_of_it() -> None:
    user = somebody(email="a@b")
    assert UserPatch(email=None).applied_to(user).email is None
    assert UserPatch().applied_to(user) == user


@pytest.mark.parametrize(
    ("patch", "rises", "ends"),
    [
        (UserPatch(), False, False),
        (UserPatch(email="x@y"), False, False),
        (UserPatch(permissions=["admin", "read", "write"]), False, False),
        (UserPatch(permissions=["write", "read"]), False, False),
        (UserPatch(permissions=["read"]), True, False),
        (UserPatch(is_active=True), False, False),
        (UserPatch(is_active=False), True, True),
        (UserPatch(password="new password"), True, True),
    ],
)
def test_the_generation_rises_with_whatever_takes_something_away(
    patch: UserPatch, rises: bool, ends: bool
) -> None:
    user = somebody(generation=7)
    assert patch.applied_to(user).generation == 7 + rises
    assert patch.ends_sessions_of(user) == ends


def test_closing_a_closed_account_takes_nothing_away() -> None:
    user = somebody(is_active=False, generation=7)
    assert UserPatch(is_active=False).applied_to(user) == user
