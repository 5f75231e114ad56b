"""pulsar-relay 0.2.1 itself, from PyPI, in a virtual environment of its own, over a Valkey of the test's."""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest
import requests

from benchmarks.processes import free_port
from benchmarks.targets.predecessor import ENVIRONMENT, environment
from benchmarks.targets.target import CannotError
from tests.valkeys import TIMEOUT_SCALE, RealValkey

ADMIN, PASSWORD = "admin", "the admin's password"
START_SECONDS = 60.0 * TIMEOUT_SCALE


@pytest.fixture(scope="session")
def predecessor_python() -> Path:
    """Its Python; the test is skipped where it cannot be installed."""
    ENVIRONMENT.parent.mkdir(exist_ok=True)
    with (ENVIRONMENT.parent / "predecessor.lock").open("w") as lock:
        # Tests run in several processes, and one makes it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return environment()
        except CannotError as error:
            pytest.skip(f"pulsar-relay 0.2.1 {error}")


class Predecessor:
    """Its server, one process. A context manager."""

    def __init__(self, python: Path, valkey: RealValkey, directory: Path) -> None:
        self._python = python
        self._valkey = valkey
        self._directory = directory
        self.secret = secrets.token_urlsafe(48)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def variables(self) -> Mapping[str, str]:
        """What its deployment sets."""
        return {
            "PULSAR_STORAGE_BACKEND": "valkey",
            "PULSAR_VALKEY_HOST": self._valkey.host,
            "PULSAR_VALKEY_PORT": str(self._valkey.port),
            "PULSAR_JWT_SECRET_KEY": self.secret,
            "PULSAR_ALLOW_INSECURE_DEFAULTS": "1",
            "PULSAR_BOOTSTRAP_ADMIN_USERNAME": ADMIN,
            "PULSAR_BOOTSTRAP_ADMIN_PASSWORD": PASSWORD,
            "PULSAR_TRUSTED_HOSTS": '["*"]',
        }

    def __enter__(self) -> Self:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = self._directory / "predecessor.log"
        command = [str(self._python), "-m", "uvicorn", "pulsar_relay.main:app", "--host", "127.0.0.1"]
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PULSAR_")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--port", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env={**variables, **self.variables, "RATELIMIT_ENABLED": "false"},
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            with suppress(requests.ConnectionError):
                requests.get(f"{self.url}/health", timeout=5)
                return self
            assert self._process.poll() is None and time.monotonic() < deadline, self._log.read_text()[-3000:]
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def login(self, username: str = ADMIN, password: str = PASSWORD) -> dict[str, Any]:
        form = {"username": username, "password": password}
        return self.ask("POST", "/auth/login", data=form)

    def ask(self, method: str, path: str, token: str = "", **arguments: Any) -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = requests.request(method, self.url + path, headers=headers, timeout=30, **arguments)
        assert answer.ok, (answer.status_code, answer.text)
        return answer.json() if answer.content else None


@pytest.fixture
def predecessor(predecessor_python: Path, tmp_path: Path) -> Iterator[tuple[Predecessor, RealValkey]]:
    """Not started, with its Valkey, which is."""
    directory = tmp_path / "predecessor"
    directory.mkdir()
    with RealValkey(directory, tcp=True) as valkey:
        yield Predecessor(predecessor_python, valkey, directory), valkey
