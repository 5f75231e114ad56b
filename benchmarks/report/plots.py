"""A picture for each scenario: a bar for each target's median, a dot for each of its rounds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot

from benchmarks.scenarios import Scenario

COLOURS = {"relay": "#2563a8", "bare": "#c8c8c8"}
PEER = "#8a9bb0"


def draw(scenario: Scenario, found: Mapping[str, Any], path: Path) -> bool:
    """Write the picture; False, and none, if no target was measured."""
    measured = {
        name: [each[scenario.measure] for each in of["rounds"] if scenario.measure in each]
        for name, of in found.items()
        if "median" in of and scenario.measure in of["median"]
    }
    if not measured:
        return False
    # Text stays text, which is small, and the same numbers give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9}):
        figure, axes = pyplot.subplots(figsize=(6.4, 0.45 + 0.32 * len(measured)), layout="constrained")
        for row, (name, values) in enumerate(measured.items()):
            axes.barh(row, found[name]["median"][scenario.measure], 0.6, color=COLOURS.get(name, PEER))
            axes.plot(values, [row] * len(values), "o", color="#00000080", markersize=3, markeredgewidth=0)
        axes.set_yticks(range(len(measured)), list(measured))
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        better = "less is better" if scenario.smaller_is_better else "more is better"
        axes.set_xlabel(f"{scenario.measure}, {scenario.unit} ({better})")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return True
