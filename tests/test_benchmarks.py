"""The benchmark harness tells right answers from wrong ones, and what it writes can be read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import messages, rounds
from benchmarks.load.received import Received, complaints
from benchmarks.machine import Placement
from benchmarks.messages import FIRST, LAST, Template
from benchmarks.report import performance
from benchmarks.scenarios import SCENARIOS
from benchmarks.usage import usage_of

ANYWHERE = Placement(frozenset(), frozenset(), frozenset())
BETWEEN = range(FIRST + 1, FIRST + 5)
WHOLE = (FIRST, *BETWEEN, LAST)


def received(numbers: Sequence[int], *, first_id: int = 1, step: int = 1) -> Received:
    """As a target would have sent them, in pieces that respect nothing."""
    text = b"".join(
        b'{"message_id":"1700-%d","payload":{"n":%d}}' % (first_id + index * step, number)
        for index, number in enumerate(numbers)
    )
    found = Received()
    found.pieces = [text[at : at + 7] for at in range(0, len(text), 7)]
    found.times = list(range(len(found.pieces)))
    return found


def names_of(found: dict[str, int]) -> set[str]:
    return {name for name, count in found.items() if count}


def test_two_that_received_everything_in_one_order_are_right() -> None:
    assert names_of(complaints([received(WHOLE), received(WHOLE)], BETWEEN)) == set()


@pytest.mark.parametrize(
    ("numbers", "wrong"),
    [
        ((FIRST, *BETWEEN[1:], LAST), "lost"),
        ((FIRST, *BETWEEN), "lost"),
        ((*WHOLE, BETWEEN[0]), "doubled"),
        ((*WHOLE[:-1], FIRST + 77, LAST), "foreign"),
    ],
)
def test_a_message_lost_doubled_or_foreign_is_seen(numbers: Sequence[int], wrong: str) -> None:
    assert names_of(complaints([received(numbers)], BETWEEN)) == {wrong}


def test_ids_that_do_not_ascend_are_seen() -> None:
    assert names_of(complaints([received(WHOLE, first_id=9, step=-1)], BETWEEN)) == {"reordered"}


def test_two_orders_of_the_same_messages_are_seen() -> None:
    other = (FIRST, *reversed(BETWEEN), LAST)
    assert names_of(complaints([received(WHOLE), received(other)], BETWEEN)) == {"reordered"}


def test_a_number_arrives_with_the_piece_that_ends_it() -> None:
    found = Received()
    found.pieces = [b'{"n":10000', b'00001}{"n":1000000002', b"}"]
    found.times = [5, 7, 9]
    assert found.arrivals() == {1_000_000_001: 7, 1_000_000_002: 7}


def test_a_template_is_filled_to_the_length_it_announces() -> None:
    text = messages.payload(200)
    filled = Template(text).fill(FIRST)
    assert len(filled) == 200 == messages.filled_length(text)
    assert messages.NUMBER.findall(Template(text * 3, 3).fill(7 + FIRST)) == [
        b"1000000007",
        b"1000000008",
        b"1000000009",
    ]


def test_a_process_that_works_is_seen_to_use_its_processor() -> None:
    with open("/proc/self/stat") as stat:
        pid = int(stat.read().split()[0])
    before, started = usage_of(pid).cpu_seconds, time.thread_time()
    while time.thread_time() - started < 0.05:
        pass
    assert 0.05 <= usage_of(pid).cpu_seconds - before < 30


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """Of a short run of every scenario on the servers that are there without installing anything."""
    return rounds.run(
        SCENARIOS,
        ["relay", "bare"],
        rounds=1,
        seconds=0.1,
        scale=0.02,
        placement=ANYWHERE,
        say=lambda line: None,
    )


@pytest.mark.timeout(300)
def test_every_scenario_runs_on_the_relay_and_finds_nothing_wrong(results: dict[str, Any]) -> None:
    for scenario in SCENARIOS:
        for name, found in results["scenarios"][scenario.name].items():
            if "cannot" not in found:
                assert found["complaints"] == {}, (scenario.name, name)
                assert found["median"][scenario.measure] > 0 or scenario.measure == "bytes"


def test_a_target_that_cannot_says_why(results: dict[str, Any]) -> None:
    assert results["scenarios"]["publish_disk"]["bare"] == {"cannot": "stores nothing"}


def test_a_store_is_asked_for_less_than_it_is_told(results: dict[str, Any]) -> None:
    """Group commit: a bulk request of a hundred messages is a few commands at most for each."""
    costs = results["scenarios"]["publish_bulk"]["relay"]["median"]
    assert 1 <= costs["store_commands"] < 2
    assert costs["store_bytes"] > messages.filled_length(messages.payload(200)) - 50


def test_the_report_shows_every_scenario_and_every_complaint(results: dict[str, Any]) -> None:
    results["scenarios"]["publish"]["bare"]["complaints"] = {"lost": 3}
    text = performance.text(results, "results.json", {"publish": "performance/publish.svg"})
    for scenario in SCENARIOS:
        assert f"### {scenario.title}" in text
    assert "bare ✗ lost: 3 |" in text
    assert "![Publish: single POSTs, 32 connections](performance/publish.svg)" in text
    assert "| – stores nothing |" in text


def test_the_pictures_are_drawn(results: dict[str, Any], tmp_path: Path) -> None:
    plots = pytest.importorskip("benchmarks.report.plots", reason="needs the extra `bench`")
    scenario = SCENARIOS[0]
    assert plots.draw(scenario, results["scenarios"][scenario.name], tmp_path / "a.svg")
    assert plots.draw(scenario, results["scenarios"][scenario.name], tmp_path / "b.svg")
    picture = (tmp_path / "a.svg").read_bytes()
    assert b"relay" in picture and b"</svg>" in picture and len(picture) < 20_000
    assert picture == (tmp_path / "b.svg").read_bytes()
