"""Sessions in a real Valkey: one token is good at a time, whoever comes with it when."""

from __future__ import annotations

import asyncio
import hashlib
import secrets as random_secrets
import time
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from pulsar_relay.accounts import schema
from pulsar_relay.accounts.refresh_secrets import RefreshSecrets
from pulsar_relay.accounts.sessions import ForeignSession, FormerToken, Sessions
from pulsar_relay.accounts.user import NewUser, User, UserPatch
from pulsar_relay.accounts.users import Users
from pulsar_relay.errors import RelayError
from pulsar_relay.settings import AuthSettings
from pulsar_relay.store.client import Client
from tests.accounts import SECRET, Clock, cheap_passwords, nothing
from tests.stores import Where, in_loop, open_store

GRACE_SECONDS = 30
DAY_SECONDS = 86400


@dataclass
class Opened:
    client: Client
    users: Users
    sessions: Sessions
    clock: Clock
    user: User


@asynccontextmanager
async def open_sessions(
    where: Where, *, secret: str = SECRET, clock: Clock | None = None, **settings: int
) -> AsyncIterator[Opened]:
    """With a user, `galaxy`. The clock begins with the real one: Valkey goes by that when keys expire."""
    clock = clock or Clock(time.time())
    passwords = cheap_passwords()
    async with open_store(where) as opened:
        users = Users(opened.client, passwords, clock.milliseconds, nothing)
        auth = replace(AuthSettings(), refresh_grace_seconds=float(GRACE_SECONDS), **settings)
        sessions = Sessions(opened.client, users, RefreshSecrets([secret]), auth, clock.milliseconds)
        user = await users.find_by_name("galaxy") or await users.create(NewUser("galaxy"), "its password")
        yield Opened(opened.client, users, sessions, clock, user)
    passwords.close()


async def refusal(attempt: Awaitable[object]) -> str:
    with pytest.raises(RelayError) as refused:
        await attempt
    return refused.value.code


async def is_good(opened: Opened, text: str) -> bool:
    """Uses the token up."""
    outcome = (await asyncio.gather(opened.sessions.refresh(text), return_exceptions=True))[0]
    assert not isinstance(outcome, BaseException) or str(outcome) == "invalid_refresh_token"
    return not isinstance(outcome, BaseException)


@in_loop
async def test_a_token_is_what_clients_keep_and_its_secret_is_not_in_valkey(where: Where) -> None:
    async with open_sessions(where) as opened:
        token = await opened.sessions.open(opened.user, "pulsar")
        jti, _, secret = token.partition(".")
        assert str(uuid.UUID(jti)) == jti
        assert len(token) == 80
        kept = await opened.client.command("HGETALL", schema.session(jti))
        assert not any(secret.encode() in word for word in kept)
        assert hashlib.sha256(secret.encode()).hexdigest().encode() in kept


@in_loop
async def test_each_use_gives_the_next_token_of_the_same_session(where: Where) -> None:
    async with open_sessions(where) as opened:
        token = await opened.sessions.open(opened.user, "pulsar")
        seen = {token}
        for _ in range(5):
            opened.clock.now += 300
            user, token = await opened.sessions.refresh(token)
            assert user == opened.user
            seen.add(token)
        assert len(seen) == 6
        (session,) = await opened.sessions.list(opened.user.user_id)
        assert session.hint == "pulsar"
        assert session.used_at_ms == opened.clock.milliseconds()
        assert session.expires_at_ms == opened.clock.milliseconds() + 90 * DAY_SECONDS * 1000


@in_loop
async def test_a_lost_answer_is_given_again_and_the_session_goes_on(where: Where) -> None:
    async with open_sessions(where) as opened:
        first = await opened.sessions.open(opened.user, "pulsar")
        _, second = await opened.sessions.refresh(first)
        for _ in range(3):
            opened.clock.now += 9
            assert await opened.sessions.refresh(first) == (opened.user, second)
        _, third = await opened.sessions.refresh(second)
        assert await opened.sessions.refresh(second) == (opened.user, third)


