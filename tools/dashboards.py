"""Writes Grafana's dashboards from deploy/grafana/panels.yml: `python -m tools.dashboards`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

GRAFANA = Path(__file__).resolve().parent.parent / "deploy" / "grafana"
PANELS = GRAFANA / "panels.yml"
DIRECTORY = GRAFANA / "dashboards"
SOURCE = {"type": "prometheus", "uid": "prometheus"}
WIDTH = 24
HEIGHT = 8
QUANTILES = {"half": 0.5, "95 %": 0.95, "99 %": 0.99}
"""How long the quicker half took, and all but the slowest few."""


def dashboards() -> dict[Path, str]:
    """Each file's content."""
    read = yaml.safe_load(PANELS.read_text("utf-8"))
    return {DIRECTORY / f"{name}.json": _text(_dashboard(name, **entry)) for name, entry in read.items()}


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _dashboard(name: str, *, title: str, rows: list[list[dict[str, Any]]]) -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        width = WIDTH // len(row)
        for column, panel in enumerate(row):
            place = {"h": HEIGHT, "w": width, "x": column * width, "y": number * HEIGHT}
            panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(**panel)})
    others = {"type": "dashboards", "title": "Relay", "tags": ["relay"], "asDropdown": True, "keepTime": True}
    return {
        "uid": f"relay-{name}",
        "title": title,
        "tags": ["relay"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [others],
        "panels": panels,
    }


def _panel(
    *, title: str, unit: str, about: str = "", queries: dict[str, str] | None = None, quantiles: str = ""
) -> dict[str, Any]:
    is_date = unit == "dateTimeFromNow"
    return {
        "type": "stat" if is_date else "timeseries",
        "title": title,
        "description": about,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": unit, **({} if is_date else {"min": 0})}, "overrides": []},
        "options": {} if is_date else {"tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "expr": query.replace("[range]", "[$__rate_interval]"),
                "legendFormat": legend,
            }
            for number, (legend, query) in enumerate((queries or _quantiles(quantiles)).items())
        ],
    }


def _quantiles(histogram: str) -> dict[str, str]:
    rates = f"sum by (le) (rate({histogram}_bucket[range]))"
    return {name: f"histogram_quantile({part}, {rates})" for name, part in QUANTILES.items()}


def main() -> None:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for path, text in dashboards().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
