"""Rounds: many who ask the same thing at the same time are answered together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Q = TypeVar("Q", bound=Hashable)
A = TypeVar("A")


class Rounds(Generic[Q, A]):
    """Asks `ask` at most once at a time for each question.

    An answer was begun after its question came in, never before: who asks while a round is under way gets
    what the next one brings, together with all others who do.
    """

    def __init__(self, ask: Callable[[Q], Awaitable[A]]) -> None:
        self._ask = ask
        self._under_way: dict[Q, asyncio.Task[A]] = {}
        self._next: dict[Q, asyncio.Task[A]] = {}

    async def answer(self, question: Q) -> A:
        """Raises what `ask` raised. Cancelling a caller does not cancel the round."""
        following = self._next.get(question)
        if following is None:
            current = self._under_way.get(question)
            following = asyncio.get_running_loop().create_task(self._round(question, current))
            # Its failure is for those who wait, and there may be none left.
            following.add_done_callback(lambda done: done.cancelled() or done.exception())
            (self._next if current else self._under_way)[question] = following
        return await asyncio.shield(following)

    async def _round(self, question: Q, before: asyncio.Task[A] | None) -> A:
        if before is not None:
            await asyncio.wait((before,))
            self._under_way[question] = self._next.pop(question)
        try:
            return await self._ask(question)
        finally:
            if question not in self._next:
                self._under_way.pop(question)

    def stop(self) -> None:
        """End all rounds; who waits is cancelled."""
        for task in (*self._under_way.values(), *self._next.values()):
            task.cancel()
