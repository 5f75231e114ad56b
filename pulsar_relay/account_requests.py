"""AccountReader: from the bytes of a request about accounts to checked values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pulsar_relay.account_schemas import (
    LoginForm,
    NewGrant,
    NewKey,
    Refresh,
    Register,
    Revoke,
    UserChange,
    UsersQuery,
    WhoseQuery,
)
from pulsar_relay.accounts.user import NewUser, UserPatch
from pulsar_relay.json_text import Fields
from pulsar_relay.loading import BODY, Query, load_form, load_query, load_texts, split_object
from pulsar_relay.requests import ListRequest, check_content_type
from pulsar_relay.schemas import Request


@dataclass(frozen=True, slots=True)
class Login:
    username: str
    password: str


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """`lives_ms`: None for ever."""

    name: str
    actions: tuple[str, ...]
    topics: tuple[str, ...]
    lives_ms: int | None


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """To whom: just one of the first three."""

    username: str | None
    user_id: str | None
    to: str | None
    actions: tuple[str, ...]


class AccountReader:
    """Each method raises RelayError for what is not valid; none of them says what was sent."""

    def __init__(self) -> None:
        self._login = LoginForm()
        self._users_query, self._whose = UsersQuery(), WhoseQuery()
        self._refresh, self._revoke = JsonBody(Refresh()), JsonBody(Revoke())
        self._register, self._change = JsonBody(Register()), JsonBody(UserChange())
        self._key, self._grant = JsonBody(NewKey()), JsonBody(NewGrant())

    def login(self, form: Mapping[str, str]) -> Login:
        found = load_form(self._login, form)
        return Login(found["username"], found["password"])

    def refresh(self, body: bytes, content_type: str | None) -> str:
        token: str = self._refresh.load(body, content_type)["refresh_token"]
        return token

    def revoke(self, body: bytes, content_type: str | None) -> tuple[str, bool]:
        """The token, and whether the whole chain is meant."""
        found = self._revoke.load(body, content_type)
        return found["refresh_token"], found["revoke_chain"]

    def new_user(self, body: bytes, content_type: str | None) -> tuple[NewUser, str]:
        """The user, and the password."""
        found = self._register.load(body, content_type)
        return NewUser(found["username"], found.get("email"), found["permissions"]), found["password"]

    def user_change(self, body: bytes, content_type: str | None) -> tuple[UserPatch, tuple[str, ...]]:
        """The change, and the names of the fields that are to change."""
        found = self._change.load(body, content_type)
        return UserPatch(**found), tuple(found)

    def users_query(self, query: Query) -> ListRequest:
        found = load_query(self._users_query, query)
        return ListRequest(found["limit"], found["after"])

    def whose(self, query: Query) -> str | None:
        """The id of another user, None for one's own."""
        user_id: str | None = load_query(self._whose, query)["user_id"]
        return user_id

    def new_key(self, body: bytes, content_type: str | None) -> KeyRequest:
        found = self._key.load(body, content_type)
        return KeyRequest(found["name"], tuple(found["actions"]), tuple(found["topics"]), found["expires_in"])

    def new_grant(self, body: bytes, content_type: str | None) -> GrantRequest:
        found = self._grant.load(body, content_type)
        return GrantRequest(found["username"], found["user_id"], found["to"], tuple(found["actions"]))


class JsonBody:
    """A schema, with what cuts a body for it."""

    def __init__(self, schema: Request) -> None:
        self._schema = schema
        self._fields = Fields(*schema.fields)

    def load(self, body: bytes, content_type: str | None) -> Mapping[str, Any]:
        check_content_type(content_type)
        return load_texts(self._schema, split_object(self._fields, body, BODY), BODY)
