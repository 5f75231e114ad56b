from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.commands import CommandLine
from tests.relays import START_SECONDS, RelayProcess, command, environment

MakeRelay = Callable[..., RelayProcess]


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def shell(tmp_path: Path) -> CommandLine:
    return CommandLine("http://127.0.0.1:1", tmp_path)


FREE = ("--port", "0", "--set", "server.metrics_port=0", "--data-dir", "data")


# --------------------------------------------------------------------------------------------- start and stop


def test_a_relay_tells_where_it_listens_and_answers_there(relay_process: RelayProcess) -> None:
    for url, text in (
        (f"{relay_process.url}/health", b"healthy"),
        (f"{relay_process.url}/docs", b"<html"),
        (relay_process.metrics_url, b"relay_messages_received_total"),
    ):
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.status == 200 and text in answer.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_stops_it_in_order(make_relay_process: MakeRelay, number: signal.Signals) -> None:
    relay = make_relay_process().start()
    relay.signal(number)
    assert relay.wait() == 0
    assert "relay: stopping" in relay.messages
    assert not (relay.data_dir / "valkey.sock").exists()
    assert {json.loads(line)["level"] for line in relay.log.splitlines()} == {"info"}


def test_it_outlives_its_terminal_where_nohup_says_so(make_relay_process: MakeRelay) -> None:
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        relay = make_relay_process().start()
    finally:
        signal.signal(signal.SIGHUP, usual)
    relay.signal(signal.SIGHUP)
    # A signal is taken before the request that came after it.
    with urllib.request.urlopen(f"{relay.url}/health", timeout=10) as answer:
        assert answer.status == 200
    assert "relay: stopping" not in relay.messages
    assert relay.stop() == 0


def test_a_signal_before_it_listens_stops_it_too(make_relay_process: MakeRelay) -> None:
    relay = make_relay_process().start(waits=False)
    relay.wait_for_log("embedded valkey")
    relay.signal(signal.SIGINT)
    assert relay.wait() == 0
    assert not (relay.data_dir / "valkey.sock").exists()


def test_a_second_interrupt_leaves_at_once(make_relay_process: MakeRelay, tmp_path: Path) -> None:
    relay = make_relay_process().start()
    command_line = CommandLine(relay.url, tmp_path)
    command_line.run("publish", "t", "1")
    valkey = _valkey_pid(relay)
    _pause(valkey)
    with socket.create_connection(relay.address) as publisher:
        body = b'{"topic": "t", "payload": 2}'
        head = f"POST /api/v1/messages HTTP/1.1\r\nHost: relay\r\nContent-Length: {len(body)}\r\n\r\n"
        publisher.sendall(head.encode() + body)
        for _ in range(2):  # then the publish has been read too, and a relay waits for its publishes
            urllib.request.urlopen(f"{relay.url}/health", timeout=START_SECONDS).close()
        relay.signal(signal.SIGINT)
        relay.wait_for_log("relay: stopping")
        relay.signal(signal.SIGINT)
        assert relay.wait() == 130
    # The relay may have come as far as letting it go on, and end.
    with suppress(ProcessLookupError):
        os.kill(valkey, signal.SIGCONT)
    relay.start()
    # Nobody was told that the second is stored; it may be.
    assert command_line.run("subscribe", "t", "--no-follow", "--payload-only").output in (b"1\n", b"1\n2\n")


