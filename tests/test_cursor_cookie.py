"""CursorCookie: a client's positions, kept by the client, believed only if they are ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.stream import MessageId
from pulsar_relay.errors import RelayError
from pulsar_relay.web.cursor_cookie import CursorCookie

COOKIE = CursorCookie("k" * 64)
HIGHEST = MessageId.of((1 << 64) - 1, (1 << 64) - 1)
names = st.text("abcXYZ019_-", min_size=1, max_size=255)
ids = st.builds(MessageId.of, *[st.integers(0, (1 << 64) - 1)] * 2)


@given(st.dictionaries(names, ids, max_size=20))
def test_what_was_written_is_read_back_for_the_topics_asked_for(positions: dict[str, MessageId]) -> None:
    value = COOKIE.update(None, positions)
    assert COOKIE.read(value, [*positions, "another"]) == positions
    assert COOKIE.read(value, []) == {}


def test_positions_of_other_topics_are_kept() -> None:
    value = COOKIE.update(None, {"a": MessageId.of(1, 1), "b": MessageId.of(2, 2)})
    value = COOKIE.update(value, {"b": MessageId.of(9, 9)})
    assert COOKIE.read(value, ["a", "b"]) == {"a": MessageId.of(1, 1), "b": MessageId.of(9, 9)}


def test_of_too_many_topics_those_longest_unused_are_forgotten() -> None:
    value = None
    for number in range(100):
        value = COOKIE.update(value, {f"t{number}": HIGHEST, "always": HIGHEST})
    known = COOKIE.read(value, ["always", *(f"t{number}" for number in range(100))])
    assert "always" in known and "t99" in known and "t0" not in known
    assert len(known) == 64


def test_a_full_cookie_is_one_that_browsers_keep() -> None:
    value = COOKIE.update(None, {"x" * 250 + str(number): HIGHEST for number in range(200)})
    assert len(f"{COOKIE.name}={value}") <= 4096
    assert value.isascii() and not set(value) & set(' ",;\\')


@pytest.mark.parametrize(
    "value", [None, "", ".", "..", "a", "a.b", "é.ü", "\udcff.x", "x" * 10_000, "a:1-1.", ":::...:"]
)
def test_what_is_no_cookie_of_ours_reads_as_none(value: str | None) -> None:
    assert COOKIE.read(value, ["a"]) == {}
    assert COOKIE.read(COOKIE.update(value, {"b": MessageId.of(1, 1)}), ["a", "b"]) == {
        "b": MessageId.of(1, 1)
    }


def test_another_relays_cookie_reads_as_none() -> None:
    theirs = CursorCookie("j" * 64).update(None, {"a": HIGHEST})
    assert COOKIE.read(theirs, ["a"]) == {}


@given(st.data())
def test_a_cookie_that_was_changed_reads_as_none(data: st.DataObject) -> None:
    value = COOKIE.update(None, {"a": MessageId.of(1700, 1), "b": MessageId.of(1700, 2)})
    index = data.draw(st.integers(0, len(value) - 1))
    other = data.draw(st.characters(codec="latin-1").filter(lambda character: character != value[index]))
    assert COOKIE.read(value[:index] + other + value[index + 1 :], ["a", "b"]) == {}


def test_without_its_key_no_cookie_is_taken_for_a_missing_one() -> None:
    unlearnt = CursorCookie()
    with pytest.raises(RelayError) as caught:
        unlearnt.read(None, ["a"])
    assert caught.value.code == "store_unavailable"
    unlearnt.learn("k" * 64)
    value = COOKIE.update(None, {"a": HIGHEST})
    assert unlearnt.read(value, ["a"]) == {"a": HIGHEST}
