"""Parts: what each worker contributes to an answer that is for all of them, and how parts become one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Protocol, TypeVar

import msgspec

from pulsar_relay.store.probe import Leg


class What(StrEnum):
    """What all workers can be asked for together."""

    METRICS = "metrics"
    READINESS = "readiness"
    WAITING = "waiting"
    HOLDINGS = "holdings"


class Question(msgspec.Struct, frozen=True):
    """`topic` is whom HOLDINGS counts subscribers of; empty counts those of all topics."""

    what: What
    topic: str = ""


class Family(msgspec.Struct, frozen=True, array_like=True):
    """The samples of one metric. A sample is its full name, its labels, its value."""

    name: str
    documentation: str
    kind: str
    samples: list[tuple[str, dict[str, str], float]]


class Metered(msgspec.Struct, frozen=True, tag=True):
    """What a worker exports."""

    families: list[Family] = []


class Readiness(msgspec.Struct, frozen=True, tag=True):
    """What a worker's readiness stands on. `accepts`: it was not told to stop. `shards`: of a cluster, what
    is wrong with each, or None."""

    legs: tuple[Leg, ...]
    accepts: bool
    shards: dict[str, str | None] = {}

    @property
    def is_ready(self) -> bool:
        return self.accepts and all(leg.failure is None for leg in self.legs)

    @property
    def failing(self) -> list[str]:
        names = [leg.name for leg in self.legs if leg.failure is not None]
        return names if self.accepts else [*names, "accepting"]


class Waiting(msgspec.Struct, frozen=True, tag=True):
    """The polls that wait, by topic, and by whose they are."""

    active: int = 0
    topics: dict[str, int] = {}
    scopes: dict[str, int] = {}


class Holdings(msgspec.Struct, frozen=True, tag=True):
    """What is held in memory for topics. One that is open in two workers counts twice."""

    open_topics: int = 0
    following_topics: int = 0
    hot_bytes: int = 0
    subscribers: int = 0


Part = Metered | Readiness | Waiting | Holdings
P = TypeVar("P", bound=Part)


class PartSource(Protocol):
    """A worker, as far as it answers for itself."""

    async def part(self, question: Question) -> Part: ...


class WorkerReadiness(msgspec.Struct, frozen=True):
    """One worker's standing. `answers` is false if `readiness` is what it said last, some time ago; without
    any it never said."""

    worker: int
    answers: bool
    readiness: Readiness | None

    @property
    def is_ready(self) -> bool:
        return self.answers and self.readiness is not None and self.readiness.is_ready

    @property
    def failing(self) -> list[str]:
        names = [] if self.readiness is None else self.readiness.failing
        return names if self.answers else [*names, "answering"]


class CrewReadiness(msgspec.Struct, frozen=True):
    """The standing of each running worker."""

    workers: list[WorkerReadiness]

    @property
    def is_ready(self) -> bool:
        return bool(self.workers) and all(worker.is_ready for worker in self.workers)

    @property
    def answers(self) -> bool:
        return bool(self.workers) and all(each.answers for each in self.workers)

    @property
    def accepts(self) -> bool:
        return all(each.readiness.accepts for each in self.workers if each.readiness is not None)

    def legs(self) -> Iterable[Leg]:
        """Each leg once, as it stands where it stands worst."""
        worst: dict[str, Leg] = {}
        for each in self.workers:
            for leg in () if each.readiness is None else each.readiness.legs:
                known = worst.get(leg.name)
                if known is None or _badness(leg) > _badness(known):
                    worst[leg.name] = leg
        return worst.values()

    def shards(self) -> dict[str, str | None]:
        """Of a cluster, what any worker finds wrong with each shard; None where nobody does."""
        found: dict[str, str | None] = {}
        for each in self.workers:
            for name, code in ({} if each.readiness is None else each.readiness.shards).items():
                found[name] = found.get(name) or code
        return found


def _badness(leg: Leg) -> tuple[bool, float]:
    return leg.failure is not None, float("inf") if leg.age_seconds is None else leg.age_seconds


def all_waiting(parts: Iterable[Waiting]) -> Waiting:
    active = 0
    topics: Counter[str] = Counter()
    scopes: Counter[str] = Counter()
    for part in parts:
        active += part.active
        topics.update(part.topics)
        scopes.update(part.scopes)
    return Waiting(active, dict(topics), dict(scopes))


def all_holdings(parts: Iterable[Holdings]) -> Holdings:
    rows = [msgspec.structs.astuple(part) for part in parts]
    return Holdings(*map(sum, zip(*rows, strict=True))) if rows else Holdings()


def of_kind(parts: Mapping[int, Part | None], kind: type[P]) -> list[P]:
    """The parts that are of this kind."""
    return [part for part in parts.values() if isinstance(part, kind)]
