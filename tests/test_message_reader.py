"""Messages as publishers send them: what is accepted, what is refused and why, and that the short way agrees
with the schema.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsar_relay.errors import RelayError
from pulsar_relay.fields import METADATA_MAX_BYTES, TTL_MAX_SECONDS
from pulsar_relay.message_reader import ItemError, MessageReader, PublishRequest
from pulsar_relay.settings import PublishSettings

READER = MessageReader(PublishSettings())
FEW = MessageReader(PublishSettings(bulk_max_messages=3, max_payload_depth=5))


def refusal(text: bytes) -> RelayError:
    with pytest.raises(RelayError) as caught:
        READER.one(text)
    return caught.value


def wrong_fields(error: RelayError) -> list[tuple[str | int, ...]]:
    return [wrong.loc for wrong in error.errors]


def message(**fields: Any) -> bytes:
    return json.dumps({"topic": "jobs", "payload": {"a": 1}, **fields}).encode()


@pytest.mark.parametrize(
    "payload",
    [
        *(b"null", b"true", b"0", b'"text"', b"[]", b"{}", b"1.10", b"-0", b"1E5", b"18446744073709551616"),
        *(b'{"b":1,"a":2,"b":3}', b"[ 1 ,\t2\r\n]", b'"\\u00e4\\ud83d\\ude00"', '"ä\U0001f600"'.encode()),
        *(b"%d" % 2**70, b"[" * 100 + b"]" * 100),
    ],
)
def test_any_json_value_is_a_payload_and_stays_as_it_is(payload: bytes) -> None:
    request = READER.one(b'{"payload":%b,"topic":"jobs"}' % payload)
    assert request == PublishRequest("jobs", payload, None, None)


@pytest.mark.parametrize("ttl", ["60", "60.0", '"60"', '"60.0"', "6e1"])
def test_a_time_to_live_may_be_written_in_several_ways(ttl: str) -> None:
    assert READER.one(b'{"topic":"a","payload":1,"ttl":%b}' % ttl.encode()).ttl_seconds == 60


@pytest.mark.parametrize(
    "ttl", [0, -1, 0.5, 1.5, "soon", [], {}, False, TTL_MAX_SECONDS + 1, 2**63, 10**300, 1e300]
)
def test_a_time_to_live_is_a_positive_number_of_seconds_within_ten_years(ttl: Any) -> None:
    error = refusal(message(ttl=ttl))
    assert (error.code, wrong_fields(error)) == ("invalid_request", [("body", "ttl")])


def test_the_longest_time_to_live_is_ten_years() -> None:
    assert READER.one(message(ttl=TTL_MAX_SECONDS)).ttl_seconds == TTL_MAX_SECONDS


def test_metadata_stays_as_it_is() -> None:
    request = READER.one(b'{"topic":"a","payload":1,"metadata":{ "k":"v", "k":"w" }}')
    assert request.metadata == b'{ "k":"v", "k":"w" }'


def test_null_stands_for_no_metadata_and_no_time_to_live() -> None:
    assert READER.one(message(ttl=None, metadata=None)) == PublishRequest("jobs", b'{"a": 1}', None, None)


@pytest.mark.parametrize(
    "metadata", [[], "text", 1, {"a": 1}, {"a": None}, {"a": {"b": "c"}}, {"a": "x" * METADATA_MAX_BYTES}]
)
def test_metadata_is_a_small_object_of_strings(metadata: Any) -> None:
    error = refusal(message(metadata=metadata))
    assert (error.code, wrong_fields(error)) == ("invalid_request", [("body", "metadata")])


def test_unknown_fields_are_ignored() -> None:
    assert READER.one(message(owner="me", tags=[1, {"a": []}])) == READER.one(message())


def test_a_field_that_is_missing_is_named() -> None:
    error = refusal(b"{}")
    assert sorted(wrong_fields(error)) == [("body", "payload"), ("body", "topic")]
    assert {wrong.type for wrong in error.errors} == {"missing"}


@pytest.mark.parametrize("topic", ["", "a b", "jöbs", 7, None, ["jobs"], {}, "a" * 256])
def test_what_is_no_topic_is_named(topic: Any) -> None:
    assert wrong_fields(refusal(message(topic=topic))) == [("body", "topic")]


@pytest.mark.parametrize(
    ("payload", "code", "status"),
    [
        (b"1e400", "invalid_json", 422),
        (b"NaN", "invalid_json", 422),
        (b"Infinity", "invalid_json", 422),
        (b'"\\ud800"', "invalid_json", 422),
        (b"9" * 400, "invalid_json", 422),
        (b'"\xed\xa0\x80"', "invalid_encoding", 400),
        (b"[" * 101 + b"]" * 101, "nested_too_deeply", 400),
        (b"[" * 100_000 + b"]" * 100_000, "nested_too_deeply", 400),
        (b"{", "invalid_json", 422),
    ],
)
def test_a_payload_that_is_no_json_is_refused(payload: bytes, code: str, status: int) -> None:
    error = refusal(b'{"topic":"jobs","payload":%b}' % payload)
    assert (error.code, error.kind.status) == (code, status)


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b'"text"', b"[" + message() + b"]"])
def test_what_is_no_object_is_no_message(text: bytes) -> None:
    assert refusal(text).kind.status == 422


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    error = refusal(b'{"topic":"hunter2!","payload":1,"ttl":"hunter2","metadata":{"a":{"hunter2":1}}}')
    assert len(error.errors) == 3
    assert "hunter2" not in repr(error.errors)


# Bulk


def bulk(*messages: bytes) -> bytes:
    return b'{"messages":[' + b",".join(messages) + b"]}"


def test_messages_come_in_the_order_sent() -> None:
    texts = [message(topic=topic, payload=number) for number, topic in enumerate(["b", "a", "b"])]
    found = [
        (item.topic, item.payload) for item in READER.bulk(bulk(*texts)) if isinstance(item, PublishRequest)
    ]
    assert found == [("b", b"0"), ("a", b"1"), ("b", b"2")]


@pytest.mark.parametrize(
    ("wrong", "topic", "code", "loc"),
    [
        (b"{}", None, "invalid_request", ("body", "messages", 1, "payload")),
        (b"null", None, "invalid_request", ("body", "messages", 1)),
        (b"[]", None, "invalid_request", ("body", "messages", 1)),
        (b'{"topic":"jobs","payload":1,"ttl":0}', "jobs", "invalid_request", ("body", "messages", 1, "ttl")),
        (b'{"topic":"no topic","payload":1}', None, "invalid_request", ("body", "messages", 1, "topic")),
        (b'{"topic":"jobs","payload":1e400}', "jobs", "invalid_json", ("body", "messages", 1, "payload")),
        (
            b'{"topic":"jobs","payload":' + b"[" * 101 + b"]" * 101 + b"}",
            "jobs",
            "nested_too_deeply",
            ("body", "messages", 1, "payload"),
        ),
    ],
)
def test_a_wrong_message_does_not_stop_the_others(
    wrong: bytes, topic: str | None, code: str, loc: tuple[str | int, ...]
) -> None:
    first, second, third = READER.bulk(bulk(message(), wrong, message(payload=2)))
    assert isinstance(first, PublishRequest)
    assert isinstance(third, PublishRequest)
    assert isinstance(second, ItemError)
    assert (second.topic, second.error.code) == (topic, code)
    assert loc in wrong_fields(second.error)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"{}", "invalid_request"),
        (b'{"messages":[]}', "invalid_request"),
        (b'{"messages":{}}', "invalid_request"),
        (b'{"messages":null}', "invalid_request"),
        (b'{"messages":7}', "invalid_request"),
        (b"[]", "invalid_request"),
        (b'{"messages":[{"topic":"a","payload":NaN}]}', "invalid_json"),
        (b'{"messages":[{"topic":"a","payload":"\xff"}]}', "invalid_encoding"),
        (bulk(*[message()] * 4), "bulk_too_large"),
        (bulk(*[b"1"] * 4), "bulk_too_large"),
        (bulk(*[b"0"] * 1_000_000), "bulk_too_large"),
    ],
)
def test_a_bulk_request_that_is_wrong_as_a_whole_is_refused(text: bytes, code: str) -> None:
    with pytest.raises(RelayError) as caught:
        FEW.bulk(text)
    assert caught.value.code == code


def test_a_bulk_request_may_be_as_large_as_its_limit() -> None:
    assert len(FEW.bulk(bulk(*[message()] * 3))) == 3


# Lines


def test_lines_are_messages_in_the_order_sent() -> None:
    texts = [message(topic=topic, payload=number) for number, topic in enumerate(["b", "a", "b"])]
    assert READER.lines(b"\n".join(texts)) == READER.bulk(bulk(*texts))


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n \t\r\n"])
@pytest.mark.parametrize("between", [b"\n", b"\r\n", b" \n", b"\n\n\n", b"\n \n\t"])
@pytest.mark.parametrize("before", [b"", b"\n \r\n"])
def test_empty_lines_and_white_space_around_lines_are_passed_over(
    before: bytes, between: bytes, end: bytes
) -> None:
    text = before + message() + between + message(payload=2) + end
    assert READER.lines(text) == READER.bulk(bulk(message(), message(payload=2)))


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (b"{", "invalid_json"),
        (b'{"topic":"a","payload":"\xff"}', "invalid_encoding"),
        (b'{"topic":"a","payload":NaN}', "invalid_json"),
        (message() + message(), "invalid_json"),
        (b"1", "invalid_request"),
        (b'{"topic":"a"}', "invalid_request"),
    ],
)
def test_a_wrong_line_does_not_stop_the_others(wrong: bytes, code: str) -> None:
    first, second, third = READER.lines(b"\n".join([message(), wrong, message(payload=2)]))
    assert [first, third] == READER.bulk(bulk(message(), message(payload=2)))
    assert isinstance(second, ItemError)
    assert second.error.code == code
    assert all(loc[:3] == ("body", "lines", 1) for loc in wrong_fields(second.error))


@pytest.mark.parametrize("text", [b"", b"\n", b" \r\n\t\n"])
def test_a_body_without_a_line_is_refused(text: bytes) -> None:
    with pytest.raises(RelayError) as caught:
        READER.lines(text)
    assert caught.value.code == "invalid_request"


@pytest.mark.parametrize("text", [message(), b"0"])
def test_lines_are_counted_before_they_are_read(text: bytes) -> None:
    assert len(FEW.lines(b"\n".join([text] * 3) + b"\n\n")) == 3
    for lines in (4, 1_000_000):
        with pytest.raises(RelayError) as caught:
            FEW.lines(b"\n".join([text] * lines))
        assert caught.value.code == "bulk_too_large"


def test_empty_lines_without_end_take_no_time() -> None:
    assert len(FEW.lines(b"\n" * 8_000_000 + message() + b" \n" * 8_000_000)) == 1
    assert len(FEW.lines(b'{"topic":"a",' + b" " * 16_000_000 + b'"payload":1}')) == 1


# The short way


values = st.recursive(
    st.sampled_from(
        [
            b"1",
            b"1.0",
            b"0",
            b"-1",
            b'"5"',
            b'"x"',
            b"true",
            b"null",
            b"1e400",
            b"2.5",
            b"315360000",
            b"315360001",
        ]
    )
    | st.integers().map(lambda number: b"%d" % number)
    | st.text(max_size=3).map(lambda text: json.dumps(text).encode()),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: b"[" + b",".join(parts) + b"]")
        | st.lists(st.tuples(st.sampled_from([b'"a"', b'"b"']), inner), max_size=3).map(
            lambda pairs: b"{" + b",".join(b"%b:%b" % pair for pair in pairs) + b"}"
        )
    ),
    max_leaves=8,
)
topics = st.sampled_from([b'"jobs"', b'"a-b"', b'"\\u006aobs"', b'"no topic"', b'"__"', b'""', b"7"]) | values
metadata = st.sampled_from([b"null", b"{}", b'{"a":"b"}', b'{"a":"b","a":"c"}', b'{"a":1}', b"[]"]) | values
members = st.one_of(
    st.tuples(st.just(b'"topic"'), topics),
    st.tuples(st.just(b'"payload"'), values),
    st.tuples(st.just(b'"ttl"'), values),
    st.tuples(st.just(b'"metadata"'), metadata),
    st.tuples(st.sampled_from([b'"other"', b'"t\\u0074l"', b'"\\u0070ayload"']), values),
)
usual = st.tuples(topics, values).map(lambda pair: [(b'"topic"', pair[0]), (b'"payload"', pair[1])])
objects = st.builds(
    lambda first, second, space: (
        b"{" + b",".join(b"%b%b:%b%b" % (space, name, text, space) for name, text in first + second) + b"}"
    ),
    usual | st.just([]),
    st.lists(members, max_size=4),
    st.sampled_from([b"", b" ", b"\n"]),
)


def outcome(read: Any, text: bytes) -> Any:
    try:
        return read(text)
    except RelayError as error:
        return error.code, error.errors


@given(objects | values)
def test_the_short_way_reads_a_message_as_the_schema_does(text: bytes) -> None:
    assert outcome(FEW.one, text) == outcome(FEW.any, text)


@given(st.lists(objects | values, min_size=1, max_size=3))
def test_the_short_way_reads_many_messages_as_the_schema_does(texts: list[bytes]) -> None:
    expected = [outcome(FEW.any, text) for text in texts]
    found = outcome(FEW.bulk, bulk(*texts))
    assert len(found) == len(expected)
    for item, (text, wanted) in zip(found, zip(texts, expected, strict=True), strict=True):
        if isinstance(item, ItemError):
            assert (item.error.code, len(item.error.errors)) == (wanted[0], len(wanted[1])), text
        else:
            assert item == wanted, text


@given(values)
def test_what_is_accepted_is_the_very_text_that_was_sent(payload: bytes) -> None:
    found = outcome(FEW.one, b'{"topic": "a" , "payload" :\t%b }' % payload)
    if isinstance(found, PublishRequest):
        assert found.payload == payload


def test_messages_as_publishers_write_them_take_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_schema(*arguments: Any) -> None:
        raise AssertionError("the schema was asked")

    monkeypatch.setattr("pulsar_relay.message_reader.load_texts", no_schema)
    usual_texts = [
        message(),
        message(ttl=60, metadata={"k": "v"}),
        message(payload=[{"t": 1.5e-7, "h": "3e123"}] * 200),
    ]
    for text in usual_texts:
        READER.one(text)
    assert len(READER.bulk(bulk(*usual_texts))) == 3
