"""The run: each scenario on each target, round after round, in turns, so that a busy minute hits them all."""

from __future__ import annotations

import datetime
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.load.stage import Player
from benchmarks.machine import Placement, description
from benchmarks.processes import HarnessError
from benchmarks.scenarios import Scenario
from benchmarks.scenarios.scenario import Field, Outcome
from benchmarks.targets import TARGETS, Target
from benchmarks.targets.target import CannotError

Say = Callable[[str], None]


class Fleet:
    """The running targets and players. Started when first asked for, targets by name and level, and kept."""

    def __init__(self, directory: Path, placement: Placement) -> None:
        self._directory = directory
        self.placement = placement
        self._running: dict[tuple[str, str], Target] = {}
        self._players: tuple[Player, Player] | None = None
        self._started = 0
        self.versions: dict[str, dict[str, str]] = {}

    def target(self, name: str, level: str) -> Target:
        """Raises CannotError, HarnessError."""
        if (name, level) not in self._running:
            self._running[name, level] = self._start(name, level)
        return self._running[name, level]

    @contextmanager
    def fresh(self, name: str, level: str) -> Iterator[Target]:
        """One that nobody has used, for a while. Raises CannotError, HarnessError."""
        target = self._start(name, level)
        try:
            yield target
        finally:
            target.stop()

    def players(self) -> tuple[Player, Player]:
        """Publisher and receiver."""
        if self._players is None:
            cores = self.placement.load
            self._players = Player("publisher", cores), Player("receiver", cores)
        return self._players

    def forget(self, name: str, level: str) -> None:
        """After a failure: the next round gets a new one."""
        if target := self._running.pop((name, level), None):
            target.stop()

    def dismiss_players(self) -> None:
        """After a failure: they may be in the middle of their parts."""
        for player in self._players or ():
            player.stop()
        self._players = None

    def stop(self) -> None:
        self.dismiss_players()
        for name, level in list(self._running):
            self.forget(name, level)

    def _start(self, name: str, level: str) -> Target:
        self._started += 1
        directory = self._directory / f"{self._started}-{name}-{level}"
        directory.mkdir()
        target = TARGETS[name](directory, self.placement, level)
        self.versions[name] = dict(target.versions)
        return target


def run(
    scenarios: Sequence[Scenario],
    targets: Sequence[str],
    *,
    rounds: int,
    seconds: float,
    scale: float,
    placement: Placement,
    say: Say,
    keep: Callable[[dict[str, Any]], None] = lambda results: None,
) -> dict[str, Any]:
    """The results as they are written to the file; `keep` gets what there is after each scenario.

    A target that fails raises nothing: that is a result.
    """
    results: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "machine": description(),
        "placement": {part: sorted(getattr(placement, part)) for part in ("worker", "store", "load")},
        "rounds": rounds,
        "seconds": seconds,
        "scale": scale,
        "scenarios": {},
    }
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        fleet = Fleet(directory, placement)
        stack.callback(fleet.stop)
        for scenario in scenarios:
            say(f"{scenario.name}: {scenario.title}")
            results["scenarios"][scenario.name] = _run(scenario, targets, fleet, rounds, seconds, scale, say)
            results["versions"] = fleet.versions
            keep(results)
    return results


def _run(
    scenario: Scenario,
    targets: Sequence[str],
    fleet: Fleet,
    rounds: int,
    seconds: float,
    scale: float,
    say: Say,
) -> dict[str, Any]:
    outcomes: dict[str, list[Outcome]] = {name: [] for name in targets}
    cannot: dict[str, str] = {}
    for number in range(rounds):
        # Who goes first changes, too.
        turn = number % len(targets)
        for name in [*targets[turn:], *targets[:turn]]:
            if name in cannot:
                continue
            try:
                outcome = _round(scenario, name, fleet, seconds, scale)
            except CannotError as reason:
                cannot[name] = str(reason)
                say(f"  {name:20} – {reason}")
                continue
            outcomes[name].append(outcome)
            say(f"  {name:20} {_line(scenario, outcome)}")
    return {
        name: {"cannot": cannot[name]} if name in cannot else _summary(outcomes[name]) for name in targets
    }


def _round(scenario: Scenario, name: str, fleet: Fleet, seconds: float, scale: float) -> Outcome:
    with ExitStack() as stack:
        if scenario.fresh:
            target = stack.enter_context(fleet.fresh(name, scenario.level))
        else:
            target = fleet.target(name, scenario.level)
        if scenario.needs in target.cannot:
            raise CannotError(target.cannot[scenario.needs])
        try:
            return scenario.run(Field(*fleet.players(), seconds=seconds, scale=scale), target)
        except (HarnessError, RuntimeError, OSError) as error:
            fleet.dismiss_players()
            if not scenario.fresh:
                fleet.forget(name, scenario.level)
            return Outcome({}, {str(error).strip().rpartition("\n")[2][:300]: 1})


def _summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    names = {name for outcome in outcomes for name in outcome.values}
    complaints: dict[str, int] = {}
    for outcome in outcomes:
        for complaint, count in outcome.complaints.items():
            if count:
                complaints[complaint] = complaints.get(complaint, 0) + count
    return {
        "median": {
            name: statistics.median(outcome.values[name] for outcome in outcomes if name in outcome.values)
            for name in sorted(names)
        },
        "rounds": [dict(outcome.values) for outcome in outcomes],
        "complaints": complaints,
    }


def _line(scenario: Scenario, outcome: Outcome) -> str:
    values = outcome.values
    parts = [f"{values[scenario.measure]:12,.1f} {scenario.unit}"] if scenario.measure in values else []
    parts += [
        f"{name} {values[name]:,.2f}"
        for name in ("rate", "p50_ms", "p99_ms", "worker_us", "worker_waited")
        if name in values and name != scenario.measure
    ]
    parts += [f"!! {complaint}: {count}" for complaint, count in outcome.complaints.items() if count]
    return "  ".join(parts)
