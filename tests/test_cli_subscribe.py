from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.commands import COMMAND_SECONDS, CommandLine, refusal
from tests.relays import RelayProcess, command, environment

TRANSPORTS = ["ws", "sse", "poll"]


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _publish(command_line: CommandLine, topic: str, *payloads: object) -> list[str]:
    """Publish these JSON values; returns their ids."""
    lines = b"".join(json.dumps(payload).encode() + b"\n" for payload in payloads)
    done = command_line.run("publish", topic, "-", stdin=lines)
    assert done.code == 0, done.errors
    return [result["message_id"] for result in done.lines]


# ------------------------------------------------------------------------------------- where to begin and end


def test_without_following_it_prints_what_is_there_and_ends(
    command_line: CommandLine, topic: str, transport: str
) -> None:
    ids = _publish(command_line, topic, *range(1200))
    done = command_line.run("subscribe", topic, "--no-follow", "--transport", transport)
    assert done.code == 0 and done.errors == ""
    assert [item["message_id"] for item in done.lines] == ids
    assert [item["payload"] for item in done.lines] == list(range(1200))
    assert {item["type"] for item in done.lines} == {"message"}


def test_every_transport_prints_the_same_lines(command_line: CommandLine, topic: str) -> None:
    _publish(command_line, topic, {"a": 1}, "é\n", None, [1.5])
    outputs = {
        command_line.run("subscribe", topic, "--no-follow", "--transport", name).output for name in TRANSPORTS
    }
    assert len(outputs) == 1 and outputs.pop().count(b"\n") == 4


def test_a_topic_without_messages_ends_at_once(command_line: CommandLine, topic: str, transport: str) -> None:
    done = command_line.run("subscribe", topic, "--no-follow", "--transport", transport)
    assert (done.code, done.output, done.errors) == (0, b"", "")


def test_from_the_latest_without_following_there_is_nothing(
    command_line: CommandLine, topic: str, transport: str
) -> None:
    _publish(command_line, topic, 1)
    done = command_line.run("subscribe", topic, "--no-follow", "--since", "latest", "--transport", transport)
    assert (done.code, done.output) == (0, b"")


def test_what_follows_an_id_is_printed(command_line: CommandLine, topic: str, transport: str) -> None:
    ids = _publish(command_line, topic, 1, 2, 3)
    options = ("--no-follow", "--payload-only", "--transport", transport)
    assert command_line.run("subscribe", topic, "--since", ids[0], *options).output == b"2\n3\n"
    assert command_line.run("subscribe", topic, "--since", ids[2], *options).output == b""


def test_each_topic_may_begin_elsewhere(command_line: CommandLine, topic: str, transport: str) -> None:
    first, second, third = (f"{topic[:200]}-{name}" for name in "abc")
    ids = _publish(command_line, first, 1, 2)
    _publish(command_line, second, 3, 4)
    _publish(command_line, third, 5)
    done = command_line.run(
        *("subscribe", first, second, third, "--no-follow", "--transport", transport),
        *("--since", "earliest", "--since", f"{first}={ids[0]}", "--since", f"{third}=latest"),
    )
    assert sorted(item["payload"] for item in done.lines) == [2, 3, 4]


def test_a_topic_named_twice_is_read_once(command_line: CommandLine, topic: str) -> None:
    _publish(command_line, topic, 1)
    assert command_line.run("subscribe", topic, topic, "--no-follow").output.count(b"\n") == 1


def test_it_ends_although_the_newest_message_is_no_longer_given_out(
    command_line: CommandLine, topic: str, transport: str
) -> None:
    _publish(command_line, topic, 1)
    (answer,) = command_line.run("publish", topic, "2", "--ttl", "1").lines
    expired = int(answer["message_id"].partition("-")[0]) / 1000 + 1.0
    while time.time() <= expired:
        time.sleep(0.01)
    done = command_line.run("subscribe", topic, "--no-follow", "--payload-only", "--transport", transport)
    assert (done.code, done.output) == (0, b"1\n")


def test_it_ends_after_the_count(command_line: CommandLine, topic: str, transport: str) -> None:
    _publish(command_line, topic, 1, 2, 3)
    done = command_line.run(
        "subscribe", topic, "--since", "earliest", "--count", "2", "--payload-only", "--transport", transport
    )
    assert (done.code, done.output) == (0, b"1\n2\n")


def test_new_messages_are_printed_as_they_come(command_line: CommandLine, topic: str, transport: str) -> None:
    _publish(command_line, topic, "before")
    with command_line.start("subscribe", topic, "--since", "earliest", "--transport", transport) as running:
        running.wait_for_lines(1)
        _publish(command_line, topic, "first")
        running.wait_for_lines(2)
        _publish(command_line, topic, "second")
        lines = running.wait_for_lines(3)
        assert [json.loads(line)["payload"] for line in lines] == ["before", "first", "second"]
        assert running.interrupt() == 0
        assert running.errors == []


