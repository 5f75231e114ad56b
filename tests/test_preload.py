from __future__ import annotations

import errno
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import valkey as valkey_client

from tests.conditions import until
from tests.faults.preload import Preload
from tests.relays import environment
from tests.valkeys import RealValkey

MakePreload = Callable[[], Preload]
MakeValkey = Callable[..., RealValkey]


def valkey_time(server: RealValkey) -> float:
    told = server.command("TIME")
    assert isinstance(told, list | tuple)
    return int(told[0]) + int(told[1]) / 1e6


def ahead(server: RealValkey) -> float:
    return valkey_time(server) - time.time()


def is_near(one: float, other: float) -> bool:
    return abs(one - other) < 30


def test_without_a_fault_the_server_works_and_its_syncs_are_counted(
    make_preload: MakePreload, make_valkey: MakeValkey
) -> None:
    preload = make_preload()
    server = make_valkey(environment=preload.environment).start()
    before = preload.syncs_ended
    server.command("SET", "key", "value")
    assert preload.syncs_ended > before
    assert preload.syncs_under_way == 0
    assert is_near(ahead(server), 0)


def test_a_slow_sync_takes_its_time_and_ends_when_the_disk_gets_well(
    make_preload: MakePreload, make_valkey: MakeValkey
) -> None:
    preload = make_preload()
    server = make_valkey(environment=preload.environment).start()
    preload.sync_seconds = 0.3
    began = time.monotonic()
    server.command("SET", "key", "value")
    assert time.monotonic() - began >= 0.3
    preload.sync_seconds = 1000
    with server.client() as client:
        connection = client.connection_pool.get_connection("SET")
        connection.send_command("SET", "key", "other")
        until(lambda: preload.syncs_under_way, "the sync begins")
        preload.heal()
        assert connection.read_response() == b"OK"
    assert preload.syncs_under_way == 0


def test_a_failing_sync_fails_as_told(make_preload: MakePreload, make_valkey: MakeValkey) -> None:
    preload = make_preload()
    server = make_valkey(environment=preload.environment).start()
    preload.sync_error = errno.EIO
    with pytest.raises(valkey_client.ConnectionError):
        server.command("SET", "key", "value")
    until(lambda: not server.is_running, "a server that syncs always ends itself")
    assert "Input/output error" in server.log()
    preload.heal()
    server.start()
    server.command("SET", "key", "value")


@pytest.mark.parametrize("step", [3600.0, -3600.0, -0.75])
def test_the_wall_clock_of_a_running_server_steps_and_back(
    make_preload: MakePreload, make_valkey: MakeValkey, step: float
) -> None:
    preload = make_preload()
    server = make_valkey(environment=preload.environment).start()
    preload.clock_seconds = step
    assert preload.clock_seconds == step
    until(lambda: abs(ahead(server) - step) < 0.3, "the server looks at the clock")
    preload.heal()
    until(lambda: abs(ahead(server)) < 0.3, "the server looks at the clock")


def test_python_sees_the_clock_that_was_set_too(make_preload: MakePreload) -> None:
    preload = make_preload()
    preload.clock_seconds = -86400
    told = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time_ns() // 10**9, time.time(), time.monotonic())"],
        env=environment(preload.environment),
        stdout=subprocess.PIPE,
        check=True,
    ).stdout.split()
    nanoseconds, seconds, monotonic = map(float, told)
    assert is_near(nanoseconds, time.time() - 86400)
    assert is_near(seconds, nanoseconds)
    assert is_near(monotonic, time.monotonic())


def test_each_server_has_faults_of_its_own(make_preload: MakePreload, make_valkey: MakeValkey) -> None:
    early, late = make_preload(), make_preload()
    servers = [make_valkey(environment=one.environment).start() for one in (early, late)]
    early.clock_seconds, late.clock_seconds = -7200, 7200
    until(lambda: is_near(ahead(servers[0]), -7200), "the first looks at the clock")
    until(lambda: is_near(ahead(servers[1]), 7200), "the second looks at the clock")
