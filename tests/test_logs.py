from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from pulsar_relay import logs
from pulsar_relay.settings import LogSettings

logger = logging.getLogger("pulsar_relay.topic")


@pytest.fixture(autouse=True)
def _logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`set_up` is for a whole process; undo what it does."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr("threading.excepthook", sys.modules["threading"].excepthook)
    names = ["", "pulsar_relay", "actors", "tornado.access", "pulsar_relay.accounts.audit"]
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = logging.getLogger().handlers[:]
    yield
    logging.captureWarnings(False)
    logging.getLogger().handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def set_up(kind: str = "json", level: str = "info", secrets: tuple[str, ...] = ()) -> io.StringIO:
    stream = io.StringIO()
    logs.set_up(LogSettings(format=kind, level=level), stream=stream, secrets=secrets)
    return stream


def only_object(stream: io.StringIO) -> dict[str, Any]:
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    fields = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert isinstance(fields, dict)
    return fields


def test_a_record_in_json_is_one_object_with_time_level_logger_message_and_extras() -> None:
    stream = set_up()
    logger.warning("topic %s: trimmed %d messages", "a", 7, extra={"topic": "a", "trimmed": 7, "note": None})
    fields = only_object(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields.pop("timestamp"))
    assert fields == {
        "level": "warning",
        "logger": "pulsar_relay.topic",
        "message": "topic a: trimmed 7 messages",
        "topic": "a",
        "trimmed": 7,
        "note": None,
    }


def test_a_record_in_text_is_one_line_of_time_level_and_message() -> None:
    stream = set_up("text")
    logger.info("topic %s: trimmed %d messages", "a", 7, extra={"worker": 2})
    line = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} info    topic a: trimmed 7 messages worker=2\n"
    assert re.fullmatch(line, stream.getvalue())


@pytest.mark.parametrize("kind", ["text", "json"])
def test_nobody_forges_a_line_or_drives_the_terminal_by_a_name(kind: str) -> None:
    stream = set_up(kind)
    name = "a\n2026-01-01 critical forged\r\x1b[2J\u2028\ud800"
    logger.info("topic %s: made", name, extra={"who": name})
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.rstrip("\n").isprintable()


def test_an_exception_in_json_is_one_field() -> None:
    stream = set_up()
    try:
        raise ValueError("bad\nnews")
    except ValueError:
        logger.exception("topic a: failed")
    fields = only_object(stream)
    assert fields["message"] == "topic a: failed"
    assert fields["exception"].startswith("Traceback (most recent call last):\n")
    assert fields["exception"].endswith("ValueError: bad\nnews")


def test_an_exception_in_text_follows_indented_so_that_it_cannot_look_like_a_record() -> None:
    stream = set_up("text")
    try:
        raise ValueError("bad\n2026-01-01 forged")
    except ValueError:
        logger.exception("topic a: failed")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("error   topic a: failed")
    assert rest[-1] == "    2026-01-01 forged"
    assert all(line.startswith("    ") for line in rest)


@pytest.mark.parametrize("kind", ["text", "json"])
def test_a_secret_appears_nowhere(kind: str) -> None:
    stream = set_up(kind, secrets=("hunter2", 'hunter2"longer', ""))
    try:
        raise ValueError('cannot log in with hunter2"longer')
    except ValueError:
        logger.exception(
            "valkey: password hunter2", extra={"url": "redis://:hunter2@host", "list": ["hunter2"]}
        )
    assert "hunter2" not in stream.getvalue()
    assert (
        "longer" not in stream.getvalue().replace("'cannot log in with hunter2", "").split("ValueError")[-1]
    )
    assert stream.getvalue().count("********") >= 4


def test_a_number_that_json_has_no_word_for_is_shown_as_text() -> None:
    stream = set_up()
    logger.info("topic a: odd", extra={"lag": float("nan")})
    assert only_object(stream)["lag"] == "nan"


def test_arguments_that_do_not_fit_lose_neither_the_message_nor_themselves() -> None:
    stream = set_up()
    arguments = ("a",)
    logger.info("topic %s: %d messages", *arguments)
    assert only_object(stream)["message"] == "topic %s: %d messages ('a',)"


def test_an_extra_never_replaces_a_field_of_ours() -> None:
    stream = set_up()
    logger.info("topic a: made", extra={"level": "critical", "timestamp": "never"})
    fields = only_object(stream)
    assert fields["level"] == "info"
    assert fields["timestamp"] != "never"


def test_the_level_holds_for_our_records_and_libraries_are_heard_from_warnings_on() -> None:
    stream = set_up(level="debug")
    logger.debug("ours")
    logging.getLogger("actors.runtime").debug("ours too")
    logging.getLogger("asyncio").info("theirs")
    logging.getLogger("asyncio").warning("theirs, important")
    said = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert said == ["ours", "ours too", "theirs, important"]


def test_a_higher_level_holds_for_everybody() -> None:
    stream = set_up(level="error")
    logger.warning("ours")
    logging.getLogger("asyncio").warning("theirs")
    assert stream.getvalue() == ""


def test_tornado_logs_no_request() -> None:
    stream = set_up(level="debug")
    logging.getLogger("tornado.access").error("500 GET /")
    assert stream.getvalue() == ""


def test_a_second_set_up_replaces_the_first() -> None:
    first, second = set_up(), set_up()
    logger.info("once")
    assert first.getvalue() == ""
    assert only_object(second)["message"] == "once"


def test_a_warning_of_python_is_a_record() -> None:
    stream = set_up()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # Enabled again, as pytest has put its own catcher in place.
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old ways\nend", UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "UserWarning: old ways\nend" in only_object(stream)["message"]


def test_a_stream_that_is_no_terminal_gets_json_unless_told_otherwise() -> None:
    stream = set_up("auto")
    logger.info("to a pipe")
    assert only_object(stream)["message"] == "to a pipe"


def test_a_terminal_gets_text_unless_told_otherwise() -> None:
    ours, terminal = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as reader, os.fdopen(terminal, "w") as stream:
        logs.set_up(LogSettings(format="auto"), stream=stream)
        logger.info("to a terminal")
        assert re.search(rb"info    to a terminal", reader.read(1000))


CRASHES = {
    "in the main thread": "raise ValueError('bad')",
    "in a thread": "import threading; t = threading.Thread(target=int, args=('bad',)); t.start(); t.join()",
}


@pytest.mark.parametrize("crash", CRASHES.values(), ids=CRASHES)
def test_an_uncaught_exception_is_one_record_too(crash: str) -> None:
    code = f"""
import sys
from pulsar_relay import logs
from pulsar_relay.settings import LogSettings
logs.set_up(LogSettings(), stream=sys.stderr)
{crash}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    fields = json.loads(line)
    assert fields["level"] == "critical"
    assert "ValueError" in fields["exception"]


def test_importing_the_module_changes_nothing() -> None:
    code = (
        "import logging, sys; hook = sys.excepthook; import pulsar_relay.logs; "
        "print(logging.getLogger().handlers, logging.getLogger().level, sys.excepthook is hook)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] 30 True\n"
