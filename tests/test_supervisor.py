"""Several workers on one port: how they start, end, are started again, and stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.commands import CommandLine
from tests.conditions import WAIT_SECONDS, until
from tests.relays import RelayProcess, command, environment
from tests.valkeys import RealValkey

MakeRelay = Callable[..., RelayProcess]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """Three workers that no test hurts."""
    relay = RelayProcess(tmp_path_factory.mktemp("three"), "--workers", "3")
    yield relay.start()
    relay.close()


@pytest.fixture
def two(make_relay_process: MakeRelay) -> RelayProcess:
    return make_relay_process("--workers", "2").start()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _publish(relay: RelayProcess, topic: str, payload: object, key: str | None = None) -> str:
    """On a connection of its own: the kernel chooses the worker."""
    answer = requests.post(
        f"{relay.url}/api/v1/messages",
        json={"topic": topic, "payload": payload},
        headers={"Idempotency-Key": key} if key else {},
        timeout=WAIT_SECONDS,
    )
    assert answer.status_code == 201, answer.text
    message_id: str = answer.json()["message_id"]
    return message_id


def _wait_until_ready(relay: RelayProcess) -> None:
    until(lambda: requests.get(f"{relay.url}/ready", timeout=WAIT_SECONDS).ok, "all workers are ready")


def _next_worker(relay: RelayProcess, number: int, before: int) -> int:
    """The pid of the worker that has this number after the one with pid `before`."""
    return until(lambda: pid if (pid := relay.workers.get(number, before)) != before else 0, "another worker")


# ------------------------------------------------------------------------------------------------- one port


def test_connections_are_spread_evenly_over_the_workers(three: RelayProcess) -> None:
    connections = [socket.create_connection(three.address) for _ in range(300)]
    try:
        for connection in connections:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        for connection in connections:
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
        open_files = [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in three.workers.values()]
    finally:
        for connection in connections:
            connection.close()
    assert len(open_files) == 3
    # Each has about thirty of its own.
    assert all(60 < files < 190 for files in open_files), open_files


def test_one_idempotency_key_appends_once_over_all_workers(three: RelayProcess, topic: str) -> None:
    with ThreadPoolExecutor(12) as pool:
        ids = list(pool.map(lambda _: _publish(three, topic, "once", "one-key"), range(60)))
    assert len(set(ids)) == 1
    history = requests.get(f"{three.url}/api/v1/topics/{topic}/messages", timeout=WAIT_SECONDS).json()
    assert [message["message_id"] for message in history["messages"]] == [ids[0]]


def test_polls_with_a_cookie_miss_nothing_whichever_worker_they_meet(three: RelayProcess, topic: str) -> None:
    cookies: dict[str, str] = {}
    received: list[int] = []

    def poll(seconds: int) -> None:
        answer = requests.post(
            f"{three.url}/messages/poll",
            json={"topics": [topic], "timeout": seconds},
            cookies=cookies,
            timeout=WAIT_SECONDS,
        )
        cookies.update(answer.cookies)
        received.extend(message["payload"] for message in answer.json()["messages"])

    poll(1)
    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(lambda: [_publish(three, topic, number) for number in range(60)])
        while len(received) < 60:
            poll(20)
        publishing.result()
    assert received == list(range(60))


def test_a_message_reaches_the_sockets_of_all_workers(three: RelayProcess, topic: str) -> None:
    async def listen() -> list[list[object]]:
        sockets = [await connect(three.ws_url) for _ in range(12)]
        for one in sockets:
            await one.send(json.dumps({"type": "subscribe", "topics": [topic]}))
            assert json.loads(await one.recv())["type"] == "subscribed"
        await asyncio.to_thread(lambda: [_publish(three, topic, number) for number in range(9)])
        received = []
        for one in sockets:
            payloads = []
            while len(payloads) < 9:
                frame = json.loads(await one.recv())
                payloads += [frame["payload"]] if frame["type"] == "message" else []
            received.append(payloads)
            await one.close()
        return received

    assert asyncio.run(listen()) == [list(range(9))] * 12


@pytest.mark.parametrize("setting", ["server.port", "server.metrics_port"])
def test_a_port_that_somebody_shares_is_refused_too(tmp_path: Path, setting: str) -> None:
    """SO_REUSEPORT would let both have it, and each would get a part of the other's connections."""
    with socket.socket() as theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        theirs.bind(("127.0.0.1", 0))
        theirs.listen()
        ports = {"server.port": "0", "server.metrics_port": "0", setting: str(theirs.getsockname()[1])}
        options = [word for name, value in ports.items() for word in ("--set", f"{name}={value}")]
        done = CommandLine("", tmp_path).run("serve", "--workers", "2", *options)
    assert done.code == 1
    assert f"{setting}: port {ports[setting]} on 127.0.0.1 is in use" in done.errors


