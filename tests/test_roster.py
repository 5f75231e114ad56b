"""The roster: a copy that is complete, quick, and not gone by when nobody has confirmed it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from pulsar_relay.accounts import roster as roster_module
from pulsar_relay.accounts import schema
from pulsar_relay.accounts.access_tokens import AccessToken
from pulsar_relay.accounts.api_keys import ApiKeys
from pulsar_relay.accounts.denied_tokens import DeniedTokens
from pulsar_relay.accounts.grants import Grantee, Grants
from pulsar_relay.accounts.passwords import Passwords
from pulsar_relay.accounts.roster import Roster
from pulsar_relay.accounts.user import NewUser, User, UserPatch
from pulsar_relay.accounts.users import Users
from pulsar_relay.errors import RelayError
from tests.accounts import Clock, cheap_passwords
from tests.faults.proxy import FaultProxy
from tests.stores import OpenStore, Where, code_of, in_loop, open_store, until
from tests.valkeys import RealValkey


@dataclass
class OpenRoster:
    """One worker's roster, and what writes beside it."""

    store: OpenStore
    roster: Roster
    users: Users
    keys: ApiKeys
    grants: Grants
    denied: DeniedTokens
    clock: Clock


@asynccontextmanager
async def open_roster(
    where: Where | FaultProxy, *, starts: bool = True, passwords: Passwords | None = None, **valkey: float
) -> AsyncIterator[OpenRoster]:
    """Its clock stands still unless the test moves it, so that what is confirmed stays so."""
    ours = passwords or cheap_passwords()
    clock = Clock()
    async with open_store(where, valkey=dict(valkey)) as opened:
        roster = Roster(opened.client, clock, clock)
        opened.feed.listen_to(schema.CHANGED, roster.hint)
        if starts:
            opened.feed.start(lambda _: None, lambda _: None, lambda *_: None)
            await until(lambda: opened.feed.is_connected)
            roster.start()
            await until(lambda: roster.is_confirmed)
        users = Users(opened.client, ours, clock.milliseconds, roster.settle)
        keys = ApiKeys(opened.client, roster, clock.milliseconds)
        denied = DeniedTokens(opened.client, roster)
        try:
            yield OpenRoster(opened, roster, users, keys, Grants(opened.client, roster), denied, clock)
        finally:
            await roster.stop()
            ours.close()


def token(clock: Clock, jti: str = "0" * 32) -> AccessToken:
    return AccessToken("text", "u", jti, 0, int(clock.now), int(clock.now) + 600)


def wait_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that only a hint can make it quick."""
    monkeypatch.setattr(roster_module, "CONFIRM_SECONDS", 3600.0)


@in_loop
async def test_who_changes_something_goes_by_it_at_once(where: Where) -> None:
    async with open_roster(where) as one:
        user = await one.users.create(NewUser("galaxy", permissions=["read"]))
        assert one.roster.users == {user.user_id: user}
        changed = await one.users.patch(user.user_id, UserPatch(is_active=False))
        assert one.roster.users == {user.user_id: changed}
        key, _ = await one.keys.make(user.user_id, "k", ["read"], ["*"])
        assert one.roster.api_keys == {key.key_id: key}
        grant = await one.grants.set(user.user_id, "t", Grantee("friend"), {"read"})
        assert one.grants.known(user.user_id, "t") == grant
        await one.denied.deny(token(one.clock), one.clock.now)
        assert set(one.roster.denied) == {"0" * 32}
        await one.users.delete(user.user_id)
        assert not one.roster.users
        assert not one.roster.api_keys
        assert not one.roster.grants


def test_other_workers_hear_of_it_without_waiting_for_their_next_look(
    where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_long(monkeypatch)

    @in_loop
    async def test() -> None:
        async with open_roster(where) as one, open_roster(where) as two:
            user = await one.users.create(NewUser("galaxy"))
            await until(lambda: two.roster.users == {user.user_id: user})
            await one.denied.deny(token(one.clock), one.clock.now)
            await until(lambda: "0" * 32 in two.roster.denied)
            await two.users.delete(user.user_id)
            await until(lambda: not one.roster.users)

    test()


@in_loop
async def test_without_any_hint_it_is_known_by_the_next_look(where: Where) -> None:
    async with open_roster(where) as deaf, open_roster(where) as other:
        await deaf.store.feed.stop()
        user = await other.users.create(NewUser("galaxy"))
        await until(lambda: deaf.roster.users == {user.user_id: user})


@in_loop
async def test_a_worker_that_starts_later_has_everything(where: Where) -> None:
    async with open_roster(where) as one:
        users = [await one.users.create(NewUser(f"user{number}")) for number in range(3)]
        key, _ = await one.keys.make(users[0].user_id, "k", ["read"], ["*"])
        await one.grants.set(users[0].user_id, "t", Grantee("users"), {"read"})
        await one.denied.deny(token(one.clock), one.clock.now)
        async with open_roster(where) as two:
            assert two.roster.users == {user.user_id: user for user in users}
            assert two.roster.api_keys == {key.key_id: key}
            assert two.roster.grants == one.roster.grants
            assert two.roster.denied == one.roster.denied


def test_a_copy_is_complete_also_where_pages_and_looks_are_small(
    where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is read, users are made, changed and deleted."""
    monkeypatch.setattr(roster_module, "READ_AT_ONCE", 5)
    monkeypatch.setattr(roster_module, "CHANGES_AT_ONCE", 7)

    @in_loop
    async def test() -> None:
        async with open_roster(where) as writer:
            made = [await writer.users.create(NewUser(f"user{number}")) for number in range(300)]

            async def go_on() -> None:
                for number, user in enumerate(made):
                    if number % 3:
                        await writer.users.patch(user.user_id, UserPatch(email=f"{number}@x"))
                    else:
                        await writer.users.delete(user.user_id)

            async with open_store(where) as opened:
                clock = Clock()
                reader = Roster(opened.client, clock, clock)
                going_on = asyncio.ensure_future(go_on())
                await reader.refresh()
                await going_on
                await reader.refresh()
                assert reader.users == writer.roster.users
                assert len(reader.users) == 200

    test()


