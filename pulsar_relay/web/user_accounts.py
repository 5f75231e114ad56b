"""Users: oneself, and for admins all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlencode

from pulsar_relay.account_requests import AccountReader
from pulsar_relay.accounts.accounts import Accounts
from pulsar_relay.accounts.audit import Actor, AuditRecord, Deed, Kind
from pulsar_relay.accounts.principal import Principal
from pulsar_relay.accounts.user import User
from pulsar_relay.errors import RelayError
from pulsar_relay.relay import Relay
from pulsar_relay.web.account_answer import json_answer, nothing, time_text
from pulsar_relay.web.endpoint import Answer, Request

TOPICS_AT_ONCE = 1000
"""Asked of the store."""
USERS_AT_ONCE = 50
"""Of a list, whose topics are asked for at the same time."""


class OwnedTopics:
    """The topics of users, which inside are named `<user id>/<name>`. Raises RelayError."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def names(self, owner_id: str) -> Sequence[str]:
        """All, in alphabetical order."""
        prefix = f"{owner_id}/"
        names: list[str] = []
        after, is_last = prefix, False
        while not is_last:
            page = await self._relay.topics(after, TOPICS_AT_ONCE)
            # They are in alphabetical order, so a user's stand together.
            own = [topic.removeprefix(prefix) for topic in page if topic.startswith(prefix)]
            names += own
            is_last = len(own) < TOPICS_AT_ONCE
            after = page[-1] if page else after
        return names

    async def require(self, owner_id: str, name: str) -> None:
        """`topic_not_found` if the owner has none of this name."""
        await self._relay.describe(f"{owner_id}/{name}")

    async def delete_all(self, owner_id: str) -> None:
        """With all that is in them."""
        while names := await self.names(owner_id):
            for name in names:
                with suppress_code("topic_not_found"):
                    await self._relay.delete(f"{owner_id}/{name}")


@contextmanager
def suppress_code(code: str) -> Iterator[None]:
    """Goes on after a RelayError of this code."""
    try:
        yield
    except RelayError as error:
        if error.code != code:
            raise


class UserEndpoints:
    """POST /auth/register, GET /auth/me, /auth/users, /auth/users/stats and /auth/users/{user_id}"""

    def __init__(self, accounts: Accounts, reader: AccountReader, topics: OwnedTopics) -> None:
        self._accounts = accounts
        self._reader = reader
        self._topics = topics

    async def me(self, request: Request, principal: Principal) -> Answer:
        return json_answer(await self._user(principal.user))

    async def register(self, request: Request, principal: Principal) -> Answer:
        new, password = self._reader.new_user(request.plain_body(), request.headers.get("content-type"))
        try:
            user = await self._accounts.users.create(new, password)
        except RelayError as error:
            if error.code != "user_exists":
                raise
            former = f"Username '{new.username}' already exists"
            raise RelayError("user_exists", former=former) from None
        self._write(Deed.MAKE_USER, request, principal, user, permissions=user.permissions)
        return json_answer(await self._user(user), 201)

    async def list(self, request: Request, principal: Principal) -> Answer:
        asked = self._reader.users_query(request.query)
        page = await self._accounts.users.page(asked.after, asked.limit)
        told: list[dict[str, object]] = []
        for start in range(0, len(page.users), USERS_AT_ONCE):
            part = page.users[start : start + USERS_AT_ONCE]
            told += await asyncio.gather(*map(self._user, part))
        headers = {}
        if page.next_after is not None:
            path = request.target.partition(" ")[2]
            following = urlencode({"after": page.next_after, "limit": asked.limit})
            headers["Link"] = f'<{path}?{following}>; rel="next"'
        return json_answer(told, headers=headers)

    async def statistics(self, request: Request, principal: Principal) -> Answer:
        users = self._accounts.roster.users.values()
        active = sum(user.is_active for user in users)
        return json_answer({"total_users": len(users), "active_users": active})

    async def change(self, request: Request, principal: Principal) -> Answer:
        patch, fields = self._reader.user_change(request.plain_body(), request.headers.get("content-type"))
        users = self._accounts.users
        try:
            user = await users.patch(request.argument, patch)
        except RelayError as error:
            raise _about_user(error, request.argument) from None
        if fields:
            self._write(Deed.CHANGE_USER, request, principal, user, fields, user.permissions)
        return json_answer(await self._user(user))

    async def delete(self, request: Request, principal: Principal) -> Answer:
        """The account before its topics: if these cannot all be deleted now, nobody gets at the rest of them
        any more.
        """
        if request.argument == principal.user.user_id:
            raise RelayError("own_account")
        try:
            user = await self._accounts.users.delete(request.argument)
        except RelayError as error:
            raise _about_user(error, request.argument) from None
        self._write(Deed.DELETE_USER, request, principal, user)
        await self._topics.delete_all(user.user_id)
        return nothing()

    async def _user(self, user: User) -> dict[str, object]:
        return {
            "user_id": user.user_id,
            "username": user.username,
            "email": user.email,
            "is_active": user.is_active,
            "created_at": time_text(user.created_at_ms),
            "permissions": user.permissions,
            "owned_topics": await self._topics.names(user.user_id),
        }

    def _write(
        self,
        deed: Deed,
        request: Request,
        principal: Principal,
        user: User,
        fields: Sequence[str] = (),
        permissions: Sequence[str] = (),
    ) -> None:
        record = AuditRecord(
            deed=deed,
            actor=Actor.of(principal, request.address),
            kind=Kind.USER,
            target=user.user_id,
            fields=fields,
            permissions=permissions,
        )
        self._accounts.audit.write(record)


def _about_user(error: RelayError, user_id: str) -> RelayError:
    if error.code != "user_not_found":
        return error
    return RelayError("user_not_found", former=f"User with ID '{user_id}' not found")
