"""User: what is kept of somebody with an account, and what can be wanted of it. Pure values.

A user's generation rises with whatever must end what they have open: a password that is changed, a permission
that is taken away, an account that is closed. An access token names the generation it was made in, and is
worth nothing in a later one.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self, TypeGuard

import msgspec

from pulsar_relay.errors import FieldError, RelayError

ADMIN, READ, WRITE = "admin", "read", "write"
PERMISSIONS: Final = (ADMIN, READ, WRITE)
"""None of them implies another."""
EVERYBODY, SIGNED_IN = "public", "users"
"""Whom one grants to, besides the ids of users, which are UUIDs."""
USERNAME_LEAST, USERNAME_MOST = 3, 50
PASSWORD_LEAST, PASSWORD_MOST = 8, 1024
EMAIL_MOST = 320


class Unset(enum.Enum):
    """Says that a field is not to be changed. Null is a value, and of most fields a wrong one."""

    UNSET = 0


UNSET: Final = Unset.UNSET


class FederatedIdentity(msgspec.Struct, frozen=True):
    """Who somebody is at another place: its issuer, and what that calls them."""

    issuer: str
    subject: str

    @property
    def key(self) -> str:
        """One text for both. An issuer has no `|`, so no two have the same."""
        return f"{self.issuer}|{self.subject}"


class User(msgspec.Struct, frozen=True):
    """`user_id` is a UUID and never changes: topics carry it in their names. Times are Unix milliseconds."""

    user_id: str
    username: str
    email: str | None
    permissions: tuple[str, ...]
    is_active: bool
    created_at_ms: int
    federated: FederatedIdentity | None = None
    generation: int = 0

    @classmethod
    def decode(cls, text: bytes) -> Self:
        """msgspec.DecodeError if it is not what `encode` makes."""
        return msgspec.json.decode(text, type=cls)

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


@dataclass(frozen=True, slots=True)
class NewUser:
    """Somebody to be made a user. RelayError `invalid_request` if it cannot be."""

    username: str
    email: str | None = None
    permissions: Sequence[str] = ()
    federated: FederatedIdentity | None = None

    def __post_init__(self) -> None:
        _refuse([*_wrong_username(self.username), *_wrong_email(self.email), *_wrong_permissions(self)])
        if self.federated is not None and ("|" in self.federated.issuer or not self.federated.subject):
            _refuse([FieldError(("body", "federated"), "must be an issuer without `|`, and a subject")])

    def user(self, now_ms: int) -> User:
        """With an id of its own each time."""
        return User(
            user_id=str(uuid.uuid4()),
            username=self.username,
            email=self.email,
            permissions=_once(self.permissions),
            is_active=True,
            created_at_ms=now_ms,
            federated=self.federated,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPatch:
    """What is to change of a user. RelayError `invalid_request` if it cannot: only an email may be null."""

    email: str | Unset | None = UNSET
    password: str | Unset = UNSET
    permissions: Sequence[str] | Unset = UNSET
    is_active: bool | Unset = UNSET

    def __post_init__(self) -> None:
        wrong: list[FieldError] = []
        if self.email is not UNSET:
            wrong += _wrong_email(self.email)
        if self.password is not UNSET:
            wrong += wrong_password(self.password)
        if self.permissions is not UNSET:
            wrong += _wrong_permissions(self)
        if self.is_active is not UNSET and not isinstance(self.is_active, bool):
            wrong.append(FieldError(("body", "is_active"), "must be true or false"))
        _refuse(wrong)

    def ends_sessions_of(self, user: User) -> bool:
        """Whether refresh tokens of before are worth nothing after it."""
        return self.password is not UNSET or (user.is_active and self.is_active is False)

    def applied_to(self, user: User) -> User:
        permissions = user.permissions if self.permissions is UNSET else _once(self.permissions)
        takes_away = self.ends_sessions_of(user) or not set(user.permissions) <= set(permissions)
        return msgspec.structs.replace(
            user,
            email=user.email if self.email is UNSET else self.email,
            permissions=permissions,
            is_active=user.is_active if self.is_active is UNSET else self.is_active,
            generation=user.generation + takes_away,
        )


def wrong_password(password: object) -> Iterable[FieldError]:
    """Why it cannot become somebody's password; never says what it was."""
    if not _is_text(password) or not PASSWORD_LEAST <= len(password) <= PASSWORD_MOST:
        message = f"must be a text of {PASSWORD_LEAST} to {PASSWORD_MOST} characters"
        yield FieldError(("body", "password"), message)


def _wrong_username(username: object) -> Iterable[FieldError]:
    is_text = _is_text(username) and USERNAME_LEAST <= len(username) <= USERNAME_MOST
    if not is_text or not str(username).isprintable():
        message = f"must be a text of {USERNAME_LEAST} to {USERNAME_MOST} printable characters"
        yield FieldError(("body", "username"), message)


def _wrong_email(email: object) -> Iterable[FieldError]:
    if email is not None and (not _is_text(email) or len(email) > EMAIL_MOST or not email.isprintable()):
        yield FieldError(("body", "email"), f"must be a text of at most {EMAIL_MOST} characters, or null")


def _wrong_permissions(asked: NewUser | UserPatch) -> Iterable[FieldError]:
    given: object = asked.permissions
    if (
        isinstance(given, str)
        or not isinstance(given, Sequence)
        or not all(one in PERMISSIONS for one in given)
    ):
        yield FieldError(("body", "permissions"), f"must be a list of some of {', '.join(PERMISSIONS)}")


def _is_text(value: object) -> TypeGuard[str]:
    """Text that UTF-8 can carry: a lone surrogate cannot be stored."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _once(permissions: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(permissions))


def _refuse(wrong: Sequence[FieldError]) -> None:
    if wrong:
        raise RelayError("invalid_request", errors=wrong)
