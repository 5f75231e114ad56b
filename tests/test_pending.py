"""PendingPublishes: bounded, in order, one batch at a time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.pending import PendingPublishes
from actors.ports import Draft, Publish


def publish_of(count: int, size: int = 1) -> Publish:
    return Publish("t", tuple(Draft(b"x" * size) for _ in range(count)))


def test_a_publish_beyond_a_bound_is_refused_and_changes_nothing() -> None:
    pending = PendingPublishes(3, 1 << 20)
    assert pending.add(publish_of(2), "a")
    assert not pending.add(publish_of(2), "b")
    assert pending.add(publish_of(1), "c")
    assert [publisher for _, publisher in pending.drain()] == ["a", "c"]


def test_bytes_are_bounded_too() -> None:
    pending = PendingPublishes(1000, 1000)
    assert pending.add(publish_of(1, 800), "a")
    assert not pending.add(publish_of(1, 800), "b")


def test_an_empty_queue_takes_any_one_publish() -> None:
    pending = PendingPublishes(3, 10)
    assert pending.add(publish_of(50, 100), "a")
    assert not pending.add(publish_of(1), "b")


def test_a_batch_takes_the_oldest_that_fit() -> None:
    pending = PendingPublishes(1000, 1 << 20)
    publishes = [publish_of(2) for _ in range(4)]
    for publish in publishes:
        pending.add(publish, None)
    assert pending.begin(5, 1 << 20) == publishes[:2]
    pending.finish()
    assert pending.begin(5, 2 * publishes[0].size_bytes) == publishes[2:], "exactly as many as fit"


def test_a_publish_larger_than_a_batch_goes_alone() -> None:
    pending = PendingPublishes(1000, 1 << 20)
    pending.add(publish_of(9), "a")
    pending.add(publish_of(1), "b")
    assert len(pending.begin(5, 1 << 20)) == 1
    pending.finish()
    pending.add(publish_of(1, 5000), "c")
    assert len(pending.begin(5, 1000)) == 1, "b first, and c does not fit beside it"
    pending.finish()
    assert len(pending.begin(5, 1000)) == 1


def test_no_batch_begins_while_one_is_in_flight() -> None:
    pending = PendingPublishes(1000, 1 << 20)
    pending.add(publish_of(1), "a")
    assert pending.begin(10, 1 << 20)
    pending.add(publish_of(1), "b")
    assert pending.begin(10, 1 << 20) == []
    assert [publisher for _, publisher in pending.finish()] == ["a"]
    assert pending.begin(10, 1 << 20)


@pytest.mark.parametrize(("max_messages", "max_bytes"), [(3, 1 << 20), (1000, 3 * publish_of(1).size_bytes)])
def test_what_is_in_flight_does_not_count_against_the_bounds(max_messages: int, max_bytes: int) -> None:
    pending = PendingPublishes(max_messages, max_bytes)
    assert pending.add(publish_of(2), "a") and pending.add(publish_of(1), "b")
    pending.begin(2, 1 << 20)
    assert pending.add(publish_of(2), "c"), "exactly as many as fit"
    assert not pending.add(publish_of(1), "d")
    assert len(pending) == 3


def test_draining_leaves_what_is_in_flight() -> None:
    pending = PendingPublishes(10, 1 << 20)
    pending.add(publish_of(1), "a")
    pending.begin(10, 1 << 20)
    pending.add(publish_of(10), "b")
    assert [publisher for _, publisher in pending.drain()] == ["b"]
    assert [publisher for _, publisher in pending.in_flight] == ["a"]
    assert pending.add(publish_of(5), "c") and pending.add(publish_of(5), "d"), "the bounds are free again"


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 200)), max_size=30), st.integers(1, 8))
def test_every_publish_is_taken_once_in_order_in_batches_within_bounds(
    sizes: list[tuple[int, int]], max_messages: int
) -> None:
    pending = PendingPublishes(1 << 20, 1 << 30)
    publishes = [publish_of(count, size) for count, size in sizes]
    for publish in publishes:
        pending.add(publish, None)
    taken: list[Publish] = []
    while batch := pending.begin(max_messages, 500):
        assert len(batch) == 1 or sum(len(publish.drafts) for publish in batch) <= max_messages
        assert len(batch) == 1 or sum(publish.size_bytes for publish in batch) <= 500
        taken += batch
        pending.finish()
    assert all(one is other for one, other in zip(taken, publishes, strict=True))
    assert len(pending) == 0 and pending.add(publish_of(3), None)
