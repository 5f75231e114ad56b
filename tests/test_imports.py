"""Users of another server, taken over under their own ids, once."""

from __future__ import annotations

import argon2
import pytest

from pulsar_relay.accounts.imports import Imports
from pulsar_relay.accounts.user import FederatedIdentity, NewUser, User
from tests.accounts import Clock
from tests.stores import Where, in_loop
from tests.test_sessions import foreign, open_sessions, refusal

THEIR_ID = "3f1f1c86-3f43-4c4e-9d6b-0d6a0a1c2b3d"
HASH = argon2.PasswordHasher(time_cost=1, memory_cost=16, parallelism=1).hash("its old password")


def theirs(user_id: str, username: str, subject: str | None = None) -> User:
    federated = FederatedIdentity("https://issuer", subject) if subject else None
    return User(user_id, username, None, ("read", "write", "read"), True, 1_600_000_000_000, federated)


@in_loop
async def test_a_user_keeps_id_name_identity_and_password(where: Where) -> None:
    async with open_sessions(where) as opened:
        imports, user = Imports(opened.users, opened.sessions), theirs(THEIR_ID, "pulsar", "subject")
        assert await imports.user(user, HASH) == "made"
        assert await opened.users.find(THEIR_ID) == user
        assert user.federated is not None
        assert await opened.users.find_federated(user.federated) == user
        assert await opened.users.check_password("pulsar", "its old password") == user


@in_loop
async def test_a_user_that_was_imported_before_is_left_as_it_is_now(where: Where) -> None:
    async with open_sessions(where) as opened:
        imports, user = Imports(opened.users, opened.sessions), theirs(THEIR_ID, "pulsar")
        assert await imports.user(user, HASH) == "made"
        assert await imports.user(user, HASH) == "before"
        await opened.users.delete(THEIR_ID)
        assert await imports.user(user, HASH) == "before"
        assert await opened.users.find(THEIR_ID) is None


@in_loop
async def test_a_name_or_an_identity_of_somebody_else_is_not_taken_from_them(where: Where) -> None:
    async with open_sessions(where) as opened:
        imports = Imports(opened.users, opened.sessions)
        assert await imports.user(theirs(THEIR_ID, "galaxy"), HASH) == "name"
        identity = FederatedIdentity("https://issuer", "subject")
        await opened.users.create(NewUser("federated", federated=identity))
        assert await imports.user(theirs(THEIR_ID, "pulsar", "subject"), None) == "identity"
        # Once the name is free, it can be repeated.
        await opened.users.delete(opened.user.user_id)
        assert await imports.user(theirs(THEIR_ID, "galaxy"), HASH) == "made"


@in_loop
async def test_a_hash_that_cannot_be_verified_is_refused_before_anything_is_stored(where: Where) -> None:
    async with open_sessions(where) as opened:
        imports = Imports(opened.users, opened.sessions)
        with pytest.raises(ValueError, match="argon2"):
            await imports.user(theirs(THEIR_ID, "pulsar"), "$2b$12$nonsense")
        assert await opened.users.find(THEIR_ID) is None


@in_loop
async def test_a_session_follows_its_user(where: Where) -> None:
    async with open_sessions(where) as opened:
        imports = Imports(opened.users, opened.sessions)
        session, (token,) = foreign(THEIR_ID, Clock(opened.clock.now))
        assert await imports.session(session) == "no user"
        await imports.user(theirs(THEIR_ID, "pulsar"), HASH)
        assert await imports.session(session) == "opened"
        user, _ = await opened.sessions.refresh(token)
        assert user.username == "pulsar"
        await opened.users.delete(THEIR_ID)
        assert await imports.session(session) == "no user"
        assert await refusal(opened.sessions.refresh(token)) == "invalid_refresh_token"


@pytest.mark.parametrize(
    ("user", "why"),
    [
        (theirs("their-id", "pulsar"), "UUID"),
        (theirs(THEIR_ID.upper(), "pulsar"), "UUID"),
        (User(THEIR_ID, "pulsar", None, ("root",), True, 0), "permission"),
    ],
)
@in_loop
async def test_who_could_not_be_a_user_here_is_not_imported(where: Where, user: User, why: str) -> None:
    async with open_sessions(where) as opened:
        with pytest.raises(ValueError, match=why):
            await Imports(opened.users, opened.sessions).user(user, None)
        assert await opened.users.find(user.user_id) is None
