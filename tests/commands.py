"""The command line as users call it: each command in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import pytest
from click.testing import CliRunner

from pulsar_relay.cli import commands
from tests.relays import RelayProcess, command, environment
from tests.valkeys import TIMEOUT_SCALE

COMMAND_SECONDS = 30.0 * TIMEOUT_SCALE


class Finished:
    """What a command that has ended left behind."""

    def __init__(self, code: int, output: bytes, errors: bytes) -> None:
        self.code = code
        self.output = output
        self.errors = errors.decode(errors="replace")

    @property
    def text(self) -> str:
        return self.output.decode()

    @property
    def lines(self) -> list[Any]:
        """Standard output as JSON values, one a line."""
        return [json.loads(line) for line in self.output.splitlines()]


class Running:
    """A command that was started; `lines` collects what it prints, without its line ends."""

    def __init__(self, arguments: tuple[str, ...], variables: Mapping[str, str], directory: Path) -> None:
        self._process = subprocess.Popen(
            command(*arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=directory,
            env=environment(variables),
        )
        self.lines: list[bytes] = []
        self.errors: list[bytes] = []
        self._readers = [
            threading.Thread(target=self._collect, args=pair, daemon=True)
            for pair in ((self._process.stdout, self.lines), (self._process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _collect(stream: Any, lines: list[bytes]) -> None:
        # One by one: others look at the list while it grows.
        for line in stream:
            lines.append(line.rstrip(b"\n"))  # noqa: PERF401

    @property
    def pid(self) -> int:
        return self._process.pid

    def write(self, data: bytes) -> None:
        """Give it more standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def close_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait_for_lines(self, count: int) -> list[bytes]:
        """Return the lines when there are at least `count`."""
        self.wait_until(lambda: len(self.lines) >= count)
        return self.lines

    def wait_for_error(self, text: str) -> None:
        """Return when `text` is on standard error."""
        self.wait_until(lambda: any(text.encode() in line for line in self.errors[:]))

    def wait_until(self, is_true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + COMMAND_SECONDS
        while not is_true():
            assert time.monotonic() < deadline, f"{self.lines[-5:]} {self.errors[-5:]}"
            time.sleep(0.005)

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self._process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end and for all its output; returns the exit code."""
        code = self._process.wait(COMMAND_SECONDS)
        for reader in self._readers:
            reader.join(COMMAND_SECONDS)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()


class CommandLine:
    """Runs commands in `directory`, against the relay at `url` unless they name another."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        state = str(directory / "state")
        self._variables = {
            "PULSAR_RELAY_URL": url,
            "XDG_STATE_HOME": state,
            "COLUMNS": "120",
            "TERM": "xterm",
        }
        self.directory = directory

    def run(
        self, *arguments: str | bytes, stdin: bytes = b"", variables: Mapping[str, str] | None = None
    ) -> Finished:
        """Run a command to its end."""
        words = [os.fsdecode(argument) for argument in arguments]
        done = subprocess.run(
            command(*words),
            input=stdin,
            capture_output=True,
            check=False,
            cwd=self.directory,
            env=environment({**self._variables, **(variables or {})}),
            timeout=COMMAND_SECONDS,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> Running:
        """Start a command; use it in a `with` block."""
        return Running(arguments, self._variables, self.directory)

    def run_on_terminal(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> tuple[int, str]:
        """Run a command with output and errors on a terminal; returns its exit code and what was shown."""
        ours, theirs = pty.openpty()
        try:
            process = subprocess.Popen(
                command(*arguments),
                stdin=stdin,
                stdout=theirs,
                stderr=theirs,
                cwd=self.directory,
                env=environment(self._variables),
            )
        finally:
            os.close(theirs)
        shown = b""
        try:
            while chunk := _read_terminal(ours):
                shown += chunk
            return process.wait(COMMAND_SECONDS), shown.decode()
        finally:
            os.close(ours)


def _read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:
        # How Linux tells that nobody has the other end open any more.
        return b""


def refusal(*arguments: str | bytes) -> str:
    """What a command says that is refused for its arguments: exit code 2, nothing on standard output.

    Runs in this process, which is quicker: it goes no further than to its options.
    """
    done = CliRunner().invoke(commands, [os.fsdecode(argument) for argument in arguments])
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    return done.stderr


@pytest.fixture
def command_line(relay_process: RelayProcess, tmp_path: Path) -> CommandLine:
    """Commands against the session's relay process, in a directory of the test's own."""
    return CommandLine(relay_process.url, tmp_path)