@in_loop
async def test_after_the_grace_a_second_use_ends_the_session(where: Where) -> None:
    async with open_sessions(where) as opened:
        first = await opened.sessions.open(opened.user, "pulsar")
        _, second = await opened.sessions.refresh(first)
        opened.clock.now += GRACE_SECONDS + 1
        assert not await is_good(opened, first)
        assert not await is_good(opened, second)
        assert await opened.sessions.list(opened.user.user_id) == []


@in_loop
async def test_without_a_grace_every_second_use_ends_the_session(where: Where) -> None:
    async with open_sessions(where) as opened:
        strict = AuthSettings(refresh_grace_seconds=0.0)
        sessions = Sessions(
            opened.client, opened.users, RefreshSecrets([SECRET]), strict, opened.clock.milliseconds
        )
        first = await sessions.open(opened.user, "pulsar")
        _, second = await sessions.refresh(first)
        assert await refusal(sessions.refresh(first)) == "invalid_refresh_token"
        assert not await is_good(opened, second)


@in_loop
async def test_an_older_token_than_the_one_before_ends_the_session_also_within_the_grace(
    where: Where,
) -> None:
    async with open_sessions(where) as opened:
        first = await opened.sessions.open(opened.user, "pulsar")
        _, second = await opened.sessions.refresh(first)
        _, third = await opened.sessions.refresh(second)
        assert not await is_good(opened, first)
        assert not await is_good(opened, third)


@in_loop
async def test_a_token_is_known_for_a_replay_however_many_came_after_it(where: Where) -> None:
    async with open_sessions(where) as opened:
        first = token = await opened.sessions.open(opened.user, "pulsar")
        for _ in range(100):
            opened.clock.now += 300
            _, token = await opened.sessions.refresh(token)
        assert not await is_good(opened, first)
        assert not await is_good(opened, token)


@in_loop
async def test_of_many_that_use_a_token_at_the_same_time_all_get_the_same_and_it_is_good(
    where: Where,
) -> None:
    async with open_sessions(where) as one, open_sessions(where, clock=one.clock) as two:
        token = await one.sessions.open(one.user, "shared file")
        for _ in range(10):
            attempts = [opened.sessions.refresh(token) for opened in (one, two) * 8]
            (token,) = {text for _, text in await asyncio.gather(*attempts)}


@in_loop
async def test_a_revocation_that_meets_a_rotation_leaves_no_successor_alive(where: Where) -> None:
    async with open_sessions(where) as one, open_sessions(where, clock=one.clock) as two:
        for _ in range(20):
            token = await one.sessions.open(one.user, "pulsar")
            outcomes = await asyncio.gather(
                one.sessions.refresh(token),
                two.sessions.revoke(token, whole_chain=True),
                return_exceptions=True,
            )
            if not isinstance(outcomes[0], BaseException):
                assert not await is_good(one, outcomes[0][1])
            assert await one.sessions.list(one.user.user_id) == []


