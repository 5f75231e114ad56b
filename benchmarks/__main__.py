"""`python -m benchmarks`: measure, and write the report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from benchmarks import guard
from benchmarks import rounds as rounds_of
from benchmarks.machine import Placement
from benchmarks.processes import HarnessError
from benchmarks.report import performance
from benchmarks.scenarios import SCENARIOS
from benchmarks.targets import TARGETS

_QUICK = {"rounds": 1, "seconds": 0.4, "scale": 0.2}
_QUICK_TARGETS = [name for name in TARGETS if name != "relay-accounts"]
"""What accounts cost is too little to be seen in a short round."""


@click.group()
def main() -> None:
    """Measure this relay beside its peers, in one run."""


@main.command()
@click.option("--scenario", "wanted", multiple=True, type=click.Choice([each.name for each in SCENARIOS]))
@click.option("--target", "targets", multiple=True, type=click.Choice(list(TARGETS)))
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--seconds", type=float, default=3.0, show_default=True, help="Of one round, where it has no end."
)
@click.option("--quick", is_flag=True, help="One short round of each: does it work, and roughly how fast?")
@click.option("--unpinned", is_flag=True, help="Let the system choose cores.")
@click.option("--output", type=click.Path(path_type=Path), help="Where the results go, as JSON.")
def run(
    wanted: tuple[str, ...],
    targets: tuple[str, ...],
    rounds: int,
    seconds: float,
    quick: bool,
    unpinned: bool,
    output: Path | None,
) -> None:
    """Run scenarios (all) on targets (all) and write what was measured.

    Exits 1 if the relay itself did anything wrong.
    """
    amounts = _QUICK if quick else {"rounds": rounds, "seconds": seconds, "scale": 1.0}
    none: frozenset[int] = frozenset()
    placement = Placement(none, none, none) if unpinned else Placement.of_this_machine()
    try:
        results = rounds_of.run(
            [each for each in SCENARIOS if not wanted or each.name in wanted],
            targets or (_QUICK_TARGETS if quick else list(TARGETS)),
            placement=placement,
            say=click.echo,
            keep=lambda results: _write(results, output),
            **amounts,  # type: ignore[arg-type]
        )
    except HarnessError as error:
        raise click.ClickException(str(error)) from error
    wrong = {
        f"{name} of {relay}": found[relay]["complaints"]
        for name, found in results["scenarios"].items()
        for relay in ("relay", "relay-accounts")
        if found.get(relay, {}).get("complaints")
    }
    if wrong:
        click.echo(f"the relay failed: {wrong}", err=True)
        sys.exit(1)


def _write(results: dict[str, Any], output: Path | None) -> None:
    if output is not None:
        output.write_text(json.dumps(results, indent=1) + "\n")


@main.command()
@click.argument("results", type=click.Path(exists=True, path_type=Path))
def report(results: Path) -> None:
    """Write docs/performance.md and its pictures from a run's RESULTS."""
    performance.write(json.loads(results.read_text()), results)


@main.command("guard")
@click.option("--accept", is_flag=True, help="Make what is counted now the baseline.")
def guard_command(accept: bool) -> None:
    """Count the Python instructions of the main paths and compare them with the baseline.

    Exits 1 where one is more than 15 % off.
    """
    costs = guard.run()
    if accept:
        guard.accept(costs)
    accepted = guard.baseline()
    for path, cost in costs.items():
        before = accepted.get(path)
        change = f"{cost.instructions / before.instructions - 1:+8.1%}" if before else "        "
        click.echo(
            f"{path:10}{cost.instructions:12,.1f} instructions {change}{cost.c_calls:10,.1f} calls into C"
        )
    if not accepted:
        raise click.ClickException(f"no baseline for this Python; see --accept and {guard.BASELINE.name}")
    if found := guard.changes(accepted, costs):
        raise click.ClickException("; ".join(f"{what} {change:+.0%}" for what, change in found.items()))


if __name__ == "__main__":
    main()
