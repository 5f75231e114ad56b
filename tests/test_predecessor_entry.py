from __future__ import annotations

import json

import pytest

from actors.stream import BEGINNING, MessageId
from pulsar_relay.predecessor.entry import mended, migrated, size_of
from pulsar_relay.store.entries import messages_from

ID = b"1700000000000-0"
TIME = b"2026-01-02T03:04:05.678901+00:00"


def test_an_entry_keeps_its_id_and_texts_and_names_the_one_before() -> None:
    words = [b"payload", b'{"a": 1.10}', b"timestamp", TIME, b"metadata", b'{"k": "v"}']
    entry = migrated((ID, words), MessageId.parse("1699999999999-4"))
    assert entry is not None
    (message,) = messages_from("o/t", [entry], BEGINNING)
    assert (message.id_text, message.payload, message.metadata) == (
        ID.decode(),
        b'{"a": 1.10}',
        b'{"k": "v"}',
    )
    assert message.prev == MessageId.parse("1699999999999-4")
    assert message.timestamp == TIME.decode()
    assert size_of(entry) == len(b'{"a": 1.10}') + len(TIME) + len(b'{"k": "v"}')


def test_the_first_of_a_stream_that_was_trimmed_names_none() -> None:
    entry = migrated((ID, [b"payload", b"{}"]), None)
    assert entry == (ID, [b"payload", b"{}"])


def test_what_is_no_message_is_none() -> None:
    assert migrated((ID, [b"other", b"{}"]), BEGINNING) is None


@pytest.mark.parametrize("metadata", [b"null", b"[]", b"nonsense", b""])
def test_metadata_that_is_no_object_is_left_out(metadata: bytes) -> None:
    entry = migrated((ID, [b"payload", b"{}", b"metadata", metadata]), BEGINNING)
    assert entry == (ID, [b"payload", b"{}", b"prev", b"0-0"])


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (b'{"a": NaN, "b": [Infinity, -Infinity, 1e999]}', {"a": None, "b": [None, None, None]}),
        (rb'{"a": "\ud800", "\udc00": 1}', {"a": "\ufffd", "\ufffd": 1}),
        (rb'{"a": "\ud83d\ude00"}', {"a": "\U0001f600"}),
        (b'{"a": 1180591620717411303424}', {"a": 2**70}),
        (b"not json", "not json"),
        (b"\xff", "\ufffd"),
    ],
)
def test_what_nobody_could_read_becomes_what_could_be_meant(text: bytes, meant: object) -> None:
    assert json.loads(mended(text)) == meant
    mended(text).decode("utf-8")


@pytest.mark.parametrize("text", [b'{"a": 1.10, "a": 2}', b"{}", b"[" * 500 + b"]" * 500])
def test_what_can_be_read_is_not_touched(text: bytes) -> None:
    assert mended(text) is text


def test_what_is_nested_without_end_becomes_a_text() -> None:
    assert isinstance(json.loads(mended(b"[" * 100_000)), str)
