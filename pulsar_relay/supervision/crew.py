"""Crew: all workers of one `serve`, as each of them knows it: who to ask for an answer that is for all."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Protocol, TypeVar

from pulsar_relay.errors import RelayError
from pulsar_relay.supervision.metric_sums import as_metrics, crew_metrics, text
from pulsar_relay.supervision.notes import (
    Answer,
    Answered,
    Asked,
    CrewStanding,
    MetricsText,
)
from pulsar_relay.supervision.parts import (
    CrewReadiness,
    Holdings,
    Metered,
    Part,
    PartSource,
    Question,
    Readiness,
    Waiting,
    What,
    WorkerReadiness,
)
from pulsar_relay.supervision.rounds import Rounds

T = TypeVar("T")

ANSWER_SECONDS = 3.0
"""Time the supervisor has to answer: longer than it waits for a worker."""


class Crew(Protocol):
    """Each raises RelayError `workers_silent` if it cannot be found out now."""

    async def metrics(self) -> bytes:
        """As Prometheus reads them."""
        ...

    async def readiness(self) -> CrewReadiness: ...

    async def waiting(self) -> Waiting: ...

    async def holdings(self, topic: str = "") -> Holdings:
        """`topic` is whose subscribers are counted; without one, those of all topics."""
        ...


class Alone:
    """The crew of a worker that is the only one."""

    def __init__(self, worker: PartSource) -> None:
        self._worker = worker

    async def metrics(self) -> bytes:
        part = _expect(await self._worker.part(Question(What.METRICS)), Metered)
        return text([*as_metrics(part), *crew_metrics({0: True}, restarts=0)])

    async def readiness(self) -> CrewReadiness:
        part = _expect(await self._worker.part(Question(What.READINESS)), Readiness)
        return CrewReadiness([WorkerReadiness(0, True, part)])

    async def waiting(self) -> Waiting:
        return _expect(await self._worker.part(Question(What.WAITING)), Waiting)

    async def holdings(self, topic: str = "") -> Holdings:
        return _expect(await self._worker.part(Question(What.HOLDINGS, topic)), Holdings)


class Supervised:
    """The crew of a worker that has a supervisor, which it asks by `send`. `take` is for what it answers."""

    def __init__(self, send: Callable[[Asked], None]) -> None:
        self._send = send
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._rounds: Rounds[Question, Answer] = Rounds(self._ask)

    async def metrics(self) -> bytes:
        return _expect(await self._rounds.answer(Question(What.METRICS)), MetricsText).text

    async def readiness(self) -> CrewReadiness:
        return _expect(await self._rounds.answer(Question(What.READINESS)), CrewStanding).readiness

    async def waiting(self) -> Waiting:
        return _expect(await self._rounds.answer(Question(What.WAITING)), Waiting)

    async def holdings(self, topic: str = "") -> Holdings:
        return _expect(await self._rounds.answer(Question(What.HOLDINGS, topic)), Holdings)

    def take(self, answered: Answered) -> None:
        asked = self._asked.pop(answered.number, None)
        if asked is not None and not asked.done():
            asked.set_result(answered.answer)

    async def _ask(self, question: Question) -> Answer:
        number = next(self._numbers)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._send(Asked(number, question))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except TimeoutError as error:
            raise RelayError("workers_silent") from error
        finally:
            self._asked.pop(number, None)


def _expect(value: Part | Answer, kind: type[T]) -> T:
    assert isinstance(value, kind), value
    return value