def test_localhost_is_shared_in_both_of_its_addresses(make_relay_process: MakeRelay) -> None:
    relay = make_relay_process("--workers", "2", "--host", "localhost").start()
    addresses = {address[4][0] for address in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    for address in addresses:
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{relay.address[1]}/health"
        try:
            answers = [requests.get(url, timeout=WAIT_SECONDS).status_code for _ in range(8)]
        except requests.ConnectionError:
            assert ":" in address and not Path("/proc/net/if_inet6").read_text()
            continue
        assert answers == [200] * 8


# ---------------------------------------------------------------------------------------- a worker that ends


@pytest.mark.faults
def test_a_killed_worker_is_replaced_and_the_others_do_not_notice(two: RelayProcess, topic: str) -> None:
    before = two.workers

    async def scenario() -> tuple[int, int]:
        sockets = [await connect(two.ws_url) for _ in range(20)]
        for one in sockets:
            await one.send(json.dumps({"type": "subscribe", "topics": [topic]}))
            await one.recv()
        os.kill(before[0], signal.SIGKILL)
        await asyncio.to_thread(_next_worker, two, 0, before[0])
        await asyncio.to_thread(_publish, two, topic, "after")
        kept = lost = 0
        for one in sockets:
            try:
                kept += json.loads(await one.recv())["payload"] == "after"
            except ConnectionClosed:
                lost += 1
            await one.close()
        return kept, lost

    kept, lost = asyncio.run(scenario())
    assert kept + lost == 20 and kept and lost
    assert two.workers[1] == before[1]
    assert any("worker 0: ended (killed by SIGKILL), starting another in 0 s" in m for m in two.messages)


@pytest.mark.faults
def test_connections_that_wait_for_a_killed_worker_are_answered_by_its_successor(two: RelayProcess) -> None:
    before = two.workers
    os.kill(before[0], signal.SIGSTOP)
    connections = [socket.create_connection(two.address) for _ in range(30)]
    for connection in connections:
        connection.settimeout(WAIT_SECONDS)
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    os.kill(before[0], signal.SIGKILL)
    for connection in connections:
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
        connection.close()


@pytest.mark.faults
def test_a_worker_that_does_not_stay_alive_rests_longer_and_longer_and_gets_no_connections(
    two: RelayProcess, topic: str
) -> None:
    for rest in ("0", "0.5", "1", "2"):
        pid = until(lambda: two.workers.get(0, 0), "worker 0")
        seen = len(two.log)
        os.kill(pid, signal.SIGKILL)
        two.wait_for_log(f"starting another in {rest} s", since=seen)
    assert 0 not in two.workers
    for number in range(40):
        _publish(two, topic, number)
    assert 0 not in two.workers, "it has rested all the time"
    until(lambda: 0 in two.workers, "worker 0 is back")


def test_a_worker_that_is_told_to_stop_leaves_in_order_and_is_replaced(two: RelayProcess) -> None:
    before = two.workers

    async def scenario() -> list[int]:
        sockets = [await connect(two.ws_url) for _ in range(20)]
        os.kill(before[0], signal.SIGTERM)
        await asyncio.to_thread(_next_worker, two, 0, before[0])
        codes = []
        for one in sockets:
            if one.close_code is None:
                await one.close()
            codes.append(one.close_code or 0)
        return codes

    codes = asyncio.run(scenario())
    assert set(codes) == {1000, 1012}
    assert any("worker 0: ended (exit status 0)" in message for message in two.messages)
    _wait_until_ready(two)


def test_settings_that_a_worker_refuses_end_the_start_with_its_words(
    make_valkey: Callable[..., RealValkey], tmp_path: Path
) -> None:
    valkey = make_valkey(settings={"maxmemory-policy": "allkeys-lru"}).start()
    place = f"valkey.unix_socket={valkey.socket_path}"
    told = []
    for workers in ("1", "2"):
        done = CommandLine("", tmp_path).run(
            *("serve", "--workers", workers, "--port", "0", "--set", "server.metrics_port=0", "--set", place)
        )
        assert done.code == 2
        told.append([line for line in done.errors.splitlines() if line.startswith("config: ")])
    assert told[0] == told[1] and "maxmemory-policy" in told[0][0]


@pytest.mark.faults
def test_settings_that_a_later_worker_refuses_do_not_end_the_others(
    make_valkey: Callable[..., RealValkey], make_relay_process: MakeRelay
) -> None:
    valkey = make_valkey().start()
    relay = make_relay_process("--workers", "2", "--set", f"valkey.unix_socket={valkey.socket_path}").start()
    valkey.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    first = relay.workers
    os.kill(first[0], signal.SIGKILL)
    relay.wait_for_log("worker 0: ended (exit status 2)")
    assert any("maxmemory-policy" in message for message in relay.messages)
    valkey.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    _next_worker(relay, 0, first[0])
    assert relay.workers[1] == first[1]


# ------------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_stops_all_workers_in_order(two: RelayProcess, number: signal.Signals, topic: str) -> None:
    pids = list(two.workers.values())
    everything = threading.Barrier(13)

    def poll() -> requests.Response:
        request = {"topics": [topic], "timeout": 50}
        everything.wait()
        return requests.post(f"{two.url}/messages/poll", json=request, timeout=WAIT_SECONDS)

    async def listen() -> int | None:
        async with connect(two.ws_url) as socket_:
            await asyncio.to_thread(everything.wait)
            try:
                await socket_.recv()
            except ConnectionClosed as closed:
                return closed.rcvd.code if closed.rcvd else None
        return None

    with ThreadPoolExecutor(12) as pool:
        polling = [pool.submit(poll) for _ in range(6)]
        listening = [pool.submit(lambda: asyncio.run(listen())) for _ in range(6)]
        everything.wait()
        stats = f"{two.url}/messages/poll/stats"
        until(
            lambda: requests.get(stats, timeout=WAIT_SECONDS).json()["active_waiters"] == 6, "waiting polls"
        )
        two.signal(number)
        assert two.wait() == 0
        assert [one.result().status_code for one in polling] == [200] * 6
        assert [one.result() for one in listening] == [1012] * 6
    assert not any(map(_is_alive, pids))
    assert two.messages[-1] == "relay: stopped"
    levels = {json.loads(line)["level"] for line in two.log.splitlines()}
    assert levels == {"info"}


def test_a_second_interrupt_leaves_at_once_with_all_workers(make_relay_process: MakeRelay) -> None:
    relay = make_relay_process("--workers", "2", "--set", "server.shutdown_notice=5m").start()
    pids = list(relay.workers.values())
    relay.signal(signal.SIGINT)
    relay.wait_for_log("relay: stopping")
    relay.signal(signal.SIGINT)
    assert relay.wait() == 130
    until(lambda: not any(map(_is_alive, pids)), "no worker is left")


@pytest.mark.faults
def test_a_worker_that_does_not_stop_is_killed(make_relay_process: MakeRelay) -> None:
    relay = make_relay_process("--workers", "2", "--set", "server.shutdown_deadline=0s").start()
    pids = relay.workers
    os.kill(pids[1], signal.SIGSTOP)
    assert relay.stop() == 0
    assert not any(map(_is_alive, pids.values()))
    assert any("do not stop in 5 s, killing them" in message for message in relay.messages)


@pytest.mark.faults
def test_a_relay_told_to_stop_while_workers_start_and_rest_leaves_nothing(
    make_relay_process: MakeRelay,
) -> None:
    relay = make_relay_process("--workers", "3").start()
    for _ in range(3):
        pid = until(lambda: relay.workers.get(0, 0), "worker 0")
        os.kill(pid, signal.SIGKILL)
        relay.wait_for_log("worker 0: ended", since=relay.log.index(f"pid {pid} is ready"))
    os.kill(relay.workers[1], signal.SIGKILL)
    supervisor = relay.pid
    assert relay.stop() == 0
    left = subprocess.run(
        ["pgrep", "-f", f"--ppid {supervisor}"], capture_output=True, text=True, check=False
    )
    assert not [pid for pid in left.stdout.split() if _is_alive(int(pid))]
    assert not (relay.data_dir / "valkey.sock").exists()


@pytest.mark.faults
@pytest.mark.parametrize("notice", ["0s", "5m"])
def test_workers_whose_supervisor_is_killed_leave_in_order_and_a_new_one_starts_at_once(
    make_relay_process: MakeRelay, topic: str, notice: str
) -> None:
    two = make_relay_process("--workers", "2", "--set", f"server.shutdown_notice={notice}").start()
    _publish(two, topic, "before")
    pids = list(two.workers.values())

    async def listen(attached: threading.Event) -> int | None:
        async with connect(two.ws_url) as socket_:
            attached.set()
            try:
                await socket_.recv()
            except ConnectionClosed as closed:
                return closed.rcvd.code if closed.rcvd else None
        return None

    attached = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        listening = pool.submit(lambda: asyncio.run(listen(attached)))
        assert attached.wait(WAIT_SECONDS)
        two.kill()
        two.start()
        assert listening.result(WAIT_SECONDS) == 1012
    until(lambda: not any(map(_is_alive, pids)), "no worker is left")
    assert any("adopted" in message for message in two.messages)
    history = requests.get(f"{two.url}/api/v1/topics/{topic}/messages", timeout=WAIT_SECONDS).json()
    assert [message["payload"] for message in history["messages"]] == ["before"]
    two.signal(signal.SIGINT)
    two.wait_for_log("relay: stopping", since=two.log.index("adopted"))
    two.signal(signal.SIGINT)
    two.wait()


def test_a_terminals_interrupt_reaches_the_supervisor_alone(two: RelayProcess) -> None:
    """Ctrl-C goes to a terminal's whole process group; a worker that obeyed it would leave without notice."""
    assert os.getpgid(two.pid) not in {os.getpgid(pid) for pid in two.workers.values()}
    for pid in two.workers.values():
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGHUP)
    _wait_until_ready(two)
    assert len(two.workers) == 2


