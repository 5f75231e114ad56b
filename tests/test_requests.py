"""HTTP requests: polls, streams, history and lists, and what surrounds a body."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.stream import MessageId
from pulsar_relay.cursors import encode_positions
from pulsar_relay.errors import RelayError
from pulsar_relay.message_reader import PublishRequest
from pulsar_relay.requests import (
    HistoryRequest,
    ListRequest,
    PollRequest,
    RequestReader,
    StreamRequest,
    check_content_type,
    idempotency_key,
)
from pulsar_relay.settings import PollSettings, PublishSettings, SubscriberSettings

JSON = "application/json"
READER = RequestReader(PublishSettings(), PollSettings(), SubscriberSettings())
OTHER_LIMITS = RequestReader(
    PublishSettings(max_payload_depth=2, bulk_max_messages=1),
    PollSettings(
        max_topics=1,
        max_timeout_seconds=5.0,
        default_timeout_seconds=2.0,
        max_limit_messages=7,
        default_limit_messages=3,
    ),
    SubscriberSettings(max_topics=1),
)


def poll(reader: RequestReader = READER, **fields: Any) -> PollRequest:
    return reader.poll(json.dumps({"topics": ["jobs"], **fields}).encode(), JSON)


def query(**parameters: str | bytes) -> dict[str, list[bytes]]:
    return {name: [text.encode() if isinstance(text, str) else text] for name, text in parameters.items()}


def code_of(read: Any, *arguments: Any) -> str:
    with pytest.raises(RelayError) as caught:
        read(*arguments)
    return caught.value.code


# What surrounds a body


@pytest.mark.parametrize(
    "value",
    [
        JSON,
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/vnd.relay+json",
        " application/json ",
    ],
)
def test_json_is_announced_as_such(value: str) -> None:
    check_content_type(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "text/json",
        "application/jsonp",
        "text/x+json",
        "json",
    ],
)
def test_a_body_that_is_not_announced_as_json_is_not_read(value: str | None) -> None:
    assert code_of(check_content_type, value) == "unsupported_media_type"
    for read in (READER.publish, READER.poll):
        assert code_of(read, b'{"topic":"a","topics":["a"],"payload":1}', value) == "unsupported_media_type"
    assert (
        code_of(READER.bulk, b'{"messages":[{"topic":"a","payload":1}]}', value, {})
        == "unsupported_media_type"
    )


def test_who_sends_a_form_is_told_what_to_send() -> None:
    with pytest.raises(RelayError) as caught:
        READER.publish(b'{"topic":"a","payload":1}', "application/x-www-form-urlencoded")
    assert "Content-Type: application/json" in caught.value.message


@pytest.mark.parametrize("key", ["k", "a" * 255, "5f0c0a4e9b7d4c1e8a2b3c4d5e6f7081", "with space", "~!@#"])
def test_an_idempotency_key_is_printable_ascii(key: str) -> None:
    assert idempotency_key(key) == key


@pytest.mark.parametrize("key", [None, ""])
def test_no_idempotency_key_is_as_good_as_an_empty_one(key: str | None) -> None:
    assert idempotency_key(key) is None


def test_an_idempotency_key_is_not_too_long() -> None:
    assert code_of(idempotency_key, "a" * 256) == "idempotency_key_too_long"


@pytest.mark.parametrize("key", ["a\tb", "ä", "\x00", "a\x7f"])
def test_other_idempotency_keys_are_refused(key: str) -> None:
    assert code_of(idempotency_key, key) == "idempotency_key_invalid"


# Bulk


@pytest.mark.parametrize(
    "value",
    [
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "Application/X-NDJSON; charset=utf-8",
    ],
)
def test_a_bulk_request_may_come_as_lines(value: str) -> None:
    items, is_atomic = READER.bulk(b'{"topic":"a","payload":1}\n{"topic":"a","payload":2}\n', value, {})
    assert (items, is_atomic) == ([PublishRequest("a", b"1"), PublishRequest("a", b"2")], False)
    whole = b'{"topic":"a","payload":1}\n{"topic":"b","payload":2}\n'
    assert code_of(READER.bulk, whole, value, query(atomic="yes")) == "atomic_needs_one_topic"
    assert code_of(READER.publish, b'{"topic":"a","payload":1}', value) == "unsupported_media_type"


def test_who_sends_many_messages_as_a_form_is_told_both_ways() -> None:
    with pytest.raises(RelayError) as caught:
        READER.bulk(b"a=1", "application/x-www-form-urlencoded", {})
    assert "application/json or application/x-ndjson" in caught.value.errors[0].message


TWO_TOPICS = b'{"messages":[{"topic":"a","payload":1},{"topic":"b","payload":2}]}'
ONE_WRONG = b'{"messages":[{"topic":"a","payload":1},{"topic":"a"}]}'


def test_a_bulk_request_is_atomic_only_if_asked() -> None:
    items, is_atomic = READER.bulk(TWO_TOPICS, JSON, {})
    assert items == [PublishRequest("a", b"1"), PublishRequest("b", b"2")]
    assert not is_atomic
    assert READER.bulk(b'{"messages":[{"topic":"a","payload":1}]}', JSON, query(atomic="true"))[1]


def test_an_atomic_request_has_one_topic() -> None:
    assert code_of(READER.bulk, TWO_TOPICS, JSON, query(atomic="yes")) == "atomic_needs_one_topic"


def test_an_atomic_request_is_refused_for_one_wrong_message() -> None:
    with pytest.raises(RelayError) as caught:
        READER.bulk(ONE_WRONG, JSON, query(atomic="1"))
    assert [wrong.loc for wrong in caught.value.errors] == [("body", "messages", 1, "payload")]
    assert caught.value.kind.status == 422


def test_atomic_is_yes_or_no() -> None:
    assert code_of(READER.bulk, TWO_TOPICS, JSON, query(atomic="maybe")) == "invalid_request"


# Polls


def test_a_poll_may_name_topics_only() -> None:
    assert poll() == PollRequest(["jobs"], None, 30.0, 100)


@pytest.mark.parametrize("timeout", [30, 30.0, "30", "30.0"])
def test_a_timeout_may_be_written_in_several_ways(timeout: Any) -> None:
    assert poll(timeout=timeout).timeout_seconds == 30.0


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(0, 1), (0.5, 1), (61, 60), (1.5, 1.5), (2.5, 2.5), (1e9, 60), (-3, 1), (None, 30)],
)
def test_a_timeout_is_clamped(timeout: Any, seconds: float) -> None:
    assert poll(timeout=timeout).timeout_seconds == seconds


@pytest.mark.parametrize("body", [b'{"topics":["a"],"timeout":NaN}', b'{"topics":["a"],"timeout":1e999}'])
def test_a_timeout_is_finite(body: bytes) -> None:
    assert code_of(READER.poll, body, JSON) in ("invalid_json", "invalid_request")


@pytest.mark.parametrize(
    "field", [{"timeout": "soon"}, {"timeout": [1]}, {"limit": 0}, {"limit": "x"}, {"limit": 1.5}]
)
def test_what_is_no_number_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(RelayError) as caught:
        poll(**field)
    assert [wrong.loc for wrong in caught.value.errors] == [("body", next(iter(field)))]


@pytest.mark.parametrize("topics", [[], ["a"] * 21, "jobs", None, ["no topic"], [7], {"a": 1}, [None]])
def test_the_topics_of_a_poll_are_1_to_20_names(topics: Any) -> None:
    with pytest.raises(RelayError) as caught:
        poll(topics=topics)
    assert caught.value.kind.status == 422


def test_a_topic_named_twice_is_read_once() -> None:
    assert poll(topics=["b", "a", "b"]).topics == ["b", "a"]


@pytest.mark.parametrize("since", [None, {}])
def test_no_cursor_is_as_good_as_an_empty_object(since: Any) -> None:
    assert poll(since=since).since is None


@pytest.mark.parametrize(
    "cursor",
    ["msg_0123456789ab", "1-2", "abc", "-", "$", "+", "9" * 400, "\x00", "\U0001f600", "1" * 100_000],
)
def test_a_cursor_may_be_any_text(cursor: str) -> None:
    assert poll(since={"jobs": cursor, "unrelated": "x"}).since == {"jobs": cursor, "unrelated": "x"}


def test_a_cursor_that_is_null_counts_as_empty() -> None:
    assert poll(since={"jobs": None}).since == {"jobs": ""}


@pytest.mark.parametrize("since", [[], "1-2", 7, {"jobs": 7}, {"jobs": []}, {"jobs": {"a": "b"}}])
def test_a_cursor_that_is_no_text_is_refused(since: Any) -> None:
    with pytest.raises(RelayError) as caught:
        poll(since=since)
    assert [wrong.loc for wrong in caught.value.errors] == [("body", "since")]


def test_a_limit_above_the_largest_counts_as_that() -> None:
    assert poll(limit=10**30).limit == 1000


def test_the_settings_bound_what_is_read() -> None:
    assert poll(OTHER_LIMITS) == PollRequest(["jobs"], None, 2.0, 3)
    assert poll(OTHER_LIMITS, timeout=60, limit=60) == PollRequest(["jobs"], None, 5.0, 7)
    with pytest.raises(RelayError):
        poll(OTHER_LIMITS, topics=["a", "b"])
    with pytest.raises(RelayError):
        OTHER_LIMITS.stream_query(query(topics="a,b"), None)
    assert OTHER_LIMITS.poll_query(query(topics="a", timeout="60", limit="60")) == PollRequest(
        ["a"], None, 5.0, 7
    )
    assert OTHER_LIMITS.history_query(query(limit="60")).limit == 7
    assert code_of(OTHER_LIMITS.publish, b'{"topic":"a","payload":[[[]]]}', JSON) == "nested_too_deeply"
    assert code_of(OTHER_LIMITS.bulk, TWO_TOPICS, JSON, {}) == "bulk_too_large"


def test_a_default_timeout_below_a_second_is_kept() -> None:
    reader = RequestReader(PublishSettings(), PollSettings(default_timeout_seconds=0.0), SubscriberSettings())
    assert poll(reader).timeout_seconds == 0.0
    assert reader.poll_query(query(topics="a")).timeout_seconds == 0.0


def outcome(read: Any, body: bytes) -> Any:
    try:
        return read(body)
    except RelayError as error:
        return error.code, error.errors


odd: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, False, 0, 1, 30.0, 2.5, "30", "2.5", "x", -1, 1e9, 2**70, [], {}, "", "a"]
)
polls = st.fixed_dictionaries(
    {"topics": st.lists(st.sampled_from(["a", "b-c", "no topic", "", 7]), max_size=22) | odd},
    optional={
        "since": st.dictionaries(st.text(max_size=3), st.text(max_size=3) | odd, max_size=3) | odd,
        "timeout": st.floats(allow_nan=False) | st.integers() | odd,
        "limit": st.integers(-2, 2000) | odd,
        "other": odd,
    },
)


@given(polls)
def test_the_short_way_reads_a_poll_as_the_schema_does(fields: dict[str, Any]) -> None:
    body = json.dumps(fields).encode()
    assert outcome(lambda text: READER.poll(text, JSON), body) == outcome(READER.any_poll, body)


def test_a_poll_may_be_a_query() -> None:
    asked = query(topics="jobs,other", since="jobs:1-2", timeout="2.5", limit="7")
    assert READER.poll_query(asked) == PollRequest(["jobs", "other"], {"jobs": "1-2"}, 2.5, 7)


@pytest.mark.parametrize(
    ("since", "cursors"),
    [
        ("earliest", {"a": "earliest", "b": "earliest"}),
        ("1-2", {"a": "1-2", "b": "1-2"}),
        ("a:1-2,latest", {"a": "1-2", "b": "latest"}),
        ("msg_abc", {"a": "msg_abc", "b": "msg_abc"}),
        ("a:", {"a": ""}),
        ("", None),
    ],
)
def test_cursors_in_a_query_stand_for_one_topic_or_for_all(
    since: str, cursors: dict[str, str] | None
) -> None:
    assert READER.poll_query(query(topics="a,b", since=since)).since == cursors


def test_topics_may_be_given_one_by_one() -> None:
    assert READER.poll_query({"topics": [b"a", b"b"], "timeout": [b"1", b"2"]}) == PollRequest(
        ["a", "b"], None, 2.0, 100
    )


@pytest.mark.parametrize(
    "asked",
    [
        {},
        query(topics=""),
        query(topics="a", timeout="x"),
        query(topics=b"\xff"),
        query(topics="a", since=b"\xff"),
    ],
)
def test_a_query_that_is_not_valid_is_refused(asked: dict[str, list[bytes]]) -> None:
    with pytest.raises(RelayError) as caught:
        READER.poll_query(asked)
    assert (caught.value.code, caught.value.errors[0].loc[0]) == ("invalid_request", "query")


# Streams


def test_a_stream_begins_where_its_query_says() -> None:
    assert READER.stream_query(query(topics="a"), None) == StreamRequest(["a"], None)
    assert READER.stream_query(query(topics="a", since="earliest"), "") == StreamRequest(
        ["a"], {"a": "earliest"}
    )


def test_the_last_event_goes_before_the_query() -> None:
    """A browser that comes back asks for the same address, and adds where it was."""
    word = encode_positions({"a": MessageId.of(5, 1), "b": MessageId.of(7, 2)})
    assert READER.stream_query(query(topics="a,b", since="earliest"), word).since == {"a": "5-1", "b": "7-2"}
    assert READER.stream_query(query(topics="a", since="earliest"), "5-1").since == {"a": "5-1"}


# History and lists


def test_history_begins_with_the_newest() -> None:
    assert READER.history_query({}) == HistoryRequest(10, "desc", None)
    assert READER.history_query({}).descends


def test_history_may_be_read_from_a_cursor_up() -> None:
    request = READER.history_query(query(limit="5", order="asc", cursor="1-2"))
    assert request == HistoryRequest(5, "asc", "1-2")
    assert not request.descends


def test_an_empty_cursor_is_none() -> None:
    assert READER.history_query(query(cursor="")).cursor is None


def test_a_page_of_history_is_capped() -> None:
    assert READER.history_query(query(limit="100000")).limit == 1000


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (query(limit="0"), "bad_request"),
        (query(limit="-1"), "bad_request"),
        (query(order="up"), "bad_request"),
        (query(order="ASC"), "bad_request"),
        (query(limit="ten"), "invalid_request"),
    ],
)
def test_history_is_refused_as_older_clients_know_it(asked: dict[str, list[bytes]], code: str) -> None:
    assert code_of(READER.history_query, asked) == code


def test_the_list_of_topics_is_read_in_pages() -> None:
    assert READER.topics_query({}) == ListRequest(100, "")
    assert READER.topics_query(query(limit="99999", after="jobs")) == ListRequest(1000, "jobs")
    assert code_of(READER.topics_query, query(limit="0")) == "invalid_request"
