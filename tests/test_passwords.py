"""Passwords: how long they take, and whom they hold up."""

from __future__ import annotations

import asyncio
import threading

import argon2
import pytest

from pulsar_relay.accounts import passwords
from pulsar_relay.accounts.passwords import Passwords, check_foreign, default_hasher
from pulsar_relay.errors import RelayError
from tests.accounts import cheap_passwords
from tests.stores import in_loop, until


class StuckHasher(argon2.PasswordHasher):
    """One whose computations end when they are let go; it notes what was verified."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.gate = threading.Event()
        self.verified: list[str | bytes] = []

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # noqa: A002 - argon2's name
        self.verified.append(hash)
        self.gate.wait(30)
        return super().verify(hash, password)


def test_hashes_are_of_argon2id_with_at_least_what_owasp_asks_for() -> None:
    told = argon2.extract_parameters(default_hasher().hash("a password"))
    assert told.type is argon2.Type.ID
    assert told.memory_cost >= 19 * 1024
    assert told.time_cost >= 2


@in_loop
async def test_a_password_is_known_again_and_no_other_is() -> None:
    ours = cheap_passwords()
    encoded = await ours.hash("pässwörd")
    assert await ours.verify(encoded, "pässwörd")
    for wrong in ("passwörd", "", "pässwörd ", "x" * 5000, "\ud800"):
        assert not await ours.verify(encoded, wrong)
    assert not await ours.verify("not a hash", "pässwörd")
    ours.close()


@in_loop
async def test_nobodys_password_costs_one_computation_of_the_same_size_and_never_matches() -> None:
    hasher = StuckHasher()
    hasher.gate.set()
    ours = Passwords(hasher)
    assert not await ours.verify(None, "guessed")
    (decoy,) = hasher.verified
    assert isinstance(decoy, str)
    assert argon2.extract_parameters(decoy) == argon2.extract_parameters(hasher.hash("x"))
    ours.close()


@in_loop
async def test_the_loop_goes_on_and_beyond_a_short_queue_is_told_at_once() -> None:
    hasher = StuckHasher()
    ours = Passwords(hasher, at_once=1, most_waiting=2)
    waiting = [asyncio.ensure_future(ours.verify(None, "p")) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(RelayError) as refused:
        await ours.verify(None, "p")
    assert refused.value.code == "overloaded"
    hasher.gate.set()
    assert await asyncio.gather(*waiting) == [False] * 3
    assert not await ours.verify(None, "p")
    ours.close()


@in_loop
async def test_who_goes_away_leaves_a_place_only_when_the_computation_is_over() -> None:
    hasher = StuckHasher()
    ours = Passwords(hasher, at_once=1, most_waiting=0)
    gone = asyncio.ensure_future(ours.verify(None, "p"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    assert gone.cancelled()
    assert ours.under_way == 1
    hasher.gate.set()
    await until(lambda: not ours.under_way)
    assert not await ours.verify(None, "p")
    ours.close()


def test_a_foreign_hash_may_be_of_usual_cost_and_no_more() -> None:
    check_foreign(argon2.PasswordHasher().hash("x"))
    check_foreign(default_hasher().hash("x"))
    for wrong in (
        "plain",
        "",
        argon2.PasswordHasher(type=argon2.Type.I, time_cost=1, memory_cost=64).hash("x"),
        f"$argon2id$v=19$m={passwords.MOST_MEMORY_KIB + 1},t=1,p=1$c29tZXNhbHQ$aGFzaGhhc2g",
        f"$argon2id$v=19$m=8,t={passwords.MOST_PASSES + 1},p=1$c29tZXNhbHQ$aGFzaGhhc2g",
        f"$argon2id$v=19$m=999,t=1,p={passwords.MOST_LANES + 1}$c29tZXNhbHQ$aGFzaGhhc2g",
    ):
        with pytest.raises(ValueError, match=r"^(is no|would cost)"):
            check_foreign(wrong)
