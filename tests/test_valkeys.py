from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import valkey as valkey_client

from tests.valkeys import TIMEOUT_SCALE, VALKEY_CONF, RealValkey

MakeValkey = Callable[..., RealValkey]


@pytest.fixture(params=[False, True], ids=["unix", "tcp"])
def server(request: pytest.FixtureRequest, make_valkey: MakeValkey) -> RealValkey:
    return make_valkey(tcp=request.param).start()


@pytest.mark.parametrize("turn", ["first", "second"])
def test_each_test_begins_with_an_empty_database(valkey: str, turn: str) -> None:
    with valkey_client.Valkey(unix_socket_path=valkey) as client:
        assert client.dbsize() == 0
        client.set("left over from", turn)


def test_a_killed_server_comes_back_at_the_same_address_with_its_data(server: RealValkey) -> None:
    address = server.url
    for number in range(100):
        server.command("XADD", "stream", "*", "number", number)
    server.kill()
    with pytest.raises(valkey_client.ConnectionError):
        server.command("PING")
    server.start()
    assert server.url == address
    assert server.command("XLEN", "stream") == 100


def test_a_stopped_server_says_good_bye_and_can_be_stopped_again(server: RealValkey) -> None:
    server.stop()
    assert "bye bye" in server.log()
    assert not server.is_running
    server.stop()


def test_a_paused_server_keeps_connections_open_and_answers_when_resumed(server: RealValkey) -> None:
    with server.client() as pool, pool.client() as client:
        connection = client.connection
        assert connection is not None
        server.pause()
        connection.send_command("PING")
        assert not connection.can_read(timeout=0.05)
        server.resume()
        assert connection.read_response() == b"PONG"


def test_a_paused_server_can_be_killed(server: RealValkey) -> None:
    server.pause()
    server.kill()
    assert not server.is_running


def test_settings_change_between_two_starts(server: RealValkey) -> None:
    assert server.config("maxmemory-policy") == "noeviction"
    server.stop()
    server.settings["maxmemory-policy"] = "allkeys-lru"
    server.start()
    assert server.config("maxmemory-policy") == "allkeys-lru"


def test_a_server_that_cannot_start_fails_with_its_own_words(make_valkey: MakeValkey) -> None:
    with pytest.raises(AssertionError, match="Bad directive"):
        make_valkey(settings={"no-such-setting": "1"}).start()


def test_the_shipped_valkey_conf_means_what_its_comments_say(valkey_server: RealValkey) -> None:
    told = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "no-appendfsync-on-rewrite": "no",
        "maxmemory": str(2 * 1024**3),
        "maxmemory-policy": "noeviction",
        "stop-writes-on-bgsave-error": "no",
        "shutdown-on-sigterm": "nosave",
        "tcp-keepalive": "60",
        "timeout": "0",
        "io-threads": "1",
        "client-output-buffer-limit": "normal 536870912 268435456 60 slave 268435456 67108864 60"
        " pubsub 33554432 8388608 60",
    }
    assert {name: valkey_server.config(name) for name in told} == told


def test_the_shipped_valkey_conf_takes_snapshots_as_the_quick_start_says() -> None:
    lines = VALKEY_CONF.read_text().splitlines()
    assert [line for line in lines if line.startswith("save ")] == [
        "save 900 1",
        "save 300 10",
        "save 60 10000",
    ]


def test_every_line_of_the_shipped_valkey_conf_has_a_reason_above_it() -> None:
    lines = VALKEY_CONF.read_text().splitlines()
    for above, line in itertools.pairwise(lines):
        if line and not line.startswith("#"):
            assert above, f"{line!r} stands alone: say why it is there"


def test_a_failing_snapshot_does_not_stop_writes_or_the_orderly_stop(make_valkey: MakeValkey) -> None:
    server = make_valkey(settings={"save": "3600 1"})
    (server.directory / "dump.rdb").mkdir()
    server.start()
    server.command("SET", "first", 1)
    server.command("BGSAVE")
    with server.client() as client:
        while client.info("persistence")["rdb_bgsave_in_progress"]:
            pass
        assert client.info("persistence")["rdb_last_bgsave_status"] == "err"
    server.command("SET", "second", 2)
    server.stop()
    assert not server.is_running


SESSION = """
import os, sys
from pathlib import Path
from tests.valkeys import VALKEY_CONF, RealValkey

print(RealValkey(Path(sys.argv[1])).start().pid, flush=True)
os._exit(1)
"""


def test_a_server_does_not_outlive_a_test_run_that_ends_without_good_bye(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SESSION, str(tmp_path)],
        cwd=VALKEY_CONF.parent,
        stdout=subprocess.PIPE,
        check=False,
        timeout=30 * TIMEOUT_SCALE,
    )
    server = Path(f"/proc/{int(run.stdout)}/stat")
    deadline = time.monotonic() + 10 * TIMEOUT_SCALE
    while server.exists() and server.read_text().rpartition(")")[2].split()[0] not in "ZX":
        assert time.monotonic() < deadline, "the server is still there"


def test_each_setting_of_the_shipped_file_has_its_reason_right_above() -> None:
    blocks = [block.splitlines() for block in VALKEY_CONF.read_text("utf-8").split("\n\n")]
    for lines in blocks:
        settings = [line for line in lines if line and not line.startswith("#")]
        assert not settings or (lines[0] or lines[1]).startswith("# "), settings
        assert len({setting.partition(" ")[0].split("-")[0] for setting in settings}) <= 1, settings
