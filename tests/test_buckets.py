"""Token buckets in a real Valkey, by its clock."""

from __future__ import annotations

import asyncio
import secrets

import pytest
import valkey as valkey_client

from pulsar_relay.kinds import Rate
from pulsar_relay.limits.buckets import Buckets
from tests.stores import Where, in_loop, open_store

DAY = 86_400.0


@in_loop
async def test_a_bucket_gives_what_it_holds_and_then_says_how_long_to_wait(where: Where) -> None:
    async with open_store(where) as opened:
        buckets, name = Buckets(opened.client), secrets.token_hex(4)
        for left in (4, 3, 2, 1, 0):
            taken = await buckets.take(name, Rate(5, DAY), 1, 1)
            assert (taken.count, taken.left, taken.wait_seconds) == (1, left, 0)
        refused = await buckets.take(name, Rate(5, DAY), 1, 1)
        assert refused.count == 0 and DAY / 5 - 60 < refused.wait_seconds <= DAY / 5
        assert DAY - 60 < refused.full_seconds <= DAY


@in_loop
async def test_of_many_that_take_at_the_same_time_no_more_get_than_there_are(where: Where) -> None:
    async with open_store(where) as one, open_store(where) as two:
        both, name = (Buckets(one.client), Buckets(two.client)), secrets.token_hex(4)
        attempts = [both[number % 2].take(name, Rate(7, DAY), 1, 1) for number in range(50)]
        assert sum(taken.count for taken in await asyncio.gather(*attempts)) == 7


@in_loop
async def test_fewer_will_do_down_to_the_least(where: Where) -> None:
    async with open_store(where) as opened:
        buckets, name = Buckets(opened.client), secrets.token_hex(4)
        assert (await buckets.take(name, Rate(10, DAY), 7, 1)).count == 7
        assert (await buckets.take(name, Rate(10, DAY), 7, 4)).count == 0
        assert (await buckets.take(name, Rate(10, DAY), 7, 1)).count == 3


@in_loop
async def test_a_bucket_fills_with_time(where: Where) -> None:
    async with open_store(where) as opened:
        buckets, name = Buckets(opened.client), secrets.token_hex(4)
        rate = Rate(1000, 1.0)
        assert (await buckets.take(name, rate, 1000, 1)).count == 1000
        seen = 0
        while seen < 200:
            seen += (await buckets.take(name, rate, 1000, 1)).count
            await asyncio.sleep(0.005)


@in_loop
async def test_another_rate_does_not_close_a_bucket_for_longer_than_it_takes_to_fill(where: Where) -> None:
    async with open_store(where) as opened:
        buckets, name = Buckets(opened.client), secrets.token_hex(4)
        await buckets.take(name, Rate(5, DAY), 5, 5)
        refused = await buckets.take(name, Rate(5, 10.0), 1, 1)
        assert refused.count == 0 and refused.wait_seconds <= 2


@in_loop
async def test_a_bucket_is_forgotten_when_it_is_full(valkey: str) -> None:
    async with open_store(valkey) as opened:
        name = secrets.token_hex(4)
        await Buckets(opened.client).take(name, Rate(2, 60.0), 1, 1)
        with valkey_client.Valkey(unix_socket_path=valkey) as client:
            assert 29_000 < client.pttl(f"relay:limit:{name}") <= 30_001


@in_loop
async def test_what_is_no_bucket_is_taken_for_a_full_one(valkey: str) -> None:
    async with open_store(valkey) as opened:
        name = secrets.token_hex(4)
        with valkey_client.Valkey(unix_socket_path=valkey) as client:
            client.set(f"relay:limit:{name}", "nonsense")
        assert (await Buckets(opened.client).take(name, Rate(5, DAY), 5, 5)).count == 5


@pytest.mark.parametrize("rate", [Rate(10_000_000, 1.0), Rate(10_000_000, DAY), Rate(1, DAY), Rate(3, 1.0)])
@in_loop
async def test_the_extremes_of_a_rate_can_be_counted(valkey: str, rate: Rate) -> None:
    async with open_store(valkey) as opened:
        buckets, name = Buckets(opened.client), secrets.token_hex(4)
        taken = await buckets.take(name, rate, rate.count, 1)
        assert taken.count == rate.count and taken.full_seconds == pytest.approx(rate.seconds, abs=0.01)
