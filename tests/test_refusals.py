from __future__ import annotations

import logging

import pytest
from valkey.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)

from pulsar_relay.errors import ERRORS
from pulsar_relay.store.refusals import CODES, DeposedError, ScriptUnknownError, lost, refusal, unreachable


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_of_the_store_is_a_row_of_the_error_table_that_says_try_again(code: str) -> None:
    assert ERRORS[code].status == 503
    assert ERRORS[code].is_retryable


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "store_full"),
        ("MISCONF Errors writing to the AOF file: No space left on device", "store_read_only"),
        ("NOREPLICAS Not enough good replicas to write.", "store_read_only"),
        ("LOADING Valkey is loading the dataset in memory", "store_loading"),
        ("BUSY Valkey is busy running a script.", "store_busy"),
        ("CLUSTERDOWN The cluster is down", "store_unavailable"),
        ("MASTERDOWN Link with MASTER is down", "store_unavailable"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "store_unavailable"),
        ("NOAUTH Authentication required.", "store_denied"),
        ("NOPERM User x has no permissions to run the 'evalsha' command", "store_denied"),
        ("WRONGTYPE Operation against a key script: 5ba, on @user_script:12.", "store_damaged"),
        ("DAMAGED last id", "store_damaged"),
        ("STALE a later batch was appended", "store_unavailable"),
        ("ERR user_script:12: attempt to index a nil value", "store_error"),
        ("", "store_error"),
    ],
)
def test_an_error_valkey_answers_with_is_a_definite_refusal_with_a_code(text: str, code: str) -> None:
    told = refusal(ResponseError(text))
    assert told.code == code
    assert not told.is_outcome_unknown


def test_errors_of_which_valkey_py_cuts_the_first_word_are_known_by_their_kind() -> None:
    assert refusal(OutOfMemoryError("command not allowed")).code == "store_full"
    assert refusal(BusyLoadingError("Valkey is loading")).code == "store_loading"
    assert refusal(AuthenticationError("invalid username-password pair")).code == "store_denied"
    assert isinstance(refusal(ReadOnlyError("You can't write against a read only replica.")), DeposedError)
    assert isinstance(refusal(NoScriptError("No matching script.")), ScriptUnknownError)


def test_what_valkey_was_sent_is_neither_shown_nor_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        told = refusal(ResponseError("ERR unknown command 'FOO', with args beginning with: 'secret'"))
    assert "secret" not in caplog.text + str(told) + told.detail
    assert "unknown command" in caplog.text


def test_who_could_not_connect_has_sent_nothing() -> None:
    for error in (ConnectionError("refused"), TimeoutError("timeout"), OSError(111, "refused")):
        told = unreachable(error)
        assert (told.code, told.is_outcome_unknown) == ("store_unavailable", False)


def test_a_refused_password_is_told_apart_from_a_server_that_is_away() -> None:
    wrapped = ConnectionError("wrapped")
    wrapped.__cause__ = AuthenticationError("invalid username-password pair")
    assert unreachable(wrapped).code == "store_denied"
    assert unreachable(AuthenticationError("x")).code == "store_denied"


def test_who_lost_a_connection_does_not_know_what_became_of_its_command() -> None:
    assert lost().is_outcome_unknown
