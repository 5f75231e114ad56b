"""`docs/performance.md`, from the results of one run."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report.goals import GOALS
from benchmarks.scenarios import SCENARIOS, Scenario

DOCS = Path(__file__).parent.parent.parent / "docs"
PICTURES = "performance"
REMARKS = Path(__file__).with_name("remarks.md")
"""Written by hand: what the numbers come from."""
RELAY = "relay"
WORST_DISTURBANCE = 0.1
"""Beyond this share the document says that its numbers are not to be relied on."""
COLUMNS = {
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "publish_p99_ms": "publish p99 ms",
    "late_seconds": "slow one done after s",
    "worker_us": "worker µs",
    "store_us": "store µs",
    "store_commands": "store commands",
    "store_bytes": "store bytes",
}
"""What a scenario's table shows besides its measure, where any target has it."""

INTRODUCTION = """\
# Performance

Written by `make bench` from one run; the numbers are in `{source}`. All targets are measured in turns, by
the same load, each with a Valkey of its own with the settings of `valkey.conf`; the numbers are medians of
the rounds, the dots in the pictures are the rounds. `bare` is a server on uvloop that stores and checks
nothing, and only writes the same bytes to the same sockets: what the machine gives at most, and proof that
the load can go that fast.

Every round also checks what was received: all of it, once, in order. ✗ marks a target that did not deliver
that, however fast it was; – one that has no such thing. *Worker µs* is processor time of the worker's process
for one operation, which other work on the machine disturbs far less than the clock; *store µs* the same of
its Valkey, which counts commands and bytes itself.
"""


def text(results: Mapping[str, Any], source: str, pictures: Mapping[str, str]) -> str:
    """The document. `pictures` are links, by scenario."""
    found = results["scenarios"]
    parts = [
        INTRODUCTION.format(source=source),
        "\n".join(_circumstances(results)) + _warning(results),
        "## At a glance\n\n" + "\n".join(_glance(found)),
        "## Goals\n\n" + "\n".join(_goals(found)),
        "## Costs\n\nOf the relay, and of the bare server as the least there can be.\n\n"
        + "\n".join(_costs(found)),
        "## Scenarios",
    ]
    parts += [
        "\n".join(_section(scenario, found[scenario.name], pictures.get(scenario.name)))
        for scenario in SCENARIOS
        if scenario.name in found
    ]
    parts.append(REMARKS.read_text("utf-8"))
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def write(results: Mapping[str, Any], source: Path) -> None:
    """Write the document and its pictures; those of scenarios that are no more are removed."""
    # Only pictures need matplotlib, and tests of the text do without.
    from benchmarks.report.plots import draw  # noqa: PLC0415

    directory = DOCS / PICTURES
    directory.mkdir(exist_ok=True)
    for picture in directory.glob("*.svg"):
        picture.unlink()
    pictures = {
        scenario.name: f"{PICTURES}/{scenario.name}.svg"
        for scenario in SCENARIOS
        if scenario.name in results["scenarios"]
        and draw(scenario, results["scenarios"][scenario.name], directory / f"{scenario.name}.svg")
    }
    name = source.resolve()
    shown = name.relative_to(DOCS.parent) if name.is_relative_to(DOCS.parent) else Path(name.name)
    (DOCS / "performance.md").write_text(text(results, str(shown), pictures))


def _circumstances(results: Mapping[str, Any]) -> Iterator[str]:
    machine, placement = results["machine"], results["placement"]
    versions = (
        f"{name}: " + ", ".join(f"{part} {version}" for part, version in sorted(of.items()))
        for name, of in results["versions"].items()
    )
    cores = "; ".join(f"{part} on {', '.join(map(str, of))}" for part, of in placement.items() if of)
    yield from _table(
        ("", ""),
        (
            ("date", results["date"]),
            ("command", f"`{results['command']}`"),
            ("rounds", f"{results['rounds']} of {results['seconds']:g} s, amounts × {results['scale']:g}"),
            ("machine", f"{machine['processor']}, {machine['cores']} cores, {machine['memory_mib']:,} MiB"),
            ("system", f"{machine['system']}, Python {machine['python']}"),
            ("cores", cores or "not pinned"),
            ("versions", "<br>".join(versions)),
            (
                "disturbed",
                f"ready, the relay waited for its core {_disturbance(results):.0%} of the time",
            ),
        ),
    )


