"""What a scenario is given, and what it tells."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load.publishing import publish_each
from benchmarks.load.stage import Player
from benchmarks.messages import FIRST, LAST, Template
from benchmarks.targets.target import Target

PAYLOAD_BYTES = 200
LIMIT_SECONDS = 60.0
"""The longest wait for what should come at once."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one round. `values` are numbers by name; the scenario's `measure` is one of them."""

    values: Mapping[str, float]
    complaints: Mapping[str, int] = field(default_factory=dict)
    """What was wrong, and how often; a target with any has failed, however fast it was."""


@dataclass(frozen=True, slots=True)
class Field:
    """Where a round takes place: two players, how long it may last, and names that nobody has used."""

    publisher: Player
    receiver: Player
    seconds: float
    scale: float
    """1 for the full amounts; less where the whole run must be short."""
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def topic(self) -> str:
        return f"bench-{self.run}-{next(self._numbers)}"

    def amount(self, full: int) -> int:
        return max(1, round(full * self.scale))

    def publish_first(self, target: Target, *templates: Template) -> str:
        """Publish the first message of each topic; returns the id of the first."""
        return self._publish_each(target, templates, FIRST)

    def publish_last(self, target: Target, *templates: Template) -> None:
        self._publish_each(target, templates, LAST)

    def _publish_each(self, target: Target, templates: Sequence[Template], number: int) -> str:
        self.publisher.begin(publish_each, target.port, templates, number)
        ids: list[str] = self.publisher.result()
        return ids[0]


Run = Callable[[Field, Target], Outcome]


@dataclass(frozen=True, slots=True)
class Scenario:
    """`measure` names the value that the report shows first; `per` what one operation of it is."""

    name: str
    title: str
    run: Run
    per: str
    measure: str = "rate"
    unit: str = "/s"
    smaller_is_better: bool = False
    level: str = "memory"
    needs: str = ""
    """Something a target may not have: a key of its `cannot`."""
    fresh: bool = False
    """Needs processes nobody has used before, as it weighs them."""


def speed(deliveries: int, seconds: float) -> dict[str, float]:
    """The rate; none where the last message did not come in time, which `seconds` below 0 tells."""
    return {"rate": deliveries / seconds} if seconds > 0 else {}


def refusals(report: Mapping[str, Any]) -> dict[str, int]:
    """The publisher's complaints; the first refusal's words are in the name."""
    refused = report["refused"]
    return {f"refused: {refused[0][:120]}": len(refused)} if refused else {}
