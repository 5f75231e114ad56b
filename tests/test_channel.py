from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop

from pulsar_relay.supervision import channel as channels
from pulsar_relay.supervision.channel import Channel


async def pair() -> tuple[Channel, Channel]:
    ours, theirs = socket.socketpair()
    return await Channel.over(ours), await Channel.over(theirs)


def test_notes_arrive_whole_and_in_order_until_the_end() -> None:
    notes = [b"", b"one", b"x" * 3_000_000, b"last"]

    async def scenario() -> None:
        one, other = await pair()
        for note in notes:
            one.send(note)
        one.close()
        assert [note async for note in other.notes()] == notes
        assert await other.receive() is None
        other.close()

    uvloop.run(scenario())


def test_the_end_in_the_middle_of_a_note_is_the_end() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        with ours:
            ours.sendall((100).to_bytes(4, "big") + b"half")
        other = await Channel.over(theirs)
        assert await other.receive() is None
        other.close()

    uvloop.run(scenario())


def test_who_is_gone_is_told_nothing_and_that_is_no_error() -> None:
    async def scenario() -> None:
        one, other = await pair()
        other.close()
        assert await one.receive() is None
        for _ in range(10):
            one.send(b"hello")
            await one.flush()
        one.close()
        one.send(b"hello")

    uvloop.run(scenario())


def test_for_who_does_not_read_only_so_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "MOST_WAITING_BYTES", 100_000)

    async def scenario() -> int:
        one, other = await pair()
        for _ in range(10_000):
            one.send(b"x" * 1000)
        one.close()
        arrived = 0
        async with asyncio.timeout(20):
            async for note in other.notes():
                assert note == b"x" * 1000
                arrived += 1
        other.close()
        return arrived

    # What is in the kernel's buffers comes on top.
    assert 100 < uvloop.run(scenario()) < 2000