def _disturbance(results: Mapping[str, Any]) -> float:
    """The share of the time in which somebody else had the relay's core when it wanted it."""
    waited = [
        each["worker_waited"]
        for scenario in results["scenarios"].values()
        for each in scenario.get(RELAY, {}).get("rounds", ())
        if "worker_waited" in each
    ]
    return float(statistics.median(waited or [0]))


def _warning(results: Mapping[str, Any]) -> str:
    if _disturbance(results) < WORST_DISTURBANCE:
        return ""
    return (
        "\n\n**This run was disturbed.** Other work had the worker's core for much of it: rates are too low,"
        " times too long, costs too high, and even ratios uncertain. It shows what is measured, not how fast"
        " anything is."
    )


def _glance(found: Mapping[str, Any]) -> Iterator[str]:
    """What has goals, each with its own measures, by target."""
    scenarios = {scenario.name: scenario for scenario in SCENARIOS if scenario.name in found}
    measured = dict.fromkeys((goal.scenario, goal.measure) for goal in GOALS if goal.scenario in scenarios)
    targets = list(dict.fromkeys(target for name in scenarios for target in found[name]))
    rows = []
    for name, measure in measured:
        values = (_value(found[name].get(target, {}), measure) for target in targets)
        rows.append((scenarios[name].title, measure, *values))
    yield from _table(("work", "measure", *targets), rows)


def _value(of: Mapping[str, Any], measure: str) -> str:
    if "median" not in of:
        return "–"
    return _number(of["median"].get(measure)) + (" ✗" if of["complaints"] else "")


def _goals(found: Mapping[str, Any]) -> Iterator[str]:
    titles = {scenario.name: scenario.title for scenario in SCENARIOS}
    rows = []
    for goal in GOALS:
        reached = goal.reached(found)
        if reached is None:
            verdict, shown = "not measured", "–"
        else:
            verdict = "met" if goal.is_met_by(reached) else "**missed**"
            shown = f"{reached:,.2f} ×" if goal.of else f"{reached:,.1f}"
        rows.append((titles[goal.scenario], "first" if goal.is_first else "then", goal.text, shown, verdict))
    yield from _table(("work", "", "goal", "reached", ""), rows)


def _costs(found: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for scenario in SCENARIOS:
        ours = found.get(scenario.name, {}).get(RELAY, {}).get("median", {})
        bare = found.get(scenario.name, {}).get("bare", {}).get("median", {})
        if "worker_us" in ours:
            rows.append(
                (
                    scenario.title,
                    scenario.per,
                    _number(ours["worker_us"]),
                    _number(1e6 / ours["worker_us"]) + "/s",
                    _number(bare.get("worker_us")),
                    _number(ours.get("store_us")),
                    _number(ours.get("store_commands")),
                    _number(ours.get("store_bytes")),
                )
            )
    columns = (
        "work",
        "of a",
        "worker µs",
        "one core's limit",
        "bare µs",
        "store µs",
        "store commands",
        "store bytes",
    )
    yield from _table(columns, rows)


def _section(scenario: Scenario, found: Mapping[str, Any], picture: str | None) -> Iterator[str]:
    yield f"### {scenario.title}"
    yield ""
    if picture:
        yield f"![{scenario.title}]({picture})"
        yield ""
    medians = [of["median"] for of in found.values() if "median" in of]
    shown = [name for name in COLUMNS if name != scenario.measure and any(name in each for each in medians)]
    measures = [scenario.measure, *(["rate"] if scenario.measure != "rate" else [])]
    head = ["target", *(f"{name} {scenario.unit if name == scenario.measure else '/s'}" for name in measures)]
    rows = []
    for name, of in found.items():
        if "cannot" in of:
            rows.append([name, f"– {of['cannot']}"] + [""] * (len(measures) - 1 + len(shown) + 1))
            continue
        ours = found.get(RELAY, {}).get("median", {}).get(scenario.measure)
        theirs = of["median"].get(scenario.measure)
        ratio = f"{ours / theirs:.2f} ×" if ours and theirs and name != RELAY else ""
        marks = "".join(f" ✗ {complaint}: {count}" for complaint, count in of["complaints"].items())
        cells = [_number(of["median"].get(each)) for each in [*measures, *shown]]
        rows.append([_one_line(name + marks), *cells, ratio])
    yield from _table((*head, *(COLUMNS[name] for name in shown), "relay to it"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _one_line(words: str) -> str:
    return " ".join(words.replace("|", "/").split())


def _number(value: float | None) -> str:
    """With three digits that mean something."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
