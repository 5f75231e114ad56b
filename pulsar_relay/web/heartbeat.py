"""Heartbeats: pings WebSockets, and tells which peers have gone without a word.

A time that counted from when a ping is queued, or a pong as the only sign of life, would cut off a subscriber
that reads slowly, or is sending something large, in the midst of it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol

CLOCK_SECONDS = 0.002
"""Timers of the loop may be early by about this."""


class Peer(Protocol):
    def ping(self) -> object: ...

    def life(self) -> object:
        """Something that is another each time the peer was heard."""

    def hold(self) -> object:
        """None, unless a ping cannot be answered now: it could not go out yet, or nobody listens for the
        answer. Then something that is another whenever that gets on.
        """

    def on_silence(self) -> None:
        """The peer is dead. It is watched no longer."""


class _Unanswered:
    """A ping to which no life followed yet."""

    __slots__ = ("deadline", "hold", "life", "patience_end")

    def __init__(self, deadline: float, life: object) -> None:
        self.deadline = deadline
        """When silence is too long."""
        self.life = life
        self.hold: object = None
        self.patience_end = 0.0


class Heartbeats:
    """Pings each peer every `interval_seconds`; it is silent if no life follows for `timeout_seconds`. As
    long as it is held, silence lasts `patience_seconds` from when that last got on.

    One timer serves all. As each of them waits the same time, whoever was put last into a queue is due last.
    """

    def __init__(self, interval_seconds: float, timeout_seconds: float, patience_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._timeout_seconds = timeout_seconds
        self._patience_seconds = patience_seconds
        # Ordered, as a plain dict walks over all it has lost to find its first.
        self._next_pings: OrderedDict[Peer, float] = OrderedDict()
        self._unanswered: OrderedDict[Peer, _Unanswered] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Peers that are watched."""
        return len(self._next_pings)

    def watch(self, peer: Peer) -> None:
        """Ping it from now on."""
        loop = asyncio.get_running_loop()
        due = self._next_pings[peer] = loop.time() + self._interval_seconds
        if self._timer is None:
            self._timer = loop.call_at(due, self._beat)

    def forget(self, peer: Peer) -> None:
        """May be called again."""
        self._next_pings.pop(peer, None)
        self._unanswered.pop(peer, None)
        if not self._next_pings and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def answered(self, peer: Peer) -> None:
        """It is known to have answered. What else is life shows when the time is over."""
        self._unanswered.pop(peer, None)

    def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time() + CLOCK_SECONDS
        try:
            while self._unanswered and next(iter(self._unanswered.values())).deadline <= now:
                self._judge(*self._unanswered.popitem(last=False), now)
            while self._next_pings and next(iter(self._next_pings.values())) <= now:
                peer, _ = self._next_pings.popitem(last=False)
                self._next_pings[peer] = now + self._interval_seconds
                self._ping(peer, now)
        finally:
            self._timer = loop.call_at(self._next_due(), self._beat) if self._next_pings else None

    def _next_due(self) -> float:
        due = next(iter(self._next_pings.values()))
        if self._unanswered:
            due = min(due, next(iter(self._unanswered.values())).deadline)
        return due

    def _ping(self, peer: Peer, now: float) -> None:
        waiting = self._unanswered.get(peer)
        if waiting is not None and peer.life() != waiting.life:
            del self._unanswered[peer]
            waiting = None
        peer.ping()
        if waiting is None:
            self._unanswered[peer] = _Unanswered(now + self._timeout_seconds, peer.life())

    def _judge(self, peer: Peer, waiting: _Unanswered, now: float) -> None:
        if peer.life() != waiting.life:
            return
        if self._has_excuse(peer, waiting, now):
            waiting.deadline = now + self._timeout_seconds
            self._unanswered[peer] = waiting
        else:
            self.forget(peer)
            peer.on_silence()

    def _has_excuse(self, peer: Peer, waiting: _Unanswered, now: float) -> bool:
        hold, before = peer.hold(), waiting.hold
        if hold != before:
            # Held, or held until some moment since the last look: the time counts anew.
            waiting.hold = hold
            waiting.patience_end = now + self._patience_seconds
            return True
        return hold is not None and now < waiting.patience_end
