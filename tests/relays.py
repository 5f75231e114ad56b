"""Relays as users run them: `pulsar-relay serve` in a process of its own, with its embedded Valkey.

Plain blocking code. For what happens inside one worker, a relay in this process is quicker to look into.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from tests.valkeys import TIMEOUT_SCALE

REPOSITORY = Path(__file__).parent.parent
START_SECONDS = 30.0 * TIMEOUT_SCALE
STOP_SECONDS = 30.0 * TIMEOUT_SCALE


def command(*arguments: str) -> list[str]:
    """The command line of `pulsar-relay` with these arguments, on this Python."""
    return [sys.executable, "-m", "pulsar_relay", *arguments]


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what configures a relay, and with `variables`."""
    # Relays are started some hundred times: where bytecode is not to be written, they are compiled as often.
    ours = ("RELAY_", "VALKEY_", "PULSAR_", "LOG_LEVEL", "PYTHONDONTWRITEBYTECODE")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**clean, "PYTHONPATH": str(REPOSITORY), **(variables or {})}


class RelayProcess:
    """A relay on free ports, or on `port`, with its data in `directory`/data. Started by `start`.

    It may be started again after `stop` or `kill`, on the same ports and data. `arguments` are further ones
    for `serve`, `variables` further ones of its environment and its Valkey's. Its log, over all its starts,
    is `log`: a JSON object a line.
    """

    def __init__(
        self, directory: Path, *arguments: str, variables: Mapping[str, str] | None = None, port: int = 0
    ) -> None:
        self.directory = directory
        self._variables = variables
        self.data_dir = directory / "data"
        self._arguments = arguments
        self._log_path = directory / "relay.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._port = port
        self._metrics_port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of its API."""
        return "127.0.0.1", self._port

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self._port}/ws"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self._metrics_port}/metrics"

    @property
    def pid(self) -> int:
        assert self._process is not None, "this relay was never started"
        return self._process.pid

    @property
    def workers(self) -> dict[int, int]:
        """The workers that answer requests: the pid of each by its number. Only where it has a supervisor."""
        pids = {}
        for message in self.messages:
            if found := re.fullmatch(r"worker (\d+): pid (\d+) is ready", message):
                pids[int(found[1])] = int(found[2])
            elif found := re.match(r"worker (\d+): ended ", message):
                pids.pop(int(found[1]), None)
        return pids

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    @property
    def messages(self) -> list[str]:
        """The texts of the log's records."""
        return [json.loads(line)["message"] for line in self.log.splitlines()]

    def start(self, *, waits: bool = True) -> RelayProcess:
        """Start it; return when it listens, or, with `waits=False`, as soon as the process exists."""
        assert not self.is_running, "this relay is already running"
        self.directory.mkdir(parents=True, exist_ok=True)
        seen = len(self.log)
        settings = {
            "server.port": self._port,
            "server.metrics_port": self._metrics_port,
            "embedded.data_dir": self.data_dir,
            "log.format": "json",
        }
        options = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        with open(self._log_path, "ab") as log:
            # A session of its own: Ctrl-C at pytest lets tests and fixtures finish before their relay goes.
            self._process = subprocess.Popen(
                command("serve", *options, *self._arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=environment(self._variables),
                start_new_session=True,
            )
        # A test run that is killed runs no fixture's end. The kernel then closes this pipe, and what reads it
        # stops the relay, which stops its Valkey.
        self._watchdog = subprocess.Popen(
            ["sh", "-c", 'read -r line; kill -TERM "$0"', str(self._process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        if waits:
            self.wait_for_log("relay: metrics on", since=seen)
            self._port = self._logged_port("relay: listening on ", seen)
            self._metrics_port = self._logged_port("relay: metrics on ", seen)
        return self

    def wait_for_log(self, text: str, *, since: int = 0) -> None:
        """Return when the log, from its character `since` on, holds `text`."""
        deadline = time.monotonic() + START_SECONDS
        while text not in self.log[since:]:
            assert self.is_running, f"the relay ended:\n{self.log[since:]}"
            assert time.monotonic() < deadline, f"{text!r} is not in the log:\n{self.log[since:]}"
            time.sleep(0.005)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and accepted, and nothing answers."""
        self.signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL; its Valkey goes on running, for the next start to adopt."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for the process to end; returns its exit code."""
        assert self._process is not None
        self._dismiss_watchdog()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the relay did not end:\n{self.log}") from None

    def close(self) -> None:
        """End the relay and its Valkey, in whatever state they are. The data stays."""
        if self.is_running:
            self.resume()
            self.stop()
        self._dismiss_watchdog()
        self._end_valkey()

    def _dismiss_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None

    def _end_valkey(self) -> None:
        """End the Valkey that a killed relay has left."""
        record = self.data_dir / "server.json"
        if not record.exists():
            return
        pid = int(json.loads(record.read_text())["pid"])
        deadline = time.monotonic() + STOP_SECONDS
        while _names(pid, self.data_dir):
            assert time.monotonic() < deadline, f"valkey, pid {pid}, does not end"
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            time.sleep(0.01)

    def _logged_port(self, start: str, since: int) -> int:
        line = next(line for line in self.log[since:].splitlines() if start in line)
        address: str = json.loads(line)["message"].partition(start)[2]
        return int(address.removesuffix("/metrics").rpartition(":")[2])


def _names(pid: int, directory: Path) -> bool:
    """Whether process `pid` lives and was started for `directory`."""
    try:
        return os.fsencode(directory) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.fixture(scope="session")
def relay_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """The session's shared relay process. Tests keep apart by the names of their topics, and do not hurt
    it.
    """
    relay = RelayProcess(tmp_path_factory.mktemp("relay"))
    try:
        yield relay.start()
    finally:
        relay.close()


@pytest.fixture
def make_relay_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RelayProcess]]:
    """Makes relays of the test's own (not started; arguments as for `RelayProcess`), ended with the test."""
    relays: list[RelayProcess] = []

    def make(*arguments: str, variables: Mapping[str, str] | None = None, port: int = 0) -> RelayProcess:
        folder = tmp_path_factory.mktemp("relay")
        relays.append(RelayProcess(folder, *arguments, variables=variables, port=port))
        return relays[-1]

    yield make
    for relay in relays:
        relay.close()
