"""What a worker allows of a bucket that it shares with others, and when it asks."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from actors.ports import StoreError
from pulsar_relay.kinds import Rate
from pulsar_relay.limits.allowance import KEPT_SECONDS, Allowances, slice_of
from pulsar_relay.limits.buckets import Buckets, Taken
from pulsar_relay.settings import ValkeySettings
from pulsar_relay.store.client import make_client
from tests.stores import Where, in_loop, open_store, until

FAST = Rate(100_000, 100.0)
"""A slice of 20."""
SLOW = Rate(5, 86_400.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class CountedBuckets(Buckets):
    """Real ones that count how often they are asked."""

    asked = 0

    async def take(self, name: str, rate: Rate, most: int, least: int) -> Taken:
        self.asked += 1
        return await super().take(name, rate, most, least)


@asynccontextmanager
async def opened(
    where: Where, rate: Rate, *, fails_open: bool = True
) -> AsyncIterator[tuple[Allowances, CountedBuckets, Clock]]:
    async with open_store(where) as store:
        buckets, clock = CountedBuckets(store.client), Clock()
        name = secrets.token_hex(4)
        allowances = Allowances(buckets, name, rate, fails_open=fails_open, now=clock)
        yield allowances, buckets, clock
        await allowances.aclose()


def test_a_slice_is_what_comes_in_20_ms_and_no_less_than_one() -> None:
    assert slice_of(Rate(10_000, 1.0)) == 200
    assert slice_of(Rate(5, 60.0)) == slice_of(Rate(49, 1.0)) == 1


@in_loop
async def test_few_of_many_requests_ask_valkey(where: Where) -> None:
    async with opened(where, FAST) as (allowances, buckets, _):
        for _ in range(1000):
            assert (await allowances.take("u")).is_allowed
            await asyncio.sleep(0)
        assert buckets.asked <= 1000 / (slice_of(FAST) / 2)


@in_loop
async def test_the_first_request_does_not_wait_for_valkey(where: Where) -> None:
    async with opened(where, FAST) as (allowances, buckets, _):
        taking = allowances.take("u")
        # It ends without having waited for anything.
        with pytest.raises(StopIteration) as ended:
            taking.send(None)
        assert ended.value.value.is_allowed
        await until(lambda: buckets.asked == 1)


@in_loop
async def test_what_is_at_hand_is_taken_at_once_and_beyond_what_may_be_lent_nothing(where: Where) -> None:
    async with opened(where, FAST) as (allowances, _, _):
        size = slice_of(FAST)
        assert [allowances.take_now("u") is not None for _ in range(size + 1)] == [True] * size + [False]
        assert (await allowances.take("u")).is_allowed
        assert allowances.take_now("u", size + 1) is None
    async with opened(where, SLOW) as (allowances, _, _):
        assert allowances.take_now("u") is None


@in_loop
async def test_a_slow_rate_is_counted_exactly_and_each_request_asks(where: Where) -> None:
    async with opened(where, SLOW) as (allowances, buckets, _):
        verdicts = [await allowances.take("u") for _ in range(5)]
        assert [verdict.remaining for verdict in verdicts] == [4, 3, 2, 1, 0]
        assert buckets.asked == 5


@in_loop
async def test_who_was_refused_is_refused_without_asking_until_there_is_one_again(where: Where) -> None:
    async with opened(where, SLOW) as (allowances, buckets, clock):
        for _ in range(5):
            await allowances.take("u")
        refused = await allowances.take("u")
        asked = buckets.asked
        for _ in range(100):
            assert not (await allowances.take("u")).is_allowed
        assert buckets.asked == asked
        assert 17_000 < refused.retry_after_seconds <= 17_280
        assert refused.headers["Retry-After"] == "17280" and refused.headers["X-RateLimit-Remaining"] == "0"
        clock.now += refused.retry_after_seconds + 1
        await allowances.take("u")
        assert buckets.asked == asked + 1


@pytest.mark.parametrize("workers", [1, 4])
@in_loop
async def test_all_workers_together_allow_no_more_than_the_bucket_and_a_slice_each(
    where: Where, workers: int
) -> None:
    rate = Rate(4000, 20.0)  # a slice of 4
    name = secrets.token_hex(4)
    async with open_store(where) as store:
        clock = Clock()
        all_of_them = [
            Allowances(Buckets(store.client), name, rate, fails_open=True, now=clock) for _ in range(workers)
        ]
        began = asyncio.get_running_loop().time()

        async def flood(allowances: Allowances) -> int:
            allowed = 0
            for _ in range(4 * rate.count // workers):
                allowed += (await allowances.take("u")).is_allowed
            return allowed

        allowed = sum(await asyncio.gather(*map(flood, all_of_them)))
        elapsed = asyncio.get_running_loop().time() - began
        most = rate.count + rate.per_second * elapsed + workers * slice_of(rate)
        assert rate.count <= allowed <= most + 1
        for one in all_of_them:
            await one.aclose()


@in_loop
async def test_what_was_lent_is_paid_before_anything_is_allowed_again(where: Where) -> None:
    rate = Rate(1000, 10.0)  # a slice of 2
    name = secrets.token_hex(4)
    async with open_store(where) as store:
        clock = Clock()
        buckets = CountedBuckets(store.client)
        assert (await buckets.take(name + ":u", rate, 1000, 1)).count == 1000
        allowances = Allowances(buckets, name, rate, fails_open=True, now=clock)
        verdicts = [await allowances.take("u") for _ in range(50)]
        assert sum(verdict.is_allowed for verdict in verdicts) <= 2 * slice_of(rate)
        assert not verdicts[-1].is_allowed and verdicts[-1].retry_after_seconds > 0
        await allowances.aclose()


@in_loop
async def test_a_request_that_costs_more_than_a_slice_asks_and_one_beyond_the_bucket_takes_all(
    where: Where,
) -> None:
    async with opened(where, Rate(100, 86_400.0)) as (allowances, _, _):
        assert (await allowances.take("u", 60)).remaining == 40
        assert not (await allowances.take("u", 60)).is_allowed
        # Too many at once were refused; fewer are there.
        assert (await allowances.take("u", 1)).is_allowed
        assert (await allowances.take("other", 1000)).is_allowed
        assert not (await allowances.take("other")).is_allowed


@in_loop
async def test_users_have_buckets_of_their_own(where: Where) -> None:
    async with opened(where, SLOW) as (allowances, _, _):
        for _ in range(5):
            await allowances.take("u")
        assert not (await allowances.take("u")).is_allowed
        assert (await allowances.take("v")).is_allowed


@in_loop
async def test_tokens_that_were_not_used_in_time_are_given_up(where: Where) -> None:
    async with opened(where, FAST) as (allowances, buckets, clock):
        await allowances.take("u")
        await until(lambda: buckets.asked == 1)
        await allowances.aclose()
        clock.now += KEPT_SECONDS + 0.1
        await allowances.take("u")
        await until(lambda: buckets.asked == 2)


@in_loop
async def test_who_is_not_heard_of_is_forgotten(where: Where) -> None:
    async with opened(where, SLOW) as (allowances, _, clock):
        for number in range(100):
            await allowances.take(f"address {number}")
        assert len(allowances) == 100
        for _ in range(3):
            clock.now += 120
            await allowances.take("u")
        assert len(allowances) == 1


@asynccontextmanager
async def buckets_nowhere(directory: Path) -> AsyncIterator[Buckets]:
    """Of a Valkey that is not there."""
    client = make_client(ValkeySettings(), str(directory / "nobody"))
    yield Buckets(client)
    await client.aclose()


@pytest.mark.parametrize("rate", [FAST, SLOW])
@in_loop
async def test_without_valkey_a_class_that_fails_open_goes_on(tmp_path: Path, rate: Rate) -> None:
    async with buckets_nowhere(tmp_path) as buckets:
        allowances = Allowances(buckets, "publish", rate, fails_open=True, now=Clock())
        for _ in range(200):
            assert (await allowances.take("u")).is_allowed
        await allowances.aclose()


@in_loop
async def test_without_valkey_a_class_that_fails_closed_is_refused_as_the_store_is(tmp_path: Path) -> None:
    async with buckets_nowhere(tmp_path) as buckets:
        allowances = Allowances(buckets, "login", SLOW, fails_open=False, now=Clock())
        with pytest.raises(StoreError):
            await allowances.take("u")
        await allowances.aclose()


class BrokenBuckets(Buckets):
    """A bug, not a Valkey that is away."""

    async def take(self, name: str, rate: Rate, most: int, least: int) -> Taken:
        raise ZeroDivisionError


@in_loop
async def test_a_bug_ends_the_request_and_does_not_keep_it_for_ever(tmp_path: Path) -> None:
    async with buckets_nowhere(tmp_path) as nowhere:
        allowances = Allowances(BrokenBuckets(nowhere._client), "publish", FAST, fails_open=True, now=Clock())
        takes = [allowances.take("u") for _ in range(3 * slice_of(FAST))]
        outcomes = await asyncio.gather(*takes, return_exceptions=True)
        assert isinstance(outcomes[-1], ZeroDivisionError)
        await allowances.aclose()
