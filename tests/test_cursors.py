"""What cursors mean, and how positions in several topics are written as one word."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.protocol import Start
from actors.stream import MessageId
from pulsar_relay.cursors import decode_positions, encode_positions, place, read_last_event_id

NUMBERS = st.integers(0, 2**64 - 1)
IDS = st.builds(MessageId.of, NUMBERS, NUMBERS)
TOPICS = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)
POSITIONS = st.dictionaries(TOPICS, IDS, min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("cursor", "start"),
    [
        ("", Start.EARLIEST),
        ("earliest", Start.EARLIEST),
        ("latest", Start.LATEST),
        ("last", Start.LATEST),
        ("acked", Start.ACKED),
        ("0-0", MessageId(0)),
        ("1700000000000-12", MessageId.of(1700000000000, 12)),
        ("18446744073709551615-18446744073709551615", MessageId(2**128 - 1)),
    ],
)
def test_a_cursor_names_a_place(cursor: str, start: MessageId | Start) -> None:
    assert place(cursor) == start


@pytest.mark.parametrize(
    "cursor",
    [
        *(
            "msg_0123456789ab",
            "abc",
            "-",
            "$",
            "+",
            "max",
            "1",
            "1-",
            "-1",
            "1-2-3",
            " 1-2",
            "1-2\n",
            "1.5-2",
        ),
        *("18446744073709551616-0", "0-18446744073709551616", "1" * 21 + "-0", "1" * 5000 + "-1"),
        *("\u0663-1", "LATEST", "unknown", "\x00"),
    ],
)
def test_a_cursor_that_is_not_understood_is_unknown(cursor: str) -> None:
    assert place(cursor) is Start.UNKNOWN


@given(st.text())
def test_no_text_is_wrong(cursor: str) -> None:
    assert isinstance(place(cursor), MessageId | Start)


@given(POSITIONS)
def test_positions_are_read_back(positions: dict[str, MessageId]) -> None:
    word = encode_positions(positions)
    assert decode_positions(word, list(positions)) == positions
    assert re.fullmatch(r"[0-9a-z.-]+", word)


@given(POSITIONS, st.lists(TOPICS, max_size=5))
def test_positions_of_other_topics_are_not_understood(
    positions: dict[str, MessageId], others: list[str]
) -> None:
    if others != list(positions):
        assert decode_positions(encode_positions(positions), others) is None


def test_positions_in_another_order_are_not_understood() -> None:
    word = encode_positions({"a": MessageId(1), "b": MessageId(2)})
    assert decode_positions(word, ["b", "a"]) is None


@given(
    st.text(alphabet="0123456789abcdxyz.-~ é") | st.text(),
    st.lists(TOPICS, min_size=1, max_size=3, unique=True),
)
def test_a_word_that_is_no_position_is_not_understood(word: str, topics: list[str]) -> None:
    checksum = encode_positions(dict.fromkeys(topics, MessageId(0))).partition(".")[0]
    for guess in (word, f"{checksum}.{word}"):
        positions = decode_positions(guess, topics)
        assert positions is None or list(positions) == topics


@pytest.mark.parametrize(
    "tail", ["", ".", ".1", ".1-", ".1-z-", ".1-2.3-4", ".zzzzzzzzzzzzz-1", ".1-1\n", ".-"]
)
def test_a_damaged_word_is_not_understood(tail: str) -> None:
    checksum = encode_positions({"a": MessageId(0)}).partition(".")[0]
    assert decode_positions(checksum + tail, ["a"]) is None


def test_two_positions_fit_in_a_short_word() -> None:
    assert (
        len(encode_positions({"a": MessageId.of(1700000000000, 12), "b": MessageId.of(1700000000001, 3)}))
        < 32
    )


def test_the_id_of_an_event_stands_for_every_topic() -> None:
    ids = {"a": MessageId.of(5, 1), "b": MessageId.of(7, 2)}
    assert read_last_event_id(encode_positions(ids), ["a", "b"]) == {"a": "5-1", "b": "7-2"}
    assert read_last_event_id("5-1", ["a"]) == {"a": "5-1"}
    assert read_last_event_id("whatever", ["a", "b"]) == {"a": "whatever", "b": "whatever"}
