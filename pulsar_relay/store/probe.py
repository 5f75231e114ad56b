"""Probe: whether this worker could append right now, and hear what others append. What `/ready` answers from.

It asks the store, not the process: a relay whose Valkey answers reads but refuses writes is not ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from actors.ports import StoreError
from pulsar_relay.errors import ERRORS

logger = logging.getLogger(__name__)

DEADLINE_SECONDS = 2.0
"""Time a check has before it counts as failed."""
STALE_SECONDS = 5.0
"""A success older than this proves nothing any more; also when the loop had no time for another round."""

Check = Callable[[], Awaitable[None]]
"""Returns where all is well, raises StoreError with the code of what is wrong. May be cancelled."""


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
        message = None if self.failure is None else ERRORS[self.failure].message
        return {
            "ok": self.failure is None,
            "code": self.failure,
            "message": message,
            "last_success_seconds_ago": age,
        }


@dataclass(frozen=True, slots=True)
class ProbeReport:
    legs: tuple[Leg, ...] = ()
    shards: Mapping[str, str | None] = field(default_factory=dict)
    """Of a cluster: what is wrong with each shard, a row of the error table, or None. It is not ready only
    where a leg says so."""

    @property
    def is_ready(self) -> bool:
        return all(leg.failure is None for leg in self.legs)


class _Checked:
    """What came of a check last."""

    __slots__ = ("check", "detail", "failure", "succeeded_at")

    def __init__(self, check: Check) -> None:
        self.check = check
        self.failure: str | None = "store_unavailable"
        self.detail = ""
        self.succeeded_at: float | None = None


class Probe:
    """Runs all `checks`, together, every `interval_seconds`, and remembers how each went: a leg of its name.
    The feed and `others`, which check themselves, are legs too. `shards` tells of those of a cluster. `clock`
    is monotonic.
    """

    def __init__(
        self,
        checks: Mapping[str, Check],
        feed: ProbedFeed,
        interval_seconds: float,
        *,
        others: Sequence[Callable[[], Leg]] = (),
        shards: Callable[[], Mapping[str, str | None]] = dict,
        deadline_seconds: float = DEADLINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checked = {name: _Checked(check) for name, check in checks.items()}
        self._feed = feed
        self._others = others
        self._shards = shards
        self._interval_seconds = interval_seconds
        self._deadline_seconds = deadline_seconds
        self._stale_seconds = max(STALE_SECONDS, 2 * (interval_seconds + deadline_seconds))
        self._clock = clock
        self._told: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin at once; `report` is not ready before each check succeeded once."""
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
        legs = [
            self._leg(name, checked.failure, checked.succeeded_at, now)
            for name, checked in self._checked.items()
        ]
        feed = self._leg("feed", self._feed.failure, self._feed.heard_at, now)
        return ProbeReport((*legs, feed, *[leg() for leg in self._others]), self._shards())

    def _leg(self, name: str, failure: str | None, succeeded_at: float | None, now: float) -> Leg:
        age = None if succeeded_at is None else now - succeeded_at
        if failure is None and (age is None or age > self._stale_seconds):
            failure = "store_unavailable"
        return Leg(name, failure, age)

    async def _run(self) -> None:
        while True:
            await asyncio.gather(*[self._look(checked) for checked in self._checked.values()])
            self._tell()
            await asyncio.sleep(self._interval_seconds)

    async def _look(self, checked: _Checked) -> None:
        try:
            async with asyncio.timeout(self._deadline_seconds):
                await checked.check()
        except TimeoutError:
            checked.failure, checked.detail = "store_unavailable", ""
        except StoreError as error:
            checked.failure, checked.detail = error.code, error.detail
        except Exception:  # a bug; a probe that ended would leave its last report standing
            logger.exception("probe: a check failed")
            checked.failure, checked.detail = "internal_error", ""
        else:
            checked.failure = None
            checked.succeeded_at = self._clock()

    def _tell(self) -> None:
        """One log line for all legs that have begun to fail for one reason, and for all that are sound
        again after it."""
        failed: dict[str, list[str]] = {}
        healed: dict[str, list[str]] = {}
        for name, checked in self._checked.items():
            if checked.failure is not None and name not in self._told:
                self._told[name] = checked.failure
                text = f"{checked.failure}: {checked.detail}" if checked.detail else checked.failure
                failed.setdefault(text, []).append(name)
            elif checked.failure is None and name in self._told:
                healed.setdefault(self._told.pop(name), []).append(name)
        for text, names in failed.items():
            logger.warning("not ready: %s: %s", ", ".join(names), text)
        for code, names in healed.items():
            logger.info("sound again: %s, after %s", ", ".join(names), code)
