"""What the relay is to reach, beside its peers in the same run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PREDECESSOR = "pulsar-relay-0.2.1"
NCHAN = "nchan"


@dataclass(frozen=True, slots=True)
class Goal:
    """The relay's `measure` in `scenario` is at least `least`, or at most `most`.

    Times what `of` has for `of_measure` (for `measure` where that is empty); without `of`, as it is.
    """

    scenario: str
    measure: str
    is_first: bool
    least: float | None = None
    most: float | None = None
    of: str = ""
    of_measure: str = ""

    def reached(self, scenarios: Mapping[str, Any]) -> float | None:
        """In the goal's own measure, a factor or a value; None where the run has not measured it."""
        ours = self._median(scenarios, "relay", self.measure)
        if not self.of:
            return ours
        theirs = self._median(scenarios, self.of, self.of_measure or self.measure)
        return ours / theirs if ours is not None and theirs else None

    def is_met_by(self, reached: float) -> bool:
        return reached >= self.least if self.least is not None else reached <= (self.most or 0.0)

    def _median(self, scenarios: Mapping[str, Any], target: str, measure: str) -> float | None:
        found = scenarios.get(self.scenario, {}).get(target, {}).get("median", {}).get(measure)
        return None if found is None else float(found)

    @property
    def text(self) -> str:
        sign, number = ("≥", self.least) if self.least is not None else ("≤", self.most)
        if not self.of:
            return f"{self.measure} {sign} {number:,g}"
        theirs = f" {self.of_measure}" if self.of_measure else ""
        return f"{self.measure} {sign} {number:g} × {self.of}{theirs}"


def _first(scenario: str, measure: str, **bounds: Any) -> Goal:
    return Goal(scenario, measure, True, **bounds)


def _then(scenario: str, measure: str, **bounds: Any) -> Goal:
    return Goal(scenario, measure, False, **bounds)


GOALS = (
    _first("publish", "rate", least=4, of=PREDECESSOR),
    _first("publish", "p99_ms", most=15),
    _then("publish", "rate", least=6, of=PREDECESSOR),
    _first("publish_bulk", "rate", least=12, of=PREDECESSOR),
    _then("publish_bulk", "rate", least=25, of=PREDECESSOR),
    _first("fan_out_1", "rate", least=4, of=PREDECESSOR),
    _then("fan_out_1", "rate", least=1, of=NCHAN),
    _first("fan_out_32", "rate", least=1, of=NCHAN),
    _then("fan_out_32", "rate", least=2, of=NCHAN),
    _first("latency", "p99_ms", most=1, of=PREDECESSOR, of_measure="p50_ms"),
    _then("latency", "p99_ms", most=1, of=NCHAN),
    _first("long_poll", "rate", least=10, of=PREDECESSOR),
    _first("read_back", "rate", least=3, of=PREDECESSOR),
    _then("read_back", "rate", least=10, of=PREDECESSOR),
    _first("idle", "bytes", most=25 * 1024),
    _first("idle", "rate", least=1500),
    _then("idle", "bytes", most=14 * 1024),
)
