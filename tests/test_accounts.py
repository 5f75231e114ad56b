"""Accounts of one worker and of several, as a whole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import argon2
import pytest

from actors.ports import StoreError
from pulsar_relay.accounts import schema
from pulsar_relay.accounts.accounts import Accounts, SignedIn
from pulsar_relay.accounts.grants import Grantee
from pulsar_relay.accounts.user import NewUser, UserPatch
from pulsar_relay.errors import RelayError
from pulsar_relay.settings import AuthSettings
from tests.accounts import SECRET
from tests.stores import Where, in_loop, open_store, until
from tests.valkeys import RealValkey

SETTINGS = AuthSettings(mode="accounts", jwt_secret=SECRET)
ADMIN = replace(SETTINGS, bootstrap_username="admin", bootstrap_password="its password")


@asynccontextmanager
async def open_accounts(
    where: Where, settings: AuthSettings = SETTINGS, *, waits: bool = True
) -> AsyncIterator[Accounts]:
    async with open_store(where) as opened:
        hasher = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        accounts = Accounts(opened.client, opened.feed, settings, hasher=hasher)
        opened.feed.start(lambda _: None, lambda _: None, lambda *_: None)
        accounts.start()
        if waits:
            await until(lambda: opened.feed.is_connected and accounts.roster.is_confirmed)
        try:
            yield accounts
        finally:
            await accounts.stop()


async def login(accounts: Accounts, name: str) -> SignedIn:
    return await accounts.sign_in(await accounts.users.check_password(name, "its password"))


async def refusal(attempt: Awaitable[object]) -> str:
    with pytest.raises(RelayError) as refused:
        await attempt
    return refused.value.code


@in_loop
async def test_from_signing_in_to_signing_out_over_two_workers(where: Where) -> None:
    async with open_accounts(where) as one, open_accounts(where) as two:
        await one.users.create(NewUser("galaxy", permissions=["read"]), "its password")
        signed_in = await login(two, "galaxy")
        principal = await one.authenticator.authenticate(signed_in.access.text)
        assert principal.user.username == "galaxy"
        again = await one.refresh(signed_in.refresh)
        await two.authenticator.authenticate(again.access.text)
        await one.sign_out(principal)
        assert await refusal(one.authenticator.authenticate(signed_in.access.text)) == "token_revoked"
        await until(lambda: principal.token and principal.token.jti in two.roster.denied)
        assert await refusal(two.authenticator.authenticate(signed_in.access.text)) == "token_revoked"
        # The refresh token, and what came of it, stay.
        await two.authenticator.authenticate(again.access.text)
        await two.refresh(again.refresh)


@in_loop
async def test_workers_that_start_together_have_one_admin(where: Where) -> None:
    async with open_accounts(where, ADMIN) as one, open_accounts(where, ADMIN) as two:
        for accounts in (one, two):
            await until(lambda accounts=accounts: len(accounts.roster.users) == 1)  # type: ignore[misc]
        signed_in = await login(one, "admin")
        principal = await two.authenticator.authenticate(signed_in.access.text)
        assert principal.permissions == {"admin", "read", "write"}


@in_loop
async def test_the_admin_is_made_when_the_store_comes(make_valkey: Callable[..., RealValkey]) -> None:
    server = make_valkey()
    async with open_accounts(server.socket_path, ADMIN, waits=False) as accounts:
        assert await refusal(accounts.authenticator.authenticate("nonsense")) == "accounts_unconfirmed"
        server.start()
        await until(lambda: accounts.roster.is_confirmed and accounts.roster.users)


@in_loop
async def test_access_goes_by_what_the_owner_has_granted_and_takes_back(where: Where) -> None:
    async with open_accounts(where) as one, open_accounts(where) as two:
        owner = await one.users.create(NewUser("owner", permissions=["read", "write"]), "its password")
        await one.users.create(NewUser("friend", permissions=["read", "write"]), "its password")
        signed_in = await login(two, "friend")
        friend = await two.authenticator.authenticate(signed_in.access.text)

        def refused(action: str, topic: str = "t") -> str | None:
            try:
                two.require_access(friend, action, owner.user_id, topic)
            except RelayError as error:
                return error.code
            return None

        assert refused("read") == refused("read", "no-such-topic") == "topic_not_found"
        await one.grants.set(owner.user_id, "t", Grantee(friend.user.user_id), {"read"})
        await until(lambda: refused("read") is None)
        assert refused("write") == refused("read", "other") == "topic_not_found"
        await one.grants.set(owner.user_id, "t", Grantee("public"), {"read"})
        await until(lambda: two.grants.known(owner.user_id, "t").public)
        two.require_access(None, "read", owner.user_id, "t")
        assert list(await two.grants.list(owner.user_id)) == ["t"]
        await one.grants.forget(owner.user_id, "t")
        await until(lambda: refused("read") == "topic_not_found")
        assert await two.grants.list(owner.user_id) == {}
        with pytest.raises(RelayError, match="unauthenticated"):
            two.require_access(None, "read", owner.user_id, "t")


@in_loop
async def test_grants_that_are_made_at_the_same_time_all_hold(where: Where) -> None:
    async with open_accounts(where) as one, open_accounts(where) as two:
        owner = await one.users.create(NewUser("owner"))
        sets = [
            accounts.grants.set(owner.user_id, "t", Grantee(f"user{number}"), {"read"})
            for number, accounts in enumerate([one, two] * 5)
        ]
        await asyncio.gather(*sets)
        assert len((await one.grants.read(owner.user_id, "t")).users) == 10
        assert await refusal(one.grants.set("nobody", "t", Grantee("public"), {"read"})) == "user_not_found"
        assert await refusal(one.grants.set(owner.user_id, "t", Grantee("x"), {"admin"})) == "invalid_request"


@in_loop
async def test_keys_are_listed_with_when_they_were_last_used_and_are_bounded(where: Where) -> None:
    async with open_accounts(where) as accounts:
        user = await accounts.users.create(NewUser("galaxy", permissions=["write"]))
        other = await accounts.users.create(NewUser("other"))
        key, text = await accounts.api_keys.make(user.user_id, "sensor", ["write"], ["t*"])
        await accounts.authenticator.authenticate(text)
        assert [one.used_at_ms for one in await accounts.api_keys.list(user.user_id)] == [None]
        await accounts.api_keys.store_uses()
        (listed,) = await accounts.api_keys.list(user.user_id)
        assert listed.key == key
        assert listed.used_at_ms is not None
        assert await accounts.api_keys.list(other.user_id) == ()
        assert await refusal(accounts.api_keys.revoke(other.user_id, key.key_id)) == "api_key_not_found"
        assert await refusal(accounts.api_keys.make("nobody", "k", ["write"], ["*"])) == "user_not_found"
        await asyncio.gather(
            *[accounts.api_keys.make(user.user_id, f"k{number}", ["write"], ["*"]) for number in range(99)]
        )
        assert (
            await refusal(accounts.api_keys.make(user.user_id, "k", ["write"], ["*"])) == "too_many_api_keys"
        )
        await accounts.api_keys.revoke(user.user_id, key.key_id)
        assert len(await accounts.api_keys.list(user.user_id)) == 99
        await accounts.api_keys.make(user.user_id, "k", ["write"], ["*"])


@in_loop
async def test_the_use_of_a_key_that_is_revoked_is_not_kept(where: Where) -> None:
    async with open_accounts(where) as accounts, open_store(where) as opened:
        user = await accounts.users.create(NewUser("galaxy"))
        key, text = await accounts.api_keys.make(user.user_id, "k", ["write"], ["*"])
        await accounts.authenticator.authenticate(text)
        await accounts.api_keys.revoke(user.user_id, key.key_id)
        await accounts.api_keys.store_uses()
        assert not await opened.client.command("EXISTS", schema.API_KEY_USES)


@in_loop
async def test_of_a_deleted_user_no_key_of_any_kind_is_left(where: Where) -> None:
    async with open_accounts(where) as accounts, open_store(where) as opened:
        user = await accounts.users.create(NewUser("galaxy", permissions=["write"]), "its password")
        _, text = await accounts.api_keys.make(user.user_id, "k", ["write"], ["*"])
        await accounts.authenticator.authenticate(text)
        await accounts.api_keys.store_uses()
        await accounts.grants.set(user.user_id, "t", Grantee("public"), {"read"})
        await login(accounts, "galaxy")
        await accounts.users.delete(user.user_id)
        shard = (await opened.client.shards())[0]
        home = opened.client.home(schema.USERS.encode()) or shard
        _, keys = await home.command("SCAN", 0, "MATCH", f"{schema.PREFIX}*", "COUNT", 10_000)
        left = {key.decode().removeprefix(schema.PREFIX).partition(":")[0] for key in keys}
        # What a session has left expires.
        assert left == {"changes", "session"}


@in_loop
async def test_a_secret_is_in_no_record_of_the_log(where: Where) -> None:
    records: list[logging.LogRecord] = []

    class Collecting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler, ours = Collecting(), logging.getLogger("pulsar_relay")
    level = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.DEBUG)
    try:
        async with open_accounts(where, ADMIN) as accounts:
            await until(lambda: accounts.roster.users)
            signed_in = await login(accounts, "admin")
            (user,) = accounts.roster.users.values()
            _, key = await accounts.api_keys.make(user.user_id, "k", ["write"], ["*"])
            again = await accounts.refresh(signed_in.refresh)
            await accounts.authenticator.authenticate(key)
            await accounts.users.patch(user.user_id, UserPatch(password="another password"))
            await refusal(login(accounts, "admin"))
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level)
    text = "\n".join(f"{record.getMessage()} {vars(record)}" for record in records)
    assert "made the admin admin" in text
    secrets = [SECRET, "its password", "another password", key, signed_in.access.text, again.access.text]
    secrets += [signed_in.refresh.partition(".")[2], again.refresh.partition(".")[2]]
    assert not [secret for secret in secrets if secret in text]


@in_loop
async def test_until_there_is_the_first_admin_its_password_is_not_wrong_and_the_relay_is_not_ready(
    where: Where,
) -> None:
    async with open_accounts(where, ADMIN, waits=False) as accounts:
        with pytest.raises(RelayError) as refused:
            accounts.require_known_password("admin")
        assert refused.value.code == "accounts_unconfirmed"
        accounts.require_known_password("somebody else")

        with pytest.raises(StoreError):
            await accounts.check()

        def is_known() -> bool:
            with suppress(RelayError):
                accounts.require_known_password("admin")
                return True
            return False

        await until(lambda: is_known() and accounts.roster.is_confirmed)
        await accounts.check()
        assert await login(accounts, "admin")
