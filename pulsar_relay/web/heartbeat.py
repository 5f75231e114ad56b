"""Heartbeat: pings one WebSocket, and tells when its peer has gone without a word.

Tornado's own pings count the time from when a ping is queued, and take no sign of life but its pong. A
subscriber that reads slowly, or is sending something large, would be cut off in the midst of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Heartbeat:
    """Calls `ping` every `interval_seconds`, and `on_silence` once, if no life follows for
    `timeout_seconds`.

    `life` returns something that is another each time the peer was heard. As long as a ping cannot be
    answered (it has not gone out yet, or nobody listens for the answer), `hold` returns something that is
    not None, and another whenever that gets on; then silence lasts `patience_seconds`, from when it last
    did.
    """

    __slots__ = (
        "_hold",
        "_hold_before",
        "_interval_seconds",
        "_life",
        "_life_before",
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
        self._life_before: object = None
        self._hold_before: object = None
        self._patience_end = 0.0
        self._timer = asyncio.get_running_loop().call_later(interval_seconds, self._beat)

    def stop(self) -> None:
        """May be called again."""
        self._timer.cancel()

    def _beat(self) -> None:
        self._life_before = self._life()
        self._hold_before = None
        self._ping()
        self._look_later(self._check, self._timeout_seconds)

    def _check(self) -> None:
        if self._life() != self._life_before:
            self._look_later(self._beat, max(0.0, self._interval_seconds - self._timeout_seconds))
            return
        hold, before = self._hold(), self._hold_before
        now = asyncio.get_running_loop().time()
        if hold != before:
            # Held, or held until some moment since the last look: the time counts anew.
            self._hold_before = hold
            self._patience_end = now + self._patience_seconds
        elif hold is None or now >= self._patience_end:
            self._on_silence()
            return
        self._look_later(self._check, self._timeout_seconds)

    def _look_later(self, function: Callable[[], None], seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, function)
