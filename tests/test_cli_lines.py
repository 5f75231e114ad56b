from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pulsar_relay.cli.lines import Batches


class Chunks:
    """A stream whose reads return these chunks, one after the other."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = [chunk for chunk in chunks if chunk]

    def read1(self, size: int, /) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""


def _batches(
    *chunks: bytes, max_lines: int = 3, max_bytes: int = 1000, fills: bool = False
) -> list[list[tuple[int, bytes]]]:
    batches = Batches(Chunks(*chunks), max_lines=max_lines, max_bytes=max_bytes, fills=fills)
    return [[(line.number, line.text) for line in batch] for batch in batches]


def test_a_line_does_not_wait_for_the_next() -> None:
    assert _batches(b"1\n", b"2\n3\n") == [[(1, b"1")], [(2, b"2"), (3, b"3")]]


def test_full_batches_wait_for_their_lines() -> None:
    assert _batches(b"1\n", b"2\n3\n4\n", fills=True) == [[(1, b"1"), (2, b"2"), (3, b"3")], [(4, b"4")]]


def test_a_line_cut_in_pieces_is_one_line() -> None:
    assert _batches(b'{"a', b'":', b"1}\n") == [[(1, b'{"a":1}')]]


def test_the_last_line_needs_no_end() -> None:
    assert _batches(b"1\n2") == [[(1, b"1")], [(2, b"2")]]


def test_blank_lines_are_skipped_and_counted() -> None:
    assert _batches(b"1\r\n\n  \n 2 \n", fills=True) == [[(1, b"1"), (4, b"2")]]


def test_a_batch_holds_no_more_than_its_bytes() -> None:
    assert _batches(b"1234\n56\n789\n", max_bytes=6) == [[(1, b"1234"), (2, b"56")], [(3, b"789")]]


def test_a_line_larger_than_a_batch_is_one_of_its_own() -> None:
    assert _batches(b"1\n23456789\n2\n", max_bytes=4) == [[(1, b"1")], [(2, b"23456789")], [(3, b"2")]]


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_full_batches_do_not_depend_on_how_the_input_comes(data: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(places)]
    assert _batches(*pieces, max_bytes=7, fills=True) == _batches(data, max_bytes=7, fills=True)


@given(st.binary(max_size=60), st.booleans())
def test_every_line_is_in_exactly_one_batch_in_order(data: bytes, fills: bool) -> None:
    expected = [
        (number, line.strip()) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()
    ]
    assert [line for batch in _batches(data, max_bytes=7, fills=fills) for line in batch] == expected
