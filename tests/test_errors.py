"""The table of errors, and how an error looks on the wire."""

from __future__ import annotations

import ast
import json
from collections import Counter
from pathlib import Path

import pytest

from pulsar_relay import errors
from pulsar_relay.errors import ERRORS, ErrorKind, FieldError, RelayError, render

KINDS = list(ERRORS.values())
SOURCES = sorted(
    path
    for package in ("actors", "pulsar_relay")
    for path in (Path(__file__).parent.parent / package).rglob("*.py")
)


def answer(error: RelayError) -> tuple[int, dict[str, str], dict[str, object]]:
    status, headers, body = render(error)
    return status, headers, json.loads(body)


def codes_named_in(source: Path) -> set[object]:
    """The literal error codes that `source` gives to the types that carry one, or lists as the meaning of a
    refusal.
    """
    found: set[object] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["_REFUSALS"]:
            found |= set(ast.literal_eval(node.value).values())
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        position = {"RelayError": 0, "StoreError": 0, "Refused": 0, "JsonError": 0, "FetchFailed": 2}.get(
            node.func.id
        )
        if position is not None and position < len(node.args):
            code = node.args[position]
            if isinstance(code, ast.Constant):
                found.add(code.value)
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_every_error_renders_to_the_one_shape(kind: ErrorKind) -> None:
    status, headers, body = answer(RelayError(kind.code))
    assert headers["Content-Type"] == "application/json"
    assert status == (kind.status or 500)
    assert body == {
        "error": kind.code,
        "message": kind.message,
        "detail": errors._FORMER_WORDS.get(kind.code, kind.message),
        "retry": kind.retry_after_seconds is not None,
    }


def test_no_code_is_given_twice() -> None:
    assert [code for code, count in Counter(row[0] for row in errors._ROWS).items() if count > 1] == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_every_code_the_source_names_is_in_the_table(source: Path) -> None:
    assert codes_named_in(source) <= ERRORS.keys()


def test_a_code_outside_the_table_is_a_bug() -> None:
    with pytest.raises(KeyError):
        RelayError("no_such_code")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_what_heals_by_itself_is_a_503_and_says_when_to_come_back(kind: ErrorKind) -> None:
    abuse = {"rate_limited", "login_backoff", "too_many_user_connections", "too_many_polls"}
    assert (kind.status == 429) == (kind.code in abuse)
    if kind.status in (429, 503):
        assert kind.retry_after_seconds
        assert answer(RelayError(kind.code))[1]["Retry-After"] == str(kind.retry_after_seconds)


def test_close_codes_are_standard_or_their_own() -> None:
    private = [kind.close_code for kind in KINDS if kind.close_code is not None and kind.close_code >= 3000]
    assert len(private) == len(set(private))
    assert all(4000 <= code <= 4999 for code in private)
    assert {kind.close_code for kind in KINDS if kind.close_code} - set(private) <= {1009, 1011, 1012, 1013}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_a_code_fits_in_a_close_frame(kind: ErrorKind) -> None:
    assert len(kind.code.encode()) <= 123


def test_a_detail_makes_the_text_precise() -> None:
    _, _, body = answer(RelayError("store_unavailable", "No answer for 5 s."))
    assert (
        body["message"]
        == body["detail"]
        == "The store cannot be reached at the moment. Try again. No answer for 5 s."
    )


def test_what_the_older_relay_said_is_said_where_its_clients_look() -> None:
    _, _, body = answer(RelayError("wrong_password"))
    assert body["detail"] == "Incorrect username or password"
    _, _, body = answer(RelayError("user_exists", former="Username 'a' already exists"))
    assert body["detail"] == "Username 'a' already exists"
    assert body["message"] == ERRORS["user_exists"].message
    assert errors._FORMER_WORDS.keys() <= ERRORS.keys()


def test_wrong_fields_are_listed_where_older_clients_look() -> None:
    wrong = FieldError(("body", "topics", 3), "must be a topic name", "topic_name")
    status, _, body = answer(RelayError("invalid_request", errors=[wrong]))
    assert status == 422
    assert body["detail"] == [
        {"loc": ["body", "topics", 3], "msg": "must be a topic name", "type": "topic_name"}
    ]
    assert body["error"] == "invalid_request"
    assert body["retry"] is False


def test_only_what_may_succeed_later_is_worth_retrying() -> None:
    assert RelayError("overloaded").kind.is_retryable
    assert not RelayError("idempotency_conflict").kind.is_retryable


def test_an_error_may_know_better_than_its_row_when_to_come_back() -> None:
    _, headers, _ = answer(RelayError("rate_limited", headers={"Retry-After": "7"}))
    assert headers["Retry-After"] == "7"
