"""Carrier: the event loop that carries the actors, and what waits on it: timers and asynchronous work.

Which loop that is can change: a base that was made before the program's loop starts, or is used again after
it ended, moves. Where no loop runs, the carrier turns one of its own while a blocking call lasts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from actors.work import PerformFailed, Timer, Work

if TYPE_CHECKING:
    from actors.cell import Cell
    from actors.mailbox import Envelope, Mailbox


class Carrier:
    """`timers()` yields every timer that is armed. `messages_limit`: of one blocking call; 0 is none."""

    def __init__(self, mailbox: Mailbox, timers: Callable[[], Iterator[Timer]]) -> None:
        self._mailbox = mailbox
        self._timers = timers
        self._works: set[Work] = set()
        self._own_loop: asyncio.AbstractEventLoop | None = None
        self._settle: Callable[[], None] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.listeners_elsewhere = 0
        self.messages_limit = 0

    def attach(self) -> asyncio.AbstractEventLoop:
        """The loop actors run on: the one running in this thread, else the last one, else one of our own."""
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        loop = self.loop
        if (
            loop is not None
            and not loop.is_closed()
            and (running is None or running is loop or loop.is_running())
        ):
            return loop
        if running is None:
            self._own_loop = running = asyncio.new_event_loop()
        self._move_to(running)
        return running

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
        self._mailbox.bind(loop)

    def post_from_outside(self, envelope: Envelope) -> bool:
        """False, and nothing is posted, if no loop runs: then the caller has to turn one."""
        loop = self.attach()
        if is_running_here(loop):
            self._mailbox.put(envelope)
            self._mailbox.wake()
        elif loop.is_running():
            self._mailbox.put(envelope)
            loop.call_soon_threadsafe(self._mailbox.wake)
        else:
            return False
        return True

    def turn(self, envelope: Envelope | None, enough: Callable[[], bool], seconds: float | None) -> None:
        """Block and run actors until `enough()`, or `seconds` have passed, or nothing can arrive any more."""
        loop = self.attach()
        # Timers that are due come first, as if they had fired while nobody turned the loop.
        loop.call_soon(loop.stop)
        loop.run_forever()
        if envelope is not None:
            self._mailbox.put(envelope)
        deadline = None if seconds is None else time.monotonic() + seconds
        limit = self._mailbox.delivered + self.messages_limit if self.messages_limit else None

        def settle() -> None:
            too_many = limit is not None and self._mailbox.delivered > limit
            if too_many or enough() or not (len(self._mailbox) or self._may_arrive(deadline)):
                loop.stop()

        self._mailbox.after_burst = self._settle = settle
        alarm = None if seconds is None else loop.call_later(seconds, loop.stop)
        self._mailbox.wake()
        loop.call_soon(settle)
        try:
            loop.run_forever()
        finally:
            self._mailbox.after_burst = self._settle = None
            if alarm is not None:
                alarm.cancel()
        if limit is not None and self._mailbox.delivered > limit:
            raise RuntimeError("Too many sends")

    def _may_arrive(self, deadline: float | None) -> bool:
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
        if asyncio.isfuture(awaitable):
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
        """Let go of the carrier's own loop. The program's loop goes on, with the work that is left on it."""
        if self._own_loop is not None and not self._own_loop.is_running():
            self._own_loop.close()
            self._own_loop = None


def is_running_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


async def _result_of(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
