"""The systemd unit: what systemd says of it, and what it starts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from pulsar_relay.cli.settings import UnusableError
from pulsar_relay.settings import ServerSettings
from tests.conditions import until
from tests.programs import run, running
from tests.relays import REPOSITORY, environment

UNIT = REPOSITORY / "deploy" / "pulsar-relay.service"
MOST_EXPOSURE = 2.0
"""By systemd's own count from 0 to 10; a unit that says nothing of it has 9.6."""


def value(name: str) -> str:
    [found] = [line for line in UNIT.read_text().splitlines() if line.startswith(f"{name}=")]
    return found.partition("=")[2]


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """With a program that exists here: systemd asks for that too."""
    copy = tmp_path / UNIT.name
    program = value("ExecStart").split()[0]
    copy.write_text(UNIT.read_text().replace(f"ExecStart={program}", f"ExecStart={sys.executable}"))
    return copy


@pytest.mark.system
def test_systemd_has_nothing_to_say_against_it(unit: Path) -> None:
    assert run("systemd-analyze", "verify", "--man=no", unit) == ""


@pytest.mark.system
def test_it_may_do_little_beside_its_work(unit: Path) -> None:
    threshold = f"--threshold={MOST_EXPOSURE * 10:.0f}"
    assert "overall exposure" in run("systemd-analyze", "security", "--offline=true", threshold, unit).lower()


def test_what_it_starts_is_a_relay_that_keeps_its_data_where_it_may_write(tmp_path: Path) -> None:
    _program, *words = shlex.split(value("ExecStart"))
    state = f"/var/lib/{value('StateDirectory')}"
    assert value("WorkingDirectory") == state
    words = [word.replace(state, str(tmp_path)) for word in words]
    ports = ["--set", "server.port=0", "--set", "server.metrics_port=0"]
    relay = [sys.executable, "-m", "pulsar_relay", *words, *ports]
    name, _, setting = value("Environment").partition("=")
    with running(relay, tmp_path, environment({name: setting})) as server:
        until(lambda: "listening on" in server.log or not server.is_running, "the relay listens")
    assert "relay: stopped" in server.log, server.log
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"valkey"}


def test_a_reload_is_the_signal_that_the_relay_takes_for_one() -> None:
    assert value("ExecReload") == "/bin/kill -HUP $MAINPID"


def test_a_relay_has_time_to_stop_and_one_that_cannot_start_is_not_tried_again() -> None:
    server = ServerSettings()
    needed = server.shutdown_notice_seconds + server.shutdown_deadline_seconds
    assert float(value("TimeoutStopSec")) > needed
    assert int(value("RestartPreventExitStatus")) == UnusableError.exit_code
