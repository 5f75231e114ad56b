from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from tests.commands import CommandLine, refusal
from tests.relays import RelayProcess


def _publish(command_line: CommandLine, *topics: str) -> None:
    for topic in topics:
        assert command_line.run("publish", topic, "1").code == 0


def test_every_topic_is_listed_on_a_line(command_line: CommandLine, topic: str) -> None:
    _publish(command_line, topic)
    done = command_line.run("topics")
    assert done.code == 0
    assert topic in [entry["topic_name"] for entry in done.lines]


def test_a_list_of_many_pages_is_followed_to_its_end(
    make_relay_process: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    """More topics than the relay lists at a time; made in bulk, over its API."""
    relay = make_relay_process().start()
    command_line = CommandLine(relay.url, tmp_path)
    names = [f"topic-{number:04}" for number in range(1100)]
    for start in range(0, len(names), 550):
        _publish_in_bulk(relay.url, names[start : start + 550])
    assert [entry["topic_name"] for entry in command_line.run("topics").lines] == names


def _publish_in_bulk(url: str, topics: list[str]) -> None:
    body: Any = {"messages": [{"topic": topic, "payload": 1} for topic in topics]}
    answer = requests.post(f"{url}/api/v1/messages/bulk", json=body, timeout=30)
    assert answer.json()["summary"]["accepted"] == len(topics)


def test_one_topic_is_described(command_line: CommandLine, topic: str) -> None:
    _publish(command_line, topic, topic)
    (entry,) = command_line.run("topics", topic).lines
    assert entry["topic_name"] == topic and entry["length"] == 2


def test_a_topic_that_is_not_there_is_an_error(command_line: CommandLine) -> None:
    for arguments in (("topics", "nowhere"), ("topics", "--delete", "--yes", "nowhere")):
        done = command_line.run(*arguments)
        assert done.code == 1 and done.output == b"" and done.errors.startswith("topic_not_found: ")


def test_a_topic_is_deleted_only_after_a_yes(command_line: CommandLine, topic: str) -> None:
    _publish(command_line, topic)
    assert command_line.run("topics", "--delete", topic, stdin=b"").code == 1
    assert command_line.run("topics", "--delete", topic, stdin=b"n\n").code == 1
    assert command_line.run("topics", topic).code == 0
    done = command_line.run("topics", "--delete", topic, stdin=b"y\n")
    assert done.code == 0 and topic in done.errors and done.output == b""
    assert command_line.run("topics", topic).code == 1


def test_yes_deletes_without_asking(command_line: CommandLine, topic: str) -> None:
    _publish(command_line, topic)
    assert command_line.run("topics", "--delete", "--yes", topic).code == 0
    assert command_line.run("topics", topic).code == 1


def test_delete_and_yes_need_each_other_and_a_name() -> None:
    assert "name the topic" in refusal("topics", "--delete")
    assert "name the topic" in refusal("topics", "--delete", "--yes")
    assert "name the topic" in refusal("topics", "--yes")
    assert "--delete" in refusal("topics", "--yes", "t")


def test_a_topic_is_made_with_limits_and_changed(command_line: CommandLine, topic: str) -> None:
    said = ("--retention", "1h30m", "--max-messages", "600", "--description", "readings")
    (made,) = command_line.run("topics", "--create", topic, *said).lines
    assert (made["topic_name"], made["length"], made["description"]) == (topic, 0, "readings")
    assert (made["retention"], made["max_messages"]) == (5400, 600)
    (changed,) = command_line.run("topics", "--change", topic, "--retention", "default").lines
    assert (changed["retention"], changed["max_messages"]) == (None, 600)
    again = command_line.run("topics", "--create", topic)
    assert again.code == 1 and again.errors.startswith("topic_exists: ")
    wrong = command_line.run("topics", "--change", topic, "--max-messages", "many")
    assert wrong.code == 1 and "max_messages" in wrong.errors


def test_what_is_said_of_a_topic_goes_with_one_way_to_say_it() -> None:
    assert "name the topic" in refusal("topics", "--create")
    assert "name the topic" in refusal("topics", "--retention", "1h")
    assert "exclude each other" in refusal("topics", "--create", "--change", "t")
    assert "--create or --change" in refusal("topics", "t", "--max-messages", "1")
    assert "goes with --change" in refusal("topics", "--create", "t", "--retention", "default")


def test_a_terminal_gets_tables(command_line: CommandLine, topic: str) -> None:
    topic = topic[:40]
    _publish(command_line, topic)
    code, shown = command_line.run_on_terminal("topics")
    assert code == 0 and topic in shown and "{" not in shown
    assert shown.splitlines()[0].split()[0].endswith("name")
    code, shown = command_line.run_on_terminal("topics", topic)
    assert code == 0 and "length" in shown and "{" not in shown


def test_a_terminal_is_told_that_there_is_none(
    make_relay_process: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    command_line = CommandLine(make_relay_process().start().url, tmp_path)
    assert command_line.run_on_terminal("topics")[1].startswith("There are no topics yet")
    assert command_line.run("topics").output == b""
