"""Seats that workers share: nobody has more than they may, and what the dead held comes back."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import pytest
import valkey as valkey_client

from pulsar_relay.limits.seats import LEASE_SECONDS, SPARE_PART, Seat, Seats
from pulsar_relay.settings import ValkeySettings
from pulsar_relay.store.client import make_client
from tests.stores import Where, in_loop, open_store, until


def seats_of(opened: object, limit: int | None, kind: str = "polls", worker: str = "") -> Seats:
    return Seats(opened.client, kind, limit, worker or secrets.token_hex(4))  # type: ignore[attr-defined]


def somebody() -> str:
    return f"user:{secrets.token_hex(4)}"


async def take_all(seats: Seats, who: str, attempts: int) -> list[Seat]:
    taken = await asyncio.gather(*(seats.take(who) for _ in range(attempts)))
    return [seat for seat in taken if seat is not None]


@in_loop
async def test_a_user_gets_the_seats_there_are_and_one_that_is_left_can_be_taken(where: Where) -> None:
    async with open_store(where) as opened:
        seats, who = seats_of(opened, 3), somebody()
        taken = await take_all(seats, who, 5)
        assert len(taken) == 3 and seats.taken_by(who) == 3
        taken[0].leave()
        taken[0].leave()
        assert seats.taken_by(who) == 2
        with await seats.take(who) as _:  # type: ignore[union-attr]
            assert await seats.take(who) is None
        assert await seats.take(who) is not None


@pytest.mark.parametrize("limit", [1, 10, 200])
@in_loop
async def test_workers_share_them_and_give_none_beyond(where: Where, limit: int) -> None:
    async with open_store(where) as one, open_store(where) as two:
        who = somebody()
        workers = [seats_of(opened, limit) for opened in (one, two, one, two)]
        taken = await asyncio.gather(*(take_all(seats, who, limit) for seats in workers))
        spare = (len(workers) - 1) * (limit // SPARE_PART)
        assert limit - spare <= sum(map(len, taken)) <= limit


@in_loop
async def test_what_one_worker_gives_back_another_can_have(where: Where) -> None:
    async with open_store(where) as opened:
        who, one, two = somebody(), seats_of(opened, 2), seats_of(opened, 2)
        taken = await take_all(one, who, 2)
        assert await two.take(who) is None
        for seat in taken:
            seat.leave()
        await until(lambda: not len(one))
        assert len(await take_all(two, who, 2)) == 2


@in_loop
async def test_a_worker_that_stops_gives_all_back(where: Where) -> None:
    async with open_store(where) as opened:
        who, one, two = somebody(), seats_of(opened, 1), seats_of(opened, 1)
        assert await one.take(who)
        await one.aclose()
        assert await two.take(who)


@in_loop
async def test_the_seats_of_a_worker_that_died_come_back_when_its_lease_ends(valkey: str) -> None:
    async with open_store(valkey) as opened:
        who, dead, living = somebody(), seats_of(opened, 1, worker="dead"), seats_of(opened, 1)
        assert await dead.take(who)
        assert await living.take(who) is None
        with valkey_client.Valkey(unix_socket_path=valkey) as client:
            key = f"relay:seats:polls:{who}"
            assert 0 < client.pttl(key) <= LEASE_SECONDS * 1000
            seconds, _ = client.time()
            # As if the time had come.
            client.hset(key, "dead", f"1 {seconds * 1000 - 1}")
        assert await living.take(who)


@in_loop
async def test_what_is_renewed_does_not_end(valkey: str) -> None:
    async with open_store(valkey) as opened:
        who, seats, other = somebody(), seats_of(opened, 1, worker="w"), seats_of(opened, 1)
        assert await seats.take(who)
        with valkey_client.Valkey(unix_socket_path=valkey) as client:
            key = f"relay:seats:polls:{who}"
            client.pexpire(key, 60_000)
            client.hset(key, "w", "1 5")
            await seats.renew()
            ends = int(client.hget(key, "w").split()[1])
            assert ends > client.time()[0] * 1000
        assert await other.take(who) is None


@in_loop
async def test_kinds_and_users_do_not_share(where: Where) -> None:
    async with open_store(where) as opened:
        who = somebody()
        assert await seats_of(opened, 1).take(who)
        assert await seats_of(opened, 1, kind="connections").take(who)
        assert await seats_of(opened, 1).take(somebody())


@in_loop
async def test_a_user_with_none_left_is_forgotten(where: Where) -> None:
    async with open_store(where) as opened:
        seats = seats_of(opened, 128)
        for _ in range(50):
            who = somebody()
            taken = await take_all(seats, who, 3)
            for seat in taken:
                seat.leave()
        await seats.renew()
        await until(lambda: not len(seats))


@in_loop
async def test_polls_that_end_and_begin_again_ask_little_where_there_are_many(valkey: str) -> None:
    async with open_store(valkey) as opened:
        seats, who = seats_of(opened, 640), somebody()
        first = await seats.take(who)
        assert first
        first.leave()
        with valkey_client.Valkey(unix_socket_path=valkey) as client:
            before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
            for _ in range(500):
                seat = await seats.take(who)
                assert seat
                seat.leave()
                await asyncio.sleep(0)
                again = seats.take_now(who)
                assert again
                again.leave()
            assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == before


@in_loop
async def test_at_once_there_are_only_those_at_hand(where: Where) -> None:
    async with open_store(where) as opened:
        seats, who = seats_of(opened, 2), somebody()
        assert seats.take_now(who) is None
        taking = asyncio.ensure_future(seats.take(who))
        await asyncio.sleep(0)
        # Somebody talks to Valkey about them.
        assert seats.take_now(who) is None
        assert await taking and seats.take_now(who) is None
        seats.limit = None
        assert seats.take_now(who)


@in_loop
async def test_a_seat_that_is_left_after_the_end_is_nobodys(where: Where) -> None:
    async with open_store(where) as opened:
        seats, who = seats_of(opened, 2), somebody()
        seat = await seats.take(who)
        assert seat
        await seats.aclose()
        seat.leave()
        assert not len(seats)


@in_loop
async def test_a_lower_limit_takes_nothing_away_and_gives_nothing_more(where: Where) -> None:
    async with open_store(where) as opened:
        seats, who = seats_of(opened, 5), somebody()
        taken = await take_all(seats, who, 5)
        seats.limit = 2
        await seats.renew()
        assert seats.taken_by(who) == 5
        for seat in taken[:3]:
            seat.leave()
        assert await seats.take(who) is None
        taken[3].leave()
        assert await seats.take(who) is not None


@in_loop
async def test_without_a_limit_nobody_counts(tmp_path: Path) -> None:
    client = make_client(ValkeySettings(), str(tmp_path / "nobody"))
    seats = Seats(client, "polls", None, "w")
    for _ in range(100):
        assert await seats.take("u")
    await client.aclose()


@in_loop
async def test_without_valkey_each_worker_goes_by_what_it_knows(tmp_path: Path) -> None:
    client = make_client(ValkeySettings(), str(tmp_path / "nobody"))
    seats = Seats(client, "polls", 3, "w")
    taken = await take_all(seats, "u", 5)
    assert len(taken) == 3
    taken[0].leave()
    assert await seats.take("u")
    await client.aclose()