def test_a_place_that_is_none_is_told_and_read_from_the_oldest(
    command_line: CommandLine, topic: str, transport: str
) -> None:
    _publish(command_line, topic, 1, 2)
    done = command_line.run(
        *("subscribe", topic, "--since", "msg_0123456789ab", "--no-follow"),
        *("--payload-only", "--transport", transport),
    )
    assert (done.code, done.output) == (0, b"1\n2\n")
    (notice,) = done.errors.splitlines()
    assert json.loads(notice)["type"] == "reset"


def test_a_gap_is_told_on_standard_error(
    make_relay_process: Callable[..., RelayProcess], tmp_path: Path, transport: str
) -> None:
    relay = make_relay_process("--set", "storage.max_messages_per_topic=10").start()
    command_line = CommandLine(relay.url, tmp_path)
    first = _publish(command_line, "t", *range(2000))[0]
    done = command_line.run(
        "subscribe", "t", "--since", first, "--no-follow", "--payload-only", "--transport", transport
    )
    assert done.code == 0
    (notice,) = map(json.loads, done.errors.splitlines())
    payloads = [int(line) for line in done.output.splitlines()]
    assert payloads == list(range(payloads[0], 2000)) and payloads[0] > 1
    assert notice["type"] == "gap" and notice["lost"] == payloads[0] - 1


# ---------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "options",
    [("--since", "other=earliest"), ("--since", "t=1-1,2"), ("--count", "0"), ("--transport", "udp")],
    ids=" ".join,
)
def test_an_option_that_cannot_be_is_refused(options: tuple[str, ...]) -> None:
    assert options[0] in refusal("subscribe", "t", *options)


def test_a_topic_is_needed() -> None:
    assert "TOPIC" in refusal("subscribe")


def test_the_relays_refusal_is_shown_as_code_and_message(command_line: CommandLine, transport: str) -> None:
    done = command_line.run("subscribe", "___", "--transport", transport)
    assert done.code == 1 and done.output == b""
    code, _, message = done.errors.partition(": ")
    assert code == "invalid_request" and "must be a topic name" in message
    assert len(done.errors.splitlines()) == 1


# ------------------------------------------------------------------------------------------------------- ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_it_in_silence(
    command_line: CommandLine, topic: str, transport: str, number: signal.Signals
) -> None:
    _publish(command_line, topic, 1)
    with command_line.start("subscribe", topic, "--since", "earliest", "--transport", transport) as running:
        running.wait_for_lines(1)
        os.kill(running.pid, number)
        assert running.wait() == 0
        assert running.errors == []


def test_a_reader_that_has_enough_ends_it(command_line: CommandLine, topic: str, transport: str) -> None:
    """As `| head -1` does, without another message that would find the pipe closed."""
    _publish(command_line, topic, 1)
    process = subprocess.Popen(
        command("subscribe", topic, "--since", "earliest", "--transport", transport),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=command_line.directory,
        env=environment({"PULSAR_RELAY_URL": command_line.url}),
    )
    assert process.stdout is not None and process.stderr is not None
    with process:
        assert json.loads(process.stdout.readline())["payload"] == 1
        process.stdout.close()
        assert process.wait(COMMAND_SECONDS) == 0
        assert process.stderr.read() == b""


def test_a_reader_that_goes_in_the_midst_of_it_ends_it(
    command_line: CommandLine, topic: str, transport: str
) -> None:
    _publish(command_line, topic, *["x" * 1000] * 500)
    words = " ".join(command("subscribe", topic, "--no-follow", "--transport", transport))
    done = subprocess.run(
        ["bash", "-c", f'{words} | head -2; echo "${{PIPESTATUS[0]}}"'],
        capture_output=True,
        check=False,
        env=environment({"PULSAR_RELAY_URL": command_line.url}),
        timeout=COMMAND_SECONDS,
    )
    first, second, code = done.stdout.splitlines()
    assert json.loads(first)["payload"] == json.loads(second)["payload"] == "x" * 1000
    assert code == b"0" and done.stderr == b""


# ------------------------------------------------------------------------------------------------ bad weather


