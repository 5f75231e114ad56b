"""Seats: how much of a kind one user may have open at the same time, in all workers together.

Each worker holds seats for a user by a lease in Valkey, which it renews, and gives them away in memory. A
worker that dies has its seats back in the pool when the lease ends. A few more than are taken are held
where there are many, the last of them until the next renewal, so that a poll that ends and begins again asks
nobody; of those others cannot make use, so a user may be refused that much below the limit for each worker.
Above the limit nobody gets, except while Valkey is away: then each worker goes by what it knows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from actors.ports import StoreError
from pulsar_relay.store.client import Client, Script

logger = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
RENEW_SECONDS = LEASE_SECONDS / 3
SPARE_PART = 64
"""Up to one seat in so many is held without being taken."""
RENEWED_AT_ONCE = 100


class Seat:
    """Taken until it is left, which may be said twice. A context manager that leaves it."""

    def __init__(self, seats: Seats | None, who: str) -> None:
        self._seats = seats
        self._who = who

    def leave(self) -> None:
        seats, self._seats = self._seats, None
        if seats is not None:
            seats.take_back(self._who)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


NO_SEAT = Seat(None, "")
"""For who is not counted."""


class _Holding:
    """Of one user: the seats this worker has, and how many of them are taken. Who takes, or talks to Valkey
    about it, holds `lock`; `interested` counts them and those who wait to.
    """

    __slots__ = ("held", "interested", "lock", "most_idle", "taken")

    def __init__(self) -> None:
        self.held = 0
        self.taken = 0
        self.interested = 0
        self.most_idle = 0
        self.lock = asyncio.Lock()


class Seats:
    """Those of one kind, say `connections`. `limit` None: nobody counts. `worker` names this one's life.

    Somebody runs `run` beside it, and calls `aclose` at the end.
    """

    def __init__(self, client: Client, kind: str, limit: int | None, worker: str) -> None:
        self.limit = limit
        self._client = client
        self._kind = kind
        self._worker = worker
        self._script = Script("seats", "pulsar_relay.limits")
        self._holdings: dict[str, _Holding] = {}
        self._returns: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many users this worker holds seats for."""
        return len(self._holdings)

    def taken_by(self, who: str) -> int:
        """How many of this worker's they have."""
        holding = self._holdings.get(who)
        return 0 if holding is None else holding.taken

    def take_now(self, who: str) -> Seat | None:
        """A seat of those at hand; None where that is for `take` to ask for."""
        if self.limit is None:
            return Seat(None, who)
        holding = self._holdings.get(who)
        if holding is None or holding.interested:
            return None
        if holding.taken >= holding.held or holding.taken >= self.limit:
            return None
        holding.taken += 1
        return Seat(self, who)

    async def take(self, who: str) -> Seat | None:
        """A seat, or None if they have all they may. A caller that is cancelled has none."""
        if self.limit is None:
            return Seat(None, who)
        async with self._held(who) as holding:
            if self._has_all(holding):
                return None
            if holding.taken >= holding.held:
                await self._ask(who, holding, holding.taken + 1)
            if holding.taken >= holding.held:
                return None
            holding.taken += 1
            return Seat(self, who)

    def take_back(self, who: str) -> None:
        """A seat of theirs was left."""
        holding = self._holdings.get(who)
        if holding is None:
            return  # all were given back at the end
        holding.taken -= 1
        # The first that goes back takes along all that are left by the time it goes.
        if holding.held - holding.taken > holding.most_idle and not holding.interested:
            task = asyncio.ensure_future(self._settle(who))
            self._returns.add(task)
            task.add_done_callback(self._returns.discard)

    async def run(self) -> None:
        """Renew what is held, until cancelled."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            await self.renew()

    async def renew(self) -> None:
        """Renew what is held, and give back what was held of users who have gone."""
        names = list(self._holdings)
        for start in range(0, len(names), RENEWED_AT_ONCE):
            await asyncio.gather(*map(self._settle, names[start : start + RENEWED_AT_ONCE]))

    async def aclose(self) -> None:
        """Give all back: what is still taken is about to end."""
        for holding in self._holdings.values():
            holding.taken = 0
        await self.renew()

    def _has_all(self, holding: _Holding) -> bool:
        """By the limit as it is now: it may have become lower."""
        return self.limit is not None and holding.taken >= self.limit

    @property
    def _spare(self) -> int:
        return 0 if self.limit is None else self.limit // SPARE_PART

    async def _settle(self, who: str) -> None:
        """Tell Valkey what is needed of them."""
        async with self._held(who) as holding:
            if holding.held or holding.taken:
                await self._ask(who, holding, holding.taken)

    async def _ask(self, who: str, holding: _Holding, needed: int) -> None:
        limit = holding.taken if self.limit is None else self.limit
        spare = self._spare
        wanted = needed + spare if needed else 0
        # One more than is spare: the seat of a poll, say, which comes again and is the only one.
        holding.most_idle = spare + 1 if spare else 0
        key = f"relay:seats:{self._kind}:{who}"
        args = (self._worker, wanted, holding.taken, limit, round(LEASE_SECONDS * 1000))
        try:
            holding.held = int(await self._script.run(self._client, [key], args))
        except StoreError as error:
            logger.debug("limits: seats of %s cannot be counted: %s", self._kind, error)
            holding.held = min(max(needed, holding.held), max(limit, holding.taken))

    @asynccontextmanager
    async def _held(self, who: str) -> AsyncIterator[_Holding]:
        holding = self._holdings.setdefault(who, _Holding())
        holding.interested += 1
        try:
            async with holding.lock:
                yield holding
        finally:
            holding.interested -= 1
            if not (holding.interested or holding.taken or holding.held):
                self._holdings.pop(who, None)
