"""What the edge accepts as JSON, and that it hands on the very bytes it was given."""

from __future__ import annotations

import json
import math
import time
import tracemalloc
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsar_relay import json_text
from pulsar_relay.json_text import Fields, Items, JsonError, NotThisError, check, check_value, value

MEBIBYTE = 1024 * 1024


def refusal(text: bytes, max_depth: int = json_text.MAX_DEPTH) -> str:
    """The code `text` is refused with, "" if it is accepted."""
    try:
        check(text, max_depth)
    except JsonError as error:
        return error.code
    return ""


@pytest.mark.parametrize(
    "text",
    [
        b"null",
        b" [1 , 2]\n",
        b"18446744073709551616",
        b"%d" % 2**70,
        b"-%d" % 2**1000,
        b"1.10",
        b"1e400000".replace(b"e4", b"e-4"),
        b"0e999999",
        b"1e0000000000308",
        b"1.7976931348623157e308",
        b"9" * 308,
        b"0." + b"0" * 5000 + b"1",
        b"0." + b"9" * 5000,
        b'{"a":1,"a":2}',
        b'"\\ud83d\\ude00"',
        '"\U0001f600 \u0000"'.replace("\u0000", "\\u0000").encode(),
        b'"NaN, 1e400, Infinity"',
        b'"\\\\\\" 1e400, [[["',
        b'{"1e999":"[1e400]"}',
        b"[" * 100 + b"]" * 100,
        b'{"a":' * 100 + b"0" + b"}" * 100,
    ],
)
def test_json_is_accepted(text: bytes) -> None:
    assert refusal(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"  ",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e400",
        b"[0,-1E+400]",
        b'{"a":{"b":[1e309]}}',
        b"1e99999999999999999999",
        b"9" * 309,
        b"9" * 100_000,
        b"1" + b"0" * 250 + b"e99",
        b"1.8e308",
        b'"\\ud800"',
        b'"\\ud800\\u0041"',
        b'"\\udc00"',
        b'"\x00"',
        b'"\n"',
        b'"\\x"',
        b"'a'",
        b"[1,]",
        b'{"a":1,}',
        b"{a:1}",
        b"01",
        b"+1",
        b".5",
        b"1.",
        b"0x10",
        b"// no\n1",
        b"1 2",
        b"\xef\xbb\xbf{}",
        b"[" * 99 + b"1" + b"]" * 98,
    ],
)
def test_what_is_not_json_is_refused(text: bytes) -> None:
    assert refusal(text) == "invalid_json"


@pytest.mark.parametrize(
    "text",
    [
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b'"\xc0\x80"',
        b'"\xf4\x90\x80\x80"',
        "{}".encode("utf-16"),
        b'{"\xe4":1}',
    ],
)
def test_what_is_not_utf8_is_refused_as_such(text: bytes) -> None:
    assert refusal(text) == "invalid_encoding"


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 101 + b"]" * 101,
        b'{"a":' * 101 + b"0" + b"}" * 101,
        b'["[", "\\"]", {}, ' + b"[" * 100 + b"]" * 101,
        b"[" * 5000 + b"]" * 5000,
        b"[" * MEBIBYTE,
    ],
)
def test_what_is_nested_deeper_than_a_hundred_levels_is_refused(text: bytes) -> None:
    assert refusal(text) == "nested_too_deeply"


def test_brackets_inside_strings_do_not_count_as_depth() -> None:
    check(b'["' + b"[{" * 1000 + b'", "\\\\", "' + b'\\"[' * 1000 + b'"]', max_depth=1)


