"""Users in a real Valkey: what two that come at the same time do to each other, and what never comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import argon2
import pytest
import valkey as valkey_client

from pulsar_relay.accounts import schema
from pulsar_relay.accounts.bootstrap import ensure_admin
from pulsar_relay.accounts.passwords import Passwords
from pulsar_relay.accounts.user import FederatedIdentity, NewUser, UserPatch
from pulsar_relay.accounts.users import Users
from pulsar_relay.errors import RelayError
from tests.accounts import cheap_passwords, nothing, now_ms
from tests.stores import Where, code_of, in_loop, open_store


@asynccontextmanager
async def open_users(where: Where, passwords: Passwords | None = None) -> AsyncIterator[Users]:
    ours = passwords or cheap_passwords()
    async with open_store(where) as opened:
        yield Users(opened.client, ours, now_ms, nothing)
    ours.close()


async def refusal(attempt: object) -> str:
    with pytest.raises(RelayError) as refused:
        await attempt  # type: ignore[misc]
    return refused.value.code


@in_loop
async def test_a_user_is_found_by_id_name_and_identity(where: Where) -> None:
    identity = FederatedIdentity("https://issuer", "subject|1")
    async with open_users(where) as users:
        made = await users.create(NewUser("galaxy", "g@example.org", ["read"], identity))
        assert await users.find(made.user_id) == made
        assert await users.find_by_name("galaxy") == made
        assert await users.find_federated(identity) == made
        for missing in ("Galaxy", "galax", "lone \ud800"):
            assert await users.find_by_name(missing) is None
        assert await users.find_federated(FederatedIdentity("https://issuer", "subject")) is None
        assert await users.find("no-such-id") is None


@in_loop
async def test_of_many_that_want_a_name_at_the_same_time_one_gets_it(where: Where) -> None:
    async with open_users(where) as one, open_users(where) as two:
        attempts = [users.create(NewUser("galaxy"), "a password") for users in (one, two) * 8]
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        made = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert len(made) == 1
        assert {one.code for one in outcomes if isinstance(one, RelayError)} == {"user_exists"}
        assert await one.find_by_name("galaxy") == made[0]
        assert await two.count() == 1


@in_loop
async def test_an_identity_has_one_user_whatever_names_they_ask_for(where: Where) -> None:
    identity = FederatedIdentity("https://issuer", "s")
    async with open_users(where) as users:
        attempts = [users.create(NewUser(f"name{number}", federated=identity)) for number in range(8)]
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        (made,) = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert await users.find_federated(identity) == made
        assert await users.count() == 1


@in_loop
async def test_two_changes_at_the_same_time_both_hold(where: Where) -> None:
    async with open_users(where) as one, open_users(where) as two:
        made = await one.create(NewUser("galaxy", permissions=["read"]))
        patches = [UserPatch(email=f"{number}@x") for number in range(5)]
        patches += [UserPatch(permissions=["read", "write"]), UserPatch(is_active=False)]
        await asyncio.gather(*[users.patch(made.user_id, patch) for patch in patches for users in (one, two)])
        changed = await one.find(made.user_id)
        assert changed is not None
        assert changed.permissions == ("read", "write")
        assert not changed.is_active
        assert changed.email in {f"{number}@x" for number in range(5)}
        assert changed.generation == 1


@in_loop
async def test_a_changed_password_is_the_only_one_and_ends_what_was_open(where: Where) -> None:
    async with open_users(where) as users:
        made = await users.create(NewUser("galaxy"), "old password")
        changed = await users.patch(made.user_id, UserPatch(password="new password"))
        assert changed.generation == made.generation + 1
        assert await refusal(users.check_password("galaxy", "old password")) == "wrong_password"
        assert await users.check_password("galaxy", "new password") == changed


@in_loop
async def test_a_wrong_name_a_wrong_password_and_no_password_at_all_are_refused_alike(where: Where) -> None:
    async with open_users(where) as users:
        await users.create(NewUser("galaxy"), "its password")
        await users.create(NewUser("federated", federated=FederatedIdentity("https://i", "s")))
        await users.create(NewUser("lone ?"), "its password")
        wrong = [("galaxy", "other"), ("nobody", "its password"), ("federated", "")]
        for name, password in [*wrong, ("lone \ud800", "its password")]:
            assert await refusal(users.check_password(name, password)) == "wrong_password"


@in_loop
async def test_only_who_knows_the_password_learns_that_an_account_is_closed(where: Where) -> None:
    async with open_users(where) as users:
        made = await users.create(NewUser("galaxy"), "its password")
        await users.patch(made.user_id, UserPatch(is_active=False))
        assert await refusal(users.check_password("galaxy", "other")) == "wrong_password"
        assert await refusal(users.check_password("galaxy", "its password")) == "user_inactive"


@in_loop
async def test_a_password_of_older_parameters_is_hashed_anew_at_a_login_and_ends_nothing(
    where: Where,
) -> None:
    old = Passwords(argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1))
    async with open_users(where, old) as users:
        made = await users.create(NewUser("galaxy"), "its password")
    async with open_users(where) as users, open_store(where) as opened:
        assert await users.check_password("galaxy", "its password") == made
        encoded = await opened.client.command("HGET", schema.PASSWORDS, made.user_id)
        assert argon2.extract_parameters(encoded.decode()).memory_cost == 8
        assert await users.check_password("galaxy", "its password") == made


class Hasty(Passwords):
    """Has no time for more than to verify."""

    async def hash(self, password: str) -> str:
        raise RelayError("overloaded")


@in_loop
async def test_a_login_succeeds_also_where_nobody_has_time_to_hash_anew(where: Where) -> None:
    old = Passwords(argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1))
    async with open_users(where, old) as users:
        made = await users.create(NewUser("galaxy"), "its password")
    hasty = Hasty(argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    async with open_users(where, hasty) as users:
        assert await users.check_password("galaxy", "its password") == made
    async with open_users(where) as users:
        assert await users.check_password("galaxy", "its password") == made


@in_loop
async def test_of_a_deleted_user_nothing_is_left_and_the_name_is_free(where: Where) -> None:
    identity = FederatedIdentity("https://issuer", "s")
    async with open_users(where) as users, open_store(where) as opened:
        made = await users.create(NewUser("galaxy", federated=identity), "its password")
        assert await users.delete(made.user_id) == made
        assert await refusal(users.delete(made.user_id)) == "user_not_found"
        assert await refusal(users.patch(made.user_id, UserPatch())) == "user_not_found"
        assert await refusal(users.check_password("galaxy", "its password")) == "wrong_password"
        for key in (schema.USERS, schema.PASSWORDS, schema.NAMES, schema.NAME_ORDER, schema.FEDERATED):
            assert not await opened.client.command("EXISTS", key)
        assert (await users.create(NewUser("galaxy", federated=identity))).user_id != made.user_id


@in_loop
async def test_pages_hold_all_users_in_the_order_of_their_names(where: Where) -> None:
    async with open_users(where) as users:
        names = ["Zoe", "abel", "bär", "adam", "zoe"]
        for name in names:
            await users.create(NewUser(name))
        found, after = [], ""
        while True:
            page = await users.page(after, 2)
            found += [user.username for user in page.users]
            assert len(page.users) <= 2
            if page.next_after is None:
                break
            after = page.next_after
        assert found == sorted(names, key=str.encode)
        assert (await users.page("zzz")).users == ()


@in_loop
async def test_workers_that_start_together_make_one_admin_without_a_complaint(where: Where) -> None:
    async with open_users(where) as one, open_users(where) as two:
        admins = await asyncio.gather(
            *[ensure_admin(users, "admin", "first password", "a@b") for users in (one, two) * 2]
        )
        assert len({admin.user_id for admin in admins}) == 1
        assert admins[0].permissions == ("admin", "read", "write")
        again = await ensure_admin(one, "admin", "first password", None)
        assert again == admins[0]


@in_loop
async def test_an_admin_gets_the_password_of_the_settings_and_keeps_everything_else(where: Where) -> None:
    async with open_users(where) as one, open_users(where) as two:
        made = await ensure_admin(one, "admin", "first password", None)
        await one.patch(made.user_id, UserPatch(permissions=["admin"], email="kept@x"))
        await asyncio.gather(*[ensure_admin(users, "admin", "second password", None) for users in (one, two)])
        admin = await one.check_password("admin", "second password")
        assert (admin.permissions, admin.email) == (("admin",), "kept@x")
        await one.patch(made.user_id, UserPatch(is_active=False))
        assert not (await ensure_admin(two, "admin", "second password", None)).is_active


@in_loop
async def test_a_hand_that_writes_nonsense_is_a_damaged_store(where: Where) -> None:
    async with open_users(where) as users, open_store(where) as opened:
        made = await users.create(NewUser("galaxy"))
        await opened.client.command("HSET", schema.USERS, made.user_id, "{}")
        assert await code_of(users.find(made.user_id)) == "store_damaged"


@in_loop
async def test_a_change_is_as_durable_as_an_append_when_it_is_answered(valkey: str) -> None:
    passwords = cheap_passwords()
    hasty = {"command_timeout_seconds": 0.2}
    async with open_store(valkey, replicas=1, valkey=hasty) as opened:
        users = Users(opened.client, passwords, now_ms, nothing)
        # There is no replica that could confirm it.
        assert await code_of(users.create(NewUser("galaxy"))) == "store_not_replicated"
    passwords.close()


def test_accounts_survive_a_harness_that_deletes_all_keys_but_those_of_users(valkey: str) -> None:
    @in_loop
    async def make() -> None:
        async with open_users(valkey) as users:
            await users.create(NewUser("galaxy"), "its password")

    make()
    with valkey_client.Valkey(unix_socket_path=valkey) as client:
        keys = list(client.scan_iter())
        assert len(keys) == 5
        assert all(key.startswith(b"user") for key in keys)
        assert len({client.execute_command("CLUSTER", "KEYSLOT", key) for key in keys}) == 1
