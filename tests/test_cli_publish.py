from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import CommandLine, refusal
from tests.relays import RelayProcess
from tests.valkeys import RealValkey


def _stored(command_line: CommandLine, topic: str) -> bytes:
    """All payloads of the topic, one a line."""
    done = command_line.run("subscribe", topic, "--no-follow", "--payload-only")
    assert done.code == 0, done.errors
    return done.output


def _items(command_line: CommandLine, topic: str) -> list[dict[str, object]]:
    return command_line.run("subscribe", topic, "--no-follow").lines


# ------------------------------------------------------------------------------------------------ one message


def test_a_published_message_is_answered_with_its_id(command_line: CommandLine, topic: str) -> None:
    done = command_line.run("publish", topic, '{"job": 7}')
    assert done.code == 0 and done.errors == ""
    (answer,) = done.lines
    assert answer["topic"] == topic
    (item,) = _items(command_line, topic)
    assert item["message_id"] == answer["message_id"] and item["payload"] == {"job": 7}


@pytest.mark.parametrize(
    "payload",
    [
        '{"b": 1.10,  "a":[1e5, 2 ],"b":null}',
        str(2**70),
        '"\\u00e9 é \\/"',
        "null",
        "  true ",
    ],
)
def test_a_payload_passes_through_byte_for_byte(command_line: CommandLine, topic: str, payload: str) -> None:
    assert command_line.run("publish", topic, payload).code == 0
    assert _stored(command_line, topic).rstrip(b"\n").strip() == payload.strip().encode()


def test_a_payload_of_several_lines_is_printed_on_one(command_line: CommandLine, topic: str) -> None:
    command_line.run("publish", topic, '{\n  "a": 1\r\n}')
    assert _stored(command_line, topic) == b'{   "a": 1  }\n'


def test_metadata_and_ttl_arrive(command_line: CommandLine, topic: str) -> None:
    command_line.run("publish", topic, "1", "--metadata", "source=a=b", "--metadata", "ü=", "--ttl", "3600")
    (item,) = _items(command_line, topic)
    assert item["metadata"] == {"source": "a=b", "ü": ""}


def test_the_same_key_twice_stores_one_message(command_line: CommandLine, topic: str) -> None:
    first, second = (command_line.run("publish", topic, "1", "--idempotency-key", "k") for _ in range(2))
    assert first.lines == second.lines
    assert _stored(command_line, topic) == b"1\n"


def test_the_same_key_for_another_message_is_an_error(command_line: CommandLine, topic: str) -> None:
    command_line.run("publish", topic, "1", "--idempotency-key", "k")
    done = command_line.run("publish", topic, "2", "--idempotency-key", "k")
    assert done.code == 1 and done.errors.startswith("idempotency_conflict: ")


def test_quiet_prints_nothing(command_line: CommandLine, topic: str) -> None:
    done = command_line.run("publish", topic, "1", "-q")
    assert (done.code, done.output, done.errors) == (0, b"", "")


@pytest.mark.parametrize(
    ("payload", "hint"),
    [
        ("hello", "'\"hello\"'"),
        ('say "hi"', r"""'"say \"hi\""'"""),
        ("{job:7}", "single quotes"),
        ("'x'", "double quotes"),
        ("", "'\"\"'"),
        ("NaN", "'\"NaN\"'"),
        ("1 2", "did you mean a string"),
        ('1,"ttl":5', "did you mean a string"),
        ("data.ndjson", "- < data.ndjson"),
        ("1e999", "too large for a double"),
        (b'"\xff"', "iconv"),
    ],
)
def test_what_is_no_json_is_refused_with_a_hint(
    payload: str | bytes, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data.ndjson").write_text("1\n")
    errors = refusal("publish", "never", payload)
    assert "is not JSON" in errors and hint in errors


def test_a_negative_number_is_published_after_two_dashes(command_line: CommandLine, topic: str) -> None:
    assert command_line.run("publish", topic, "--", "-40").code == 0
    assert _stored(command_line, topic) == b"-40\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("publish", "bad topic", "1"), "topic must be a topic name"),
        (("publish", "t", "[" * 150 + "]" * 150), "nested_too_deeply: "),
        (("publish", "t", "1", "--idempotency-key", "k" * 256), "idempotency_key_too_long: "),
    ],
)
def test_the_relays_refusal_is_shown_as_code_and_message(
    command_line: CommandLine, arguments: tuple[str, ...], text: str
) -> None:
    done = command_line.run(*arguments)
    assert done.code == 1 and text in done.errors and ": " in done.errors


