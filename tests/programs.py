"""Programs of Debian packages, for tests marked `system`; skipped with a reason where one is absent."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.conditions import WAIT_SECONDS

PACKAGES = {
    "promtool": "prometheus",
    "prometheus": "prometheus",
    "prometheus-redis-exporter": "prometheus-redis-exporter",
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "caddy": "caddy",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "systemd-analyze": "systemd",
    "bash": "bash",
    "make": "make",
    "curl": "curl",
    "ss": "iproute2",
    "redis-cli": "redis-tools",
}
"""Package by program; `tests/system_packages` installs them."""
ADMIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""An ordinary user's path lacks where Debian puts servers."""


def program(name: str) -> str:
    """Its path."""
    found = shutil.which(name) or shutil.which(name, path=ADMIN_PATH)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {PACKAGES[name]}")
    return found


def run(name: str, *arguments: str | Path, directory: Path | None = None) -> str:
    """What it says, on both outputs; fails with that unless it exits with 0."""
    done = subprocess.run(
        [program(name), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=directory,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


class Server:
    """A program that runs until the test is over; what it says goes to `log`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None


@contextmanager
def running(
    arguments: Sequence[str | Path], directory: Path, variables: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Runs it in `directory`, and ends it with SIGTERM, or SIGKILL if that does not help."""
    name = Path(arguments[0]).name
    log = directory / f"{name}.log"
    output: IO[bytes]
    with open(log, "ab") as output:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=directory, env=variables
        )
    try:
        yield Server(process, log)
    finally:
        process.terminate()
        try:
            process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
