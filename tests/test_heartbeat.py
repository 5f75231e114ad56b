"""Heartbeats: who is pinged when, and when silence is death. In a loop whose clock jumps."""

from __future__ import annotations

import asyncio

import pytest

from pulsar_relay.web.heartbeat import Heartbeats
from tests.skipped_time import run


class Peer:
    """What a heartbeat sees of its peer, and what it did."""

    def __init__(
        self,
        interval: float,
        timeout: float,
        patience: float = 60.0,
        *,
        answers: bool = False,
        heartbeats: Heartbeats | None = None,
    ) -> None:
        self.heard = 0
        self.held: object = None
        self.answers = answers
        self.pings: list[int] = []
        self.silences: list[int] = []
        self.heartbeats = heartbeats or Heartbeats(interval, timeout, patience)
        if heartbeats is None:
            self.heartbeats.watch(self)

    def now(self) -> int:
        return round(asyncio.get_running_loop().time())

    def ping(self) -> None:
        self.pings.append(self.now())
        if self.answers:
            self.hear_in(1)

    def life(self) -> object:
        return self.heard

    def hold(self) -> object:
        return self.held

    def on_silence(self) -> None:
        self.silences.append(self.now())

    def hear_in(self, seconds: float) -> None:
        def hear() -> None:
            self.heard += 1

        asyncio.get_running_loop().call_later(seconds, hear)

    def hold_at(self, seconds: float, held: object) -> None:
        def hold() -> None:
            self.held = held

        asyncio.get_running_loop().call_at(seconds, hold)


@pytest.mark.parametrize("timeout", [5, 20, 25, 60])
def test_a_peer_that_answers_is_pinged_every_interval(timeout: float) -> None:
    async def scenario() -> Peer:
        peer = Peer(25, timeout, answers=True)
        await asyncio.sleep(251)
        return peer

    peer = run(scenario())
    assert peer.pings == [25 * beat for beat in range(1, 11)]
    assert peer.silences == []


@pytest.mark.parametrize("timeout", [5, 20, 25, 60])
def test_silence_is_told_once_when_a_ping_was_not_answered_in_time(timeout: float) -> None:
    async def scenario() -> Peer:
        peer = Peer(25, timeout)
        await asyncio.sleep(1000)
        return peer

    assert run(scenario()).silences == [25 + timeout]


def test_whatever_is_heard_is_life() -> None:
    async def scenario() -> Peer:
        peer = Peer(25, 20)
        peer.hear_in(44)
        await asyncio.sleep(80)
        return peer

    peer = run(scenario())
    assert peer.pings == [25, 50] and peer.silences == [70]


def test_what_was_heard_before_the_ping_is_no_answer_to_it() -> None:
    async def scenario() -> Peer:
        peer = Peer(25, 20)
        peer.hear_in(24)
        await asyncio.sleep(100)
        return peer

    assert run(scenario()).silences == [45]


def test_a_ping_that_cannot_go_out_yet_is_no_silence_as_long_as_something_moves() -> None:
    async def scenario() -> Peer:
        peer = Peer(25, 20, patience=60)
        for second in range(0, 300, 10):
            peer.hold_at(second, f"{second} bytes taken")
        peer.hold_at(300, None)
        await asyncio.sleep(1000)
        return peer

    # The time to answer begins when it has gone out.
    [silence] = run(scenario()).silences
    assert 320 <= silence <= 345


def test_a_hold_in_which_nothing_moves_ends_with_patience() -> None:
    async def scenario() -> Peer:
        peer = Peer(25, 20, patience=60)
        peer.hold_at(0, "stuck")
        await asyncio.sleep(1000)
        return peer

    [silence] = run(scenario()).silences
    assert 45 + 60 <= silence <= 45 + 60 + 20


def test_a_peer_that_answers_after_a_hold_goes_on_being_pinged() -> None:
    async def scenario() -> Peer:
        peer = Peer(25, 20)
        peer.hold_at(20, "stuck")
        peer.hold_at(60, None)
        peer.hear_in(76)
        peer.hear_in(101)
        await asyncio.sleep(110)
        return peer

    peer = run(scenario())
    assert peer.pings == [25, 50, 75, 100]
    assert peer.silences == []


def test_a_peer_that_is_forgotten_hears_and_tells_nothing() -> None:
    async def scenario() -> Peer:
        peer = Peer(25, 20)
        await asyncio.sleep(30)
        peer.heartbeats.forget(peer)
        peer.heartbeats.forget(peer)
        await asyncio.sleep(1000)
        return peer

    peer = run(scenario())
    assert (peer.pings, peer.silences) == ([25], [])


def test_a_pong_is_an_answer_before_the_time_is_over() -> None:
    async def scenario() -> Peer:
        peer = Peer(25, 20)
        await asyncio.sleep(30)
        peer.heartbeats.answered(peer)
        await asyncio.sleep(100)
        return peer

    peer = run(scenario())
    assert (peer.pings, peer.silences) == ([25, 50], [70])


def test_many_peers_are_each_pinged_in_their_own_time_and_by_one_timer() -> None:
    async def scenario() -> list[Peer]:
        heartbeats = Heartbeats(25, 20, 60.0)
        peers = [Peer(25, 20, answers=number % 2 == 0, heartbeats=heartbeats) for number in range(10)]
        for peer in peers:
            heartbeats.watch(peer)
            await asyncio.sleep(2)
        heartbeats.forget(peers[4])
        assert len(heartbeats) == 9
        await asyncio.sleep(100)
        return peers

    for number, peer in enumerate(run(scenario())):
        begun = 2 * number
        if number == 4:
            assert peer.pings == []
        elif number % 2:
            assert (peer.pings, peer.silences) == ([begun + 25], [begun + 45])
        else:
            assert peer.pings == [begun + 25 * beat for beat in range(1, 5)]
            assert peer.silences == []


def test_a_peer_that_leaves_while_another_is_told_of_is_not_told_of_itself() -> None:
    async def scenario() -> tuple[Peer, Peer]:
        heartbeats = Heartbeats(25, 20, 60.0)
        first, second = Peer(25, 20, heartbeats=heartbeats), Peer(25, 20, heartbeats=heartbeats)
        first.on_silence = lambda: heartbeats.forget(second)  # type: ignore[method-assign]
        heartbeats.watch(first)
        heartbeats.watch(second)
        await asyncio.sleep(200)
        assert len(heartbeats) == 0
        return first, second

    _first, second = run(scenario())
    assert (second.pings, second.silences) == ([25], [])