@pytest.mark.parametrize(
    "options",
    [("--metadata", "novalue"), ("--ttl", "0"), ("--timeout", "0"), ("--idempotency-key", "ü")],
    ids=" ".join,
)
def test_an_option_that_cannot_be_is_refused(options: tuple[str, ...]) -> None:
    assert "Invalid value for '--" in refusal("publish", "never", "1", *options)


# --------------------------------------------------------------------------------------------- standard input


def test_each_line_becomes_a_message_in_order(command_line: CommandLine, topic: str) -> None:
    lines = b"".join(b'{"i": %d}\n' % number for number in range(2500))
    done = command_line.run("publish", topic, "-", stdin=lines)
    assert done.code == 0 and done.errors == ""
    assert [result["line"] for result in done.lines] == list(range(1, 2501))
    assert {result["status"] for result in done.lines} == {"accepted"}
    assert _stored(command_line, topic) == lines
    assert [item["message_id"] for item in _items(command_line, topic)] == [
        result["message_id"] for result in done.lines
    ]


def test_quiet_prints_the_totals(command_line: CommandLine, topic: str) -> None:
    done = command_line.run("publish", topic, "-", "--quiet", stdin=b"1\n\nx\n2\n")
    assert done.code == 1
    assert done.lines == [{"total": 3, "accepted": 2, "rejected": 1}]


def test_a_line_that_is_no_json_is_rejected_alone(command_line: CommandLine, topic: str) -> None:
    done = command_line.run("publish", topic, "-", stdin=b'1\n}{\n"ttl":1\n\xff\n2\n')
    assert done.code == 1
    assert [(result["line"], result["status"]) for result in done.lines] == [
        (1, "accepted"),
        (2, "rejected"),
        (3, "rejected"),
        (4, "rejected"),
        (5, "accepted"),
    ]
    assert done.lines[1]["code"] == "invalid_json" and done.lines[1]["error"]
    assert _stored(command_line, topic) == b"1\n2\n"


def test_a_line_that_the_relay_rejects_is_rejected_alone(command_line: CommandLine, topic: str) -> None:
    deep = b"[" * 150 + b"]" * 150
    done = command_line.run("publish", topic, "-", stdin=b"1\n" + deep + b"\n2\n")
    assert done.code == 1 and done.lines[1]["code"] == "nested_too_deeply"
    assert _stored(command_line, topic) == b"1\n2\n"


def test_no_line_is_no_message_and_no_error(command_line: CommandLine) -> None:
    done = command_line.run("publish", "never", "-", "-q", stdin=b"\n \n")
    assert done.code == 0 and done.lines == [{"total": 0, "accepted": 0, "rejected": 0}]


def test_a_line_is_published_before_the_next_one_comes(command_line: CommandLine, topic: str) -> None:
    with command_line.start("publish", topic, "-") as running:
        running.write(b"1\n")
        assert json.loads(running.wait_for_lines(1)[0])["status"] == "accepted"
        running.write(b"2\n")
        running.wait_for_lines(2)
        running.close_input()
        assert running.wait() == 0


def test_the_same_input_under_the_same_key_is_stored_once(command_line: CommandLine, topic: str) -> None:
    lines = b"".join(b"%d\n" % number for number in range(1200))
    first, second = (
        command_line.run("publish", topic, "-", "--idempotency-key", "load", stdin=lines) for _ in range(2)
    )
    assert first.code == second.code == 0
    assert first.lines == second.lines
    assert _stored(command_line, topic) == lines


def test_interrupted_it_says_how_far_it_came(command_line: CommandLine, topic: str) -> None:
    with command_line.start("publish", topic, "-") as running:
        running.write(b"1\n2\n")
        running.wait_for_lines(2)
        assert running.interrupt() == 1
        assert b"interrupted: done up to line 2: 2 stored, 0 rejected." in running.errors


