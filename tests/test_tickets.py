"""Tickets in a real Valkey: good once, for a while, for what they were issued for."""

from __future__ import annotations

import asyncio
import hashlib

import msgspec
import pytest

from actors.ports import StoreError
from pulsar_relay.accounts import schema
from pulsar_relay.accounts.tickets import Tickets
from tests.stores import Where, in_loop, open_store


class Seat(msgspec.Struct, frozen=True):
    row: int
    name: str | None


@in_loop
async def test_a_ticket_is_redeemed_once_on_whichever_worker(where: Where) -> None:
    async with open_store(where) as one, open_store(where) as other:
        tickets = [Tickets(opened.client, "seat", Seat, 60) for opened in (one, other)]
        text = await tickets[0].issue(Seat(3, None))
        found = await asyncio.gather(*[tickets[number % 2].redeem(text) for number in range(10)])
        assert sorted(found, key=bool) == [None] * 9 + [Seat(3, None)]


@in_loop
async def test_a_ticket_is_not_in_valkey_and_expires(where: Where) -> None:
    async with open_store(where) as opened:
        tickets = Tickets(opened.client, "seat", Seat, 60)
        text = await tickets.issue(Seat(3, "x"))
        assert await opened.client.command("EXISTS", schema.ticket("seat", text)) == 0
        digest = hashlib.sha256(text.encode()).hexdigest()
        left_ms = await opened.client.command("PTTL", schema.ticket("seat", digest))
        assert 50_000 < left_ms <= 60_000


@in_loop
async def test_a_ticket_is_for_one_kind_of_thing(where: Where) -> None:
    async with open_store(where) as opened:
        text = await Tickets(opened.client, "seat", Seat, 60).issue(Seat(3, "x"))
        assert await Tickets(opened.client, "coat", Seat, 60).redeem(text) is None


@pytest.mark.parametrize("text", ["", "x" * 43, "x" * 1000, "\ud800", "\u00e4"])
def test_what_is_no_ticket_stands_for_nothing(where: Where, text: str) -> None:
    @in_loop
    async def redeem() -> None:
        async with open_store(where) as opened:
            assert await Tickets(opened.client, "seat", Seat, 60).redeem(text) is None

    redeem()


@in_loop
async def test_a_ticket_that_cannot_be_read_is_the_stores_fault(where: Where) -> None:
    async with open_store(where) as opened:
        text = "a" * 43
        digest = hashlib.sha256(text.encode()).hexdigest()
        await opened.client.command("SET", schema.ticket("seat", digest), b"{")
        with pytest.raises(StoreError, match="a ticket cannot be read"):
            await Tickets(opened.client, "seat", Seat, 60).redeem(text)
