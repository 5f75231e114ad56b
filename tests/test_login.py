"""Logging in on the command line: a file that several processes share, and the commands that use it."""

from __future__ import annotations

import asyncio
import json
import stat
import time
from pathlib import Path

import pytest

from pulsar_relay.cli.connection import DEFAULT_URL
from pulsar_relay.client.address import Address
from pulsar_relay.client.errors import ClientError
from pulsar_relay.client.login import Login
from pulsar_relay.client.login_file import KeptLogin, LoginFile, LoginFileError, default_path
from tests.account_relays import ADMIN, PASSWORD, AccountRelay
from tests.account_relays import account_relay as account_relay
from tests.commands import CommandLine, Finished, refusal


@pytest.fixture
def cli(account_relay: AccountRelay, tmp_path: Path) -> CommandLine:
    return CommandLine(account_relay.url, tmp_path)


def logins(cli: CommandLine) -> Path:
    return default_path({"XDG_STATE_HOME": str(cli.directory / "state")})


def log_in(cli: CommandLine, username: str = ADMIN, password: str = PASSWORD) -> Finished:
    return cli.run("login", username, stdin=password.encode() + b"\n")


def kept(cli: CommandLine) -> KeptLogin:
    return LoginFile(logins(cli)).read()[cli.url]


def test_who_has_logged_in_publishes_reads_and_looks(cli: CommandLine, topic: str) -> None:
    refused = cli.run("publish", topic, "1")
    assert refused.code == 1
    assert refused.errors.startswith("unauthenticated: ") and "pulsar-relay login" in refused.errors
    done = log_in(cli)
    assert (done.code, done.output) == (0, b"") and PASSWORD not in done.errors
    assert cli.run("publish", topic, "1").code == 0
    assert [line["payload"] for line in cli.run("tail", topic).lines] == [1]
    for transport in ("ws", "sse", "poll"):
        arguments = ("--transport", transport, "--since", "earliest", "--no-follow", "--payload-only")
        assert cli.run("subscribe", topic, *arguments).lines == [1]
    assert topic in [line["topic_name"] for line in cli.run("topics").lines]
    for command in (("stats",), ("consumers", "list"), ("topics", topic)):
        assert cli.run(*command).code == 0


def test_the_file_is_its_owner_s_alone_and_has_no_password(cli: CommandLine) -> None:
    assert log_in(cli).code == 0
    path = logins(cli)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert PASSWORD not in path.read_text("utf-8")
    assert sorted(one.name for one in path.parent.iterdir()) == ["logins.json", "logins.lock"]


def test_after_a_logout_the_tokens_are_worth_nothing(cli: CommandLine, account_relay: AccountRelay) -> None:
    log_in(cli)
    login = kept(cli)
    assert cli.run("logout").code == 0
    assert account_relay.ask("GET", "/auth/me", login.access_token).status_code == 401
    body = {"refresh_token": login.refresh_token}
    assert account_relay.ask("POST", "/auth/token/refresh", json=body).status_code == 401
    assert LoginFile(logins(cli)).read() == {}
    again = cli.run("logout")
    assert (again.code, "nobody is logged in" in again.errors) == (0, True)


def test_a_wrong_password_leaves_the_login_there_is(cli: CommandLine) -> None:
    log_in(cli)
    before = kept(cli)
    refused = log_in(cli, password="not the password")
    assert refused.code == 1 and refused.errors.startswith("wrong_password: ")
    assert kept(cli) == before


def test_another_login_ends_the_one_before(cli: CommandLine, account_relay: AccountRelay) -> None:
    log_in(cli)
    before = kept(cli)
    user = account_relay.new_user("read")
    assert log_in(cli, user["username"], user["password"]).code == 0
    assert kept(cli).username == user["username"]
    body = {"refresh_token": before.refresh_token}
    assert account_relay.ask("POST", "/auth/token/refresh", json=body).status_code == 401