@pytest.mark.faults
def test_messages_go_on_over_a_killed_relay_each_once_and_in_order(
    make_relay_process: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    relay = make_relay_process().start()
    command_line = CommandLine(relay.url, tmp_path)
    readers = [
        command_line.start("subscribe", "t", "--since", "earliest", "--payload-only", "--transport", name)
        for name in TRANSPORTS
    ]
    with readers[0], readers[1], readers[2], command_line.start("publish", "t", "-", "-q") as writer:
        sent = 0
        for round_number in range(3):
            if round_number:
                relay.kill()
            # What is written while nobody is there waits in the publisher.
            writer.write(b"".join(b"%d\n" % number for number in range(sent, sent + 200)))
            sent += 200
            if round_number:
                relay.start()
            for reader in readers:
                reader.wait_for_lines(sent)
        for reader in readers:
            assert reader.lines == [b"%d" % number for number in range(sent)]
            assert reader.interrupt() == 0
        writer.close_input()
        assert writer.wait() == 0


@pytest.mark.faults
def test_a_relay_that_stops_in_order_is_waited_for(
    make_relay_process: Callable[..., RelayProcess], tmp_path: Path, transport: str
) -> None:
    relay = make_relay_process().start()
    command_line = CommandLine(relay.url, tmp_path)
    with command_line.start("subscribe", "t", "--since", "earliest", "--transport", transport) as running:
        _publish(command_line, "t", 1)
        running.wait_for_lines(1)
        assert relay.stop() == 0
        running.wait_for_error("Trying again")
        relay.start()
        _publish(command_line, "t", 2)
        running.wait_for_lines(2)
        assert running.interrupt() == 0


def test_a_reader_that_pauses_loses_nothing(command_line: CommandLine, topic: str, transport: str) -> None:
    """More than fits into the pipe and the relay's outbox waits until it is read."""
    count = 300
    _publish(command_line, topic, *[{"number": number, "text": "x" * 10_000} for number in range(count)])
    process = subprocess.Popen(
        command("subscribe", topic, "--no-follow", "--transport", transport),
        stdout=subprocess.PIPE,
        cwd=command_line.directory,
        env=environment({"PULSAR_RELAY_URL": command_line.url}),
    )
    with process:
        assert process.stdout is not None
        numbers = [json.loads(process.stdout.readline())["payload"]["number"]]
        _publish(command_line, topic, *[{"number": number} for number in range(count, count + 5)])
        numbers += [json.loads(line)["payload"]["number"] for line in process.stdout]
        assert process.wait(COMMAND_SECONDS) == 0
    assert numbers[:count] == list(range(count))


# ----------------------------------------------------------------------------------------------- under a name


def _acknowledged(command_line: CommandLine, client_id: str, topic: str) -> str | None:
    url = f"{command_line.url}/api/v1/consumers/{client_id}"
    found = requests.get(url, timeout=COMMAND_SECONDS).json().get("topics", {})
    cursor: str | None = found.get(topic, {}).get("cursor")
    return cursor


def test_under_a_name_it_goes_on_where_it_ended_on_any_transport(
    command_line: CommandLine, topic: str
) -> None:
    ids = _publish(command_line, topic, *range(9))
    options = ("--client-id", topic, "--no-follow")
    printed = []
    for name in TRANSPORTS:
        done = command_line.run("subscribe", topic, *options, "--count", "2", "--transport", name)
        assert (done.code, done.errors) == (0, "")
        printed += done.lines
    rest = command_line.run("subscribe", topic, *options)
    assert [item["message_id"] for item in printed + rest.lines] == ids
    again = command_line.run("subscribe", topic, *options)
    assert (again.code, again.output) == (0, b"")


def test_under_a_name_it_may_begin_elsewhere(command_line: CommandLine, topic: str, transport: str) -> None:
    _publish(command_line, topic, 1, 2)
    options = ("--client-id", topic, "--no-follow", "--payload-only", "--transport", transport)
    assert command_line.run("subscribe", topic, *options).output == b"1\n2\n"
    assert command_line.run("subscribe", topic, "--since", "earliest", *options).output == b"1\n2\n"


def test_who_is_taken_over_ends_and_says_why(command_line: CommandLine, topic: str, transport: str) -> None:
    (first,) = _publish(command_line, topic, 1)
    name = ("subscribe", topic, "--client-id", topic)
    with command_line.start(*name, "--transport", transport) as older:
        # It acknowledges by itself what it has printed.
        older.wait_until(lambda: _acknowledged(command_line, topic, topic) == first)
        assert len(older.lines) == 1
        done = command_line.run(*name, "--no-follow")
        assert (done.code, done.output) == (0, b"")
        assert older.wait() == 1
        assert b"client_id" in b"".join(older.errors)


@pytest.mark.parametrize("client_id", ["", "x" * 256])
def test_a_name_no_client_can_have_is_refused(client_id: str) -> None:
    assert "--client-id" in refusal("subscribe", "t", "--client-id", client_id)
