"""Device codes in a real Valkey: decided about once, redeemed once, however many try at the same time."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from pulsar_relay.accounts import schema
from pulsar_relay.accounts.user import NewUser, User
from pulsar_relay.device import user_code
from pulsar_relay.device.device_codes import Approval, DeviceCodes, NewDevice, Outcome
from pulsar_relay.errors import RelayError
from pulsar_relay.settings import DeviceSettings
from pulsar_relay.store.client import Client
from tests.stores import Where, in_loop, open_store


class Opened:
    """Device codes with a client that can turn the time back, for one device at a time."""

    def __init__(self, client: Client, codes: DeviceCodes) -> None:
        self.client = client
        self.codes = codes
        self.user: User = NewUser("galaxy").user(0)

    async def age(self, made: NewDevice, milliseconds: int) -> None:
        """As if so much time had passed since everything that happened to it."""
        key = schema.device(digest(made))
        kept = await self.client.command("HMGET", key, "ends_at", "polled_at")
        for field, value in zip(("ends_at", "polled_at"), kept, strict=True):
            if value is not None:
                await self.client.command("HSET", key, field, int(value) - milliseconds)

    async def poll(self, made: NewDevice) -> Outcome:
        return (await self.codes.poll(made.device_code))[0]

    async def decide(self, made: NewDevice, *, approves: bool) -> bool:
        device = await self.codes.find(made.user_code)
        assert device is not None
        return await (self.codes.approve(device, self.user) if approves else self.codes.deny(device))


def digest(made: NewDevice) -> str:
    return hashlib.sha256(made.device_code.encode()).hexdigest()


@asynccontextmanager
async def open_codes(where: Where, **settings: float) -> AsyncIterator[Opened]:
    async with open_store(where) as opened:
        yield Opened(opened.client, DeviceCodes(opened.client, replace(DeviceSettings(), **settings)))


@in_loop
async def test_codes_are_what_clients_expect_and_the_devices_own_is_not_in_valkey(where: Where) -> None:
    async with open_codes(where) as opened:
        made = await opened.codes.make("pulsar", is_pair=False)
        assert len(made.device_code) == 43
        assert user_code.read(made.user_code) == made.user_code
        keys = await opened.client.command("HGETALL", schema.device(digest(made)))
        assert not any(made.device_code.encode() in word for word in keys)
        assert await opened.client.command("EXISTS", schema.device(made.device_code)) == 0
        for key in (schema.device(digest(made)), schema.user_code(made.user_code)):
            assert await opened.client.command("PTTL", key) > 0


@in_loop
async def test_a_device_waits_until_it_is_let_in_and_is_told_once(where: Where) -> None:
    async with open_codes(where) as opened:
        made = await opened.codes.make("pulsar at home", is_pair=True)
        assert await opened.poll(made) is Outcome.PENDING
        assert await opened.decide(made, approves=True)
        await opened.age(made, 5000)
        outcomes = await asyncio.gather(*[opened.codes.poll(made.device_code) for _ in range(10)])
        approval = Approval(opened.user.user_id, 0, "pulsar at home", is_pair=True)
        assert [one for one in outcomes if one[1]] == [(Outcome.APPROVED, approval)]
        assert {outcome for outcome, _ in outcomes} == {Outcome.APPROVED, Outcome.UNKNOWN}


@in_loop
async def test_a_device_that_is_denied_is_told_once(where: Where) -> None:
    async with open_codes(where) as opened:
        made = await opened.codes.make("", is_pair=False)
        assert await opened.decide(made, approves=False)
        assert [await opened.poll(made), await opened.poll(made)] == [Outcome.DENIED, Outcome.UNKNOWN]


@in_loop
async def test_of_those_who_decide_at_the_same_time_one_does(where: Where) -> None:
    async with open_codes(where) as opened:
        made = await opened.codes.make("", is_pair=False)
        device = await opened.codes.find(made.user_code)
        assert device is not None
        attempts = [opened.codes.approve(device, opened.user) for _ in range(5)]
        attempts += [opened.codes.deny(device) for _ in range(5)]
        assert sorted(await asyncio.gather(*attempts)) == [False] * 9 + [True]
        assert await opened.codes.find(made.user_code) is None


@in_loop
async def test_a_poll_that_comes_too_early_is_told_so_and_does_not_count(where: Where) -> None:
    async with open_codes(where, poll_interval_seconds=5.0) as opened:
        made = await opened.codes.make("", is_pair=False)
        assert await opened.poll(made) is Outcome.PENDING
        assert await opened.poll(made) is Outcome.SLOW_DOWN
        await opened.age(made, 4400)
        assert await opened.poll(made) is Outcome.SLOW_DOWN
        # The first one counts still, and a hair is forgiven.
        await opened.age(made, 200)
        assert await opened.poll(made) is Outcome.PENDING


@in_loop
async def test_also_a_device_that_was_let_in_must_not_hurry(where: Where) -> None:
    async with open_codes(where) as opened:
        made = await opened.codes.make("", is_pair=False)
        assert await opened.poll(made) is Outcome.PENDING
        assert await opened.decide(made, approves=True)
        assert await opened.poll(made) is Outcome.SLOW_DOWN
        await opened.age(made, 5000)
        assert await opened.poll(made) is Outcome.APPROVED


@in_loop
async def test_a_clock_that_was_set_back_keeps_no_device_waiting(where: Where) -> None:
    async with open_codes(where) as opened:
        made = await opened.codes.make("", is_pair=False)
        assert await opened.poll(made) is Outcome.PENDING
        await opened.client.command("HINCRBY", schema.device(digest(made)), "polled_at", 3_600_000)
        assert await opened.poll(made) is Outcome.PENDING


@pytest.mark.parametrize("approves", [None, True, False])
def test_a_code_that_has_expired_is_known_to_have_whatever_was_decided(
    where: Where, approves: bool | None
) -> None:
    @in_loop
    async def expire() -> None:
        async with open_codes(where) as opened:
            made = await opened.codes.make("", is_pair=False)
            if approves is not None:
                assert await opened.decide(made, approves=approves)
            await opened.age(made, 600_001)
            assert await opened.poll(made) is Outcome.EXPIRED
            assert await opened.poll(made) is Outcome.EXPIRED

    expire()


@in_loop
async def test_with_its_user_code_a_device_can_be_decided_about_no_more(where: Where) -> None:
    async with open_codes(where) as opened:
        made = await opened.codes.make("", is_pair=False)
        device = await opened.codes.find(made.user_code)
        assert device is not None
        await opened.client.command("DEL", schema.user_code(made.user_code))
        assert await opened.codes.find(made.user_code) is None
        assert not await opened.codes.approve(device, opened.user)
        assert await opened.poll(made) is Outcome.PENDING


@in_loop
async def test_a_user_code_that_is_another_devices_by_now_decides_nothing(where: Where) -> None:
    async with open_codes(where) as opened:
        made = await opened.codes.make("", is_pair=False)
        device = await opened.codes.find(made.user_code)
        assert device is not None
        await opened.client.command("SET", schema.user_code(made.user_code), "another")
        assert not await opened.codes.approve(device, opened.user)


@in_loop
async def test_a_user_code_is_one_devices_at_a_time(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_codes(where) as opened:
        made = await opened.codes.make("", is_pair=False)
        drawn = iter([made.user_code, made.user_code, "BBBB-2222"])
        monkeypatch.setattr(user_code, "draw", lambda: next(drawn))
        other = await opened.codes.make("", is_pair=False)
        assert other.user_code == "BBBB-2222"
        monkeypatch.setattr(user_code, "draw", lambda: made.user_code)
        with pytest.raises(RelayError, match="overloaded"):
            await opened.codes.make("", is_pair=False)
        found = await opened.codes.find(made.user_code)
        assert found is not None
        assert found.digest == digest(made)
        # Other tests may draw it, too.
        assert await opened.decide(other, approves=False)


@in_loop
async def test_what_a_device_says_of_itself_is_kept_in_one_short_line(where: Where) -> None:
    async with open_codes(where) as opened:
        made = await opened.codes.make("a\nb\x00" + "\ud800" + "c" * 500, is_pair=False)
        device = await opened.codes.find(made.user_code.lower().replace("-", " "))
        assert device is not None
        assert device.hint == "a?b??" + "c" * 195


@pytest.mark.parametrize("device_code", ["", "x" * 43, "\ud800", "x" * 100_000])
def test_a_code_that_nobody_was_given_is_unknown(where: Where, device_code: str) -> None:
    @in_loop
    async def poll() -> None:
        async with open_codes(where) as opened:
            assert await opened.codes.poll(device_code) == (Outcome.UNKNOWN, None)

    poll()