def test_many_brackets_side_by_side_do_not_count_as_depth() -> None:
    check(b"[" + b"[],{}," * 1000 + b"1]", max_depth=2)


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "lists": lambda size: b"[" + b"[]," * (size // 3) + b"0]",
    "towers": lambda size: b"[" + (b"[" * 98 + b"]" * 98 + b",") * (size // 197) + b"0]",
    "strings": lambda size: b"[" + b'"[",' * (size // 4) + b"0]",
    "large numbers": lambda size: b"[" + b"1e300," * (size // 6) + b"0]",
    "long numbers": lambda size: b"[" + b"9" * 250 + b"," + (b"9" * 190 + b",") * (size // 191) + b"0]",
    "open brackets": lambda size: b"[" * size,
    "digits": lambda size: b"9" * size,
    "fraction": lambda size: b"1." + b"9" * size,
    "exponent": lambda size: b"1e" + b"9" * size,
    "escapes": lambda size: b'"' + b"\\\\" * (size // 2) + b'"',
    "quotes": lambda size: b"[" + b'"' * size,
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_text_costs_time_in_proportion_to_its_size(make: Callable[[int], bytes]) -> None:
    def seconds(size: int) -> float:
        text = make(size)
        started = time.process_time()
        refusal(text)
        return time.process_time() - started

    # What grows with the square would cost sixteen times as much, not four, each time. Once, garbage of all
    # tests before may be collected meanwhile.
    assert any(seconds(8 * MEBIBYTE) < 10 * seconds(2 * MEBIBYTE) + 0.2 for _ in range(3))


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)
texts = st.builds(
    lambda document, ascii_only, indent: json.dumps(
        document, ensure_ascii=ascii_only, indent=indent
    ).encode(),
    documents,
    st.booleans(),
    st.none() | st.integers(0, 2),
)
SCRAPS = [
    *(b'"', b'""', b"\\", b"[", b"]", b"{", b"}", b":", b",", b" ", b'"a":', b"null", b"true", b"NaN"),
    *(b"0", b"1", b"e", b"E+", b"-", b".", b"99", b"300", b"9" * 210),
    *(b"\\ud800", b"\\udc00", b"\\u0041", b"\xed\xa0\x80", b"\xc3\xa4", b"\x00"),
]
pieces = st.lists(st.sampled_from(SCRAPS), max_size=14).map(b"".join)


def depth(document: object) -> int:
    if isinstance(document, dict):
        return 1 + max(map(depth, document.values()), default=0)
    if isinstance(document, list):
        return 1 + max(map(depth, document), default=0)
    return 0


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("not finite")
    return number


def _constant(name: str) -> None:
    raise ValueError(name)


def reference(text: bytes, max_depth: int) -> bool:
    """The rules spelled out with the standard library's parser, which is lax: what it lets pass is refused by
    hand.
    """
    try:
        document = json.loads(
            text.decode("utf-8"),
            parse_float=_finite,
            parse_int=lambda digits: (_finite(digits), 0)[1],
            parse_constant=_constant,
        )
        # A half of a surrogate pair cannot be encoded.
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except ValueError:
        return False
    return depth(document) <= max_depth


@given(texts, st.integers(0, 4))
def test_real_documents_are_judged_as_the_reference_does(text: bytes, max_depth: int) -> None:
    assert (refusal(text, max_depth) == "") is reference(text, max_depth)


@given(pieces, st.integers(0, 2))
def test_scraps_of_json_are_judged_as_the_reference_does(text: bytes, max_depth: int) -> None:
    assert (refusal(text, max_depth) == "") is reference(text, max_depth)


@given(
    st.lists(pieces, max_size=3).map(
        lambda parts: b"[" + b",".join(b'"%b"' % p.replace(b'"', b'\\"') for p in parts) + b"]"
    )
)
def test_strings_full_of_scraps_are_judged_as_the_reference_does(text: bytes) -> None:
    assert (refusal(text, 1) == "") is reference(text, 1)


@given(
    st.from_regex(
        rb"-?(0|[1-9][0-9]{0,3}|[1-9][0-9]{190,320})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?", fullmatch=True
    ).filter(lambda number: not number.endswith(b"\n"))
)
def test_a_number_is_refused_exactly_if_it_is_infinite_as_a_double(number: bytes) -> None:
    assert (refusal(number) == "") is math.isfinite(float(number))
    assert (refusal(b'["1e1", %b ,"]"]' % number) == "") is math.isfinite(float(number))


spaces = st.text(" \t\r\n", max_size=3).map(str.encode)


@given(st.dictionaries(st.sampled_from(["topic", "payload", "ttl", "other"]), texts), spaces, spaces)
def test_the_fields_of_an_object_come_back_byte_for_byte(
    members: dict[str, bytes], before: bytes, after: bytes
) -> None:
    body = b",".join(
        b'%b"%b"%b:%b%b%b' % (before, name.encode(), after, before, text, after)
        for name, text in members.items()
    )
    found = Fields("topic", "payload", "ttl").split(before + b"{" + body + b"}" + after)
    assert found == {name: text for name, text in members.items() if name != "other"}


def test_a_field_given_twice_counts_with_its_last_value() -> None:
    assert Fields("topic").split(b'{"topic":1,"topic": 2 }') == {"topic": b"2"}


def test_a_field_spelled_with_escapes_is_found() -> None:
    assert Fields("topic").split(b'{"\\u0074opic":[1, 1.10]}') == {"topic": b"[1, 1.10]"}


def test_millions_of_unknown_fields_cost_no_memory() -> None:
    body = b'{"topic":1' + b"".join(b',"%d":0' % number for number in range(200_000)) + b"}"
    fields = Fields("topic")
    tracemalloc.start()
    try:
        fields.split(body)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(body)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", [b"[]", b"null", b'"{}"', b"12"])
def test_what_is_not_an_object_has_no_fields(text: bytes) -> None:
    with pytest.raises(NotThisError):
        Fields("topic").split(text)


def test_an_object_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(JsonError) as caught:
        Fields("topic").split(b'{"topic":"\xff"}')
    assert caught.value.code == "invalid_encoding"


def test_a_broken_value_of_an_unknown_field_refuses_the_object() -> None:
    with pytest.raises(JsonError):
        Fields("topic").split(b'{"topic":1,"other":NaN}')


@given(st.lists(texts, max_size=6))
def test_the_elements_of_an_array_come_back_byte_for_byte(elements: list[bytes]) -> None:
    expected = elements if len(elements) <= 4 else None
    assert Items(4).split(b" [" + b" , ".join(elements) + b" ] ") == expected


def test_an_array_with_too_many_elements_is_not_built() -> None:
    body = b"[" + b"0," * 500_000 + b"0]"
    items = Items(1000)
    tracemalloc.start()
    try:
        assert items.split(body) is None
        assert tracemalloc.get_traced_memory()[1] < MEBIBYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", [b"{}", b"null", b'"[]"', b"12"])
def test_what_is_not_an_array_has_no_elements(text: bytes) -> None:
    with pytest.raises(NotThisError):
        Items(4).split(text)


def test_integers_are_read_exactly() -> None:
    assert value(b"%d" % 2**70) == 2**70


def test_a_value_that_is_too_long_is_not_decoded() -> None:
    with pytest.raises(NotThisError):
        value(b'"' + b"a" * json_text.FIELD_MAX_BYTES + b'"')


@given(texts)
def test_a_checked_value_needs_no_second_look(text: bytes) -> None:
    check_value(text)
    assert msgspec.json.decode(text) == value(text)


@pytest.mark.parametrize(
    "text", [b'{"password":"hunter2', b'"hunter2\\ud800"', b"[hunter2]", b'"hunter2\xff"']
)
def test_a_refusal_does_not_quote_the_text(text: bytes) -> None:
    with pytest.raises(JsonError) as caught:
        check(text)
    assert "hunter2" not in str(caught.value)
