"""Heartbeat: pings one WebSocket, and tells when its peer has gone without a word.

Tornado's own pings count the time from when a ping is queued, and take no sign of life but its pong. A
subscriber that reads slowly, or is sending something large, would be cut off in the midst of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

CLOCK_SECONDS = 0.002
"""Timers of the loop may be early by about this."""


class Heartbeat:
    """Calls `ping` every `interval_seconds`, and `on_silence` once, if no life follows for `timeout_seconds`.

    `life` returns something that is another each time the peer was heard. As long as a ping cannot be
    answered (it could not go out yet, or nobody listens for the answer), `hold` returns something that is not
    None, and another whenever that gets on; then silence lasts `patience_seconds` from when it last did.
    """

    __slots__ = (
        "_deadline",
        "_hold",
        "_hold_before",
        "_interval_seconds",
        "_life",
        "_life_before",
        "_loop",
        "_next_ping",
        "_on_silence",
        "_patience_end",
        "_patience_seconds",
        "_ping",
        "_timeout_seconds",
        "_timer",
    )

    def __init__(
        self,
        interval_seconds: float,
        timeout_seconds: float,
        patience_seconds: float,
        *,
        ping: Callable[[], object],
        life: Callable[[], object],
        hold: Callable[[], object],
        on_silence: Callable[[], None],
    ) -> None:
        self._interval_seconds = interval_seconds
        self._timeout_seconds = timeout_seconds
        self._patience_seconds = patience_seconds
        self._ping = ping
        self._life = life
        self._hold = hold
        self._on_silence = on_silence
        self._loop = asyncio.get_running_loop()
        self._life_before: object = None
        self._hold_before: object = None
        self._patience_end = 0.0
        self._deadline: float | None = None
        """When silence is too long; None while no ping is unanswered."""
        self._next_ping = self._loop.time() + interval_seconds
        self._timer = self._loop.call_at(self._next_ping, self._tick)

    def stop(self) -> None:
        """May be called again."""
        self._timer.cancel()

    def _tick(self) -> None:
        now = self._loop.time() + CLOCK_SECONDS
        if self._deadline is not None and self._life() != self._life_before:
            self._deadline = None
        if self._deadline is not None and now >= self._deadline and not self._has_excuse(now):
            self._on_silence()
            return
        if now >= self._next_ping:
            self._next_ping = now + self._interval_seconds
            self._ping()
            if self._deadline is None:
                self._life_before = self._life()
                self._hold_before = None
                self._deadline = now + self._timeout_seconds
        next_look = self._next_ping if self._deadline is None else min(self._next_ping, self._deadline)
        self._timer = self._loop.call_at(next_look, self._tick)

    def _has_excuse(self, now: float) -> bool:
        hold, before = self._hold(), self._hold_before
        if hold != before:
            # Held, or held until some moment since the last look: the time counts anew.
            self._hold_before = hold
            self._patience_end = now + self._patience_seconds
        elif hold is None or now >= self._patience_end:
            return False
        self._deadline = now + self._timeout_seconds
        return True
