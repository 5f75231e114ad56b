from __future__ import annotations

from pathlib import Path

import pytest

from pulsar_relay.kinds import (
    Choice,
    Duration,
    FilePath,
    Kind,
    Rate,
    Rates,
    Secret,
    Size,
    Switch,
    Text,
    Whole,
    Words,
)

KINDS_WITH_VALUES: list[tuple[Kind, str, object]] = [
    (Text(), "some host", "some host"),
    (FilePath(), "/var/lib/relay", Path("/var/lib/relay")),
    (FilePath(), "data/valkey", Path("data/valkey")),
    (Switch(), "true", True),
    (Switch(), "false", False),
    (Choice(("auto", "text")), "text", "text"),
    (Whole(0, 65535), "8080", 8080),
    (Whole(-5, 5), "-5", -5),
    (Duration("1s", "1h"), "1m30s", 90.0),
    (Size("1KiB", "1GiB"), "32MiB", 33554432),
]


@pytest.mark.parametrize(("kind", "text", "value"), KINDS_WITH_VALUES)
def test_a_value_is_read_and_what_is_shown_of_it_reads_back(kind: Kind, text: str, value: object) -> None:
    assert kind.parse(text) == value
    assert kind.parse(kind.show(value)) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Whole(1, 10), "0"),
        (Whole(1, 10), "11"),
        (Duration("1s", "1h"), "999ms"),
        (Duration("1s", "1h"), "1h1ms"),
        (Size("1KiB", "1MiB"), "1023"),
        (Size("1KiB", "1MiB"), "1025KiB"),
        (Size("16MiB", "1TiB", zero="no limit"), "1"),
    ],
)
def test_a_value_beyond_a_bound_is_refused(kind: Kind, text: str) -> None:
    with pytest.raises(ValueError, match=r"is too (small|large)"):
        kind.parse(text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Whole(1, 10), "1"),
        (Whole(1, 10), "10"),
        (Duration("1s", "1h"), "1s"),
        (Duration("1s", "1h"), "60m"),
        (Size("1KiB", "1MiB"), "1KiB"),
        (Size("1KiB", "1MiB"), "1MiB"),
        (Size("16MiB", "1TiB", zero="no limit"), "0"),
    ],
)
def test_bounds_are_included(kind: Kind, text: str) -> None:
    kind.parse(text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Whole(0, 10), "1.0"),
        (Whole(0, 10), "--1"),
        (Whole(0, 10), "٣"),
        (Whole(0, 10), "1_0"),
        (Whole(0, 10), "9" * 5000),
        (Switch(), "maybe"),
        (Choice(("auto", "text")), "xml"),
        (Text(), "line\nbreak"),
        (FilePath(), "nul\0"),
    ],
)
def test_text_of_another_kind_is_refused(kind: Kind, text: str) -> None:
    with pytest.raises(ValueError):
        kind.parse(text)


@pytest.mark.parametrize(
    "kind", [Whole(0, 1), Switch(), Choice(("a",)), Duration("1s", "2s"), Size("1", "2"), Text()]
)
def test_a_refusal_does_not_repeat_the_text_which_may_be_a_secret(kind: Kind) -> None:
    with pytest.raises(ValueError) as refusal:
        kind.parse("hunter2\n")
    assert "hunter2" not in str(refusal.value)


def test_a_choice_is_read_in_any_case() -> None:
    assert Choice(("info", "debug")).parse("INFO") == "info"


@pytest.mark.parametrize(
    ("text", "rate"), [("5/1m", Rate(5, 60.0)), ("5 / m", Rate(5, 60.0)), ("1/1s", Rate(1, 1.0))]
)
def test_a_rate_is_a_number_in_a_time(text: str, rate: Rate) -> None:
    assert Rates().parse(text) == rate and Rates().parse(Rates().show(rate)) == rate


@pytest.mark.parametrize(
    "text", ["5", "0/1s", "5/", "5/10ms", "5/2d", "a/1s", "/1s", "1e3/1s", "9" * 9000 + "/1s"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Rates().parse(text)


def test_some_of_a_few_words_are_taken_in_their_own_order() -> None:
    kind = Words(("admin", "read", "write"))
    assert kind.parse("write, READ") == kind.parse('["read", "write"]') == ("read", "write")
    with pytest.raises(ValueError, match="not allowed"):
        kind.parse("read, root")


def test_a_secret_is_long_and_none_that_everybody_knows() -> None:
    kind = Secret(8, frozenset({"changeme!"}))
    assert kind.parse("12345678") == "12345678"
    for text in ("1234567", "changeme!", "12345678\n"):
        with pytest.raises(ValueError):
            kind.parse(text)