@in_loop
async def test_an_account_that_is_changed_during_a_rotation_gives_no_token_of_its_new_generation(
    where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_sessions(where) as opened:
        text = await opened.sessions.open(opened.user, "a")
        rotate = opened.sessions._use

        async def rotated_and_changed(*args: str | int) -> object:
            reply = await rotate(*args)  # type: ignore[arg-type]
            await opened.users.patch(opened.user.user_id, UserPatch(password="another password"))
            return reply

        monkeypatch.setattr(opened.sessions, "_use", rotated_and_changed)
        user, _ = await opened.sessions.refresh(text)
        changed = await opened.users.find(user.user_id)
        assert changed is not None
        assert user.generation < changed.generation


@in_loop
async def test_what_was_never_a_token_is_refused_and_ends_nothing(where: Where) -> None:
    async with open_sessions(where) as opened:
        token = await opened.sessions.open(opened.user, "pulsar")
        jti = token.partition(".")[0]
        other = await opened.sessions.open(opened.user, "other")
        wrong = [
            f"{jti}.{'A' * 43}",
            f"{jti}.x",
            f"{uuid.uuid4()}.{'A' * 43}",
            f"{jti}.{other.partition('.')[2]}",
        ]
        wrong += ["", ".", "a.", ".b", "no dot", f"{token}x", token.upper(), "ü.ü", f"a.{'x' * 300}"]
        for text in wrong:
            assert not await is_good(opened, text)
        assert await is_good(opened, token)
        assert await is_good(opened, other)


@in_loop
async def test_a_session_that_is_not_used_ends_with_its_time(where: Where) -> None:
    async with open_sessions(where, refresh_token_ttl_seconds=DAY_SECONDS) as opened:
        token = await opened.sessions.open(opened.user, "pulsar")
        opened.clock.now += DAY_SECONDS - 1
        _, token = await opened.sessions.refresh(token)
        opened.clock.now += DAY_SECONDS - 1
        _, token = await opened.sessions.refresh(token)
        opened.clock.now += DAY_SECONDS + 1
        assert await opened.sessions.list(opened.user.user_id) == []
        assert not await is_good(opened, token)
        # And takes its keys along.
        jti = token.partition(".")[0]
        for key in (schema.session(jti), schema.sessions(opened.user.user_id)):
            left_ms = await opened.client.command("PTTL", key)
            assert left_ms == -2 or 0 < left_ms <= 3 * DAY_SECONDS * 1000


@in_loop
async def test_a_password_login_leaves_a_bounded_number_of_spare_sessions(where: Where) -> None:
    async with open_sessions(where, max_spare_sessions_per_user=5) as opened:
        used = await opened.sessions.open(opened.user, "used", is_spare=True)
        _, used = await opened.sessions.refresh(used)
        device = await opened.sessions.open(opened.user, "device")
        spare = []
        for _ in range(20):
            opened.clock.now += 300
            spare.append(await opened.sessions.open(opened.user, "password-login", is_spare=True))
        hints = [session.hint for session in await opened.sessions.list(opened.user.user_id)]
        assert sorted(hints) == ["device", *["password-login"] * 5, "used"]
        assert await opened.client.command("ZCARD", schema.spare(opened.user.user_id)) == 5
        assert [await is_good(opened, text) for text in spare] == [False] * 15 + [True] * 5
        assert await is_good(opened, device)
        assert await is_good(opened, used)


@in_loop
async def test_beyond_the_most_sessions_the_one_used_longest_ago_ends(where: Where) -> None:
    async with open_sessions(where, max_sessions_per_user=3) as opened:
        tokens = []
        for number in range(3):
            opened.clock.now += 1
            tokens.append(await opened.sessions.open(opened.user, f"device {number}"))
        opened.clock.now += 1
        _, tokens[0] = await opened.sessions.refresh(tokens[0])
        tokens.append(await opened.sessions.open(opened.user, "device 3"))
        assert [await is_good(opened, text) for text in tokens] == [True, False, True, True]


@in_loop
async def test_a_pair_has_two_sessions_and_a_replay_of_one_leaves_the_other(where: Where) -> None:
    async with open_sessions(where) as opened:
        first, second = await opened.sessions.open_pair(opened.user, "galaxy")
        hints = {session.hint for session in await opened.sessions.list(opened.user.user_id)}
        assert hints == {"galaxy", "galaxy-secondary"}
        await opened.sessions.refresh(first)
        opened.clock.now += GRACE_SECONDS + 1
        assert not await is_good(opened, first)
        assert await is_good(opened, second)


@in_loop
async def test_a_token_ends_its_own_session_and_an_old_one_only_if_it_says_so(where: Where) -> None:
    async with open_sessions(where) as opened:
        revoke = opened.sessions.revoke
        first = await opened.sessions.open(opened.user, "pulsar")
        _, second = await opened.sessions.refresh(first)
        _, third = await opened.sessions.refresh(second)
        for text in (first, second, f"{uuid.uuid4()}.x", first + "x"):
            await revoke(text, whole_chain=False)
        await revoke(first + "x", whole_chain=True)
        _, fourth = await opened.sessions.refresh(third)
        await revoke(first, whole_chain=True)
        assert not await is_good(opened, fourth)
        another = await opened.sessions.open(opened.user, "pulsar")
        await revoke(another, whole_chain=False)
        assert not await is_good(opened, another)
        await revoke(another, whole_chain=False)
        assert await refusal(revoke("no-dot", whole_chain=False)) == "malformed_refresh_token"


@in_loop
async def test_a_user_ends_own_sessions_and_nobody_elses(where: Where) -> None:
    async with open_sessions(where) as opened:
        other = await opened.users.create(NewUser("other"))
        token = await opened.sessions.open(opened.user, "pulsar")
        jti = token.partition(".")[0]
        for user_id, unknown in ((other.user_id, jti), (opened.user.user_id, str(uuid.uuid4()))):
            assert await refusal(opened.sessions.end(user_id, unknown)) == "session_not_found"
        await opened.sessions.end(opened.user.user_id, jti)
        await opened.sessions.end(opened.user.user_id, jti)
        assert not await is_good(opened, token)


@in_loop
async def test_a_closed_account_a_changed_password_and_a_deleted_user_have_no_session(where: Where) -> None:
    async with open_sessions(where) as opened:
        users, user_id = opened.users, opened.user.user_id
        for patches in (
            [UserPatch(is_active=False), UserPatch(is_active=True)],
            [UserPatch(password="another one")],
        ):
            user = await users.find(user_id)
            assert user is not None
            tokens = [await opened.sessions.open(user, "pulsar", is_spare=spare) for spare in (True, False)]
            for patch in patches:
                await users.patch(user_id, patch)
            assert [await is_good(opened, token) for token in tokens] == [False, False]
        user = await users.end_all(user_id)
        token = await opened.sessions.open(user, "pulsar")
        await users.delete(user_id)
        assert not await is_good(opened, token)


@in_loop
async def test_who_signed_in_as_somebody_that_changed_meanwhile_has_to_sign_in_again(where: Where) -> None:
    async with open_sessions(where) as opened:
        signed_in = await opened.users.check_password("galaxy", "its password")
        await opened.users.patch(opened.user.user_id, UserPatch(password="another one"))
        assert await refusal(opened.sessions.open(signed_in, "pulsar")) == "token_revoked"
        await opened.users.patch(opened.user.user_id, UserPatch(is_active=False))
        assert await refusal(opened.sessions.open(signed_in, "pulsar")) == "user_inactive"
        await opened.users.delete(opened.user.user_id)
        assert await refusal(opened.sessions.open(signed_in, "pulsar")) == "user_unknown"


@in_loop
async def test_a_secret_that_is_replaced_ends_no_session(where: Where) -> None:
    async with open_sessions(where) as before:
        token = await before.sessions.open(before.user, "pulsar")
    async with open_sessions(where, secret="quite another secret, of 32 bytes") as after:
        user, token = await after.sessions.refresh(token)
        assert user == after.user
        assert await is_good(after, token)


@in_loop
async def test_a_store_that_has_lost_the_last_use_believes_the_token_that_proves_it(where: Where) -> None:
    async with open_sessions(where) as opened:
        first = await opened.sessions.open(opened.user, "pulsar")
        key = schema.session(first.partition(".")[0])
        before = await opened.client.command("HGETALL", key)
        _, second = await opened.sessions.refresh(first)
        _, third = await opened.sessions.refresh(second)
        await opened.client.command("HSET", key, *before)
        _, fourth = await opened.sessions.refresh(third)
        assert fourth not in {first, second, third}
        assert await is_good(opened, fourth)


@in_loop
async def test_what_a_client_calls_itself_is_cut_and_cannot_forge_a_line(where: Where) -> None:
    async with open_sessions(where) as opened:
        await opened.sessions.open(opened.user, "a\nb" + "x" * 1000)
        (session,) = await opened.sessions.list(opened.user.user_id)
        assert session.hint == "a?b" + "x" * 197


# Taking over


def foreign(
    user_id: str, clock: Clock, former: int = 0, **changes: object
) -> tuple[ForeignSession, list[str]]:
    """As another server had it, and its tokens, the good one last."""
    records, texts = [], []
    for _ in range(former + 1):
        jti, secret = str(uuid.uuid4()), random_secrets.token_urlsafe(32)
        expires_at_ms = clock.milliseconds() + DAY_SECONDS * 1000
        records.append(FormerToken(jti, hashlib.sha256(secret.encode()).hexdigest(), expires_at_ms))
        texts.append(f"{jti}.{secret}")
    issued_at_ms = clock.milliseconds() - 1000
    session = ForeignSession(
        user_id, records[-1], issued_at_ms, "pulsar", is_spare=False, former=records[:-1]
    )
    return replace(session, **changes), texts  # type: ignore[arg-type]


@in_loop
async def test_a_token_of_another_server_is_good_here_and_then_ours(where: Where) -> None:
    async with open_sessions(where) as opened:
        session, (token,) = foreign(opened.user.user_id, opened.clock)
        assert await opened.sessions.take_over(session) == "opened"
        user, second = await opened.sessions.refresh(token)
        assert user == opened.user
        assert await opened.sessions.refresh(token) == (user, second)
        opened.clock.now += GRACE_SECONDS + 1
        _, third = await opened.sessions.refresh(second)
        assert not await is_good(opened, token[:-1])
        assert await is_good(opened, third)


@in_loop
async def test_a_token_that_was_rotated_there_ends_the_session_here(where: Where) -> None:
    async with open_sessions(where) as opened:
        session, tokens = foreign(opened.user.user_id, opened.clock, former=2)
        assert await opened.sessions.take_over(session) == "opened"
        assert not await is_good(opened, tokens[0].partition(".")[0] + "." + "A" * 43)
        await opened.sessions.revoke(tokens[0], whole_chain=False)
        _, ours = await opened.sessions.refresh(tokens[2])
        assert not await is_good(opened, tokens[0])
        assert not await is_good(opened, ours)
        session, tokens = foreign(opened.user.user_id, opened.clock, former=2)
        await opened.sessions.take_over(session)
        await opened.sessions.revoke(tokens[1], whole_chain=True)
        assert not await is_good(opened, tokens[2])


@in_loop
async def test_taking_over_twice_changes_nothing_the_second_time(where: Where) -> None:
    async with open_sessions(where) as opened:
        session, (_, token) = foreign(opened.user.user_id, opened.clock, former=1)
        assert await opened.sessions.take_over(session) == "opened"
        _, ours = await opened.sessions.refresh(token)
        assert await opened.sessions.take_over(session) == "before"
        _, ours = await opened.sessions.refresh(ours)
        await opened.sessions.revoke(ours, whole_chain=True)
        assert await opened.sessions.take_over(session) == "before"
        assert not await is_good(opened, token)
        assert await opened.sessions.list(opened.user.user_id) == []


@in_loop
async def test_what_nobody_can_use_is_not_taken_over_and_can_be_later(where: Where) -> None:
    async with open_sessions(where) as opened:
        session, _ = foreign(str(uuid.uuid4()), opened.clock)
        assert await opened.sessions.take_over(session) == "no user"
        session, (token,) = foreign(opened.user.user_id, opened.clock)
        await opened.users.patch(opened.user.user_id, UserPatch(is_active=False))
        assert await opened.sessions.take_over(session) == "inactive"
        await opened.users.patch(opened.user.user_id, UserPatch(is_active=True))
        assert await opened.sessions.take_over(session) == "opened"
        assert await is_good(opened, token)
        opened.clock.now += 2 * DAY_SECONDS
        assert await opened.sessions.take_over(session) == "expired"


@in_loop
async def test_spare_sessions_that_are_taken_over_are_bounded_too(where: Where) -> None:
    async with open_sessions(where, max_spare_sessions_per_user=2) as opened:
        for _ in range(5):
            session, _ = foreign(opened.user.user_id, opened.clock, is_spare=True)
            assert await opened.sessions.take_over(session) == "opened"
        assert len(await opened.sessions.list(opened.user.user_id)) == 2
