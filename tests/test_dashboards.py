"""The dashboards are those of their table."""

from __future__ import annotations

import json

import pytest

from tools import dashboards

TITLES = {
    "Message throughput",
    "Connections",
    "Delivery latency",
    "Consumer lag",
    "Valkey performance",
    "System resources",
}
each_dashboard = pytest.mark.parametrize(
    "text", [pytest.param(text, id=path.stem) for path, text in dashboards.dashboards().items()]
)


def test_the_files_are_what_the_table_says() -> None:
    found = {path: path.read_text("utf-8") for path in dashboards.DIRECTORY.iterdir()}
    assert found == dashboards.dashboards(), "python -m tools.dashboards"


def test_each_subject_has_a_dashboard_with_an_address_of_its_own() -> None:
    read = [json.loads(text) for text in dashboards.dashboards().values()]
    assert {dashboard["title"] for dashboard in read} == TITLES
    assert len({dashboard["uid"] for dashboard in read}) == len(TITLES)


@pytest.mark.parametrize(
    "text", dashboards.dashboards().values(), ids=[p.stem for p in dashboards.dashboards()]
)
def test_no_two_panels_share_a_place_or_a_title(text: str) -> None:
    panels = json.loads(text)["panels"]
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= dashboards.WIDTH for panel in panels)


@pytest.mark.parametrize(
    "text", dashboards.dashboards().values(), ids=[p.stem for p in dashboards.dashboards()]
)
def test_each_panel_asks_something_of_the_source_that_is_provisioned(text: str) -> None:
    source = (dashboards.GRAFANA / "provisioning/datasources/prometheus.yml").read_text("utf-8")
    for panel in json.loads(text)["panels"]:
        assert panel["targets"]
        for asker in (panel, *panel["targets"]):
            assert asker["datasource"]["type"] == "prometheus"
            assert f"uid: {asker['datasource']['uid']}\n" in source
