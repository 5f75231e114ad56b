from __future__ import annotations

from pulsar_relay.store.probe import Leg
from pulsar_relay.supervision.parts import (
    CrewReadiness,
    Holdings,
    Readiness,
    Waiting,
    WorkerReadiness,
    all_holdings,
    all_waiting,
)

SOUND = Leg("feed", None, 0.5)
OLDER = Leg("feed", None, 3.0)
BROKEN = Leg("feed", "store_unavailable", 9.0)
NEVER = Leg("feed", "store_unavailable", None)


def worker(number: int, *legs: Leg, accepts: bool = True, answers: bool = True) -> WorkerReadiness:
    return WorkerReadiness(number, answers, Readiness(legs, accepts))


def test_all_are_ready_when_each_is() -> None:
    assert CrewReadiness([worker(0, SOUND), worker(1, SOUND)]).is_ready
    assert not CrewReadiness([worker(0, SOUND), worker(1, BROKEN)]).is_ready
    assert not CrewReadiness([worker(0, SOUND), worker(1, SOUND, accepts=False)]).is_ready
    assert not CrewReadiness([worker(0, SOUND), worker(1, SOUND, answers=False)]).is_ready
    assert not CrewReadiness([worker(0, SOUND), WorkerReadiness(1, False, None)]).is_ready


def test_without_a_running_worker_nobody_is_ready() -> None:
    assert not CrewReadiness([]).is_ready


def test_each_worker_says_what_fails() -> None:
    assert worker(0, SOUND).failing == []
    assert worker(0, BROKEN, Leg("delivery", None, 1.0), accepts=False).failing == ["feed", "accepting"]
    assert worker(0, SOUND, answers=False).failing == ["answering"]
    assert WorkerReadiness(0, False, None).failing == ["answering"]


def test_a_leg_stands_as_it_stands_where_it_stands_worst() -> None:
    for legs, worst in (
        ((SOUND, OLDER), OLDER),
        ((BROKEN, OLDER), BROKEN),
        ((OLDER, BROKEN), BROKEN),
        ((NEVER, BROKEN), NEVER),
    ):
        crew = CrewReadiness([worker(number, leg) for number, leg in enumerate(legs)])
        assert list(crew.legs()) == [worst]


def test_polls_add_up_topic_by_topic() -> None:
    parts = [Waiting(3, {"a": 2, "b": 1}), Waiting(1, {"a": 1}), Waiting()]
    assert all_waiting(parts) == Waiting(4, {"a": 3, "b": 1})
    assert all_waiting([]) == Waiting()


def test_holdings_add_up() -> None:
    assert all_holdings([Holdings(1, 2, 3, 4), Holdings(10, 20, 30, 40)]) == Holdings(11, 22, 33, 44)
    assert all_holdings([]) == Holdings()
