"""Collection: the supervisor asks each worker for its part, and makes one answer of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from pulsar_relay.supervision.metric_sums import (
    SUPERVISOR,
    MetricSums,
    as_metrics,
    crew_metrics,
    metered,
    own_metrics,
    text,
)
from pulsar_relay.supervision.notes import Answer, CrewStanding, MetricsText
from pulsar_relay.supervision.parts import (
    CrewReadiness,
    Holdings,
    Metered,
    Part,
    Question,
    Readiness,
    Waiting,
    What,
    WorkerReadiness,
    all_holdings,
    all_waiting,
    of_kind,
)
from pulsar_relay.supervision.rounds import Rounds
from pulsar_relay.supervision.slot import METRICS, Slot


class Collection:
    """`restarts` says how often a worker was started again."""

    def __init__(self, slots: Sequence[Slot], restarts: Callable[[], int]) -> None:
        self._slots = slots
        self._restarts = restarts
        self._own = own_metrics()
        self._ended = MetricSums()
        self._rounds: Rounds[Question, Answer] = Rounds(self._collect)

    async def answer(self, question: Question) -> Answer:
        """What all workers that run say together; who is silent is represented by what it said last."""
        return await self._rounds.answer(question)

    async def look(self) -> None:
        """Have the workers tell what they have counted, so that it is not lost with one that is killed."""
        await self._parts(METRICS)

    def bury(self, slot: Slot) -> None:
        """The slot's worker has ended: what it had counted counts on."""
        self._ended.add_ended(slot.forget())

    def stop(self) -> None:
        self._rounds.stop()

    async def _collect(self, question: Question) -> Answer:
        parts = await self._parts(question)
        match question.what:
            case What.METRICS:
                return self._metrics(parts)
            case What.READINESS:
                return self._readiness(parts, question)
            case What.WAITING:
                return all_waiting(of_kind(self._known(parts, question), Waiting))
            case What.HOLDINGS:
                return all_holdings(of_kind(self._known(parts, question), Holdings))

    async def _parts(self, question: Question) -> dict[int, Part | None]:
        """The part of each worker that runs, None where it is silent."""
        slots = [slot for slot in self._slots if slot.is_ready]
        parts = await asyncio.gather(*[slot.ask(question) for slot in slots])
        # Some may have ended meanwhile: they are silent for a reason.
        return {slot.number: part for slot, part in zip(slots, parts, strict=True) if slot.is_ready}

    def _known(self, parts: dict[int, Part | None], question: Question) -> dict[int, Part | None]:
        return {number: part or self._slots[number].last(question) for number, part in parts.items()}

    def _metrics(self, parts: dict[int, Part | None]) -> MetricsText:
        sums = MetricSums()
        # In one turn, from what is known now: each worker's counts are in one of the two, never in both.
        for slot in self._slots:
            counted = slot.last(METRICS)
            if isinstance(counted, Metered):
                sums.add(counted, str(slot.number))
        sums.add_ended(self._ended.metered())
        sums.add(metered(self._own.collect()), SUPERVISOR)
        answering = {number: part is not None for number, part in parts.items()}
        crew = crew_metrics(answering, self._restarts())
        return MetricsText(text([*as_metrics(sums.metered()), *crew]))

    def _readiness(self, parts: dict[int, Part | None], question: Question) -> CrewStanding:
        known = self._known(parts, question)
        workers = []
        for number, part in parts.items():
            said = known[number]
            readiness = said if isinstance(said, Readiness) else None
            workers.append(WorkerReadiness(number, part is not None, readiness))
        return CrewStanding(CrewReadiness(workers))
