"""The client without a relay: addresses, waits, frames, events, and what a reader makes of its transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsar_relay.client.address import Address, topic_path
from pulsar_relay.client.backoff import Backoff
from pulsar_relay.client.errors import ClientError, LostError, NotARelayError, RefusedError, UnreachableError
from pulsar_relay.client.event_stream import EventParser
from pulsar_relay.client.frames import (
    Frame,
    MessageFrame,
    NoticeFrame,
    PositionFrame,
    one_line,
    read_frame,
    read_poll,
)
from pulsar_relay.client.http import refusal
from pulsar_relay.client.reader import Reader
from pulsar_relay.client.transports import closed

ADDRESS = Address("http://relay")


# ---------------------------------------------------------------------------------------------------- address


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("localhost:8080", "http://"),
        ("ftp://relay", "http://"),
        ("http://", "no host"),
        ("http://relay?x=1", "query"),
        ("http://relay#x", "fragment"),
        ("http://relay:0", "port 0"),
        ("http://relay:port", "int"),
    ],
)
def test_an_address_that_is_no_relays_base_url_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Address.parse(text)


def test_a_relay_may_be_below_a_path() -> None:
    address = Address.parse("https://example.org/relay/")
    assert address.url("/ready") == "https://example.org/relay/ready"
    assert address.websocket_url() == "wss://example.org/relay/ws"
    assert address.target("/api/v1/stream", {"topics": "a,b"}) == "/relay/api/v1/stream?topics=a%2Cb"
    assert address.host_and_port == ("example.org", 443)


def test_a_password_in_the_address_is_not_shown() -> None:
    assert Address.parse("http://user:secret@relay:81").shown == "http://relay:81"


def test_a_topic_name_cannot_leave_its_place_in_the_path() -> None:
    assert topic_path("../a/b?c") == "/api/v1/topics/..%2Fa%2Fb%3Fc"


# ---------------------------------------------------------------------------------------------------- backoff


def test_waits_grow_up_to_the_most_and_begin_anew_after_success() -> None:
    backoff = Backoff(first_seconds=1, most_seconds=4)
    for most in (1, 2, 4, 4):
        assert most / 2 <= backoff.next() <= most
    backoff.reset()
    assert backoff.next() <= 1


def test_what_the_relay_asks_for_is_waited() -> None:
    assert Backoff(first_seconds=0.1).next(at_least_seconds=7) == 7


# ----------------------------------------------------------------------------------------------------- errors


def test_a_relays_error_is_shown_in_its_own_words() -> None:
    body = b'{"error":"topic_not_found","message":"No such topic.","detail":"No such topic.","retry":false}'
    error = refusal(ADDRESS, 404, {}, body)
    assert str(error) == "topic_not_found: No such topic."
    assert not error.is_retryable


def test_wrong_fields_are_named_instead_of_the_general_text() -> None:
    body = (
        b'{"error":"invalid_request","message":"Not valid.","retry":false,'
        b'"detail":[{"loc":["body","ttl"],"msg":"must be at least 1","type":"value_error"}]}'
    )
    assert refusal(ADDRESS, 422, {}, body).message == "ttl must be at least 1"


def test_retry_says_whether_to_try_again_and_retry_after_when() -> None:
    body = b'{"error":"store_full","message":"No room.","detail":"No room.","retry":true}'
    error = refusal(ADDRESS, 503, {"Retry-After": "5"}, body)
    assert error.is_retryable and error.retry_after_seconds == 5


def test_the_reason_a_socket_is_closed_with_says_when_to_come_back() -> None:
    assert closed(1012, "going_away; retry_ms=730").retry_after_seconds == 0.73
    assert closed(1012, "going_away").retry_after_seconds == 0
    assert closed(None, None).retry_after_seconds == 0


@pytest.mark.parametrize(("status", "is_retryable"), [(502, True), (404, False)])
def test_an_answer_of_something_else_than_a_relay_says_so(status: int, is_retryable: bool) -> None:
    error = refusal(ADDRESS, status, {"Retry-After": "Fri, 31 Dec 2027 23:59:59 GMT"}, b"<html>")
    assert error.code == f"http_{status}" and "not as a relay does" in error.message
    assert error.is_retryable is is_retryable
    assert error.retry_after_seconds == 0


# ----------------------------------------------------------------------------------------------------- frames


def test_a_messages_payload_comes_out_byte_for_byte() -> None:
    text = b'{"type":"message","topic":"t","message_id":"1-1","payload":{"b": 1.10,  "a":2, "b":7}}'
    frame = read_frame(text)
    assert frame == MessageFrame("t", "1-1", text, b'{"b": 1.10,  "a":2, "b":7}')


def test_line_ends_between_tokens_become_blanks() -> None:
    assert one_line(b'{\r\n"a":\n"x\\n"}') == b'{  "a": "x\\n"}'


def test_an_error_frame_is_raised_with_the_relays_word_on_trying_again() -> None:
    with pytest.raises(RefusedError) as caught:
        read_frame(b'{"type":"error","code":"store_full","message":"No room.","retry":true}')
    assert caught.value.code == "store_full" and caught.value.is_retryable


def test_frames_that_say_nothing_to_a_reader_are_skipped() -> None:
    assert read_frame(b'{"type":"pong","timestamp":"x"}') is None


@pytest.mark.parametrize("text", [b"", b"[]", b'{"type":7}', b"\xff"])
def test_what_is_no_frame_is_not_a_relays(text: bytes) -> None:
    with pytest.raises(NotARelayError, match="no frame of a relay"):
        read_frame(text)


def test_a_polls_notices_come_before_its_messages_and_the_position_last() -> None:
    text = (
        b'{"messages":[{"type":"message","topic":"t","message_id":"5-0","payload":1}],"has_more":false,'
        b'"cursors":{"t":"5-0"},"notices":[{"type":"gap","topic":"t","reason":"trimmed"}]}'
    )
    notice, message, position = read_poll(text)
    assert isinstance(notice, NoticeFrame) and notice.kind == "gap"
    assert isinstance(message, MessageFrame) and message.payload == b"1"
    assert position == PositionFrame({"t": "5-0"})


# ----------------------------------------------------------------------------------------------------- events


STREAM = (
    b"retry: 2000\n\n: keep-alive\n\nevent: subscribed\ndata: {}\n\n"
    b'id: 1-1\r\ndata: {"a":\r\ndata:1}\r\n\r\ndata: last\n\ndata: never finished\n'
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_do_not_depend_on_where_the_bytes_are_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    parser = EventParser()
    chunks = [STREAM[start:end] for start, end in pairwise(places)]
    assert [data for chunk in chunks for data in parser.feed(chunk)] == [b"{}", b'{"a":\n1}', b"last"]


# ----------------------------------------------------------------------------------------------------- reader


def _message(message_id: str, topic: str = "t") -> MessageFrame:
    return MessageFrame(topic, message_id, b"{}", b"null")


class ScriptedTransport:
    """Plays one list for each connection; a list may end with the error that ends it."""

    def __init__(self, *connections: Iterable[Frame | ClientError]) -> None:
        self._connections = iter(connections)
        self.cursors: list[dict[str, str]] = []
        self.epochs: list[dict[str, str]] = []

    async def frames(self, cursors: Mapping[str, str], epochs: Mapping[str, str]) -> AsyncGenerator[Frame]:
        self.cursors.append(dict(cursors))
        self.epochs.append(dict(epochs))
        for step in next(self._connections):
            if isinstance(step, ClientError):
                raise step
            yield step
        raise LostError("the script is over")


END = RefusedError("end", "of the test", is_retryable=False)


def _read(transport: ScriptedTransport, since: Mapping[str, str]) -> tuple[list[str], list[str], str]:
    """What a reader yields (ids, and kinds of notices), of which interruptions it tells, and how it ends."""
    interruptions: list[str] = []

    async def read() -> tuple[list[str], str]:
        reader = Reader(
            transport,
            since,
            backoff=Backoff(0, 0),
            on_interruption=lambda error, seconds: interruptions.append(error.code),
        )
        got: list[str] = []
        try:
            async for frame in reader.frames():
                got.append(frame.message_id if isinstance(frame, MessageFrame) else frame.kind)  # noqa: PERF401
        except ClientError as error:
            return got, error.code
        raise AssertionError("a reader ends by an error only")

    got, end = asyncio.run(read())
    return got, interruptions, end


def test_a_reader_goes_on_where_it_was_and_drops_what_it_had() -> None:
    transport = ScriptedTransport(
        [PositionFrame({"t": "4-0"}), _message("5-0"), _message("5-1"), LostError("cut")],
        [PositionFrame({"t": "5-1"}), _message("5-0"), _message("5-1"), _message("10-0"), END],
    )
    got, interruptions, end = _read(transport, {"t": "latest"})
    assert got == ["5-0", "5-1", "10-0"]
    assert transport.cursors == [{"t": "latest"}, {"t": "5-1"}]
    assert interruptions == ["connection_lost"] and end == "end"


def test_a_reader_that_was_given_its_place_keeps_it_without_any_message() -> None:
    transport = ScriptedTransport([PositionFrame({"t": "4-0"}), LostError("cut")], [END])
    _read(transport, {"t": "latest"})
    assert transport.cursors == [{"t": "latest"}, {"t": "4-0"}]


def test_the_epoch_is_presented_until_a_reset_ends_it() -> None:
    place = PositionFrame({"t": "4-0"}, {"t": "e1"})
    reset = NoticeFrame("reset", "t", b"{}")
    transport = ScriptedTransport([place, LostError("cut")], [reset, LostError("cut")], [END])
    _read(transport, {"t": "latest"})
    assert transport.epochs == [{}, {"t": "e1"}, {}]


def test_after_a_reset_lower_ids_are_news() -> None:
    reset = NoticeFrame("reset", "t", b"{}")
    transport = ScriptedTransport([_message("9-0"), reset, LostError("cut")], [_message("3-0"), END])
    got, _, _ = _read(transport, {"t": "earliest"})
    assert got == ["9-0", "reset", "3-0"]
    assert transport.cursors[1] == {"t": "earliest"}


def test_topics_have_cursors_of_their_own() -> None:
    transport = ScriptedTransport(
        [_message("9-0", "a"), _message("3-0", "b"), LostError("cut")], [_message("4-0", "b"), END]
    )
    got, _, _ = _read(transport, {"a": "earliest", "b": "earliest"})
    assert got == ["9-0", "3-0", "4-0"]
    assert transport.cursors[1] == {"a": "9-0", "b": "3-0"}


def test_a_relay_that_was_never_there_is_an_error_at_once() -> None:
    got, interruptions, end = _read(ScriptedTransport([UnreachableError("x", "refused")]), {"t": "latest"})
    assert (got, interruptions, end) == ([], [], "unreachable")


def test_a_relay_that_went_away_is_waited_for() -> None:
    gone = UnreachableError("x", "refused")
    transport = ScriptedTransport([_message("1-0"), LostError("cut")], [gone], [gone], [_message("2-0"), END])
    got, interruptions, _ = _read(transport, {"t": "earliest"})
    assert got == ["1-0", "2-0"]
    assert interruptions == ["connection_lost", "unreachable", "unreachable"]


def test_a_relay_that_is_busy_from_the_start_is_waited_for() -> None:
    busy = RefusedError("store_loading", "Wait.", is_retryable=True)
    got, interruptions, end = _read(ScriptedTransport([busy], [_message("1-0"), END]), {"t": "earliest"})
    assert (got, interruptions, end) == (["1-0"], ["store_loading"], "end")


def test_ids_of_another_relay_are_passed_on_as_they_come() -> None:
    transport = ScriptedTransport([_message("msg_b"), LostError("cut")], [_message("msg_a"), END])
    got, _, _ = _read(transport, {"t": "earliest"})
    assert got == ["msg_b", "msg_a"]
