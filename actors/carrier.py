"""Carrier: the event loop that carries the actors, and what waits on it: timers and asynchronous work.

Which loop that is can change: a base that was made before the program's loop starts, or is used again after
it ended, moves. Where no loop runs, the carrier turns one of its own while a blocking call lasts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from actors.mailbox import Envelope, Mailbox, running_loop
from actors.outside import Listener
from actors.work import PerformFailed, Timer, Work

if TYPE_CHECKING:
    from actors.cell import Cell


class Carrier:
    """`timers()` yields every timer that is armed. `messages_limit`: of one blocking call; 0 is none."""

    def __init__(self, mailbox: Mailbox, timers: Callable[[], Iterator[Timer]]) -> None:
        self.mailbox = mailbox
        self._timers = timers
        self._works: set[Work] = set()
        self._own_loop: asyncio.AbstractEventLoop | None = None
        self._settle: Callable[[], None] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        # Of other threads: while there is one, a message may come at any time.
        self.listeners_elsewhere: list[Listener] = []
        self.messages_limit = 0
        self._is_closed = False

    def attach(self) -> asyncio.AbstractEventLoop:
        """The loop actors run on: the one running in this thread, else the last one, else one of our own."""
        loop, running = self.loop, running_loop()
        if loop is not None and (running is loop or loop.is_running()):
            return loop
        if running is not None:
            self._move_to(running)
            return running
        if loop is not None and not loop.is_closed():
            return loop
        if self._is_closed:
            raise RuntimeError("the actor system is shut down")
        self._own_loop = asyncio.new_event_loop()
        self._move_to(self._own_loop)
        return self._own_loop

    def attach_if_running(self) -> None:
        """Attach to the loop that runs here, if one does."""
        running = running_loop()
        if running is not None and running is not self.loop:
            self.attach()

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Timers come along; work cannot leave its loop, and has failed for its actors."""
        self.loop = loop
        for work in list(self._works):
            self.forget_work(work)
            work.tell(PerformFailed(work.tag, asyncio.CancelledError("the event loop it ran on was left")))
        now = time.monotonic()
        for timer in self._timers():
            timer.arm(loop, max(0.0, timer.when - now))
        if self._own_loop is not None and self._own_loop is not loop:
            self._own_loop.close()
            self._own_loop = None
        self.mailbox.bind(loop)

    # Blocking

    def turn(
        self, envelope: Envelope | None, heard: Callable[[], bool] | None, seconds: float | None
    ) -> None:
        """Deliver `envelope`, blocking, while no loop runs.

        With `heard`: until it is true, or `seconds` have passed, or nothing can come any more. Without: until
        the mailbox is empty. Raises RuntimeError once more than `messages_limit` messages were delivered.
        """
        loop = self.attach()
        # Timers that are due come first, as if they had fired while nobody turned the loop.
        self._turn_once(loop)
        if envelope is not None:
            self.mailbox.put(envelope)
        turning = _Turning(self, loop, heard, seconds)
        self.mailbox.after_burst = self._settle = turning.settle
        alarm = None if seconds is None else loop.call_later(seconds, loop.stop)
        # Bound anew: a burst may have been planned on another system's loop, which has stopped since.
        loop.call_soon(self.mailbox.bind, loop)
        loop.call_soon(turning.settle)
        try:
            loop.run_forever()
        finally:
            turning.is_over = True
            self.mailbox.after_burst = self._settle = None
            if alarm is not None:
                alarm.cancel()
            if self._is_closed:
                self.close()
        if turning.is_over_limit():
            raise RuntimeError("Too many sends")

    def run(self, function: Callable[[], None]) -> None:
        """Call `function` in the loop, blocking, while no loop runs."""
        loop = self.attach()
        loop.call_soon(function)
        self._turn_once(loop)

    def _turn_once(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_soon(loop.stop)
        loop.run_forever()

    @property
    def work_in_flight(self) -> int:
        return len(self._works)

    def may_come(self, deadline: float | None) -> bool:
        """Whether a message may yet come by itself: from work, another thread, a timer before then."""
        if self._works or self.listeners_elsewhere:
            return True
        return any(deadline is None or timer.when <= deadline for timer in self._timers())

    # What takes time

    def start_timer(self, cell: Cell, seconds: float, message: Any) -> Timer:
        timer = Timer(cell, time.monotonic() + seconds, message)
        if cell.receive is None:
            timer.cancel()
            return timer
        if cell.timers is None:
            cell.timers = set()
        cell.timers.add(timer)
        timer.arm(self.attach(), seconds)
        return timer

    def start_work(self, cell: Cell, awaitable: Awaitable[Any], tag: Any, *, cancel_on_exit: bool) -> None:
        loop = self.attach()
        if isinstance(awaitable, asyncio.Future):
            future: asyncio.Future[Any] = awaitable
        elif isinstance(awaitable, Coroutine):
            future = loop.create_task(awaitable)
        else:
            future = loop.create_task(_result_of(awaitable))
        work = Work(cell, future, tag, cancel_on_exit=cancel_on_exit)
        self._works.add(work)  # a loop holds its tasks only weakly
        if cancel_on_exit:
            if cell.receive is None:
                future.cancel()
            elif cell.works is None:
                cell.works = {work}
            else:
                cell.works.add(work)
        future.add_done_callback(work)

    def forget_work(self, work: Work) -> bool:
        """False if it was forgotten before. Called by the work when it is done."""
        if work not in self._works:
            return False
        self._works.remove(work)
        if work.cell.works is not None:
            work.cell.works.discard(work)
        if self._settle is not None:
            self._settle()
        return True

    def close(self) -> None:
        """Let go of our own loop; work that is left on it is cancelled. The program's loop goes on."""
        self._is_closed = True
        loop = self._own_loop
        if loop is None or loop.is_running():
            return  # in the second case the blocking call that turns it will close it
        self._own_loop = None
        futures = [work.future for work in self._works]
        for future in futures:
            future.cancel()
        if futures:
            loop.run_until_complete(asyncio.wait(futures))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


class _Turning:
    """One blocking call: decides when the loop may stop."""

    def __init__(
        self,
        carrier: Carrier,
        loop: asyncio.AbstractEventLoop,
        heard: Callable[[], bool] | None,
        seconds: float | None,
    ) -> None:
        self._carrier = carrier
        self._mailbox = carrier.mailbox
        self._loop = loop
        self._heard = heard
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._most = carrier.mailbox.delivered + carrier.messages_limit if carrier.messages_limit else None
        self._was_quiet = False
        self.is_over = False

    def is_over_limit(self) -> bool:
        return self._most is not None and self._mailbox.delivered > self._most

    def settle(self) -> None:
        """Called when something has happened: a burst, the end of some work."""
        if self.is_over:
            return  # planned by a call that has ended before: the loop is turned by another one now
        if self.is_over_limit() or (self._heard is not None and self._heard()):
            self._loop.stop()
        elif len(self._mailbox) or (self._heard is not None and self._carrier.may_come(self._deadline)):
            self._was_quiet = False
        elif self._was_quiet:
            self._loop.stop()
        else:
            # Once more round: what another system's actors were sent meanwhile may bring an answer.
            self._was_quiet = True
            self._loop.call_soon(self.settle)


async def _result_of(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
