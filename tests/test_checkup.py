"""What `doctor` finds: checks on vitals as a server would tell them, and the command against real servers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pulsar_relay.checkup import server_checks
from pulsar_relay.checkup.finding import Finding, Severity
from pulsar_relay.checkup.host import Host
from pulsar_relay.checkup.vitals import ClockReading, Vitals, take_vitals
from pulsar_relay.settings import ValkeySettings
from pulsar_relay.store.client import make_client
from tests.commands import CommandLine, Finished
from tests.relays import RelayProcess
from tests.stores import in_loop
from tests.valkeys import RealValkey

HEALTHY = {
    "valkey_version": "9.1.0",
    "role": "master",
    "connected_slaves": "0",
    "used_memory": str(1 << 20),
    "maxmemory": str(1 << 30),
    "total_system_memory": str(8 << 30),
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "rdb_last_save_time": "1700000000",
    "connected_clients": "3",
    "maxclients": "10000",
}
NOW = 1_700_000_100.0
Check = Callable[[Vitals], Iterator[Finding]]


def _vitals(
    *,
    configured: Mapping[str, str] | None = None,
    clients: Sequence[Mapping[str, str]] | None = (),
    ahead_seconds: float = 0.0,
    answer_seconds: float = 0.001,
    **information: str,
) -> Vitals:
    return Vitals(
        {**HEALTHY, **information}, configured, clients, ClockReading(ahead_seconds, answer_seconds), NOW
    )


def _severities(check: Check, vitals: Vitals) -> list[Severity]:
    return [finding.severity for finding in check(vitals)]


def test_nothing_is_wrong_with_a_healthy_server() -> None:
    vitals = _vitals(configured={"client-output-buffer-limit": "pubsub 33554432 8388608 60", "save": ""})
    found = [finding for check in server_checks.CHECKS for finding in check(vitals)]
    assert {finding.severity for finding in found} == {Severity.OK}
    assert {finding.about for finding in found} >= {"version", "memory", "aof", "snapshot", "clock"}


@pytest.mark.parametrize(
    ("check", "changed", "severity"),
    [
        (server_checks.version, {"valkey_version": "7.2.5"}, Severity.ADVICE),
        (server_checks.version, {"valkey_version": "", "redis_version": "7.4.0"}, Severity.ADVICE),
        (server_checks.role, {"role": "slave", "master_link_status": "up"}, Severity.PROBLEM),
        (server_checks.memory, {"maxmemory": "0"}, Severity.ADVICE),
        (server_checks.memory, {"used_memory": str(int(0.8 * (1 << 30)))}, Severity.ADVICE),
        (server_checks.memory, {"used_memory": str(int(0.95 * (1 << 30)))}, Severity.PROBLEM),
        (server_checks.memory, {"maxmemory": str(7 << 30)}, Severity.ADVICE),
        (server_checks.append_only_file, {"aof_last_write_status": "err"}, Severity.PROBLEM),
        (server_checks.append_only_file, {"aof_last_bgrewrite_status": "err"}, Severity.PROBLEM),
        (server_checks.append_only_file, {"aof_delayed_fsync": "4"}, Severity.ADVICE),
        (server_checks.snapshot, {"rdb_last_bgsave_status": "err"}, Severity.PROBLEM),
        (
            server_checks.snapshot,
            {"rdb_last_save_time": "1699000000", "rdb_changes_since_last_save": "5"},
            Severity.ADVICE,
        ),
        (server_checks.connections, {"connected_clients": "9000"}, Severity.PROBLEM),
    ],
)
def test_what_is_wrong_is_found_and_cured(
    check: Check, changed: Mapping[str, str], severity: Severity
) -> None:
    (worst,) = [finding for finding in check(_vitals(**changed)) if finding.severity is severity]
    assert worst.cure


@pytest.mark.parametrize(
    ("ahead", "answer", "severity"),
    [
        (0.2, 0.001, Severity.OK),
        (2.0, 0.001, Severity.ADVICE),
        (-2.0, 0.001, Severity.ADVICE),
        (90.0, 0.001, Severity.PROBLEM),
        (1.5, 1.2, Severity.OK),
    ],
)
def test_clocks_are_compared_as_well_as_the_answers_time_lets_one(
    ahead: float, answer: float, severity: Severity
) -> None:
    found = {f.about: f for f in server_checks.clock(_vitals(ahead_seconds=ahead, answer_seconds=answer))}
    assert found["clock"].severity is severity


def test_clients_that_do_not_read_are_found_and_a_denied_look_is_told() -> None:
    waiting = _vitals(clients=[{"omem": "0"}, {"omem": str(64 << 20)}], configured={})
    limits = {"client-output-buffer-limit": "normal 0 0 0 pubsub 0 0 0"}
    assert Severity.PROBLEM in _severities(server_checks.buffers, waiting)
    assert _severities(server_checks.buffers, _vitals(configured=limits)) == [Severity.OK, Severity.ADVICE]
    denied = _vitals(clients=None, configured=None)
    assert _severities(server_checks.buffers, denied) == [Severity.UNSEEN, Severity.UNSEEN]


def _host(root: Path, files: Mapping[str, str]) -> Host:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Host(root)


HOST_FILES = {
    "proc/7/comm": "valkey-server\n",
    "proc/7/limits": "Limit  Soft Limit  Hard Limit\nMax open files            20000     20000   files\n",
    "proc/sys/vm/overcommit_memory": "1\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
}


@pytest.mark.parametrize(
    ("about", "name", "text"),
    [
        ("overcommit", "proc/sys/vm/overcommit_memory", "0\n"),
        ("huge pages", "sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n"),
        ("open files", "proc/7/limits", "Max open files            1024     4096   files\n"),
    ],
)
def test_a_kernel_that_is_not_set_up_for_valkey_is_found(
    tmp_path: Path, about: str, name: str, text: str
) -> None:
    vitals = _vitals(process_id="7", configured={"dir": "/proc"})
    good = list(_host(tmp_path / "good", HOST_FILES).findings(vitals))
    bad = list(_host(tmp_path / "bad", {**HOST_FILES, name: text}).findings(vitals))
    (differs,) = {finding for finding in bad if finding not in good}
    assert (differs.about, differs.severity) == (about, Severity.ADVICE)
    assert {f.severity for f in good if f.about != "disk"} == {Severity.OK}


def test_a_process_of_the_same_number_here_is_not_taken_for_a_server_elsewhere(tmp_path: Path) -> None:
    host = _host(tmp_path, {**HOST_FILES, "proc/7/comm": "bash\n"})
    (found,) = host.findings(_vitals(process_id="7", configured={"dir": "/proc"}))
    assert found.severity is Severity.UNSEEN


@in_loop
async def test_the_vitals_are_those_of_a_real_server(valkey: str) -> None:
    client = make_client(ValkeySettings(), valkey)
    try:
        vitals = await take_vitals(client)
    finally:
        await client.aclose()
    assert vitals.text("valkey_version") and vitals.number("used_memory") > 0
    assert vitals.setting("maxclients") and vitals.clients
    assert abs(vitals.clock.ahead_seconds) < 1


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture
def line(tmp_path: Path) -> CommandLine:
    return CommandLine("http://127.0.0.1:1", tmp_path)


def _doctor(line: CommandLine, server: RealValkey, *more: str, **variables: str) -> Finished:
    where = ("--set", f"valkey.unix_socket={server.socket_path}")
    return line.run("doctor", "--json", *where, *more, variables=variables)


def _by_check(done: Finished, severity: str) -> dict[str, Any]:
    found = [json.loads(text) for text in done.text.splitlines()]
    return {one["check"]: one for one in found if one["severity"] == severity}


def test_a_sound_server_is_told_to_be_fine(line: CommandLine, make_valkey: Callable[..., RealValkey]) -> None:
    done = _doctor(line, make_valkey().start())
    assert done.code == 0, done.text
    assert {"connection", "identity", "durability", "eviction", "aof"} <= set(_by_check(done, "ok"))
    assert set(_by_check(done, "unseen")) == {"relay"}


def test_settings_that_do_not_back_the_promise_are_problems(
    line: CommandLine, make_valkey: Callable[..., RealValkey]
) -> None:
    server = make_valkey(settings={"appendonly": "no", "maxmemory-policy": "allkeys-lru"}).start()
    done = _doctor(line, server)
    problems = _by_check(done, "problem")
    assert done.code == 1
    assert {"durability", "eviction"} <= set(problems)
    assert "noeviction" in problems["eviction"]["cure"]
    assert "appendonly yes" in problems["durability"]["cure"]


WRONG = {
    "appendonly": "no",
    "appendfsync": "no",
    "maxmemory-policy": "allkeys-lru",
    "stop-writes-on-bgsave-error": "yes",
    "save": "900 1",
    "client-output-buffer-limit": "pubsub 0 0 0",
}


def test_settings_that_a_cure_names_cure(line: CommandLine, make_valkey: Callable[..., RealValkey]) -> None:
    server = make_valkey(settings=WRONG).start()
    checks = {"durability", "eviction", "snapshot", "client buffers"}
    rounds = 0
    while found := _bad(_doctor(line, server), checks):
        rounds += 1
        assert rounds <= 2, found
        assert rounds > 1 or {one["check"] for one in found} == checks
        for one in found:
            named = re.findall(r"`([a-z-]+) ([^`]+)`", one["cure"])
            assert named, one
            for name, value in named:
                server.config(name, value)
    assert rounds == 2  # appendfsync counts once there is a file to be synced


def test_what_replicas_must_do_is_told(line: CommandLine, make_valkey: Callable[..., RealValkey]) -> None:
    done = _doctor(line, make_valkey().start(), "--set", "storage.durability=replica")
    assert ["REPLICAOF" in one["cure"] for one in _bad(done, {"durability"})] == [True, False]


def _bad(done: Finished, checks: Collection[str]) -> list[dict[str, Any]]:
    found = [json.loads(text) for text in done.text.splitlines()]
    return [one for one in found if one["severity"] in ("problem", "advice") and one["check"] in checks]


def test_advice_alone_fails_only_when_asked_to(
    line: CommandLine, make_valkey: Callable[..., RealValkey]
) -> None:
    server = make_valkey(settings={"maxmemory": "0"}).start()
    assert "memory" in _by_check(_doctor(line, server), "advice")
    assert _doctor(line, server).code == 0
    assert _doctor(line, server, "--strict").code == 1


def test_a_store_that_is_not_the_remembered_one_is_a_problem(
    line: CommandLine, make_valkey: Callable[..., RealValkey], tmp_path: Path
) -> None:
    known = "0123456789abcdef01234567"
    (tmp_path / "identity").write_text(f"{known}\n")
    server = make_valkey().start()
    more = ("--set", f"storage.identity_file={tmp_path / 'identity'}")
    problem = _by_check(_doctor(line, server, *more), "problem")["identity"]
    assert f"store accept {known}" in problem["cure"]
    server.command("HSET", "user-data:identity", "id", "f" * 24)
    assert "not " + known in _by_check(_doctor(line, server, *more), "problem")["identity"]["text"]
    server.command("HSET", "user-data:identity", f"succeeds:{known}", "now")
    assert "identity" in _by_check(_doctor(line, server, *more), "ok")


def test_no_secret_is_shown_and_what_a_user_may_not_ask_is_told(
    line: CommandLine, make_valkey: Callable[..., RealValkey]
) -> None:
    server = make_valkey().start()
    server.command(
        *("ACL", "SETUSER", "relay", "on", ">s3cret-word", "~*", "&*", "+@all", "-config", "-client|list")
    )
    who = {"RELAY_VALKEY_USERNAME": "relay", "RELAY_VALKEY_PASSWORD": "s3cret-word"}
    done = _doctor(line, server, **who)
    assert done.code == 0, done.text + done.errors
    assert {"client buffers", "disk"} <= set(_by_check(done, "unseen"))
    wrong = _doctor(line, server, **{**who, "RELAY_VALKEY_PASSWORD": "s3cret-word-of-another"})
    assert (wrong.code, wrong.text) == (2, "")
    assert "store_denied" in wrong.errors
    assert "s3cret" not in done.text + done.errors + wrong.errors


def test_a_store_that_is_away_cannot_be_looked_at(line: CommandLine, tmp_path: Path) -> None:
    away = line.run("doctor", "--valkey-host", "127.0.0.1", "--valkey-port", "1")
    assert (away.code, away.text) == (2, "")
    assert "store_unavailable" in away.errors
    nowhere = line.run("doctor", "--data-dir", str(tmp_path / "nowhere"))
    assert (nowhere.code, nowhere.text) == (2, "")


def test_a_running_relay_and_its_embedded_server_are_looked_at(
    make_relay_process: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    relay = make_relay_process().start()
    line = CommandLine(relay.url, tmp_path)
    done = line.run("doctor", "--json", "--data-dir", str(relay.data_dir))
    assert done.code == 0, done.text + done.errors
    assert {"relay", "readiness"} <= set(_by_check(done, "ok"))
    other = line.run("doctor", "--json", "--data-dir", str(relay.data_dir), "--durability", "disk")
    assert other.code == 1
    assert "readiness" in _by_check(other, "advice")
    assert "appendfsync always" in _by_check(other, "problem")["durability"]["cure"]


def test_a_terminal_is_shown_a_table(line: CommandLine, make_valkey: Callable[..., RealValkey]) -> None:
    server = make_valkey().start()
    code, shown = line.run_on_terminal("doctor", "--set", f"valkey.unix_socket={server.socket_path}")
    assert code == 0
    assert "durability" in shown and "\x1b[" in shown
