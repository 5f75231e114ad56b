"""Probe: whether this worker could append right now, and hear what others append. What `/ready` answers from.

It asks the store, not the process: a relay whose Valkey answers reads but refuses writes is not ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.ports import StoreError

logger = logging.getLogger(__name__)

DEADLINE_SECONDS = 2.0
"""Time a write has before it counts as failed."""
STALE_SECONDS = 5.0
"""A success older than this proves nothing any more; also when the loop had no time for another probe."""


class ProbedStore(Protocol):
    async def probe(self) -> None:
        """Write something, as an append would have to; raises StoreError where an append would be refused."""


class ProbedFeed(Protocol):
    @property
    def failure(self) -> str | None:
        """Why it does not hear, a row of the error table; None while it does."""

    @property
    def heard_at(self) -> float | None:
        """When the feed last proved that it hears, on the monotonic clock; None before the first time."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One thing readiness stands on. `failure` is a row of the error table, None while the leg is sound.

    `age_seconds` is the time since its last success, None if there never was one.
    """

    name: str
    failure: str | None
    age_seconds: float | None

    def as_json(self) -> dict[str, object]:
        age = None if self.age_seconds is None else round(self.age_seconds, 3)
        return {"ok": self.failure is None, "code": self.failure, "last_success_seconds_ago": age}


@dataclass(frozen=True, slots=True)
class ProbeReport:
    legs: tuple[Leg, ...] = ()

    @property
    def is_ready(self) -> bool:
        return all(leg.failure is None for leg in self.legs)


class Probe:
    """Writes to the store every `interval_seconds`, and remembers how that went. `clock` is monotonic; what
    `others` say is part of the report.
    """

    def __init__(
        self,
        store: ProbedStore,
        feed: ProbedFeed,
        interval_seconds: float,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        others: Sequence[Callable[[], Leg]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._feed = feed
        self._interval_seconds = interval_seconds
        self._deadline_seconds = deadline_seconds
        self._others = others
        self._stale_seconds = max(STALE_SECONDS, 2 * (interval_seconds + deadline_seconds))
        self._clock = clock
        self._written_at: float | None = None
        self._failure: str | None = "store_unavailable"
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin at once; `report` is not ready before the first success."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="probe")

    async def stop(self) -> None:
        """May be called without `start`, and again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def report(self) -> ProbeReport:
        """Returns at once; asks nobody."""
        now = self._clock()
        return ProbeReport(
            (
                self._leg("valkey_write", self._failure, self._written_at, now),
                self._leg("feed", self._feed.failure, self._feed.heard_at, now),
                *[leg() for leg in self._others],
            )
        )

    def _leg(self, name: str, failure: str | None, succeeded_at: float | None, now: float) -> Leg:
        age = None if succeeded_at is None else now - succeeded_at
        if failure is None and (age is None or age > self._stale_seconds):
            failure = "store_unavailable"
        return Leg(name, failure, age)

    async def _run(self) -> None:
        while True:
            await self._write()
            await asyncio.sleep(self._interval_seconds)

    async def _write(self) -> None:
        try:
            async with asyncio.timeout(self._deadline_seconds):
                await self._store.probe()
        except TimeoutError:
            failure: str | None = "store_unavailable"
        except StoreError as error:
            failure = error.code
        else:
            failure = None
            self._written_at = self._clock()
        if failure != self._failure and (failure is None or self._failure is None):
            logger.log(logging.WARNING if failure else logging.INFO, "store: %s", failure or "takes writes")
        self._failure = failure
