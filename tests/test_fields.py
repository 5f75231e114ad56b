"""How each kind of value in a request is read."""

from __future__ import annotations

from typing import Any

import pytest
from marshmallow import ValidationError

from pulsar_relay.fields import (
    CappedNumber,
    CursorMap,
    Flag,
    QueryCursors,
    Seconds,
    Text,
    TopicName,
    TopicNames,
    WholeNumber,
    is_topic_name,
)


def refused(field: Any, value: Any) -> bool:
    try:
        field.deserialize(value)
    except ValidationError:
        return True
    return False


@pytest.mark.parametrize(
    "name", ["a", "7", "job_setup", "a-b_c", "-a", "__proto__x", "A" * 255, "_" * 254 + "z"]
)
def test_a_topic_can_have_this_name(name: str) -> None:
    assert is_topic_name(name)
    assert TopicName().deserialize(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "_",
        "---",
        "-_-",
        "a" * 256,
        "_" * 255 + "z",
        "a b",
        "a.b",
        "a:b",
        "a/b",
        "{a}",
        "a\n",
        "a\x00",
        "jöbs",
        "\u0663",
        "..",
        "%00",
    ],
)
def test_no_topic_has_this_name(name: str) -> None:
    assert not is_topic_name(name)
    assert refused(TopicName(), name)


@pytest.mark.parametrize("value", [None, 7, True, ["a"], {"a": 1}, b"a"])
def test_a_topic_name_is_a_string(value: Any) -> None:
    assert refused(TopicName(), value)


def test_topics_are_listed_once_in_the_order_given() -> None:
    assert TopicNames(3).deserialize(["b", "a", "b"]) == ["b", "a"]


def test_topics_in_a_query_stand_between_commas() -> None:
    assert TopicNames(3, is_query=True).deserialize("b,a") == ["b", "a"]
    assert refused(TopicNames(3, is_query=True), "a,,b")


@pytest.mark.parametrize(
    "value", [[], ["a", "b", "c", "d"], ["a", "a", "a", "a"], "a", {"a": 1}, ["a", None], ["a", ["b"]], None]
)
def test_a_list_of_topics_is_bounded_and_made_of_names(value: Any) -> None:
    assert refused(TopicNames(3), value)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (5, 5),
        (5.0, 5),
        ("5", 5),
        ("5.0", 5),
        (" +5 ", 5),
        ("5.", 5),
        (True, 1),
        (1e15, 10**15),
        (2**70, 2**70),
        ("-3", -3),
    ],
)
def test_a_whole_number_may_be_written_in_several_ways(value: Any, number: int) -> None:
    read = WholeNumber().deserialize(value)
    assert read == number
    assert type(read) is int


@pytest.mark.parametrize(
    "value",
    [5.5, "5.5", "five", "", "1e3", "0x5", "\u0665", "1_000", float("nan"), float("inf"), [5], {}, None],
)
def test_what_is_not_a_whole_number_is_refused(value: Any) -> None:
    assert refused(WholeNumber(), value)


def test_a_whole_number_keeps_its_bounds() -> None:
    field = WholeNumber(1, 10)
    assert [value for value in (0, 1, 10, 11, "0", 1e300, -1e300) if not refused(field, value)] == [1, 10]


@pytest.mark.parametrize(
    ("value", "number"), [(1, 1), (10, 10), (11, 10), ("1000", 10), (1e300, 10), (10**300, 10)]
)
def test_a_capped_number_above_its_cap_counts_as_the_cap(value: Any, number: int) -> None:
    assert CappedNumber(10).deserialize(value) == number


@pytest.mark.parametrize("value", [0, -1, "0", False])
def test_a_capped_number_is_at_least_one(value: Any) -> None:
    assert refused(CappedNumber(10), value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (30, 30),
        (30.0, 30),
        ("30", 30),
        (2.5, 2.5),
        ("2.5", 2.5),
        (0, 1),
        (-5, 1),
        (61, 60),
        (1e9, 60),
        (10**300, 60),
        (True, 1),
        ("1e9", 60),
    ],
)
def test_any_number_of_seconds_is_clamped(value: Any, seconds: float) -> None:
    assert Seconds(1.0, 60.0).deserialize(value) == seconds


@pytest.mark.parametrize(
    "value", [float("nan"), "nan", "inf", "-inf", "1e999", "soon", "", [1], {}, 10**400, None]
)
def test_what_is_no_number_of_seconds_is_refused(value: Any) -> None:
    assert refused(Seconds(1.0, 60.0), value)


@pytest.mark.parametrize("value", [True, "true", "TRUE", "1", 1, "on", "t", "Y", "yes"])
def test_a_flag_is_set(value: Any) -> None:
    assert Flag().deserialize(value) is True


@pytest.mark.parametrize("value", [False, "false", "0", 0, "OFF", "f", "n", "No"])
def test_a_flag_is_not_set(value: Any) -> None:
    assert Flag().deserialize(value) is False


@pytest.mark.parametrize("value", ["", "maybe", 2, 0.0, [], {}, None, "truee"])
def test_what_is_no_flag_is_refused(value: Any) -> None:
    assert refused(Flag(), value)


def test_cursors_may_be_any_text_and_null_counts_as_empty() -> None:
    cursors = {"jobs": "1-2", "other": None, "": "msg_abc", "x/y": "$"}
    assert CursorMap().deserialize(cursors) == {"jobs": "1-2", "other": "", "": "msg_abc", "x/y": "$"}


@pytest.mark.parametrize("value", [[], "1-2", 7, {"jobs": 7}, {"jobs": ["1-2"]}, {"jobs": True}])
def test_what_is_no_object_of_cursors_is_refused(value: Any) -> None:
    assert refused(CursorMap(), value)


@pytest.mark.parametrize(
    ("text", "cursors"),
    [
        ("", {}),
        ("1-2", {"": "1-2"}),
        ("jobs:1-2", {"jobs": "1-2"}),
        ("jobs:1-2,other:earliest", {"jobs": "1-2", "other": "earliest"}),
        ("jobs:1-2,latest", {"jobs": "1-2", "": "latest"}),
        ("jobs:", {"jobs": ""}),
        (",,", {}),
    ],
)
def test_cursors_in_a_query_are_one_for_all_or_pairs(text: str, cursors: dict[str, str]) -> None:
    found: object = QueryCursors().deserialize(text)
    assert found == cursors


def test_a_text_keeps_its_length() -> None:
    field = Text(3, 1)
    assert [value for value in ("", "a", "abc", "abcd", 7, None) if not refused(field, value)] == ["a", "abc"]
