"""The command line as a whole: what it says of itself, and how it fails."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pulsar_relay import __version__
from pulsar_relay.cli import commands
from tests.commands import CommandLine, refusal

COMMANDS = [
    *("serve", "login", "logout", "publish", "subscribe", "topics"),
    *("tail", "trim", "consumers", "users", "keys", "grants", "sessions", "stats"),
    *("valkey", "store", "doctor", "backup", "restore", "migrate", "config"),
]


@pytest.fixture
def nobody(tmp_path: Path) -> CommandLine:
    """Commands for a relay that is not there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return CommandLine(f"http://127.0.0.1:{port}", tmp_path)


@pytest.fixture
def make_web_server(tmp_path: Path) -> Iterator[Callable[[str], CommandLine]]:
    """Makes commands for something that gives every request this answer, and is no relay."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(listener: socket.socket, status: str) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Length: 4\r\nConnection: close\r\n\r\n"
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(head.encode() + b"<p/>")

    def make(status: str) -> CommandLine:
        listeners.append(socket.create_server(("127.0.0.1", 0)))
        threads.append(threading.Thread(target=serve, args=(listeners[-1], status)))
        threads[-1].start()
        return CommandLine(f"http://127.0.0.1:{listeners[-1].getsockname()[1]}", tmp_path)

    yield make
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join()


def test_the_version_is_the_packages(nobody: CommandLine) -> None:
    assert nobody.run("--version").text == f"pulsar-relay {__version__}\n"


def test_help_names_every_command(nobody: CommandLine) -> None:
    text = nobody.run("--help").text
    assert [line.split()[0] for line in text.partition("Commands:")[2].splitlines() if line[:2] == "  "][
        :-1
    ] == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(nobody: CommandLine, name: str) -> None:
    done = nobody.run(name, "--help")
    assert done.code == 0 and f"Usage: pulsar-relay {name}" in done.text


def test_an_unknown_command_is_refused() -> None:
    assert "subscribee" in refusal("subscribee")


def test_help_loads_no_part_of_the_relay() -> None:
    program = (
        "import sys; from pulsar_relay.cli import commands\n"
        "try: commands(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'tornado', 'valkey', 'marshmallow', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == b"[]"


def test_the_console_script_is_the_modules_main() -> None:
    text = (Path(__file__).parent.parent / "setup.cfg").read_text()
    assert "pulsar-relay = pulsar_relay.__main__:main" in text
    assert commands.name == "commands"


@pytest.mark.parametrize(
    "arguments",
    [
        ("publish", "t", "1"),
        ("publish", "t", "-"),
        ("subscribe", "t"),
        ("subscribe", "t", "--transport", "sse"),
        ("subscribe", "t", "--transport", "poll"),
        ("subscribe", "t", "--no-follow"),
        ("topics",),
    ],
    ids=" ".join,
)
def test_without_a_relay_a_command_says_where_it_looked_and_how_to_start_one(
    nobody: CommandLine, arguments: tuple[str, ...]
) -> None:
    done = nobody.run(*arguments, stdin=b"1\n")
    assert done.code == 1 and done.output == b""
    assert "no relay can be reached at http://127.0.0.1:" in done.errors
    assert "connection refused" in done.errors
    assert "pulsar-relay serve" in done.errors and "--url" in done.errors
    assert "Traceback" not in done.errors


@pytest.mark.parametrize(
    "arguments",
    [
        ("publish", "t", "1"),
        ("publish", "t", "-"),
        ("subscribe", "t"),
        ("subscribe", "t", "--transport", "sse"),
        ("subscribe", "t", "--transport", "poll"),
        ("subscribe", "t", "--no-follow"),
        ("topics",),
        ("topics", "t"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("status", ["404 Not Found", "200 OK"])
def test_what_is_no_relay_is_told_from_one(
    make_web_server: Callable[[str], CommandLine], status: str, arguments: tuple[str, ...]
) -> None:
    done = make_web_server(status).run(*arguments, stdin=b"1\n")
    assert done.code == 1 and done.output == b""
    code, _, message = done.errors.partition(": ")
    assert code in {"http_404", "not_a_relay"} and "a relay" in message
    assert "Traceback" not in done.errors


def test_a_url_that_is_none_is_refused_with_an_example() -> None:
    assert "http://127.0.0.1:8080" in refusal("topics", "--url", "localhost:8080")


def test_the_url_variable_does_not_keep_a_relay_from_starting(nobody: CommandLine) -> None:
    # Variables named RELAY_... are settings, and an unknown one is an error.
    assert nobody.run("config", "check").code == 0


@pytest.mark.parametrize("name", ["a,b", "a:b", "a\nb", b"\xff"])
@pytest.mark.parametrize(
    "command", [("publish", "1"), ("subscribe",), ("topics",)], ids=["publish", "subscribe", "topics"]
)
def test_a_name_that_would_arrive_as_another_is_refused(command: tuple[str, ...], name: str | bytes) -> None:
    assert "cannot be the name of a topic" in refusal(command[0], name, *command[1:])


def test_commands_that_ask_a_relay_load_none_of_its_parts() -> None:
    """They are to be there at once."""
    asking = (
        "publish",
        "subscribe",
        "tail",
        "topics",
        "users",
        "keys",
        "grants",
        "sessions",
        "login",
        "stats",
    )
    code = ";".join(f"import pulsar_relay.cli.{name}" for name in asking)
    parts = ("marshmallow", "jwt", "argon2", "prometheus_client", "thespian", "pulsar_relay.settings")
    code += f";import sys;print([part for part in {parts} if part in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
