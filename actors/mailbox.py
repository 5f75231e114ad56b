"""Mailbox: the messages of all actors of one system in the order of sending, and the bursts of delivery.

One deque serves every actor: delivery order is then the order of sending across the whole system, a send is
one append, and an actor costs nothing while nobody writes to it. A burst delivers many messages in one
callback of the event loop, because a callback a message would cost more than most handlers. A burst is
bounded in messages and in time, so that sockets and timers have their turn while actors talk to each other
without end.

The mailbox decides nothing about actors: what is not a plain delivery goes to the two functions it was given.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from itertools import repeat
from time import perf_counter
from typing import Any

Envelope = tuple[Any, Any, Any]
"""(receiver, message, sender). A tuple, because nothing is cheaper to make and to take apart."""

MESSAGES_BETWEEN_CLOCK_READINGS = 16

HANDLER_ERRORS = (Exception, asyncio.CancelledError)
"""What a handler may raise and hurt only its actor. A `CancelledError` is here no cancellation: no task runs
actors, so it can only come from a cancelled future whose result a handler asked for."""


class Mailbox:
    """Envelopes in, `receiver.receive(message, sender)` out.

    `extraordinary(receiver, message, sender)` is called instead of the receiver when the receiver is dead
    (its `receive` is None) or the class of the message is not in `ordinary`. `failed(receiver, message,
    sender, error)` is called when either of them raised. Any thread may `put` and `wake`; all else is
    for the thread whose loop runs the bursts.
    """

    __slots__ = (
        "_burst_seconds",
        "_context",
        "_envelopes",
        "_extraordinary",
        "_failed",
        "_loop",
        "after_burst",
        "burst_messages",
        "bursting",
        "bursts",
        "delivered",
        "idle",
        "longest_burst_seconds",
        "ordinary",
        "put",
        "put_first",
    )

    def __init__(
        self,
        extraordinary: Callable[[Any, Any, Any], None],
        failed: Callable[[Any, Any, Any, BaseException], None],
        *,
        burst_messages: int,
        burst_seconds: float,
    ) -> None:
        if burst_messages < 1 or burst_seconds <= 0:
            raise ValueError("a burst must be allowed at least one message and some time")
        self._extraordinary = extraordinary
        self._failed = failed
        self.burst_messages = burst_messages
        self._burst_seconds = burst_seconds
        self._envelopes: deque[Envelope] = deque()
        self.put: Callable[[Envelope], None] = self._envelopes.append
        self.put_first: Callable[[Envelope], None] = self._envelopes.appendleft
        self.ordinary: set[type] = set()
        # Bursts run in this context, not in that of whoever happened to send first: a burst delivers the
        # messages of everybody, and one request's context variables must not be seen by another's work.
        self._context = contextvars.Context()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.idle = True
        self.bursting = False
        self.after_burst: Callable[[], None] | None = None
        self.delivered = 0
        self.bursts = 0
        self.longest_burst_seconds = 0.0

    def __len__(self) -> int:
        return len(self._envelopes)

    def waiting_for(self, receiver: Any) -> list[Envelope]:
        """The envelopes that wait for one receiver, oldest first. Walks the whole mailbox: for diagnosis."""
        return [envelope for envelope in self._envelopes if envelope[0] is receiver]

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on bursts run on `loop`. A burst planned on a loop that has ended is planned anew."""
        self._loop = loop
        self.idle = True
        self.wake()

    def wake(self) -> None:
        """Have what was put delivered soon, and never before this returns.

        Where the mailbox's loop does not run, a loop that runs here stands in: actors of two systems can then
        talk while a blocking call turns the loop of only one. Where none runs, what was put waits.
        """
        if not self.idle or not self._envelopes:
            return
        loop, running = self._loop, running_loop()
        # Not idle first: on another thread the burst may be over before call_soon_threadsafe has returned.
        if running is loop and loop is not None:
            self.idle = False
            loop.call_soon(self.burst, context=self._context)
        elif loop is not None and loop.is_running():
            self.idle = False
            loop.call_soon_threadsafe(self.burst, context=self._context)
        elif running is not None:
            self.idle = False
            running.call_soon(self.burst, context=self._context)

    def burst(self) -> None:
        """Deliver until the mailbox is empty or a bound is reached; plan the next burst if anything is left.

        Called from a handler it does nothing: bursts do not nest. What a handler raises is given to `failed`;
        KeyboardInterrupt and SystemExit leave this method, with the mailbox in order.
        """
        if self.bursting:
            return
        popleft = self._envelopes.popleft
        ordinary = self.ordinary
        started = now = perf_counter()
        deadline = started + self._burst_seconds
        left = self.burst_messages
        delivered = 0
        self.idle = False
        self.bursting = True
        try:
            while left > 0 and now < deadline:
                turns = min(left, MESSAGES_BETWEEN_CLOCK_READINGS)
                left -= turns
                for _ in repeat(None, turns):
                    # A look before each popleft would cost more than this try, which is free until it ends
                    # the burst.
                    try:
                        receiver, message, sender = popleft()
                    except IndexError:
                        left = 0
                        break
                    delivered += 1
                    try:
                        receive = receiver.receive
                        if type(message) in ordinary and receive is not None:
                            receive(message, sender)
                        else:
                            self._extraordinary(receiver, message, sender)
                    except HANDLER_ERRORS as error:
                        self._failed(receiver, message, sender, error)
                now = perf_counter()
        finally:
            # An error that somebody keeps keeps this frame, as the caller of the frame it was raised in.
            receiver = message = sender = receive = None
            self._rest(delivered, perf_counter() - started)

    def _rest(self, delivered: int, seconds: float) -> None:
        self.bursting = False
        self.idle = True
        self.delivered += delivered
        self.bursts += 1
        if seconds > self.longest_burst_seconds:
            self.longest_burst_seconds = seconds
        self.wake()
        if self.after_burst is not None:
            self.after_burst()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
