"""What leaves the relay, read back by other people's parsers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions import Extension
from websockets.frames import Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

from actors.ports import Notice
from actors.stream import BEGINNING, Message, MessageId
from pulsar_relay import answers, wire

PAYLOADS = st.sampled_from(
    [
        b"null",
        b"1.10",
        b"%d" % 2**70,
        b'{"b":1,"a":2,"b":3}',
        b'"\\u00e4"',
        '"ä\U0001f600"'.encode(),
        b"[1,\r\n 2,\r3,\n\n4]",
    ]
)
SIZED = st.sampled_from([0, 1, 100, 125, 126, 127, 65_400, 65_535, 65_536, 70_000]).map(
    lambda size: b'"' + b"x" * size + b'"'
)
METADATA = st.sampled_from([None, b"{}", b'{ "k":"v" }'])


def message(
    number: int = 1,
    payload: bytes = b'{"n":1.10}',
    metadata: bytes | None = None,
    topic: str = "jobs",
    timestamp: str | None = None,
) -> Message:
    message_id = MessageId.of(1_700_000_000_000, number)
    return Message(topic, message_id, str(message_id), BEGINNING, payload, metadata, None, timestamp)


@st.composite
def batches(draw: st.DrawFn) -> list[Message]:
    drawn = draw(st.lists(st.tuples(PAYLOADS | SIZED, METADATA), min_size=1, max_size=6))
    return [message(number, payload, metadata) for number, (payload, metadata) in enumerate(drawn, 1)]


def test_an_item_is_the_message_as_it_was_published() -> None:
    assert wire.item(message(7, b'{"b":1, "a":1.10}', b'{"k":"v"}')) == (
        b'{"type":"message","message_id":"1700000000000-7","topic":"jobs","payload":{"b":1, "a":1.10},'
        b'"timestamp":"2023-11-14T22:13:20.000000Z","metadata":{"k":"v"}}'
    )


@given(batches())
def test_an_item_is_valid_json(messages: list[Message]) -> None:
    for each in messages:
        item = json.loads(wire.item(each))
        assert answers.MessageItem().validate(item) == {}
        assert item["payload"] == json.loads(each.payload)
        assert item["metadata"] == (None if each.metadata is None else json.loads(each.metadata))


def test_an_item_is_made_once() -> None:
    one = message()
    assert wire.item(one) is wire.item(one)


def test_a_timestamp_from_elsewhere_cannot_break_an_item() -> None:
    assert json.loads(wire.item(message(timestamp='now","evil":"\n')))["timestamp"] == 'now","evil":"\n'


# WebSocket


def received(data: bytes) -> list[bytes]:
    """The text frames that another WebSocket implementation finds in `data`."""
    protocol = Protocol(CLIENT, state=OPEN, max_size=None)
    extensions: Sequence[Extension] = ()
    protocol.extensions = list(extensions)
    protocol.receive_data(data)
    assert protocol.parser_exc is None
    frames: list[Any] = protocol.events_received()
    assert all(frame.opcode is Opcode.TEXT and frame.fin for frame in frames)
    return [bytes(frame.data) for frame in frames]


@given(batches())
def test_each_message_is_one_text_frame(messages: list[Message]) -> None:
    assert received(wire.websocket_frames(messages)) == [wire.item(each) for each in messages]


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536, 1_000_000])
def test_a_frame_of_any_length_is_read_back(length: int) -> None:
    text = b"x" * length
    assert received(wire.websocket_frame(text) + wire.websocket_frame(b"next")) == [text, b"next"]


@pytest.mark.parametrize(("length", "header_bytes"), [(125, 2), (126, 4), (65_535, 4), (65_536, 10)])
def test_a_frame_has_the_shortest_header(length: int, header_bytes: int) -> None:
    assert len(wire.websocket_frame(b"x" * length)) == length + header_bytes


def test_no_messages_are_no_frames() -> None:
    assert wire.websocket_frames([]) == b""


# Server-sent events


def unchunked(data: bytes) -> str:
    """The text inside HTTP/1.1 chunks; none of them may be the last one."""
    text = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size, 16)
        assert length > 0
        text += rest[:length]
        assert rest[length : length + 2] == b"\r\n"
        data = rest[length + 2 :]
    return text.decode()


def events(data: bytes) -> Iterator[tuple[str, str, str]]:
    """What an EventSource dispatches: type, data, and the last event id as it then is. As the HTML standard
    words it.
    """
    kind, last_id = "", ""
    lines: list[str] = []
    for line in unchunked(data).replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if line == "":
            if lines:
                yield kind or "message", "\n".join(lines), last_id
            kind, lines = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            lines.append(value)
        elif name == "id":
            last_id = value
    if not kind and not lines:
        yield "", "", last_id


@given(batches())
def test_each_message_is_one_event_with_its_id(messages: list[Message]) -> None:
    found = list(events(wire.sse_events(messages)))[:-1]
    assert [(kind, event_id) for kind, _, event_id in found] == [
        ("message", each.id_text) for each in messages
    ]
    assert [json.loads(data) for _, data, _ in found] == [json.loads(wire.item(each)) for each in messages]


@given(batches())
def test_only_the_last_event_of_a_batch_moves_a_position_in_several_topics(messages: list[Message]) -> None:
    found = list(events(wire.sse_events_with(messages, "abc.1-2")))[:-1]
    assert [event_id for _, _, event_id in found] == [""] * (len(messages) - 1) + ["abc.1-2"]
    assert [json.loads(data) for _, data, _ in found] == [json.loads(wire.item(each)) for each in messages]


def test_a_position_can_move_without_a_message() -> None:
    assert list(events(wire.sse_events_with([], "abc.1-2"))) == [("", "", "abc.1-2")]


def test_data_without_line_ends_is_one_line_byte_for_byte() -> None:
    one = message(payload='{"ä":"\\n"}'.encode())
    assert b"data: " + wire.item(one) + b"\n" in wire.sse_events([one])


@pytest.mark.parametrize(
    ("data", "lines"),
    [(b"a", "a"), (b"a\nb", "a\nb"), (b"a\rb", "a\nb"), (b"a\rb\r\nc", "a\nb\nc"), (b"a\n\nb", "a\n\nb")],
)
def test_an_event_of_any_kind_may_have_lines(data: bytes, lines: str) -> None:
    assert next(events(wire.sse_event("notice", data, "5-1"))) == ("notice", lines, "5-1")
    assert next(events(wire.sse_event("notice", data))) == ("notice", lines, "")


@pytest.mark.parametrize("text", ["", "still here", "two\nlines", "two\r\nlines", "data: no"])
def test_a_comment_dispatches_nothing(text: str) -> None:
    assert list(events(wire.sse_comment(text))) == [("", "", "")]


def test_a_client_is_told_when_to_come_back() -> None:
    assert unchunked(wire.sse_retry(2000)) == "retry: 2000\n\n"


def test_no_messages_do_not_end_the_response() -> None:
    assert list(events(wire.sse_events([]))) == [("", "", "")]


# Answers


GAP = Notice("gap", "jobs", "trimmed", 137, "1700000000000-1")
RESET = Notice("reset", "jobs", "ahead")


@given(batches(), st.booleans(), st.sampled_from([(), (GAP,), (GAP, RESET)]))
def test_a_poll_is_answered_with_items_and_cursors(
    messages: list[Message], has_more: bool, notices: Sequence[Notice]
) -> None:
    told = [wire.notice_frame(notice) for notice in notices]
    answer = json.loads(wire.poll_answer(wire.items(messages), {"jobs": messages[-1].id}, has_more, told))
    assert answers.PollAnswer().validate(answer) == {}
    assert answer["messages"] == [json.loads(wire.item(each)) for each in messages]
    assert answer["cursors"] == {"jobs": messages[-1].id_text}
    assert answer["has_more"] is has_more
    assert answer.get("notices", []) == [wire.notice_frame(notice) for notice in notices]


def test_a_poll_may_be_answered_with_nothing() -> None:
    assert json.loads(wire.poll_answer(wire.items([]), {}, False, ())) == {
        "messages": [],
        "has_more": False,
        "cursors": {},
    }


@pytest.mark.parametrize("notice", [GAP, RESET])
def test_a_notice_is_as_described(notice: Notice) -> None:
    assert answers.NoticeItem().validate(wire.notice_frame(notice)) == {}


@given(batches())
def test_a_page_of_history_leads_to_the_next(messages: list[Message]) -> None:
    answer = json.loads(
        wire.history_answer(
            wire.items(messages), len(messages), 10, "asc", None, messages[-1].id, has_more=True
        )
    )
    assert answers.HistoryAnswer().validate(answer) == {}
    assert answer["messages"] == [json.loads(wire.item(each)) for each in messages]
    rest = {name: value for name, value in answer.items() if name != "messages"}
    assert rest == {
        "total": len(messages),
        "limit": 10,
        "order": "asc",
        "cursor": None,
        "next_cursor": messages[-1].id_text,
        "has_more": True,
    }


def test_a_page_whose_messages_have_all_expired_leads_to_the_next() -> None:
    answer = json.loads(wire.history_answer(b"", 0, 10, "asc", None, MessageId.of(7, 3), has_more=True))
    assert (answer["messages"], answer["next_cursor"], answer["has_more"]) == ([], "7-3", True)


@pytest.mark.parametrize("cursor", ["1-2", "", '"\n\\', "\U0001f600"])
def test_a_page_of_history_may_be_empty_and_tells_its_cursor(cursor: str) -> None:
    answer = json.loads(wire.history_answer(b"", 0, 10, "desc", cursor, None, has_more=False))
    assert (answer["messages"], answer["cursor"], answer["next_cursor"]) == ([], cursor, None)


def test_json_text_passes_through() -> None:
    assert wire.json_text(b'{"n": 1.10}') == b'{"n": 1.10}'
    assert wire.json_text({"a": ["ä", None]}) == '{"a":["ä",null]}'.encode()
