"""Survey: how far the named clients are behind, all together: what an alert can watch without a series for
each client, whose names are theirs to invent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from actors.lag import Lag, lag
from actors.ports import Archive, ConsumerEntry, Place, StoreError

logger = logging.getLogger(__name__)

PAGE_CONSUMERS = 100
NEAR = 0.1
"""A client is near to loss when less than this part of a limit is left until retention takes messages."""
REST = 10
"""Rests last this many times as long as the work before them: many clients delay nobody."""


def _wall_clock() -> int:
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Standing:
    """What a survey found: so many clients with a name, how many of them are connected, are about to lose
    messages they have not acknowledged, or have lost some; and the lag of the one furthest behind.
    """

    consumers: int = 0
    connected: int = 0
    near_loss: int = 0
    with_losses: int = 0
    lag_messages: int = 0
    lag_seconds: float = 0.0


class ConsumerSurvey:
    """Goes through all named clients every `interval_seconds`, or without end if that takes longer, while
    `is_ours` says that this worker is the one to do it. `clock` is Unix time in milliseconds.
    """

    def __init__(
        self,
        archive: Archive,
        is_ours: Callable[[], bool],
        interval_seconds: float,
        *,
        clock: Callable[[], int] = _wall_clock,
    ) -> None:
        self._archive = archive
        self._is_ours = is_ours
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self.standing: Standing | None = None
        """What was found last; None where another worker surveys, or the store could not be asked."""

    def reload(self, interval_seconds: float) -> None:
        """From the next rest on."""
        self._interval_seconds = interval_seconds

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="survey")

    async def stop(self) -> None:
        """May be called without `start`, and again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds)
            try:
                self.standing = await self.look() if self._is_ours() else None
            except StoreError:
                # Said by those who look after the store. An old answer would hide that nobody looks.
                self.standing = None
            except Exception:  # a bug; a survey that ended would leave its last answer standing
                logger.exception("survey: failed")
                self.standing = None

    async def look(self) -> Standing:
        """One pass over all named clients. Raises StoreError."""
        standing = Standing()
        after: str | None = ""
        while after is not None:
            page = await self._archive.consumers(after, PAGE_CONSUMERS)
            for entry in page.consumers:
                began = time.monotonic()
                await self._add(standing, entry)
                await asyncio.sleep((time.monotonic() - began) * REST)
            after = page.last
        return standing

    async def _add(self, standing: Standing, entry: ConsumerEntry) -> None:
        try:
            record = await self._archive.consumer(entry.client_id)
        except StoreError as error:
            if error.code != "consumer_not_found":
                raise
            return
        standing.consumers += 1
        standing.connected += record.entry.is_connected
        lags = [(place, lag(place, self._clock())) for place in record.places]
        standing.near_loss += any(_is_near_loss(place, behind) for place, behind in lags)
        standing.with_losses += any(bool(behind.lost) for _, behind in lags)
        for _, behind in lags:
            standing.lag_messages = max(standing.lag_messages, behind.messages or 0)
            standing.lag_seconds = max(standing.lag_seconds, behind.seconds or 0.0)


def _is_near_loss(place: Place, behind: Lag) -> bool:
    return any(left < NEAR * limit for left, limit in _left(place, behind))


def _left(place: Place, behind: Lag) -> Iterator[tuple[float, float]]:
    """What is left of each limit, and the limit."""
    limits = place.limits
    if behind.messages_to_loss is not None and limits.max_messages is not None:
        yield behind.messages_to_loss, limits.max_messages
    if behind.seconds_to_loss is not None and limits.retention_ms is not None:
        yield behind.seconds_to_loss, limits.retention_ms / 1000
