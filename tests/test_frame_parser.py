"""FrameParser: what clients send is read, however it is cut into frames and pieces; what they may not is
refused. The frames are made by a library we did not write.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from pulsar_relay.web.frame_parser import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    FrameParser,
    FramingError,
    close_frame,
    control_frame,
    is_proper_close,
)

LIMIT = 100_000


def frame(opcode: int, payload: bytes, *, is_final: bool = True, is_masked: bool = True) -> bytes:
    return Frame(Opcode(opcode), payload, is_final).serialize(mask=is_masked)


def parsed(pieces: Iterable[bytes], parser: FrameParser | None = None) -> list[tuple[int, bytes]]:
    parser = parser or FrameParser(LIMIT)
    found = []
    for piece in pieces:
        parser.feed(piece)
        while (message := parser.next()) is not None:
            found.append(message)
    return found


def cut(data: bytes, points: Iterable[int]) -> list[bytes]:
    ends = sorted({point % (len(data) + 1) for point in points} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


sizes = st.sampled_from([0, 1, 7, 125, 126, 127, 1000, 65_535, 65_536, 70_000])
payloads = st.one_of(st.binary(max_size=300), sizes.map(lambda size: random.Random(size).randbytes(size)))
controls = st.tuples(st.sampled_from([PING, PONG, CLOSE]), st.binary(max_size=125))


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, bytes]]]:
    """The bytes of some messages in fragments, with control frames in between, and what they say."""
    data, said = bytearray(), []
    for _ in range(draw(st.integers(0, 5))):
        opcode = draw(st.sampled_from([TEXT, BINARY]))
        fragments = cut(draw(payloads), draw(st.lists(st.integers(0, 70_000), max_size=4))) or [b""]
        for number, fragment in enumerate(fragments):
            for control, payload in draw(st.lists(controls, max_size=2)):
                data += frame(control, payload)
                said.append((control, payload))
            is_last = number == len(fragments) - 1
            data += frame(opcode if number == 0 else 0, fragment, is_final=is_last)
        said.append((opcode, b"".join(fragments)))
    return bytes(data), said


@given(conversations(), st.lists(st.integers(0, 1_000_000), max_size=20))
def test_what_was_sent_is_read_however_it_is_cut(
    conversation: tuple[bytes, list[tuple[int, bytes]]], points: list[int]
) -> None:
    data, said = conversation
    assert parsed(cut(data, points)) == said


@given(st.lists(payloads, min_size=1, max_size=4))
def test_frames_can_be_taken_one_at_a_time_while_more_is_fed(texts: list[bytes]) -> None:
    parser = FrameParser(LIMIT)
    for text in texts:
        parser.feed(frame(TEXT, text))
    for text in texts:
        assert parser.next() == (TEXT, text)
        parser.feed(frame(PING, b""))
    assert [parser.next() for _ in texts] == [(PING, b"")] * len(texts)
    assert parser.next() is None


def test_byte_by_byte_is_enough() -> None:
    data = frame(TEXT, b"x" * 70_000) + frame(TEXT, b"end")
    assert parsed(data[at : at + 1] for at in range(len(data))) == [(TEXT, b"x" * 70_000), (TEXT, b"end")]


BROKEN = {
    "a reserved bit": b"\xc1\x80",
    "another reserved bit": b"\xa1\x80",
    "a third reserved bit": b"\x91\x80",
    "an unknown opcode": b"\x83\x80",
    "an unknown control opcode": b"\x8b\x80",
    "a continuation of nothing": b"\x80\x80",
    "a ping in fragments": b"\x09\x80",
    "a long ping": b"\x89\xfe",
    "a long close": b"\x88\xff",
    "a text without a mask": b"\x81\x00",
    "a ping without a mask": b"\x89\x00",
    "a text within another": frame(TEXT, b"a", is_final=False) + b"\x81\x80",
    "a binary frame within a text": frame(TEXT, b"a", is_final=False) + b"\x02\x80",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_no_client_may_send_is_refused_as_soon_as_it_shows(data: bytes) -> None:
    for pieces in ([data], cut(data, range(len(data)))):
        with pytest.raises(FramingError) as refused:
            parsed(pieces)
        assert (refused.value.close_code, str(refused.value)) == (1002, "protocol_error")


def test_what_came_before_is_read() -> None:
    parser = FrameParser(LIMIT)
    parser.feed(frame(TEXT, b"before") + b"\xff\xff")
    assert parser.next() == (TEXT, b"before")
    with pytest.raises(FramingError):
        parser.next()


@pytest.mark.parametrize(
    "head",
    [
        b"\x81\xff" + (LIMIT + 1).to_bytes(8, "big"),
        b"\x81\xff" + b"\xff" * 8,
        frame(TEXT, b"x" * LIMIT, is_final=False) + b"\x80\x81",
        frame(TEXT, b"x" * 60_000, is_final=False) + b"\x00\xfe\xff\xff",
    ],
)
def test_a_message_that_is_too_large_is_refused_before_it_comes(head: bytes) -> None:
    with pytest.raises(FramingError) as refused:
        parsed([head])
    assert (refused.value.close_code, str(refused.value)) == (1009, "frame_too_large")


def test_a_message_as_large_as_may_be_is_read_also_in_fragments_with_a_ping_in_between() -> None:
    half = b"x" * (LIMIT // 2)
    whole = frame(TEXT, half + half)
    fragments = frame(TEXT, half, is_final=False) + frame(PING, b"y" * 125) + frame(0, half)
    assert parsed([whole, fragments]) == [(TEXT, half + half), (PING, b"y" * 125), (TEXT, half + half)]


def test_all_that_is_kept_is_let_go_of_once_it_is_read() -> None:
    parser = FrameParser(LIMIT)
    data = frame(TEXT, b"x" * 1000)
    assert parsed([data[:500], data[500:]], parser) == [(TEXT, b"x" * 1000)]
    assert (parser._data, parser._at, parser._message) == (b"", 0, None)


# ----------------------------------------------------------------------------------------------- what we send


def read_by_a_client(data: bytes) -> Frame:
    """The frame in `data`, as another library reads it."""
    reader = StreamReader()
    reader.feed_data(data)
    reading = Frame.parse(reader.read_exact, mask=False)
    with pytest.raises(StopIteration) as done:
        next(reading)
    found: Frame = done.value.value
    found.check()
    return found


@given(controls)
def test_our_control_frames_are_read_by_others(control: tuple[int, bytes]) -> None:
    opcode, payload = control
    found = read_by_a_client(control_frame(opcode, payload))
    assert (found.opcode, found.data, found.fin) == (opcode, payload, True)


@pytest.mark.parametrize("reason", ["", "going_away", "x" * 123, "x" * 500])
def test_a_close_frame_tells_code_and_reason_as_far_as_there_is_room(reason: str) -> None:
    found = read_by_a_client(close_frame(4001, reason))
    assert found.opcode is Opcode.CLOSE
    assert found.data == b"\x0f\xa1" + reason.encode()[:123]


@pytest.mark.parametrize(
    ("data", "is_proper"),
    [
        (b"", True),
        (b"\x03\xe8", True),
        (b"\x03\xe8" + "tschüß".encode(), True),
        (b"\x0b\xb8", True),
        (b"\x13\x87", True),
        (b"\x03", False),
        (b"\x03\xe7", False),
        (b"\x03\xec", False),
        (b"\x03\xed", False),
        (b"\x03\xee", False),
        (b"\x03\xf7", False),
        (b"\x0b\xb7", False),
        (b"\x13\x88", False),
        (b"\x03\xe8\xff", False),
    ],
)
def test_a_close_frame_has_a_code_that_may_be_sent_and_a_reason_in_utf_8(
    data: bytes, is_proper: bool
) -> None:
    assert is_proper_close(data) is is_proper
