"""`backup` and `restore` as operators run them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pulsar_relay.store import schema
from tests.commands import CommandLine, refusal
from tests.relays import RelayProcess
from tests.valkeys import RealValkey


@pytest.fixture
def line(tmp_path: Path) -> CommandLine:
    return CommandLine("http://127.0.0.1:1", tmp_path)


@pytest.fixture
def server(make_valkey: Callable[..., RealValkey]) -> RealValkey:
    return make_valkey().start()


def at(server: RealValkey) -> tuple[str, str]:
    return "--set", f"valkey.unix_socket={server.socket_path}"


def _fill(server: RealValkey, topic: str, count: int, ms: int | None = None) -> None:
    ms = ms or time.time_ns() // 1_000_000
    with server.client() as client, client.pipeline() as pipeline:
        for number in range(1, count + 1):
            fields = {"payload": str(number), "prev": f"{ms}-{number - 1}" if number > 1 else "0-0"}
            pipeline.xadd(schema.stream(topic), fields, id=f"{ms}-{number}")
        pipeline.hset(schema.meta(topic), mapping={"epoch": "e", "last": f"{ms}-{count}"})
        pipeline.zadd(schema.TOPICS, {topic: 0})
        pipeline.execute()


def test_a_relay_that_runs_is_backed_up_and_its_data_directory_is_made_anew(
    make_relay_process: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    relay = make_relay_process().start()
    line = CommandLine(relay.url, tmp_path)
    published = line.run("publish", "jobs", "-", stdin=b"".join(b"%d\n" % n for n in range(500)))
    ids = [json.loads(text)["message_id"] for text in published.text.splitlines()]
    known = (relay.data_dir / "store-identity").read_text().strip()
    made = line.run("backup", "b", "--data-dir", str(relay.data_dir))
    assert (made.code, made.errors) == (0, "")
    assert made.text == "b: 1 topics with 500 messages, places of 0 named clients\n"
    checked = line.run("restore", "b", "--check")
    assert checked.code == 0 and "500 messages" in checked.text
    assert not (tmp_path / "data").exists()
    done = line.run("restore", "b", "--data-dir", str(tmp_path / "new"))
    assert done.code == 0, done.errors
    assert f"pulsar-relay store accept {known}" in done.errors
    relay.stop()
    relay.data_dir.rename(tmp_path / "old")
    (tmp_path / "new").rename(relay.data_dir)
    relay.start()
    read = CommandLine(relay.url, tmp_path).run("subscribe", "jobs", "--since", ids[99], "--no-follow")
    assert [json.loads(text)["message_id"] for text in read.text.splitlines()] == ids[100:]


def test_a_damaged_file_is_refused_before_anything_is_written(
    line: CommandLine, server: RealValkey, make_valkey: Callable[..., RealValkey], tmp_path: Path
) -> None:
    _fill(server, "t", 1000)
    assert line.run("backup", "b", *at(server)).code == 0
    data = (tmp_path / "b").read_bytes()
    other = make_valkey().start()
    foreign = b"PK\x03\x04" + data
    for damaged in (data[:-1], data[:2000] + b"?" + data[2001:], foreign, b""):
        (tmp_path / "damaged").write_bytes(damaged)
        refused = line.run("restore", "damaged", *at(other))
        assert refused.code == 1
        assert "nothing was written" in refused.errors
        assert other.command("DBSIZE") == 0
    assert line.run("restore", "damaged", "--check").code == 1
    assert line.run("restore", "nothing", *at(other)).code == 2


def test_topics_with_messages_are_refused_merged_or_replaced(line: CommandLine, server: RealValkey) -> None:
    _fill(server, "t", 10)
    assert line.run("backup", "b", *at(server)).code == 0
    server.command("XTRIM", schema.stream("t"), "MAXLEN", 4)
    refused = line.run("restore", "b", *at(server))
    assert refused.code == 1 and "--merge" in refused.errors and "(t)" in refused.errors
    assert server.command("XLEN", schema.stream("t")) == 4
    assert line.run("restore", "b", "--merge", *at(server)).code == 0
    assert server.command("XLEN", schema.stream("t")) == 10
    server.command("XADD", schema.stream("t"), "*", "payload", "11")
    assert line.run("restore", "b", "--replace", *at(server)).code == 0
    assert server.command("XLEN", schema.stream("t")) == 10
    refusal("restore", __file__, "--merge", "--replace")


def test_messages_that_retention_would_take_at_once_are_told(
    line: CommandLine, server: RealValkey, make_valkey: Callable[..., RealValkey]
) -> None:
    _fill(server, "old", 10, ms=1_700_000_000_000)
    _fill(server, "young", 10)
    assert line.run("backup", "b", *at(server)).code == 0
    done = line.run("restore", "b", *at(make_valkey().start()))
    assert "9 messages are older than their topic's retention" in done.errors
    kept = ("--set", "storage.persistent_tier_retention=3650d")
    assert line.run("restore", "b", *kept, *at(make_valkey().start())).errors == ""


def test_a_terminal_is_shown_how_far_it_is(line: CommandLine, server: RealValkey) -> None:
    _fill(server, "t", 1000)
    code, shown = line.run_on_terminal("backup", "b", *at(server))
    assert code == 0
    assert "1,000 of 1,000 messages" in shown
    code, shown = line.run_on_terminal("restore", "b", "--replace", *at(server))
    assert code == 0
    assert "1,000 of 1,000 messages" in shown


def test_a_snapshot_is_there_when_the_command_ends(
    line: CommandLine, server: RealValkey, tmp_path: Path
) -> None:
    _fill(server, "t", 5000)
    dump = server.directory / "dump.rdb"
    assert not dump.exists()
    done = line.run("backup", "--rdb", *at(server))
    assert (done.code, done.text) == (0, f"{dump}\n")
    assert dump.read_bytes()[:6] in (b"VALKEY", b"REDIS0")
    # One that is under way already does not hold what was published since.
    server.command("CONFIG", "SET", "rdb-key-save-delay", "200000")
    server.command("BGSAVE")
    before = dump.stat().st_mtime_ns
    _fill(server, "later", 3)
    server.command("CONFIG", "SET", "rdb-key-save-delay", "0")
    assert line.run("backup", "--rdb", *at(server)).code == 0
    assert dump.stat().st_mtime_ns > before
    assert b"topic:later" in dump.read_bytes()


def test_a_snapshot_that_fails_is_told(line: CommandLine, server: RealValkey) -> None:
    (server.directory / "dump.rdb").mkdir()
    failed = line.run("backup", "--rdb", *at(server))
    assert failed.code == 1
    assert "could not write the snapshot" in failed.errors


def test_what_cannot_be_done_is_refused(line: CommandLine, server: RealValkey, tmp_path: Path) -> None:
    refusal("backup")
    refusal("backup", "b", "--rdb")
    (tmp_path / "b").write_text("mine")
    refused = line.run("backup", "b", *at(server))
    assert refused.code == 1 and "there already" in refused.errors
    nowhere = line.run("backup", "no/such/b", *at(server))
    assert nowhere.code == 1 and "cannot be written" in nowhere.errors
    away = line.run("backup", "c", "--valkey-host", "127.0.0.1", "--valkey-port", "1")
    assert away.code == 1 and "store_unavailable" in away.errors


def test_an_embedded_server_goes_on_from_its_snapshot_alone(
    make_relay_process: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    relay = make_relay_process().start()
    line = CommandLine(relay.url, tmp_path)
    assert line.run("publish", "t", "7").code == 0
    taken = line.run("backup", "--rdb", "--data-dir", str(relay.data_dir))
    snapshot = Path(taken.text.rstrip("\n"))
    relay.stop()
    relay.data_dir.rename(tmp_path / "old")
    relay.data_dir.mkdir(mode=0o700)
    (relay.data_dir / "dump.rdb").write_bytes((tmp_path / "old" / snapshot.name).read_bytes())
    relay.start()
    read = CommandLine(relay.url, tmp_path).run("tail", "t", "--payload-only")
    assert read.text == "7\n"


def test_a_server_goes_back_to_its_snapshot_as_the_documents_say(
    line: CommandLine, server: RealValkey
) -> None:
    _fill(server, "t", 10)
    assert line.run("backup", "--rdb", *at(server)).code == 0
    _fill(server, "later", 10)
    server.stop()
    (server.directory / "appendonlydir").rename(server.directory / "moved")
    server.settings["appendonly"] = "no"
    server.start()
    server.command("CONFIG", "SET", "appendonly", "yes")
    with server.client() as client:
        while client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.01)
    server.stop()
    server.settings["appendonly"] = "yes"
    server.start()
    assert server.command("XLEN", schema.stream("t")) == 10
    assert server.command("EXISTS", schema.stream("later")) == 0


def test_the_drill_of_the_documents_can_be_done(
    make_relay_process: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    relay = make_relay_process().start()
    line = CommandLine(relay.url, tmp_path)
    published = line.run("publish", "jobs", "-", stdin=b"1\n2\n3\n")
    text = (Path(__file__).parent.parent / "docs" / "operations.md").read_text("utf-8")
    drill = text.partition("### Drill")[2].partition("```sh\n")[2].partition("```")[0]
    commands = [command.split()[1:] for command in drill.splitlines()]
    assert [words[0] for words in commands] == ["backup", "restore", "restore", "serve", "tail"]
    made, check, restore, serve, tail = commands
    assert line.run(*made, "--data-dir", str(relay.data_dir)).code == 0
    assert line.run(*check).code == 0
    other = make_relay_process()
    drill_dir = str(other.data_dir)
    assert line.run(*[drill_dir if word == "./drill" else word for word in restore]).code == 0
    assert serve[-2:] == ["--data-dir", "./drill"]
    other.start()
    read = line.run(*[other.url if word.startswith("http") else word for word in tail])
    assert [one["message_id"] for one in read.lines] == [one["message_id"] for one in published.lines]
