"""Programs the harness starts: on their cores, with a log, and never left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.machine import pin

START_SECONDS = 30.0
STOP_SECONDS = 20.0
_PR_SET_PDEATHSIG = 1


class HarnessError(Exception):
    """The measurement cannot be done, and why."""


class Program:
    """A running program. Its output is in `log_path`; it is told to end when the harness dies."""

    def __init__(
        self,
        command: Sequence[str],
        cores: frozenset[int],
        log_path: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = Path(command[0]).name
        self.log_path = log_path
        log_path.parent.mkdir(parents=True, exist_ok=True)
        libc = ctypes.CDLL(None)

        def prepare() -> None:
            pin(cores)
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

        with open(log_path, "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=log_path.parent,
                env={**os.environ, **(environment or {})},
                # Only system calls, and the harness has one thread.
                preexec_fn=prepare,  # noqa: PLW1509
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for_log(self, text: str) -> str:
        """The log's first line with `text`, as soon as it is there. Raises HarnessError."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            found = [line for line in self.log.splitlines() if text in line]
            if found:
                return found[0]
            self._must_live(deadline)
            time.sleep(0.01)

    def wait_for_port(self, port: int) -> None:
        """Return when somebody listens there. Raises HarnessError."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                self._must_live(deadline)
                time.sleep(0.01)
            else:
                return

    def stop(self) -> None:
        """Orderly if it can; it is gone afterwards."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _must_live(self, deadline: float) -> None:
        if self._process.poll() is not None:
            raise HarnessError(f"{self.name} ended at its start:\n{self.log[-2000:]}")
        if time.monotonic() > deadline:
            raise HarnessError(f"{self.name} does not start:\n{self.log[-2000:]}")


def free_port() -> int:
    """Nobody listens there now. For programs that cannot tell which port they took."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
