"""Accounts under test: their parts over a real Valkey, with passwords that are cheap to compute."""

from __future__ import annotations

import time

import argon2

from pulsar_relay.accounts.passwords import Passwords


def cheap_passwords(**arguments: int) -> Passwords:
    """As the relay's, at a thousandth of the cost."""
    return Passwords(argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1), **arguments)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def nothing() -> None:
    """What is awaited where no worker has to take note."""


SECRET = "a secret for tests, of more than 32 bytes"


class Clock:
    """A clock that a test moves, for the wall and for what is monotonic. It ticks a little each time."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now

    def milliseconds(self) -> int:
        return int(self.now * 1000)