@in_loop
async def test_a_copy_that_is_too_old_to_be_followed_is_read_anew(where: Where) -> None:
    async with open_roster(where) as one, open_roster(where, starts=False) as two:
        await two.roster.refresh()
        user = await one.users.create(NewUser("galaxy"))
        await two.roster.refresh()
        assert two.roster.users == {user.user_id: user}
        other = await one.users.create(NewUser("pulsar"))
        await one.users.delete(user.user_id)
        # What lies between is trimmed.
        await one.store.client.command("XTRIM", schema.CHANGES, "MAXLEN", "=", 1)
        await two.roster.refresh()
        assert two.roster.users == {other.user_id: other}


@in_loop
async def test_a_store_that_has_lost_its_end_is_read_anew_though_ids_are_the_same(where: Where) -> None:
    async with open_roster(where, starts=False) as one:
        user = await one.users.create(NewUser("galaxy"))
        await one.roster.refresh()
        await one.denied.deny(token(one.clock), one.clock.now)
        ((last, _),) = await one.store.client.command("XREVRANGE", schema.CHANGES, "+", "-", "COUNT", 1)
        # A replica took over that had neither: the denial, and the user's change, are gone.
        text = user.encode().replace(b'"is_active":true', b'"is_active":false')
        await one.store.client.command("DEL", schema.CHANGES, schema.DENIED)
        await one.store.client.command("HSET", schema.USERS, user.user_id, text)
        words = ("kind", "user", "name", "somebody", "token", "another")
        await one.store.client.command("XADD", schema.CHANGES, last, *words)
        await one.roster.refresh()
        assert not one.roster.users[user.user_id].is_active
        # Who was shut out stays it.
        assert "0" * 32 in one.roster.denied


@in_loop
async def test_what_is_read_anew_and_has_not_changed_is_the_same_object(where: Where) -> None:
    async with open_roster(where, starts=False) as one:
        user = await one.users.create(NewUser("galaxy"))
        await one.roster.refresh()
        before = one.roster.users[user.user_id]
        await one.store.client.command("DEL", schema.CHANGES)
        await one.roster.refresh()
        assert one.roster.users[user.user_id] is before


@in_loop
async def test_it_is_not_gone_by_before_it_is_read(where: Where) -> None:
    async with open_roster(where, starts=False) as one:
        assert not one.roster.is_confirmed
        with pytest.raises(RelayError, match="accounts_unconfirmed"):
            one.roster.require_confirmed()
        await one.roster.refresh()
        one.roster.require_confirmed()


@in_loop
async def test_five_seconds_after_the_last_question_that_was_answered_it_is_not_gone_by(where: Where) -> None:
    async with open_roster(where, starts=False) as one:
        await one.roster.refresh()
        one.clock.now += 4.9
        one.roster.require_confirmed()
        one.clock.now += 0.2
        with pytest.raises(RelayError) as refused:
            one.roster.require_confirmed()
        assert refused.value.kind.status == 503
        await one.roster.refresh()
        one.roster.require_confirmed()


