"""Who is asking: from memory alone, and never by what is not so any more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from pulsar_relay.accounts.access_tokens import AccessTokens
from pulsar_relay.accounts.authenticator import Authenticator
from pulsar_relay.accounts.user import NewUser, User, UserPatch
from pulsar_relay.errors import RelayError
from tests.accounts import SECRET
from tests.stores import Where, in_loop, until
from tests.test_roster import OpenRoster, open_roster


@dataclass
class Opened:
    worker: OpenRoster
    tokens: AccessTokens
    authenticator: Authenticator
    used: list[str] = field(default_factory=list)


@asynccontextmanager
async def open_authenticator(where: Where, *, starts: bool = False, most: int = 100) -> AsyncIterator[Opened]:
    async with open_roster(where, starts=starts) as worker:
        await worker.roster.refresh()
        tokens = AccessTokens((SECRET,), 600.0, worker.clock)
        used: list[str] = []
        authenticator = Authenticator(tokens, worker.roster, worker.clock, used.append, most)
        yield Opened(worker, tokens, authenticator, used)


async def refusal(attempt: Awaitable[object]) -> tuple[int | None, str]:
    with pytest.raises(RelayError) as refused:
        await attempt
    return refused.value.kind.status, refused.value.code


async def somebody(opened: Opened, name: str = "galaxy") -> tuple[User, str]:
    user = await opened.worker.users.create(NewUser(name, permissions=["read"]))
    return user, opened.tokens.issue(user).text


@in_loop
async def test_a_token_is_verified_once_and_then_recalled(where: Where) -> None:
    async with open_authenticator(where) as opened:
        user, text = await somebody(opened)
        assert opened.authenticator.recall(text) is None
        principal = await opened.authenticator.authenticate(text)
        assert principal.user == user
        assert principal.permissions == {"read"}
        assert opened.authenticator.recall(text) is principal
        assert await opened.authenticator.authenticate(text) is principal


@in_loop
async def test_a_recalled_token_asks_valkey_nothing(where: Where) -> None:
    async with open_authenticator(where) as opened:
        _, text = await somebody(opened)
        await opened.authenticator.authenticate(text)
        await opened.worker.store.client.aclose()
        for _ in range(100):
            await opened.authenticator.authenticate(text)


@in_loop
async def test_a_permission_that_is_given_holds_for_the_token_there_is(where: Where) -> None:
    async with open_authenticator(where) as opened:
        user, text = await somebody(opened)
        await opened.authenticator.authenticate(text)
        await opened.worker.users.patch(user.user_id, UserPatch(permissions=["read", "write"]))
        assert (await opened.authenticator.authenticate(text)).permissions == {"read", "write"}


@in_loop
async def test_whatever_takes_something_away_ends_the_tokens_of_before(where: Where) -> None:
    async with open_authenticator(where) as opened:
        users, authenticate = opened.worker.users, opened.authenticator.authenticate
        for number, (patch, expected) in enumerate(
            [
                (UserPatch(permissions=[]), (401, "token_revoked")),
                (UserPatch(password="another one"), (401, "token_revoked")),
                (UserPatch(is_active=False), (403, "user_inactive")),
            ]
        ):
            user, text = await somebody(opened, f"user{number}")
            principal = await authenticate(text)
            assert opened.authenticator.standing(principal) is None
            await users.patch(user.user_id, patch)
            assert await refusal(authenticate(text)) == expected
            assert opened.authenticator.standing(principal) == expected[1]
        user, text = await somebody(opened)
        principal = await authenticate(text)
        await users.end_all(user.user_id)
        assert await refusal(authenticate(text)) == (401, "token_revoked")
        await users.delete(user.user_id)
        assert await refusal(authenticate(text)) == (401, "user_unknown")
        assert opened.authenticator.standing(principal) == "user_unknown"


@in_loop
async def test_an_account_that_is_opened_again_does_not_bring_back_its_tokens(where: Where) -> None:
    async with open_authenticator(where) as opened:
        user, text = await somebody(opened)
        for is_active in (False, True):
            await opened.worker.users.patch(user.user_id, UserPatch(is_active=is_active))
        assert await refusal(opened.authenticator.authenticate(text)) == (401, "token_revoked")


@in_loop
async def test_who_logs_out_ends_one_token_and_no_other(where: Where) -> None:
    async with open_authenticator(where) as opened:
        user, text = await somebody(opened)
        other = opened.tokens.issue(user).text
        principal = await opened.authenticator.authenticate(text)
        assert principal.token is not None
        await opened.worker.denied.deny(principal.token, opened.worker.clock.now)
        assert await refusal(opened.authenticator.authenticate(text)) == (401, "token_revoked")
        assert opened.authenticator.standing(principal) == "token_revoked"
        await opened.authenticator.authenticate(other)


@in_loop
async def test_a_recalled_token_ends_when_it_expires(where: Where) -> None:
    async with open_authenticator(where) as opened:
        _, text = await somebody(opened)
        principal = await opened.authenticator.authenticate(text)
        opened.worker.clock.now += 599
        await opened.worker.roster.refresh()
        assert await opened.authenticator.authenticate(text) is principal
        opened.worker.clock.now += 1.5
        assert await refusal(opened.authenticator.authenticate(text)) == (401, "token_expired")
        assert opened.authenticator.standing(principal) == "token_expired"


@in_loop
async def test_nobody_is_let_in_by_a_roster_that_is_not_confirmed_and_nobody_is_thrown_out(
    where: Where,
) -> None:
    async with open_authenticator(where) as opened:
        _, text = await somebody(opened)
        principal = await opened.authenticator.authenticate(text)
        opened.worker.clock.now += 5.5
        assert opened.authenticator.recall(text) is None
        for shown in (text, "prk_0123456789abcdef_" + "A" * 43, "nonsense"):
            assert await refusal(opened.authenticator.authenticate(shown)) == (503, "accounts_unconfirmed")
        assert opened.authenticator.standing(principal) is None
        await opened.worker.roster.refresh()
        assert await opened.authenticator.authenticate(text) is principal


@in_loop
async def test_a_token_of_a_moment_ago_is_good_on_a_worker_that_has_not_heard_yet(where: Where) -> None:
    async with open_authenticator(where) as here, open_authenticator(where) as there:
        user, text = await somebody(here)
        assert (await there.authenticator.authenticate(text)).user == user
        changed = await here.worker.users.patch(user.user_id, UserPatch(password="another one"))
        later = here.tokens.issue(changed).text
        assert (await there.authenticator.authenticate(later)).user == changed
        # And what it replaced is known to be over from then on.
        assert await refusal(there.authenticator.authenticate(text)) == (401, "token_revoked")


@in_loop
async def test_tokens_of_users_that_are_gone_ask_valkey_only_while_they_are_young(where: Where) -> None:
    async with open_authenticator(where) as opened:
        user, text = await somebody(opened)
        await opened.worker.users.delete(user.user_id)
        opened.worker.clock.now += 100
        await opened.worker.roster.refresh()
        await opened.worker.store.client.aclose()
        assert await refusal(opened.authenticator.authenticate(text)) == (401, "user_unknown")


@in_loop
async def test_what_is_recalled_is_bounded_and_what_is_refused_is_not_kept(where: Where) -> None:
    async with open_authenticator(where, most=3) as opened:
        user, _ = await somebody(opened)
        texts = [opened.tokens.issue(user).text for _ in range(10)]
        for text in texts:
            await opened.authenticator.authenticate(text)
            assert opened.authenticator.recalled <= 3
        assert [opened.authenticator.recall(text) is None for text in texts] == [True] * 7 + [False] * 3
        for number in range(10):
            await refusal(opened.authenticator.authenticate(f"nonsense {number}"))
        assert opened.authenticator.recall(texts[-1]) is not None


@in_loop
async def test_a_key_is_good_for_what_it_is_for_until_it_is_revoked(where: Where) -> None:
    async with open_authenticator(where) as opened:
        user, _ = await somebody(opened)
        keys, authenticate = opened.worker.keys, opened.authenticator.authenticate
        key, text = await keys.make(user.user_id, "k", ["read", "write"], ["*"])
        principal = await authenticate(text)
        assert (principal.user, principal.key, principal.permissions) == (user, key, {"read"})
        assert await authenticate(text) is principal
        assert opened.used == [key.key_id] * 2
        assert opened.authenticator.standing(principal) is None
        await opened.worker.users.patch(user.user_id, UserPatch(permissions=["write"]))
        assert (await authenticate(text)).permissions == {"write"}
        await keys.revoke(user.user_id, key.key_id)
        assert await refusal(authenticate(text)) == (401, "invalid_token")
        assert opened.authenticator.standing(principal) == "token_revoked"


@in_loop
async def test_a_key_ends_with_its_time_and_with_its_user(where: Where) -> None:
    async with open_authenticator(where) as opened:
        user, _ = await somebody(opened)
        clock, authenticate = opened.worker.clock, opened.authenticator.authenticate
        _, text = await opened.worker.keys.make(user.user_id, "k", ["read"], ["*"])
        _, short = await opened.worker.keys.make(
            user.user_id, "short", ["read"], ["*"], clock.milliseconds() + 3000
        )
        principal = await authenticate(short)
        clock.now += 3.5
        assert await refusal(authenticate(short)) == (401, "token_expired")
        assert opened.authenticator.standing(principal) == "token_expired"
        await authenticate(text)
        await opened.worker.users.patch(user.user_id, UserPatch(is_active=False))
        assert await refusal(authenticate(text)) == (403, "user_inactive")
        # A key is no session: a password that is changed does not end it.
        await opened.worker.users.patch(user.user_id, UserPatch(is_active=True, password="another one"))
        await authenticate(text)
        await opened.worker.users.delete(user.user_id)
        assert await refusal(authenticate(text)) == (401, "invalid_token")


@in_loop
async def test_a_key_with_another_secret_or_id_is_none(where: Where) -> None:
    async with open_authenticator(where) as opened:
        user, _ = await somebody(opened)
        key, text = await opened.worker.keys.make(user.user_id, "k", ["read"], ["*"])
        for wrong in (
            text[:-1] + ("A" if text[-1] != "A" else "B"),
            text.replace(key.key_id, "0" * 16),
            text[:-1],
        ):
            assert await refusal(opened.authenticator.authenticate(wrong)) == (401, "invalid_token")


@in_loop
async def test_a_worker_goes_by_what_another_has_taken_away(where: Where) -> None:
    async with (
        open_authenticator(where, starts=True) as here,
        open_authenticator(where, starts=True) as there,
    ):
        user, text = await somebody(here)
        principal = await there.authenticator.authenticate(text)
        heard: list[str | None] = []
        there.worker.roster.listen(lambda: heard.append(there.authenticator.standing(principal)))
        await here.worker.users.patch(user.user_id, UserPatch(is_active=False))
        await until(lambda: "user_inactive" in heard)
        assert await refusal(there.authenticator.authenticate(text)) == (403, "user_inactive")