def test_more_than_the_relay_takes_at_a_time_is_sent_in_parts(
    make_relay_process: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    relay = make_relay_process("--set", "publish.bulk_max_messages=3", "--set", "server.max_body=2KiB")
    command_line = CommandLine(relay.start().url, tmp_path)
    long = b'"%s"\n' % (b"x" * 1000)
    too_long = b'"%s"\n' % (b"x" * 3000)
    lines = b"".join(b"%d\n" % number for number in range(20)) + long * 4
    done = command_line.run("publish", "t", "-", stdin=too_long + lines)
    assert [result["status"] for result in done.lines] == ["rejected"] + ["accepted"] * 24
    assert done.lines[0]["code"] == "body_too_large"
    assert _stored(command_line, "t") == lines


# ------------------------------------------------------------------------------------------------ bad weather


@pytest.mark.faults
def test_a_store_that_is_away_for_a_while_costs_no_message_and_doubles_none(
    make_relay_process: Callable[..., RelayProcess],
    make_valkey: Callable[..., RealValkey],
    tmp_path: Path,
) -> None:
    store = make_valkey().start()
    relay = make_relay_process(
        *("--set", f"valkey.unix_socket={store.socket_path}"),
        *("--set", "storage.publish_deadline=100ms"),
    )
    command_line = CommandLine(relay.start().url, tmp_path)
    with command_line.start("publish", "t", "-") as running:
        running.write(b"1\n2\n")
        running.wait_for_lines(2)
        store.kill()
        running.write(b"3\n4\n")
        running.wait_for_error("store_unavailable: ")
        store.start()
        running.wait_for_lines(4)
        running.close_input()
        assert running.wait() == 0
    assert _stored(command_line, "t") == b"1\n2\n3\n4\n"


@pytest.mark.faults
def test_a_store_that_stays_away_is_an_error_after_the_timeout(
    make_relay_process: Callable[..., RelayProcess],
    make_valkey: Callable[..., RealValkey],
    tmp_path: Path,
) -> None:
    store = make_valkey().start()
    relay = make_relay_process(
        *("--set", f"valkey.unix_socket={store.socket_path}"),
        *("--set", "storage.publish_deadline=100ms"),
    )
    command_line = CommandLine(relay.start().url, tmp_path)
    store.kill()
    done = command_line.run("publish", "t", "1", "--timeout", "1")
    assert done.code == 1 and done.output == b""
    assert done.errors.splitlines()[-1].startswith("store_unavailable: ")
    done = command_line.run("publish", "t", "-", "--timeout", "0.2", stdin=b"1\n")
    assert done.code == 1 and "nothing is known to be stored" in done.errors


@pytest.mark.faults
def test_a_relay_that_is_killed_and_comes_back_costs_no_message_and_doubles_none(
    make_relay_process: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    relay = make_relay_process().start()
    command_line = CommandLine(relay.url, tmp_path)
    with command_line.start("publish", "t", "-") as running:
        running.write(b"1\n")
        running.wait_for_lines(1)
        relay.kill()
        running.write(b"2\n")
        running.wait_for_error("unreachable: ")
        relay.start()
        running.wait_for_lines(2)
        running.close_input()
        assert running.wait() == 0
    assert _stored(command_line, "t") == b"1\n2\n"


@pytest.mark.faults
def test_whoever_cannot_know_whether_a_message_was_stored_is_told_how_to_be_sure(
    make_relay_process: Callable[..., RelayProcess],
    make_valkey: Callable[..., RealValkey],
    tmp_path: Path,
) -> None:
    store = make_valkey().start()
    relay = make_relay_process("--set", f"valkey.unix_socket={store.socket_path}").start()
    command_line = CommandLine(relay.url, tmp_path)
    store.pause()
    done = command_line.run("publish", "t", "1", "--timeout", "0.5")
    store.resume()
    assert done.code == 1 and done.errors.startswith("no_answer: ")
    key = done.errors.partition("--idempotency-key ")[2].split()[0]
    assert command_line.run("publish", "t", "1", "--idempotency-key", key).code == 0
    assert _stored(command_line, "t") == b"1\n"


# --------------------------------------------------------------------------------------------------- terminal


def test_a_terminal_sees_progress_and_the_results(command_line: CommandLine, topic: str) -> None:
    data = command_line.directory / "data.ndjson"
    data.write_bytes(b"1\n" * 700)
    with data.open("rb") as stdin:
        code, shown = command_line.run_on_terminal("publish", topic, "-", stdin=stdin.fileno())
    assert code == 0
    assert "700 messages" in shown and "100%" in shown and "/s" in shown
    assert shown.count('"status":"accepted"') == 700


def test_an_error_on_a_terminal_is_the_last_thing_seen(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"1\n")
    os.close(writer)
    try:
        code, shown = CommandLine("http://127.0.0.1:1", tmp_path).run_on_terminal(
            "publish", "t", "-", stdin=reader
        )
    finally:
        os.close(reader)
    assert code == 1 and "nothing is known to be stored." in shown.splitlines()[-1]
