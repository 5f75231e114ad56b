"""Where each topic of a poll or stream begins."""

from __future__ import annotations

import pytest

from actors.protocol import Start, Wanted
from actors.stream import MessageId
from pulsar_relay.web.beginnings import beginnings

OLD, NEW = MessageId.of(1000, 7), MessageId.of(5000, 3)


def test_without_any_cursor_a_topic_begins_now() -> None:
    assert beginnings(["a"], None, {}) == beginnings(["a"], {}, {}) == (Wanted("a", Start.LATEST),)


def test_a_named_place_counts_more_than_a_known_one_and_that_more_than_now() -> None:
    assert beginnings(["a", "b", "c"], {"a": str(OLD)}, {"a": NEW, "b": NEW})[:2] == (
        Wanted("a", OLD),
        Wanted("b", NEW),
    )
    assert beginnings(["a", "b"], None, {"b": NEW}) == (Wanted("a", Start.LATEST), Wanted("b", NEW))


@pytest.mark.parametrize(
    ("cursor", "start"),
    [
        ("0-0", MessageId(0)),
        ("", Start.EARLIEST),
        ("earliest", Start.EARLIEST),
        ("latest", Start.LATEST),
        ("last", Start.LATEST),
        ("msg_0123456789ab", Start.UNKNOWN),
        ("$", Start.UNKNOWN),
        ("acked", Start.ACKED),
    ],
)
def test_a_cursor_is_a_place_or_unknown_and_never_an_error(cursor: str, start: MessageId | Start) -> None:
    assert beginnings(["a"], {"a": cursor}, {"a": NEW}) == (Wanted("a", start),)


def test_beside_other_cursors_a_topic_begins_at_the_time_of_the_oldest_of_them() -> None:
    since = {"b": str(NEW), "not-asked-for": str(OLD), "c": "msg_foreign"}
    assert beginnings(["a"], since, {}) == (Wanted("a", MessageId.of(1000, 0), proves=False),)


@pytest.mark.parametrize("cursor", ["", "earliest", "latest", "x"])
def test_beside_others_that_tell_no_time_a_topic_begins_at_the_oldest(cursor: str) -> None:
    assert beginnings(["a"], {"b": cursor}, {}) == (Wanted("a", Start.EARLIEST),)