# ------------------------------------------------------------------------------------------------- settings


def test_secrets_are_in_no_workers_arguments(
    make_valkey: Callable[..., RealValkey], make_relay_process: MakeRelay
) -> None:
    valkey = make_valkey().start()
    valkey.command("CONFIG", "SET", "requirepass", "open-sesame")
    relay = make_relay_process(
        "--workers",
        "2",
        "--set",
        f"valkey.unix_socket={valkey.socket_path}",
        variables={"VALKEY_PASSWORD": "open-sesame"},
    ).start()
    for pid in relay.workers.values():
        assert b"open-sesame" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    _wait_until_ready(relay)


@pytest.mark.faults
def test_a_worker_is_replaced_although_the_configuration_file_is_broken_by_now(
    make_relay_process: MakeRelay,
) -> None:
    relay = make_relay_process("--workers", "2")
    (relay.directory / "config.yaml").write_text("poll: {max_topics: 3}\n")
    relay.start()
    (relay.directory / "config.yaml").write_text("nonsense: [")
    first = relay.workers
    for number in (0, 1):
        os.kill(first[number], signal.SIGKILL)
        _next_worker(relay, number, first[number])
    request = {"topics": ["a", "b", "c", "d"], "timeout": 1}
    assert requests.post(f"{relay.url}/messages/poll", json=request, timeout=WAIT_SECONDS).status_code == 422


def test_auto_is_a_worker_for_each_usable_core(tmp_path: Path) -> None:
    relay = RelayProcess(tmp_path, "--workers", "auto")
    here = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, here[:1])
    try:
        relay.start()
        assert relay.workers == {}
        relay.close()
    finally:
        os.sched_setaffinity(0, here)


def test_a_module_in_the_current_directory_is_not_taken_for_the_relays(tmp_path: Path) -> None:
    """Started by its installed command, the relay imports nothing from where it happens to be started."""
    (tmp_path / "msgspec.py").write_text("raise SystemExit('not this one')")
    launcher = "import sys; sys.path.remove(''); from pulsar_relay.__main__ import main; main()"
    process = subprocess.Popen(
        [
            *(command()[0], "-c", launcher, "serve", "--workers", "2", "--port", "0"),
            *("--set", "server.metrics_port=0", "--set", "log.format=json"),
        ],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if "listening" in line or "ended" in line:
                break
        assert "listening" in lines[-1], lines
    finally:
        process.terminate()
        process.communicate()
