"""`migrate` as operators run it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pulsar_relay.accounts import schema as accounts
from pulsar_relay.cli.migrate import valkey_at
from pulsar_relay.store import schema
from tests.commands import CommandLine
from tests.test_migration import OWNER, add_topic, add_user
from tests.valkeys import RealValkey


@pytest.fixture
def line(tmp_path: Path) -> CommandLine:
    return CommandLine("http://127.0.0.1:1", tmp_path)


@pytest.fixture
def server(make_valkey: Callable[..., RealValkey]) -> RealValkey:
    server = make_valkey(tcp=True).start()
    add_user(server)
    add_topic(server, "jobs", 700)
    return server


def at(server: RealValkey) -> tuple[str, ...]:
    return "--set", f"valkey.host={server.host}", "--set", f"valkey.port={server.port}"


def test_without_an_address_the_relays_own_valkey_is_read(server: RealValkey, line: CommandLine) -> None:
    done = line.run("migrate", *at(server))
    assert done.code == 0, done.errors
    assert "topics copied: 1 with 700 messages" in done.text
    assert server.command("XLEN", schema.stream(f"{OWNER}/jobs")) == 700


def test_into_the_embedded_server_its_directory_is_made(server: RealValkey, line: CommandLine) -> None:
    done = line.run("migrate", "--from", server.url)
    assert done.code == 0, done.errors
    assert "with 700 messages" in done.text and (line.directory / "data").is_dir()


def test_without_an_address_and_with_the_embedded_server_one_is_asked_for(line: CommandLine) -> None:
    done = line.run("migrate", "--dry-run")
    assert done.code == 2 and "--from" in done.errors


def test_on_a_terminal_a_bar_shows_how_far_it_is(server: RealValkey, line: CommandLine) -> None:
    code, shown = line.run_on_terminal("migrate", *at(server))
    assert code == 0 and "of 700 messages" in shown


def test_a_password_may_stand_in_a_file_and_is_never_shown(
    make_valkey: Callable[..., RealValkey], line: CommandLine
) -> None:
    server = make_valkey(tcp=True, settings={"requirepass": "hunter2"}).start()
    (line.directory / "password").write_text("hunter2\n")
    (line.directory / "wrong").write_text("hunter3\n")
    command = ("migrate", "--dry-run", "--from", server.url, "--from-password-file")
    assert line.run(*command, "password").code == 0
    done = line.run(*command, "wrong")
    assert done.code == 1 and "store_denied" in done.errors and "hunter" not in done.errors


def test_what_relays_would_trim_at_once_is_told(server: RealValkey, line: CommandLine) -> None:
    done = line.run("migrate", "--dry-run", *at(server))
    assert "1 topics have messages older than" in done.errors
    done = line.run("migrate", "--dry-run", *at(server), "--set", "storage.persistent_tier_retention=3650d")
    assert done.errors == ""


def test_what_is_left_out_is_told_and_all_of_it_by_a_dry_run(server: RealValkey, line: CommandLine) -> None:
    for number in range(30):
        server.command("XADD", f"stream:topic:{OWNER}/gone-{number}", "*", "payload", "{}")
    dry = line.run("migrate", "--dry-run", *at(server))
    assert dry.errors.count("was deleted") == 30
    done = line.run("migrate", *at(server))
    assert done.code == 0 and done.errors.count("was deleted") == 20 and "10 more" in done.errors


def test_a_name_that_is_somebody_elses_here_is_told_with_the_cure(
    server: RealValkey, line: CommandLine
) -> None:
    server.command("HSET", accounts.NAMES, "galaxy", "another-id")
    for options in (("--dry-run",), ()):
        done = line.run("migrate", *at(server), *options)
        assert done.code == 0 and "user galaxy its name is somebody else's here: delete" in done.errors
    server.command("HDEL", accounts.NAMES, "galaxy")
    assert "users taken over: 1" in line.run("migrate", *at(server)).text


@pytest.mark.parametrize(
    "address", ["host:6379", "http://h", "valkey://", "valkey://h/x", "unix://", "valkey://h:x"]
)
def test_an_address_that_is_none_is_refused_without_repeating_it(line: CommandLine, address: str) -> None:
    secret = address.replace("//", "//user:hunter2@")
    done = line.run("migrate", "--from", secret)
    assert done.code == 2 and "hunter2" not in done.errors


def test_an_address_is_read() -> None:
    found = valkey_at("rediss://user%40x:p%2Fw@valkey.example.org:6380/2")
    assert (found.host, found.port, found.db, found.tls) == ("valkey.example.org", 6380, 2, True)
    assert (found.username, found.password) == ("user@x", "p/w")
    assert valkey_at("unix:///run/a%20b").unix_socket == Path("/run/a b")
    assert valkey_at("valkey://h").port == 6379


def test_a_valkey_that_is_not_there_is_told(line: CommandLine) -> None:
    missing = os.path.join(line.directory, "nobody")  # noqa: PTH118
    done = line.run("migrate", "--from", f"unix://{missing}")
    assert done.code == 1 and "store_unavailable" in done.errors
