from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsar_relay.quantities import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("24h", 86400.0),
        ("500ms", 0.5),
        ("1h30m", 5400.0),
        ("1m30s", 90.0),
        ("7d", 604800.0),
        ("1.5s", 1.5),
        ("30", 30.0),
        ("0.25", 0.25),
        ("0", 0.0),
        (" 10S ", 10.0),
    ],
)
def test_a_duration_reads_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "h", "1x", "1h 30m", "-5s", "+5s", "1e3", "nan", "inf", "1s2s", "1:30", "٣s", "1.s", ".5s", "1µs"],
)
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|unit twice"):
        parse_duration(text)


def test_a_duration_finer_than_a_millisecond_is_refused_not_rounded() -> None:
    with pytest.raises(ValueError, match="finer than a millisecond"):
        parse_duration("0.0005s")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(86400.0, "24h"), (75.0, "75s"), (0.5, "500ms"), (5400.0, "1h30m"), (0.0, "0s"), (7 * 86400.0, "7d")],
)
def test_a_duration_is_shown_as_people_say_it(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(min_value=0, max_value=10**12))
def test_every_shown_duration_reads_back_as_itself(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("32MiB", 33554432),
        ("64KB", 64000),
        ("64 kib", 65536),
        ("1.5KiB", 1536),
        ("1024", 1024),
        ("0", 0),
        ("7B", 7),
        ("1TiB", 2**40),
    ],
)
def test_a_size_reads_as_bytes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "MiB", "32M", "32K", "-1", "1e6", "1 2", "0x10", "1PiB", "nan"])
def test_what_is_not_a_size_or_could_mean_two_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


def test_a_part_of_a_byte_is_refused_not_rounded() -> None:
    with pytest.raises(ValueError, match="whole number of bytes"):
        parse_size("0.3B")


@given(st.integers(min_value=0, max_value=2**60))
def test_every_shown_size_reads_back_as_itself(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


def test_a_size_is_shown_in_the_largest_unit_that_is_exact() -> None:
    assert [format_size(size) for size in (0, 1000, 1536, 65536, 2**25, 2**40)] == [
        "0",
        "1000",
        "1536",
        "64KiB",
        "32MiB",
        "1TiB",
    ]
