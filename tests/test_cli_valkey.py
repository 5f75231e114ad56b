"""`valkey`: what it prints, for people and for programs, and where it asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pulsar_relay.cli.replies import bare, typed
from pulsar_relay.store.console import Reply
from tests.commands import CommandLine, refusal
from tests.relays import RelayProcess
from tests.valkeys import RealValkey

# As valkey-cli 9.1 shows them; it quotes the string of the first row too.
ON_A_TERMINAL = [
    (b"a text\r\n", ["a text"]),
    (7, ["(integer) 7"]),
    (None, ["(nil)"]),
    ([], ["(empty array)"]),
    ([b"appendonly", b"yes"], ['1) "appendonly"', '2) "yes"']),
    ([b'"\\\n\x00\xff'], ['1) "\\"\\\\\\n\\x00\\xff"']),
    ([[1, None], [[b"a"], []]], ["1) 1) (integer) 1", "   2) (nil)", '2) 1) 1) "a"', "   2) (empty array)"]),
    (list(range(10)), [*(f" {n + 1}) (integer) {n}" for n in range(9)), "10) (integer) 9"]),
]


@pytest.mark.parametrize(("reply", "lines"), ON_A_TERMINAL)
def test_a_terminal_is_shown_the_types(reply: Reply, lines: list[str]) -> None:
    assert list(typed(reply)) == lines


def test_programs_get_the_values_alone() -> None:
    assert list(bare([b"a\xff", [1, None], []])) == [b"a\xff", b"1", b""]
    assert list(bare(b"# Server\r\nprocess_id:1\r\n")) == [b"# Server\r\nprocess_id:1"]


def test_it_asks_the_server_that_a_relay_runs(relay_process: RelayProcess, tmp_path: Path) -> None:
    line = CommandLine(relay_process.url, tmp_path)
    where = ("--data-dir", str(relay_process.data_dir))
    assert line.run("valkey", *where, "CONFIG", "GET", "appendonly").text == "appendonly\nyes\n"
    assert line.run_on_terminal("valkey", *where, "CONFIG", "GET", "appendonly") == (
        0,
        '1) "appendonly"\r\n2) "yes"\r\n',
    )


def test_it_asks_the_configured_server_with_its_password(
    make_valkey: Callable[..., RealValkey], tmp_path: Path
) -> None:
    server = make_valkey(settings={"requirepass": "secret"}).start(wait=False)
    line = CommandLine("http://127.0.0.1:1", tmp_path)
    where = ("--set", f"valkey.unix_socket={server.socket_path}")
    while not Path(server.socket_path).exists():
        pass
    refused = line.run("valkey", *where, "PING")
    assert refused.code == 1 and "store_denied" in refused.errors
    assert line.run("valkey", *where, "PING", variables={"VALKEY_PASSWORD": "secret"}).text == "PONG\n"


def test_words_that_look_like_options_are_the_commands(valkey: str, tmp_path: Path) -> None:
    line = CommandLine("http://127.0.0.1:1", tmp_path)
    where = ("--set", f"valkey.unix_socket={valkey}")
    assert line.run("valkey", *where, "ECHO", "--help").text == "--help\n"
    failed = line.run("valkey", *where, "NOPE")
    assert (failed.code, failed.text) == (1, "") and "unknown command 'NOPE'" in failed.errors


def test_it_goes_on_until_ctrl_c_where_there_is_no_end(valkey: str, tmp_path: Path) -> None:
    line = CommandLine("http://127.0.0.1:1", tmp_path)
    with line.start("valkey", "--set", f"valkey.unix_socket={valkey}", "MONITOR") as monitor:
        assert monitor.wait_for_lines(1) == [b"OK"]
        assert monitor.interrupt() == 0
        assert not any(b"Traceback" in error for error in monitor.errors)


def test_a_command_must_be_given() -> None:
    assert "COMMAND" in refusal("valkey")
