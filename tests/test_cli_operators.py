"""The small commands of operators: `tail`, `trim`, `consumers`, `stats`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from pulsar_relay.store import schema
from tests.commands import CommandLine, refusal
from tests.relays import RelayProcess
from tests.valkeys import RealValkey


def _publish(line: CommandLine, topic: str, count: int) -> list[str]:
    text = b"".join(b"%d\n" % number for number in range(count))
    done = line.run("publish", topic, "-", stdin=text)
    assert done.code == 0, done.errors
    return [entry["message_id"] for entry in done.lines]


# ---------------------------------------------------------------------------------------------------- tail


def test_tail_prints_the_newest_in_their_order(command_line: CommandLine, topic: str) -> None:
    ids = _publish(command_line, topic, 30)
    done = command_line.run("tail", topic)
    assert [entry["message_id"] for entry in done.lines] == ids[-10:]
    assert command_line.run("tail", topic, "-n", "3", "--payload-only").text == "27\n28\n29\n"


def test_tail_prints_more_than_the_relay_gives_at_once(command_line: CommandLine, topic: str) -> None:
    ids = _publish(command_line, topic, 1500)
    done = command_line.run("tail", topic, "-n", "1200")
    assert [entry["message_id"] for entry in done.lines] == ids[-1200:]


def test_tail_follows_and_misses_nothing(command_line: CommandLine, topic: str) -> None:
    with command_line.start("tail", topic, "-f", "--payload-only") as tail:
        _publish(command_line, topic, 3)
        assert tail.wait_for_lines(3) == [b"0", b"1", b"2"]
        assert tail.interrupt() == 0
    with command_line.start("tail", topic, "-n", "2", "-f", "--payload-only") as tail:
        tail.wait_for_lines(2)
        _publish(command_line, topic, 1)
        assert tail.wait_for_lines(3) == [b"1", b"2", b"0"]
        assert tail.interrupt() == 0


def test_tail_of_a_topic_that_is_not_there_is_an_error(command_line: CommandLine) -> None:
    done = command_line.run("tail", "nowhere")
    assert (done.code, done.text) == (1, "")
    assert "topic_not_found" in done.errors
    refusal("tail", "t", "-n", "0")


# ---------------------------------------------------------------------------------------------------- trim


def test_trim_removes_what_it_is_told_to_whatever_limits_the_topic_has(
    make_relay_process: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    relay = make_relay_process().start()
    line = CommandLine(relay.url, tmp_path)
    assert line.run("topics", "--create", "t", "--max-messages", "9000").code == 0
    ids = _publish(line, "t", 5000)
    where = ("--data-dir", str(relay.data_dir))
    done = line.run("trim", "t", "--max-messages", "1234", *where)
    assert done.code == 0, done.errors
    assert done.text == f"t: 3,766 messages removed; the oldest is {ids[-1234]}\n"
    assert line.run("topics", "t").lines[0]["first_id"] == ids[-1234]
    body = {"topics": ["t"], "since": {"t": ids[0]}, "timeout": 1, "limit": 1}
    told = requests.post(f"{relay.url}/messages/poll", json=body, timeout=10).json()
    assert told["messages"]


def test_trim_by_age_leaves_what_is_younger_and_the_newest(
    make_valkey: Callable[..., RealValkey], tmp_path: Path
) -> None:
    server = make_valkey().start()
    line = CommandLine("http://127.0.0.1:1", tmp_path)
    where = ("--set", f"valkey.unix_socket={server.socket_path}")
    for ms in (1_700_000_000_000, 1_700_000_000_001):
        server.command("XADD", schema.stream("old"), f"{ms}-1", "payload", "1")
    for number in range(3):
        server.command("XADD", schema.stream("t"), f"{1_700_000_000_000 + number}-1", "payload", "1")
    server.command("XADD", schema.stream("t"), "*", "payload", "1")
    assert line.run("trim", "t", "--older-than", "1h", *where).text.startswith("t: 3 messages removed")
    assert line.run("trim", "old", "--older-than", "1h", *where).text.startswith("old: 1 messages removed")
    assert line.run("trim", "t", "--older-than", "1h", *where).text.startswith("t: 0 messages removed")
    missing = line.run("trim", "nowhere", "--max-messages", "1", *where)
    assert (missing.code, missing.text) == (1, "")


def test_trim_does_not_guess() -> None:
    refusal("trim", "t")
    refusal("trim", "t", "--max-messages", "0")
    assert "1 week" in refusal("trim", "t", "--older-than", "1 week")


# ----------------------------------------------------------------------------------------------- consumers


def _acknowledge(line: CommandLine, name: str, topic: str, message_id: str) -> None:
    url = f"{line.url}/api/v1/consumers/{name}/ack"
    answer = requests.post(url, json={"cursors": {topic: message_id}}, timeout=10)
    assert answer.status_code == 200, answer.text


def test_consumers_are_listed_shown_and_deleted(command_line: CommandLine, topic: str) -> None:
    ids = _publish(command_line, topic, 5)
    _acknowledge(command_line, topic, topic, ids[1])
    listed = {entry["client_id"]: entry for entry in command_line.run("consumers", "list").lines}
    assert listed[topic]["connected"] is False
    (shown,) = command_line.run("consumers", "show", topic).lines
    assert shown["topics"][topic]["lag_messages"] == 3
    code, table = command_line.run_on_terminal("consumers", "show", topic)
    assert code == 0 and "lag_messages" in table
    code, table = command_line.run_on_terminal("consumers", "list")
    assert code == 0 and "client_id" in table
    unsure = command_line.run("consumers", "delete", topic, stdin=b"n\n")
    assert unsure.code == 1
    assert command_line.run("consumers", "delete", topic, "--yes").code == 0
    gone = command_line.run("consumers", "show", topic)
    assert gone.code == 1 and "consumer_not_found" in gone.errors


# --------------------------------------------------------------------------------------------------- stats


def test_stats_are_told_once_or_again_and_again(command_line: CommandLine, topic: str) -> None:
    _publish(command_line, topic, 7)
    (look,) = command_line.run("stats", topic).lines
    assert look["total_topics"] >= 1
    (told,) = look["topics"]
    assert (told["topic_name"], told["length"], told["messages_a_second"]) == (topic, 7, None)
    everything = command_line.run("stats").lines[0]["topics"]
    assert topic in [one["topic_name"] for one in everything]
    with command_line.start("stats", topic, "--watch", "--interval", "0.1") as watch:
        watch.wait_for_lines(1)
        _publish(command_line, topic, 20)

        def rates() -> list[Any]:
            return [json.loads(line)["topics"][0]["messages_a_second"] for line in watch.lines[:]]

        watch.wait_until(lambda: any(rates()))
        watch.wait_until(lambda: rates()[-1] == 0.0)
        assert watch.interrupt() == 0


def test_stats_are_watched_across_a_restart_of_the_relay(
    make_relay_process: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    relay = make_relay_process().start()
    line = CommandLine(relay.url, tmp_path)
    _publish(line, "t", 3)
    with line.start("stats", "--watch", "--interval", "0.1") as watch:
        watch.wait_for_lines(1)
        relay.stop()
        watch.wait_for_error("Trying again")
        relay.start()
        _publish(line, "t", 1)
        watch.wait_until(lambda: json.loads(watch.lines[-1])["topics"][0]["length"] == 4)
        assert watch.interrupt() == 0


def test_stats_on_a_terminal_are_a_table(command_line: CommandLine, topic: str) -> None:
    _publish(command_line, topic, 1234)
    code, shown = command_line.run_on_terminal("stats", topic, "--watch", "--count", "2", "--interval", "0.1")
    assert code == 0
    assert "1,234" in shown and "a second" in shown and "subscribers" in shown


def test_stats_of_what_is_not_there_are_an_error(command_line: CommandLine) -> None:
    done = command_line.run("stats", "nowhere")
    assert done.code == 1 and "topic_not_found" in done.errors
    refusal("stats", "--count", "2")


@pytest.mark.parametrize("command", [("stats",), ("tail", "t"), ("consumers", "list")])
def test_a_relay_that_is_away_is_told(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = CommandLine("http://127.0.0.1:1", tmp_path).run(*command)
    assert done.code == 1 and "unreachable" in done.errors
