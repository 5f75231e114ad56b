"""Imports: users and sessions of another server's become ours, with their ids, once.

What was imported is noted, so an import that is repeated changes nothing, also where since then a user was
renamed away, deleted, or signed out here.
"""

from __future__ import annotations

import uuid

from pulsar_relay.accounts.passwords import check_foreign
from pulsar_relay.accounts.sessions import ForeignSession, Sessions
from pulsar_relay.accounts.user import PERMISSIONS, User
from pulsar_relay.accounts.users import Users


class Imports:
    """Raises StoreError."""

    def __init__(self, users: Users, sessions: Sessions) -> None:
        self._users = users
        self._sessions = sessions

    async def user(self, user: User, password_hash: str | None) -> str:
        """Make the user, under its own id. What became of it: `made`, `before`, or why not: `name` or
        `identity` is somebody else's. ValueError for an id that is no UUID, a permission that there is not,
        and a hash that is none of argon2id, or too dear to verify.

        Names and addresses are taken as they are: they were good enough where they come from.
        """
        if not _is_uuid(user.user_id):
            raise ValueError("the user's id is not written as a UUID is")
        if not set(PERMISSIONS).issuperset(user.permissions):
            raise ValueError("the user has a permission that there is not")
        if password_hash is not None:
            try:
                check_foreign(password_hash)
            except ValueError as error:
                raise ValueError(f"the hash of the password {error}") from None
        return await self._users.add(user, password_hash or "", is_import=True)

    async def session(self, foreign: ForeignSession) -> str:
        """See `Sessions.take_over`. Its user is to be imported before."""
        return await self._sessions.take_over(foreign)


def _is_uuid(user_id: str) -> bool:
    try:
        return str(uuid.UUID(user_id)) == user_id
    except ValueError:
        return False