def test_many_that_share_a_file_renew_a_token_once(cli: CommandLine, account_relay: AccountRelay) -> None:
    log_in(cli)
    first = kept(cli)

    async def show_all() -> set[str | None]:
        late = first.renew_at + 1
        ones = [Login(Address(cli.url), LoginFile(logins(cli)), lambda: late) for _ in range(8)]
        # Each has a lock of its own, as processes have.
        return set(await asyncio.gather(*(one.shown() for one in ones)))

    (shown,) = asyncio.run(show_all())
    assert shown is not None and shown == kept(cli).access_token != first.access_token
    assert account_relay.ask("GET", "/auth/me", shown).status_code == 200
    assert cli.run("topics").code == 0


def test_processes_that_start_with_a_token_that_has_ended_all_go_on(cli: CommandLine) -> None:
    log_in(cli)
    login = kept(cli)
    ended = KeptLogin(login.username, login.access_token, time.time() - 1, login.refresh_token)
    LoginFile(logins(cli)).write(cli.url, ended)
    commands = [cli.start("topics") for _ in range(3)]
    for command in commands:
        with command:
            assert command.wait() == 0
    assert kept(cli).refresh_token != login.refresh_token
    assert cli.run("topics").code == 0


def test_a_token_the_relay_refuses_is_renewed_before_its_time(
    cli: CommandLine, account_relay: AccountRelay
) -> None:
    log_in(cli)
    login = kept(cli)
    account_relay.ask("POST", "/auth/logout", login.access_token)
    assert cli.run("topics").code == 0
    assert kept(cli).access_token != login.access_token


def test_a_login_that_is_over_is_forgotten_and_told(cli: CommandLine, account_relay: AccountRelay) -> None:
    log_in(cli)
    account_relay.ask("DELETE", "/auth/sessions", kept(cli).access_token)
    refused = cli.run("topics")
    assert refused.code == 1
    assert refused.errors.startswith("login_over: ") and "pulsar-relay login" in refused.errors
    assert LoginFile(logins(cli)).read() == {}


def test_an_api_key_goes_before_a_login(cli: CommandLine, account_relay: AccountRelay, topic: str) -> None:
    log_in(cli)
    asked = {"name": "for the shell", "actions": ["write"], "topics": [topic]}
    key = account_relay.ask("POST", "/auth/keys", kept(cli).access_token, json=asked).json()["key"]
    variables = {"PULSAR_RELAY_API_KEY": key}
    assert cli.run("publish", topic, "1", variables=variables).code == 0
    assert cli.run("publish", topic, "1", "--api-key", key).code == 0
    refused = cli.run("publish", f"{topic}-other", "1", variables=variables)
    assert refused.errors.startswith("key_out_of_scope: ") and key not in refused.errors
    assert cli.run("publish", f"{topic}-other", "1").code == 0
    assert "no API key" in refusal("topics", "--api-key", "two words")


def test_nothing_secret_goes_where_others_can_read_it() -> None:
    for arguments in (("login", "admin"), ("topics", "--api-key", "prk_x")):
        assert "is not https" in refusal(*arguments, "--url", "http://relay.example.org")


def test_a_file_that_cannot_be_read_is_named_and_left(tmp_path: Path) -> None:
    path = tmp_path / "logins.json"
    path.write_text("{")
    with pytest.raises(LoginFileError, match="damaged"):
        LoginFile(path).read()
    with pytest.raises(LoginFileError):
        LoginFile(path).write(DEFAULT_URL, None)
    assert path.read_text("utf-8") == "{"


def test_a_relay_that_is_away_costs_no_login(tmp_path: Path) -> None:
    file = LoginFile(tmp_path / "logins.json")
    file.write("http://127.0.0.1:9", KeptLogin("galaxy", "a", 0.0, "b.c"))
    login = Login(Address("http://127.0.0.1:9"), file)
    for attempt in (login.shown, login.end):
        with pytest.raises(ClientError, match="unreachable"):
            asyncio.run(attempt())  # type: ignore[arg-type]
    assert json.loads(file.path.read_bytes())["http://127.0.0.1:9"]["username"] == "galaxy"


@pytest.mark.parametrize(
    ("variables", "path"),
    [({"XDG_STATE_HOME": "/s"}, "/s"), ({"XDG_STATE_HOME": "s"}, None), ({}, None)],
)
def test_the_file_is_where_xdg_has_state(variables: dict[str, str], path: str | None) -> None:
    base = Path.home() / ".local" / "state" if path is None else Path(path)
    assert default_path(variables) == base / "pulsar-relay" / "logins.json"
