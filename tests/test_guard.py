"""The main paths cost no more Python than they did, and the guard that says so notices when they do."""

from __future__ import annotations

import sys

import pytest

from benchmarks import guard
from benchmarks.guard import Cost
from pulsar_relay.requests import RequestReader

ACCEPTED = {"publish": Cost(10_000, 300), "delivery": Cost(300, 10)}


@pytest.mark.timeout(180)
def test_no_main_path_costs_much_more_or_less_than_was_accepted() -> None:
    accepted = guard.baseline()
    if not accepted:
        pytest.skip(f"Python {sys.version_info.major}.{sys.version_info.minor} counts other instructions")
    costs = guard.run()
    assert set(costs) == set(accepted)
    assert guard.changes(accepted, costs) == {}, "if it is meant: python -m benchmarks guard --accept"


@pytest.mark.timeout(180)
def test_a_request_that_is_read_ten_times_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = guard.baseline()
    if not accepted:
        pytest.skip(f"Python {sys.version_info.major}.{sys.version_info.minor} counts other instructions")
    read = RequestReader.publish

    def read_ten_times(*arguments: object) -> object:
        for _ in range(9):
            read(*arguments)  # type: ignore[arg-type]
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(RequestReader, "publish", read_ten_times)
    changes = guard.changes(accepted, guard.run())
    assert changes["publish instructions"] > guard.TOLERANCE
    assert "fetch instructions" not in changes


@pytest.mark.timeout(180)
def test_accounts_cost_little_beside_what_publishing_and_polling_cost() -> None:
    shares = guard.cost_of_accounts(guard.run(), guard.run(guard.measure_for_a_user))
    assert shares.keys() == guard.ACCOUNTS_MAY_COST.keys()
    for path, share in shares.items():
        assert 1 < share <= guard.ACCOUNTS_MAY_COST[path], path


def test_a_change_beyond_the_tolerance_is_named_in_either_direction() -> None:
    costs = {"publish": Cost(11_600, 300), "delivery": Cost(300, 8)}
    assert guard.changes(ACCEPTED, costs) == pytest.approx(
        {"publish instructions": 0.16, "delivery c_calls": -0.2}
    )


def test_a_change_within_it_is_not() -> None:
    assert guard.changes(ACCEPTED, {"publish": Cost(11_400, 330), "delivery": Cost(260, 9)}) == {}
