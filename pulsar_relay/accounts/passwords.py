"""Passwords: argon2id, in threads, so that the loop goes on, and few at a time, so that memory does not go.

One computation takes some 20 ms of a core and 19 MiB, the least that OWASP asks for: a password store that is
stolen costs its thief that much a guess, and a relay that is flooded with logins loses 38 MiB and two
threads, not its service. Beyond a short queue further logins are answered 503 at once.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2

from pulsar_relay.accounts.user import PASSWORD_MOST
from pulsar_relay.errors import RelayError

T = TypeVar("T")

MEMORY_KIB, PASSES, LANES = 19 * 1024, 2, 1
"""One lane, since several would use as many cores for a single login."""
AT_ONCE = 2
MOST_WAITING = 64
"""At 20 ms each and two at once the last of them waits less than a second."""
MOST_MEMORY_KIB, MOST_PASSES, MOST_LANES = 256 * 1024, 16, 16
"""Of a hash that another server made: what it says is what its verification costs us."""


def default_hasher() -> argon2.PasswordHasher:
    return argon2.PasswordHasher(PASSES, MEMORY_KIB, LANES)


class Passwords:
    """Its methods raise RelayError `overloaded` when too many wait. A caller that is cancelled goes; its
    computation is finished, and counts as waiting until then.
    """

    def __init__(
        self, hasher: argon2.PasswordHasher, *, at_once: int = AT_ONCE, most_waiting: int = MOST_WAITING
    ) -> None:
        self._hasher = hasher
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="passwords")
        self._most = at_once + most_waiting
        self._under_way = 0
        # What is verified where there is no password: that must take as long.
        self._decoy = hasher.hash(secrets.token_hex(16))

    @property
    def under_way(self) -> int:
        """Computations that run or wait."""
        return self._under_way

    async def hash(self, password: str) -> str:
        return await self._compute(lambda: self._hasher.hash(password))

    async def verify(self, encoded: str | None, password: str) -> bool:
        """Whether the password is the encoded one. None for nobody's: that takes as long, and is False."""
        is_possible = encoded is not None and len(password) <= PASSWORD_MOST
        against = encoded if encoded is not None and is_possible else self._decoy
        shortened = password[:PASSWORD_MOST]
        return await self._compute(lambda: self._matches(against, shortened)) and is_possible

    def is_outdated(self, encoded: str) -> bool:
        """Whether it was made with other parameters than today's, and should be made anew."""
        return self._hasher.check_needs_rehash(encoded)

    def close(self) -> None:
        """What waits is dropped, what runs is waited for."""
        self._threads.shutdown(cancel_futures=True)

    def _matches(self, encoded: str, password: str) -> bool:
        try:
            return self._hasher.verify(encoded, password.encode("utf-8", "surrogatepass"))
        except (argon2.exceptions.VerifyMismatchError, argon2.exceptions.InvalidHashError):
            return False

    async def _compute(self, work: Callable[[], T]) -> T:
        if self._under_way >= self._most:
            raise RelayError("overloaded", "Too many logins at the same time.")
        self._under_way += 1
        done = asyncio.get_running_loop().run_in_executor(self._threads, work)
        done.add_done_callback(self._finish)
        # Cancelling what runs in a thread would only hide that it runs.
        return await asyncio.shield(done)

    def _finish(self, done: asyncio.Future[T]) -> None:
        self._under_way -= 1
        if not done.cancelled():
            done.exception()  # who asked may have gone


def check_foreign(encoded: str) -> None:
    """ValueError if a hash of another server's is none of argon2id, or would cost too much to verify."""
    try:
        told = argon2.extract_parameters(encoded)
    except argon2.exceptions.InvalidHashError:
        raise ValueError("is no argon2 hash") from None
    if told.type is not argon2.Type.ID:
        raise ValueError("is not of argon2id")
    if told.memory_cost > MOST_MEMORY_KIB or told.time_cost > MOST_PASSES or told.parallelism > MOST_LANES:
        raise ValueError("would cost too much to verify")
