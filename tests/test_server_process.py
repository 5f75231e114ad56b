from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from pulsar_relay.store import server_process
from pulsar_relay.store.server_process import ServerProcess, find_binary, information

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return uvloop.run if request.param == "uvloop" else asyncio.run


@pytest.fixture(params=["pidfd", "looking"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With and without a kernel that tells the end of a process."""
    if request.param == "looking":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
        monkeypatch.setattr(server_process, "LOOK_SECONDS", 0.005)
    return str(request.param)


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def server(tmp_path: Path, lock: int, kernel: str) -> Iterator[ServerProcess]:
    process = ServerProcess.spawn(arguments(tmp_path), lock=lock, log_path=tmp_path / "log")
    yield process
    process.send(signal.SIGKILL)
    asyncio.run(process.wait())
    process.close()


@pytest.fixture
def stranger(lock: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has the lock's file open and is not Valkey."""
    process = subprocess.Popen(["sleep", "100"], pass_fds=(lock,))
    yield process
    process.kill()
    process.wait()


def arguments(tmp_path: Path) -> list[str]:
    binary, _ = find_binary()
    path = tmp_path / "socket"
    return [str(binary), "--port", "0", "--unixsocket", str(path), "--dir", str(tmp_path), "--save", ""]


def start_time_of(pid: int) -> str:
    process = ServerProcess(pid)
    process.close()
    return process.start_time


def test_the_end_of_a_child_is_told_to_everybody_who_waits(server: ServerProcess, run: Run) -> None:
    async def scenario() -> None:
        waits = [asyncio.create_task(server.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waits[0].cancel()
        server.send(signal.SIGKILL)
        await asyncio.gather(*waits[1:])
        with pytest.raises(asyncio.CancelledError):
            await waits[0]
        await server.wait()

    assert server.is_running
    run(scenario())
    assert not server.is_running
    assert server.exit_text == "killed by SIGKILL"


def test_the_end_of_a_process_that_is_no_child_is_told(server: ServerProcess, run: Run) -> None:
    other = ServerProcess.attach(server.pid, server.start_time)
    assert other is not None
    assert other.is_running

    async def scenario() -> None:
        other.send(signal.SIGKILL)
        await other.wait()

    run(scenario())
    assert not other.is_running
    assert other.exit_text == "exit status unknown"
    other.send(signal.SIGTERM)
    other.close()
    other.close()


def test_the_exit_status_of_a_child_is_known(tmp_path: Path, lock: int, kernel: str) -> None:
    process = ServerProcess.spawn(
        [*arguments(tmp_path), "--no-such-setting", "1"], lock=lock, log_path=tmp_path / "log"
    )
    asyncio.run(process.wait())
    assert process.exit_text == "exit status 1"
    assert "no-such-setting" in (tmp_path / "log").read_text()
    process.close()


def test_a_process_of_another_time_or_another_program_is_not_attached(
    server: ServerProcess, stranger: subprocess.Popen[bytes]
) -> None:
    assert ServerProcess.attach(server.pid, "1") is None
    assert ServerProcess.attach(stranger.pid, start_time_of(stranger.pid)) is None
    assert stranger.poll() is None


def test_a_process_that_has_ended_is_not_attached(server: ServerProcess) -> None:
    server.send(signal.SIGKILL)
    asyncio.run(server.wait())
    assert ServerProcess.attach(server.pid, server.start_time) is None


def test_a_process_that_nobody_has_reaped_has_ended(server: ServerProcess) -> None:
    other = ServerProcess.attach(server.pid, server.start_time)
    assert other is not None
    os.kill(server.pid, signal.SIGKILL)
    os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
    assert not other.is_running
    assert ServerProcess.attach(server.pid, server.start_time) is None
    other.close()


def test_only_valkey_processes_that_have_the_file_open_are_holders(
    server: ServerProcess, stranger: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (tmp_path / "other").touch()
    assert list(ServerProcess.holders(tmp_path / "other")) == []
    holders = list(ServerProcess.holders(tmp_path / "lock"))
    assert [holder.pid for holder in holders] == [server.pid]
    holders[0].close()


def test_the_end_comes_in_order_where_it_can(server: ServerProcess, tmp_path: Path, run: Run) -> None:
    async def scenario() -> None:
        while not await information(str(tmp_path / "socket"), 1):
            pass
        os.kill(server.pid, signal.SIGSTOP)
        await server.end(20)

    run(scenario())
    assert server.exit_text == "exit status 0"


def test_information_is_empty_where_nobody_answers(tmp_path: Path, run: Run) -> None:
    async def scenario() -> None:
        assert await information(str(tmp_path / "missing"), 1) == {}
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "silent"))
            assert await information(str(tmp_path / "silent"), 1) == {}
            listener.listen()
            assert await information(str(tmp_path / "silent"), 0.01) == {}
            assert await information(str(tmp_path / "silent"), -1) == {}

    run(scenario())


def test_information_names_the_process(server: ServerProcess, tmp_path: Path, run: Run) -> None:
    async def scenario() -> None:
        while not (answer := await information(str(tmp_path / "socket"), 1)):
            pass
        assert answer["process_id"] == str(server.pid)
        assert answer["loading"] == "0"

    run(scenario())


@pytest.mark.skipif(shutil.which("ps") is None, reason="the other way needs `ps`")
def test_both_ways_to_ask_for_a_start_time_give_one(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start_time_of(server.pid) == server.start_time
    assert start_time_of(1) != server.start_time
    monkeypatch.setattr(server_process, "PROC", Path("/no/proc"))
    assert start_time_of(server.pid).startswith(time.strftime("%a %b"))
    assert start_time_of(server.pid) == start_time_of(server.pid)
