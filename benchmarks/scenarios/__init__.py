"""What is done to every target; one function each, in the order of the report."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.scenarios import connecting, fanning_out, keeping, publishing, reading
from benchmarks.scenarios.scenario import Scenario

SCENARIOS: Sequence[Scenario] = (
    *publishing.SCENARIOS,
    *fanning_out.SCENARIOS,
    *reading.SCENARIOS,
    *connecting.SCENARIOS,
    *keeping.SCENARIOS,
)

__all__ = ["SCENARIOS", "Scenario"]
