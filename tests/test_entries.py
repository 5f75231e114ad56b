from __future__ import annotations

import msgspec
import pytest

from actors.stream import BEGINNING, MessageId
from pulsar_relay.store.entries import Entry, id_or_none, message_id, messages_from, predecessor


def _entry(id_text: str, **fields: str | bytes) -> Entry:
    words: list[bytes] = []
    for name, value in fields.items():
        words += (name.encode(), value if isinstance(value, bytes) else value.encode())
    return id_text.encode(), words


@pytest.mark.parametrize("text", ["1-2", b"1-2"])
def test_an_id_is_read_from_text_or_bytes(text: bytes | str) -> None:
    assert message_id(text) == MessageId.of(1, 2)


def test_no_id_is_the_beginning() -> None:
    assert message_id(b"") == message_id("") == BEGINNING


@pytest.mark.parametrize(
    "text", [b"", b"x", b"1", b"a-b", b"-", b"1-2-3", b"1-99999999999999999999", b"\xff-1"]
)
def test_what_somebody_wrote_instead_of_an_id_is_none(text: bytes) -> None:
    assert id_or_none(text) is None


def test_our_entries_become_messages_as_they_are() -> None:
    entries = [
        _entry("5-1", payload='{"a": 1.10}', prev="0-0"),
        _entry("5-2", payload="x" * 9, prev="5-1", metadata="{}", expires_at="77"),
        _entry("6-3", payload=b"\xff\x00", prev="5-2", expires_at="78"),
    ]
    messages = messages_from("t", entries, BEGINNING)
    assert [(m.id_text, str(m.prev), m.payload, m.metadata, m.expires_at_ms) for m in messages] == [
        ("5-1", "0-0", b'{"a": 1.10}', None, None),
        ("5-2", "5-1", b"x" * 9, b"{}", 77),
        ("6-3", "5-2", b"\xff\x00", None, 78),
    ]
    assert [m.id for m in messages] == [MessageId.of(5, 1), MessageId.of(5, 2), MessageId.of(6, 3)]


def test_the_predecessor_is_the_one_named_also_where_it_is_not_the_entry_before() -> None:
    entries = [_entry("5-1", payload="1", prev="4-9"), _entry("9-3", payload="1", prev="9-2")]
    assert [str(m.prev) for m in messages_from("t", entries, MessageId.of(3, 1))] == ["4-9", "9-2"]
    assert predecessor(entries[1]) == MessageId.of(9, 2)


def test_an_entry_that_names_no_predecessor_follows_the_one_before_it() -> None:
    entries = [
        _entry("5-0", payload="1"),
        _entry("5-1", payload="2"),
        _entry("5-2", payload="3", prev="nonsense"),
    ]
    assert [str(m.prev) for m in messages_from("t", entries, MessageId.of(3, 1))] == ["3-1", "5-0", "5-1"]
    assert [predecessor(entry) for entry in entries] == [None, None, None]


def test_an_entry_without_a_payload_is_no_message_and_still_comes_before_the_next() -> None:
    entries = [_entry("5-0", note="x"), _entry("5-1", payload="1"), (b"5-2", [])]
    assert [(m.id_text, str(m.prev)) for m in messages_from("t", entries, BEGINNING)] == [("5-1", "5-0")]


@pytest.mark.parametrize(
    ("payload", "passed_on"),
    [
        (b'{"a":1}', b'{"a":1}'),
        (b"1e400", b'"1e400"'),
        (b"hello", b'"hello"'),
        (b"NaN", b'"NaN"'),
        (b'{"a":', b'"{\\"a\\":"'),
        (b"\xff", '"\ufffd"'.encode()),
        (b"", b'""'),
    ],
)
def test_what_a_hand_wrote_is_json_when_it_is_passed_on(payload: bytes, passed_on: bytes) -> None:
    (message,) = messages_from("t", [_entry("5-0", payload=payload)], BEGINNING)
    assert message.payload == passed_on
    msgspec.json.decode(message.payload)


@pytest.mark.parametrize(
    ("metadata", "passed_on"), [(b'{"k":"v"}', b'{"k":"v"}'), (b"[1]", None), (b"{", None), (b"\xff", None)]
)
def test_foreign_metadata_is_an_object_or_left_out(metadata: bytes, passed_on: bytes | None) -> None:
    (message,) = messages_from("t", [_entry("5-0", payload="1", metadata=metadata)], BEGINNING)
    assert message.metadata == passed_on


@pytest.mark.parametrize(
    ("timestamp", "shown"),
    [
        (b"2026-01-01T00:00:00.000001+00:00", "2026-01-01T00:00:00.000001+00:00"),
        (b'"},{"', "1970-01-01T00:00:00.005000Z"),
        (b"\xff", "1970-01-01T00:00:00.005000Z"),
    ],
)
def test_a_foreign_timestamp_is_one_or_the_ids_time_is_shown(timestamp: bytes, shown: str) -> None:
    (message,) = messages_from("t", [_entry("5-0", payload="1", timestamp=timestamp)], BEGINNING)
    assert message.timestamp == shown


@pytest.mark.parametrize("expiry", [b"", b"soon", b"-1", b"1.5", b"\xff", b" 1"])
def test_a_foreign_expiry_that_is_no_time_is_none(expiry: bytes) -> None:
    (message,) = messages_from("t", [_entry("5-0", payload="1", expires_at=expiry)], BEGINNING)
    assert message.expires_at_ms is None


def test_an_odd_number_of_words_is_no_reason_to_fail() -> None:
    assert messages_from("t", [(b"5-0", [b"payload", b"1", b"dangling"])], BEGINNING)[0].payload == b"1"
