"""value: what is made with it is compared, hashed and shown by its fields."""

from __future__ import annotations

import dataclasses

import pytest

from actors.value import value


@value
class Point:
    x: int
    y: int = 0


def test_values_of_the_same_fields_are_equal_and_have_one_hash() -> None:
    assert Point(1) == Point(1, 0) != Point(1, 1)
    assert len({Point(1), Point(1, 0), Point(0, 1)}) == 2
    assert repr(Point(1)) == "Point(x=1, y=0)"


def test_a_value_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError):
        Point(1).z = 1  # type: ignore[attr-defined]


def test_a_changed_copy_is_made_as_of_any_dataclass() -> None:
    assert dataclasses.replace(Point(1), y=2) == Point(1, 2)  # type: ignore[type-var]