def test_an_answer_confirms_what_was_when_the_question_left(
    valkey: str, make_proxy: Callable[..., FaultProxy]
) -> None:
    @in_loop
    async def test() -> None:
        proxy = make_proxy(valkey)
        async with open_roster(proxy, starts=False) as one:
            await one.roster.refresh()
            one.clock.now += 6
            proxy.black_hole()
            asked = asyncio.ensure_future(one.roster.refresh())
            await asyncio.sleep(0)
            one.clock.now += 6
            assert await code_of(asked) == "store_unavailable"
            assert not one.roster.is_confirmed

    test()


@in_loop
async def test_it_comes_back_by_itself_when_the_store_does(make_valkey: Callable[..., RealValkey]) -> None:
    with make_valkey() as server:
        async with open_roster(server.socket_path) as one:
            user = await one.users.create(NewUser("galaxy"))
            server.kill()
            one.clock.now += 6
            assert not one.roster.is_confirmed
            server.start()
            await until(lambda: one.roster.is_confirmed)
            assert one.roster.users == {user.user_id: user}


@in_loop
async def test_denials_are_forgotten_when_the_token_would_have_expired(where: Where) -> None:
    async with open_roster(where) as one:
        await one.denied.deny(token(one.clock), one.clock.now)
        one.clock.now += 500
        one.roster.hint()
        await until(lambda: one.roster.is_confirmed)
        assert "0" * 32 in one.roster.denied
        one.clock.now += 200
        one.roster.hint()
        await until(lambda: not one.roster.denied)
        # In Valkey later, should somebody's clock be behind.
        assert await one.store.client.command("ZCARD", schema.DENIED) == 1
        one.clock.now += 3600
        await one.denied.deny(token(one.clock, "1" * 32), one.clock.now)
        assert await one.store.client.command("ZCARD", schema.DENIED) == 1


@in_loop
async def test_listeners_hear_of_changes_and_of_nothing_else(where: Where) -> None:
    heard: list[int] = []
    async with open_roster(where, starts=False) as one:
        await one.roster.refresh()
        one.roster.listen(lambda: heard.append(len(one.roster.users)))
        await one.roster.refresh()
        assert heard == []
        await one.users.create(NewUser("galaxy"))
        assert heard == [1]
        await one.roster.refresh()
        assert heard == [1]


@in_loop
async def test_a_user_that_cannot_be_read_is_nobody_and_shuts_out_no_other(where: Where) -> None:
    async with open_roster(where, starts=False) as one:
        users: list[User] = [await one.users.create(NewUser(name)) for name in ("galaxy", "pulsar")]
        await one.store.client.command("HSET", schema.USERS, users[0].user_id, "nonsense")
        await one.store.client.command("DEL", schema.CHANGES)
        await one.roster.refresh()
        assert one.roster.users == {users[1].user_id: users[1]}


@in_loop
async def test_a_full_store_still_takes_away(make_valkey: Callable[..., RealValkey]) -> None:
    with make_valkey() as server:
        async with open_roster(server.socket_path, starts=False) as one:
            users = [await one.users.create(NewUser(name)) for name in ("galaxy", "pulsar", "third")]
            key, _ = await one.keys.make(users[2].user_id, "k", ["read"], ["*"])
            await one.roster.refresh()
            server.config("maxmemory", "1")
            assert await code_of(one.users.create(NewUser("fourth"))) == "store_full"
            await one.denied.deny(token(one.clock), one.clock.now)
            await one.users.patch(users[0].user_id, UserPatch(is_active=False))
            await one.users.delete(users[1].user_id)
            await one.keys.revoke(users[2].user_id, key.key_id)
            assert set(one.roster.users) == {users[0].user_id, users[2].user_id}
            assert not one.roster.users[users[0].user_id].is_active
            assert not one.roster.api_keys
            assert one.roster.denied


@in_loop
async def test_reading_everything_may_take_its_time(where: Where) -> None:
    """What confirms is the question that comes after it."""
    async with open_roster(where, starts=False) as one:
        user = await one.users.create(NewUser("galaxy"))
        await one.store.client.command("DEL", schema.CHANGES)
        one.roster.listen(lambda: setattr(one.clock, "now", one.clock.now + 60))
        await one.roster.refresh()
        assert one.roster.users == {user.user_id: user}
        assert one.roster.is_confirmed
