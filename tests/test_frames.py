"""WebSocket frames: what a client may say, and what it is answered."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.protocol import Start, Wanted
from actors.stream import MessageId
from pulsar_relay import answers, frames
from pulsar_relay.errors import FieldError, RelayError
from pulsar_relay.frames import (
    AckFrame,
    FrameError,
    FrameReader,
    PingFrame,
    PublishFrame,
    SubscribeFrame,
    UnsubscribeFrame,
)
from pulsar_relay.message_reader import PublishRequest
from pulsar_relay.settings import PublishSettings, SubscriberSettings

READER = FrameReader(PublishSettings(), SubscriberSettings())


def read(**fields: Any) -> frames.Frame:
    return READER.read(json.dumps(fields).encode())


def subscribe(**fields: Any) -> SubscribeFrame:
    frame = read(type="subscribe", **fields)
    assert isinstance(frame, SubscribeFrame)
    return frame


def refusal(text: bytes) -> FrameError:
    with pytest.raises(FrameError) as caught:
        READER.read(text)
    return caught.value


def refused(**fields: Any) -> FrameError:
    return refusal(json.dumps(fields).encode())


def test_a_subscription_begins_with_the_next_message() -> None:
    assert subscribe(topics=["a", "b"]).wanted == (Wanted("a", Start.LATEST), Wanted("b", Start.LATEST))


def outcome(read: Any, text: bytes) -> Any:
    try:
        return read(text)
    except FrameError as error:
        return error.code, error.errors, error.ref


odd: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        0,
        1.5,
        2**70,
        "",
        "a",
        "\ud800",
        "é",
        [],
        {},
        ["a"],
        {"a": "1-1"},
        {"a": None},
        {"": "acked"},
    ]
)
cursors = st.sampled_from(["last", "latest", "earliest", "acked", "", "1-1", "0-0", "msg_1", "x"])
subscribes = st.fixed_dictionaries(
    {"topics": st.lists(st.sampled_from(["a", "b-c", "no topic", "", 7]), max_size=52) | odd},
    optional={
        "type": st.just("subscribe") | st.sampled_from(["publish", "ping", "none", 7, None]),
        "offset": cursors | st.dictionaries(st.sampled_from(["a", "b-c", "", "z"]), cursors | odd) | odd,
        "epochs": st.dictionaries(st.sampled_from(["a", "b-c"]), st.sampled_from(["e", ""]) | odd) | odd,
        "client_id": st.text(max_size=300) | odd,
        "ref": st.text(max_size=3) | st.sampled_from(["x" * 1022, "x" * 1023, 10**400]) | odd,
        "another": odd,
    },
)


@given(subscribes, st.sampled_from([None, (",", ":"), (" , ", " : ")]))
def test_the_short_way_reads_a_subscribe_frame_as_the_schema_does(
    fields: dict[str, Any], separators: tuple[str, str] | None
) -> None:
    for ordered in (fields, {"type": "subscribe", **fields}):
        text = json.dumps(ordered, separators=separators).encode()
        assert outcome(READER.read, text) == outcome(READER.read_any, text)


@pytest.mark.parametrize(
    "text",
    [
        b'{"type":"subscribe","topics":["a"],"topics":["b"]}',
        b'{"type":"subscribe","topics":7,"topics":["b"]}',
        b'{"type":"subscribe","topics":["a"],"type":"ping"}',
        b'{"type":"subscribe","topics":["a"],"ref":' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"type":"subscribe","topics":["a"],"ref":1e999}',
        b'{"type":"subscribe","topics":["a"],"ref":[ 1.10, "\xc3\xa9" ]}',
        b'{"type":"subscribe","topics":["\xff"]}',
        b'{"type":"subscribe","topics":["a"]} ',
        b'{"type":"subscribe","topics":["a"]}}',
        b'{"type":"subscribe","topics":["a"],"more":' + b"[" * 5000,
        b'{"type":"subscribe","topics":["a"],"client_id":"' + b"x" * 70_000 + b'"}',
        b'{"type":"publish","topic":"subscribe","payload":1}',
        b'{"ref":"subscribe","topic":"a","payload":1}',
    ],
)
def test_what_is_unusual_is_for_the_schema_to_judge(text: bytes) -> None:
    assert outcome(READER.read, text) == outcome(READER.read_any, text)


def test_a_plain_subscribe_frame_meets_no_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(FrameReader, "read_any")
    text = (
        b'{"type": "subscribe", "topics": ["a", "b", "a"], "offset": {"a": "1-1"}, "epochs": {"b": "e"}, '
        b'"client_id": "me", "ref": [1]}'
    )
    wanted = (Wanted("a", MessageId.parse("1-1")), Wanted("b", Start.LATEST, "e"))
    assert READER.read(text) == SubscribeFrame(wanted, "me", msgspec.Raw(b"[1]"))


def test_the_first_frame_needs_no_type() -> None:
    assert read(topics=["a"]) == subscribe(topics=["a"])


@pytest.mark.parametrize(
    ("offset", "start"),
    [
        ("last", Start.LATEST),
        ("latest", Start.LATEST),
        ("earliest", Start.EARLIEST),
        ("5-1", MessageId.of(5, 1)),
        ("msg_0123456789ab", Start.UNKNOWN),
    ],
)
def test_an_offset_is_for_all_topics(offset: str, start: Any) -> None:
    assert subscribe(topics=["a", "b"], offset=offset).wanted == (Wanted("a", start), Wanted("b", start))


def test_an_offset_may_be_for_one_topic() -> None:
    frame = subscribe(topics=["a", "b"], offset={"a": "5-1", "unrelated": "6-1"})
    assert frame.wanted == (Wanted("a", MessageId.of(5, 1)), Wanted("b", Start.LATEST))


def test_an_epoch_comes_with_its_cursor() -> None:
    frame = subscribe(topics=["a", "b"], offset="5-1", epochs={"a": "e1", "b": None})
    assert [wanted.epoch for wanted in frame.wanted] == ["e1", None]


def test_a_named_client_may_go_on_where_it_acknowledged() -> None:
    frame = subscribe(topics=["a"], offset="acked", client_id="me")
    assert (frame.wanted, frame.client_id) == ((Wanted("a", Start.ACKED),), "me")


def test_a_client_without_a_name_has_acknowledged_nothing() -> None:
    assert refused(type="subscribe", topics=["a"], offset="acked").code == "client_id_required"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "topics"),
        ({"topics": []}, "topics"),
        ({"topics": ["a"] * 51}, "topics"),
        ({"topics": "a"}, "topics"),
        ({"topics": ["a"], "offset": 7}, "offset"),
        ({"topics": ["a"], "offset": None}, "offset"),
        ({"topics": ["a"], "offset": {"a": 7}}, "offset"),
        ({"topics": ["a"], "epochs": ["e"]}, "epochs"),
        ({"topics": ["a"], "client_id": ""}, "client_id"),
        ({"topics": ["a"], "client_id": "x" * 256}, "client_id"),
        ({"topics": ["a"], "client_id": 7}, "client_id"),
    ],
)
def test_a_subscription_that_is_not_valid_names_the_field(fields: dict[str, Any], field: str) -> None:
    error = refused(type="subscribe", ref=7, **fields)
    assert (error.code, [wrong.loc for wrong in error.errors]) == ("invalid_request", [("frame", field)])
    assert error.ref == msgspec.Raw(b"7")


def test_topics_are_unsubscribed_by_name() -> None:
    assert read(type="unsubscribe", topics=["a", "b", "a"], ref="r") == UnsubscribeFrame(
        ("a", "b"), msgspec.Raw(b'"r"')
    )
    assert refused(type="unsubscribe").code == "invalid_request"
    assert refused(type="unsubscribe", topics=["no topic"]).code == "invalid_request"


def test_a_message_is_published_byte_for_byte() -> None:
    frame = READER.read(
        b'{"type":"publish","topic":"a","payload":{"n":1.10,"n":2} ,"ttl":5,"metadata":{"k":"v"},"ref":[1]}'
    )
    assert frame == PublishFrame(
        PublishRequest("a", b'{"n":1.10,"n":2}', 5, b'{"k":"v"}'), None, msgspec.Raw(b"[1]")
    )


def test_a_publish_may_be_made_safe_to_repeat() -> None:
    frame = read(type="publish", topic="a", payload=None, idempotency_key="k")
    assert isinstance(frame, PublishFrame)
    assert (frame.request.payload, frame.idempotency_key) == (b"null", "k")


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("a" * 256, "idempotency_key_too_long"),
        ("ä", "idempotency_key_invalid"),
        (7, "idempotency_key_invalid"),
    ],
)
def test_an_idempotency_key_that_is_not_valid_is_refused(key: Any, code: str) -> None:
    assert refused(type="publish", topic="a", payload=1, idempotency_key=key).code == code


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"1e400", "invalid_json"),
        (b'"\\ud800"', "invalid_json"),
        (b'"\xff"', "invalid_encoding"),
        (b"[" * 101 + b"]" * 101, "nested_too_deeply"),
    ],
)
def test_a_payload_is_judged_as_over_http(payload: bytes, code: str) -> None:
    assert refusal(b'{"type":"publish","topic":"a","payload":%b}' % payload).code == code


def test_a_message_is_acknowledged_by_its_id() -> None:
    assert read(type="ack", message_id="5-1") == AckFrame(None, MessageId.of(5, 1), None)
    assert read(type="ack", message_id="5-1", topic="a") == AckFrame("a", MessageId.of(5, 1), None)
    assert refused(type="ack", message_id="msg_abc").code == "invalid_cursor"
    assert refused(type="ack").code == "invalid_request"


def test_a_ping_may_carry_a_ref() -> None:
    assert read(type="ping", ref={"a": [1]}) == PingFrame(msgspec.Raw(b'{"a": [1]}'))
    assert read(type="ping") == read(type="ping", ref=None) == PingFrame(None)


def test_a_ref_is_small() -> None:
    assert refused(type="ping", ref="x" * 1024).code == "invalid_request"
    assert refusal(b'{"type":"ping","ref":1e400}').code == "invalid_json"


@pytest.mark.parametrize("kind", ["subscribed", "message", "", None, 7, ["ping"], {"a": 1}])
def test_a_frame_of_another_type_is_unknown(kind: Any) -> None:
    error = refused(type=kind, ref=1)
    assert (error.code, error.ref) == ("unknown_frame", msgspec.Raw(b"1"))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_request"),
        (b'"ping"', "invalid_request"),
        (b"\xff", "invalid_encoding"),
        (b'{"ref":' + b"[" * 100_000, "nested_too_deeply"),
    ],
)
def test_what_is_no_object_is_no_frame(text: bytes, code: str) -> None:
    error = refusal(text)
    assert (error.code, error.ref) == (code, None)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "type",
                "topics",
                "topic",
                "offset",
                "payload",
                "ref",
                "message_id",
                "client_id",
                "epochs",
                "ttl",
                "metadata",
            ]
        ),
        st.sampled_from(
            [
                "subscribe",
                "publish",
                "ack",
                "ping",
                "unsubscribe",
                "a",
                "1-2",
                7,
                None,
                ["a"],
                {"a": "1-2"},
                1.5,
                True,
            ]
        ),
    )
)
def test_whatever_comes_is_a_frame_or_refused(fields: dict[str, Any]) -> None:
    code = ""
    try:
        read(**fields)
    except FrameError as error:
        code = error.code
    assert code in ("", "invalid_request", "unknown_frame", "invalid_cursor", "client_id_required")


# Answers


def wire(frame: dict[str, Any]) -> Any:
    return json.loads(msgspec.json.encode(frame))


REF = msgspec.Raw(b'{"n": 1.10}')


@pytest.mark.parametrize(
    ("frame", "schema"),
    [
        (frames.subscribed({"a": MessageId.of(5, 1)}, {"a": "e1"}, REF), answers.SubscribedFrame),
        (frames.unsubscribed(["a"], REF), answers.UnsubscribedFrame),
        (
            frames.published({"message_id": "5-1", "topic": "a", "timestamp": "…"}, REF),
            answers.PublishedFrame,
        ),
        (frames.acknowledged("a", MessageId.of(5, 1), REF), answers.AcknowledgedFrame),
        (frames.pong(REF), answers.PongFrame),
        (frames.error(RelayError("topic_ambiguous"), REF), answers.ErrorFrame),
        (
            frames.error(RelayError("invalid_request", errors=[FieldError(("frame", "ref"), "x")]), REF),
            answers.ErrorFrame,
        ),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_an_answer_is_as_described_and_carries_the_ref(
    frame: dict[str, Any], schema: type[answers.Answer]
) -> None:
    assert schema().validate(wire(frame)) == {}
    assert b'"ref":{"n": 1.10}' in msgspec.json.encode(frame)
    frame.pop("ref")
    assert schema().validate(wire(frame)) == {}


def test_a_subscription_is_confirmed_with_its_cursors() -> None:
    frame = wire(frames.subscribed({"a": MessageId.of(5, 1)}, {"a": "e1"}, None))
    assert frame.pop("timestamp").endswith("Z")
    assert frame == {"type": "subscribed", "topics": ["a"], "cursors": {"a": "5-1"}, "epochs": {"a": "e1"}}


def test_an_error_says_what_is_wrong_where() -> None:
    frame = wire(frames.error(refused(type="publish", ref=3), 3))
    assert frame["ref"] == 3
    assert frame["code"] == "invalid_request"
    assert {tuple(wrong["loc"]) for wrong in frame["details"]} == {("frame", "topic"), ("frame", "payload")}
    assert frame["retry"] is False
