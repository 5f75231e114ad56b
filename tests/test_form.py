"""Forms are read strictly, however they are sent."""

from __future__ import annotations

import pytest
import requests

from pulsar_relay.errors import RelayError
from pulsar_relay.web.form import MAX_BYTES, URL_ENCODED, is_form, read_form


def sent(parts: list[tuple[str, tuple[str | None, str]]]) -> tuple[bytes, str]:
    """As a library writes `multipart/form-data`."""
    prepared = requests.Request("POST", "http://a", files=parts).prepare()
    assert isinstance(prepared.body, bytes)
    return prepared.body, prepared.headers["Content-Type"]


def refused(body: bytes, content_type: str | None) -> str:
    with pytest.raises(RelayError) as caught:
        read_form(body, content_type)
    return caught.value.code


def test_both_kinds_of_form_say_the_same() -> None:
    expected = {"username": "ann é", "password": "a&b=c"}
    body = b"username=ann+%C3%A9&password=a%26b%3Dc&scope="
    assert read_form(body, URL_ENCODED) == expected
    parts = [("username", (None, "ann é")), ("password", (None, "a&b=c")), ("scope", (None, ""))]
    assert read_form(*sent(parts)) == expected


@pytest.mark.parametrize("name", ["Multipart/Form-Data", " multipart/form-data "])
def test_a_type_is_known_in_capitals_and_its_boundary_is_left_alone(name: str) -> None:
    body, content_type = sent([("a", (None, "1"))])
    boundary = content_type.partition("boundary=")[2]
    body = body.replace(boundary.encode(), b"AbC")
    assert read_form(body, f"{name}; boundary=AbC") == {"a": "1"}
    assert is_form("Application/x-www-form-urlencoded; charset=UTF-8")


def test_of_a_field_that_comes_twice_the_last_counts() -> None:
    assert read_form(b"a=1&a=2", URL_ENCODED) == {"a": "2"}


@pytest.mark.parametrize("content_type", [None, "", "application/json", "multipart/form-datax"])
def test_what_is_no_form_is_refused_by_name(content_type: str | None) -> None:
    assert not is_form(content_type)
    assert refused(b"a=1", content_type) == "unsupported_media_type"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"a=%ff", URL_ENCODED),
        (b"a=1", "multipart/form-data"),
        (b"a=1", "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--", "multipart/form-data; boundary=x"),
        (b"--x\r\n\xff: a\r\n\r\n1\r\n--x--", "multipart/form-data; boundary=x"),
        pytest.param(*sent([("a", ("a.txt", "1"))]), id="a file"),
    ],
)
def test_what_cannot_be_read_is_refused(body: bytes, content_type: str) -> None:
    assert refused(body, content_type) == "invalid_request"


def test_a_form_beyond_the_limit_is_not_read() -> None:
    assert refused(b"a=" + b"x" * MAX_BYTES, URL_ENCODED) == "body_too_large"