def _pause(pid: int) -> None:
    """Return when it has taken effect: a signal sent too soon after could still be obeyed before."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + START_SECONDS
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline
        time.sleep(0.001)


def _valkey_pid(relay: RelayProcess) -> int:
    return int(json.loads((relay.data_dir / "server.json").read_text())["pid"])


def test_it_runs_on_uvloop(relay_process: RelayProcess) -> None:
    maps = Path(f"/proc/{relay_process.pid}/maps").read_text()
    assert "uvloop" in maps


@pytest.mark.faults
def test_after_a_kill_the_next_one_has_everything(make_relay_process: MakeRelay, tmp_path: Path) -> None:
    relay = make_relay_process().start()
    command_line = CommandLine(relay.url, tmp_path)
    command_line.run("publish", "t", "1")
    relay.kill()
    relay.start()
    command_line.run("publish", "t", "2")
    assert command_line.run("subscribe", "t", "--no-follow", "--payload-only").output == b"1\n2\n"
    assert any("adopted" in message for message in relay.messages)


def test_what_was_published_survives_a_stop(make_relay_process: MakeRelay, tmp_path: Path) -> None:
    relay = make_relay_process().start()
    command_line = CommandLine(relay.url, tmp_path)
    command_line.run("publish", "t", "1")
    assert relay.stop() == 0
    relay.start()
    assert command_line.run("subscribe", "t", "--no-follow", "--payload-only").output == b"1\n"


# -------------------------------------------------------------------------------------------- why it does not


@pytest.mark.parametrize(
    ("options", "key", "cure"),
    [
        (("--port", "{port}", "--set", "server.metrics_port=0"), "server.port", "--port"),
        (("--port", "0", "--set", "server.metrics_port={port}"), "server.metrics_port", "=off"),
    ],
)
def test_a_port_in_use_is_named_with_the_cure(
    shell: CommandLine, taken_port: int, options: tuple[str, ...], key: str, cure: str
) -> None:
    done = shell.run("serve", *(option.format(port=taken_port) for option in options))
    assert done.code == 1
    assert f"{key}: port {taken_port} on 127.0.0.1 is in use" in done.errors
    assert cure in done.errors and f":{taken_port}'" in done.errors
    assert len(done.errors.splitlines()) == 1
    # It did not even begin.
    assert not (shell.directory / "data").exists()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_refused(shell: CommandLine, host: str) -> None:
    done = shell.run("serve", *FREE, "--host", host, "--allow-open")
    assert done.code == 1 and "is no address of this machine" in done.errors
    assert len(done.errors.splitlines()) == 1


def test_a_data_directory_in_use_is_named_with_its_user(
    make_relay_process: MakeRelay, shell: CommandLine
) -> None:
    relay = make_relay_process().start()
    done = shell.run("serve", *FREE[:-1], str(relay.data_dir))
    assert done.code == 1 and "Traceback" not in done.errors
    assert f"data directory {relay.data_dir} is in use by pid {relay.pid}" in done.errors
    assert CommandLine(relay.url, shell.directory).run("publish", "t", "1").code == 0


def test_a_data_directory_that_cannot_be_used_is_named(shell: CommandLine) -> None:
    (shell.directory / "data").write_text("a file")
    done = shell.run("serve", *FREE)
    assert done.code == 1 and str(shell.directory / "data") in done.errors
    assert "Traceback" not in done.errors


def test_listening_wide_is_warned_of_at_every_start(make_relay_process: MakeRelay) -> None:
    relay = make_relay_process("--host", "0.0.0.0", "--allow-open").start()
    warnings = [json.loads(line)["message"] for line in relay.log.splitlines() if '"warning"' in line]
    assert len(warnings) == 1 and "without accounts" in warnings[0]


def test_on_a_terminal_the_log_is_for_people(shell: CommandLine) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("serve", *FREE),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        cwd=shell.directory,
        env=environment(),
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + START_SECONDS
    while b"metrics on" not in shown:
        shown += os.read(ours, 65536)
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    assert process.wait(START_SECONDS) == 0
    os.close(ours)
    assert b"info    relay: listening on http://127.0.0.1:" in shown and b"{" not in shown


def test_a_secret_does_not_get_into_the_log(
    make_relay_process: MakeRelay, tmp_path: Path, taken_port: int
) -> None:
    """A Valkey that is none makes the relay complain for as long as it runs."""
    relay = make_relay_process(
        *("--valkey-host", "127.0.0.1", "--valkey-port", str(taken_port), "--log-level", "debug"),
        *("--set", "valkey.password=open-sesame", "--set", "valkey.connect_timeout=50ms"),
        *("--set", "valkey.command_timeout=50ms"),
    ).start(waits=False)
    relay.wait_for_log("store")
    assert relay.stop() == 0
    assert "open-sesame" not in relay.log
