"""Work and Timer: what an actor has begun and will hear of again as a message.

Both hold their actor's cell, never the actor: when the actor ends, its timers are cancelled and its work's
outcome is dropped, so neither keeps a dead actor's state alive.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from actors.value import value

if TYPE_CHECKING:
    from actors.cell import Cell

logger = logging.getLogger(__name__)


@value
class Performed:
    """The work started with `perform(..., tag)` ended with `result`."""

    tag: Any
    result: Any


@value
class PerformFailed:
    """The work started with `perform(..., tag)` raised `error`; if it was cancelled, a `CancelledError`."""

    tag: Any
    error: BaseException


class Work:
    """One awaitable under way; the future's done-callback. Tells its actor once, whatever happens."""

    __slots__ = ("cancel_on_exit", "cell", "future", "tag")

    def __init__(self, cell: Cell, future: asyncio.Future[Any], tag: Any, *, cancel_on_exit: bool) -> None:
        self.cell = cell
        self.future = future
        self.tag = tag
        self.cancel_on_exit = cancel_on_exit

    def __call__(self, future: asyncio.Future[Any]) -> None:
        if not self.cell.base.carrier.forget_work(self):
            return  # told before, when its loop ended under it
        if future.cancelled():
            self.tell(PerformFailed(self.tag, asyncio.CancelledError()))
            return
        error = future.exception()
        if error is not None:
            self.tell(PerformFailed(self.tag, error))
        else:
            self.tell(Performed(self.tag, future.result()))

    def tell(self, outcome: Performed | PerformFailed) -> None:
        cell = self.cell
        if cell.receive is None:
            drop(cell, outcome)
            return
        cell.mailbox.put((cell, outcome, cell))
        cell.mailbox.wake()


def drop(cell: Cell, outcome: Performed | PerformFailed) -> None:
    """Nobody is left to hear the outcome. Not an error: the actor had a right to stop without waiting."""
    if isinstance(outcome, PerformFailed):
        logger.debug(
            "actor %s is gone, its work %r failed unheard", cell, outcome.tag, exc_info=outcome.error
        )


class Timer:
    """A message an actor will send itself at a time. Returned by `call_after`."""

    __slots__ = ("_handle", "cell", "message", "when")

    def __init__(self, cell: Cell, when: float, message: Any) -> None:
        self.cell: Cell | None = cell
        self.message = message
        self.when = when  # time.monotonic()
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = loop.call_later(seconds, self._fire)

    def cancel(self) -> None:
        """The message is not delivered, even if it waits in the mailbox by now. May be called again."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        cell, self.cell, self.message = self.cell, None, None
        if cell is not None and cell.timers is not None:
            cell.timers.discard(self)

    def _fire(self) -> None:
        cell = self.cell
        if cell is not None:
            self._handle = None
            # The timer itself travels, not its message: it can still be cancelled until it is delivered.
            cell.mailbox.put((cell, self, cell))
            cell.mailbox.wake()

    def take(self) -> Any:
        """The message, at delivery. The timer is over."""
        message = self.message
        self.cancel()
        return message
