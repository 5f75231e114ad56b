"""`users`, `keys`, `grants` and `sessions`, as admins and users call them."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.account_relays import ADMIN, PASSWORD, AccountRelay
from tests.account_relays import account_relay as account_relay
from tests.commands import CommandLine, refusal
from tests.relays import REPOSITORY
from tests.valkeys import RealValkey

_numbers = itertools.count(1)
THEIRS = "a password of theirs"


@pytest.fixture
def admin(account_relay: AccountRelay, tmp_path: Path) -> CommandLine:
    return logged_in(account_relay, tmp_path / "admin", ADMIN, PASSWORD)


def logged_in(relay: AccountRelay, directory: Path, username: str, password: str) -> CommandLine:
    directory.mkdir()
    line = CommandLine(relay.url, directory)
    done = line.run("login", username, stdin=password.encode() + b"\n")
    assert done.code == 0, done.errors
    return line


def new_name() -> str:
    return f"name-{next(_numbers)}-{os.getpid()}"


def add_user(admin: CommandLine, name: str, *permissions: str) -> dict[str, Any]:
    words = [word for permission in permissions for word in ("--permission", permission)]
    done = admin.run("users", "add", name, *words, stdin=THEIRS.encode() + b"\n")
    assert done.code == 0, done.errors
    (user,) = done.lines
    assert THEIRS not in done.text + done.errors
    return dict(user)


def test_a_user_is_made_listed_changed_and_deleted(admin: CommandLine, account_relay: AccountRelay) -> None:
    name = new_name()
    user = add_user(admin, name, "read", "write")
    assert (user["username"], user["permissions"], user["email"]) == (name, ["read", "write"], None)
    listed = {one["username"]: one for one in admin.run("users", "list").lines}
    assert listed[name]["user_id"] == user["user_id"] and ADMIN in listed
    (changed,) = admin.run("users", "set", name, "--permission", "read", "--email", "x@example.org").lines
    assert (changed["permissions"], changed["email"]) == (["read"], "x@example.org")
    (closed,) = admin.run("users", "set", user["user_id"], "--close").lines
    assert closed["is_active"] is False
    assert account_relay.login(name, THEIRS).status_code == 403
    (opened,) = admin.run("users", "set", name, "--open", "--no-permission", "--email", "").lines
    assert (opened["is_active"], opened["permissions"], opened["email"]) == (True, [], None)
    assert admin.run("users", "delete", name, stdin=b"n\n").code == 1
    assert admin.run("users", "delete", name, "--yes").code == 0
    refused = admin.run("users", "set", name, "--close")
    assert refused.code == 1 and refused.errors.startswith("user_not_found: ")


def test_a_password_is_changed_from_standard_input(admin: CommandLine, account_relay: AccountRelay) -> None:
    name = new_name()
    add_user(admin, name, "read")
    assert admin.run("users", "password", name, stdin=b"another long one\n").code == 0
    assert account_relay.login(name, THEIRS).status_code == 401
    assert account_relay.login(name, "another long one").status_code == 200
    short = admin.run("users", "password", name, stdin=b"short\n")
    assert short.code == 1 and "8 to 1024" in short.errors and "short" not in short.errors
    assert admin.run("users", "password", name, stdin=b"").code == 2


def test_a_user_is_found_among_many_whose_names_begin_alike(
    admin: CommandLine, account_relay: AccountRelay
) -> None:
    name, token = new_name(), account_relay.token()
    for ending in ("", "-", "0", "a", "é"):
        body = {"username": name + ending, "password": THEIRS, "permissions": ["read"]}
        assert account_relay.ask("POST", "/auth/register", token, json=body).status_code == 201
    for ending in ("a", "é", ""):
        (changed,) = admin.run("users", "set", name + ending, "--permission", "write").lines
        assert (changed["username"], changed["permissions"]) == (name + ending, ["write"])


def test_who_is_no_admin_is_told_so(admin: CommandLine, account_relay: AccountRelay, tmp_path: Path) -> None:
    name = new_name()
    add_user(admin, name, "read")
    line = logged_in(account_relay, tmp_path / "user", name, THEIRS)
    for arguments in (
        ("users", "list"),
        ("keys", "list", "--user", ADMIN),
        ("users", "delete", "--yes", name),
    ):
        refused = line.run(*arguments)
        assert refused.code == 1 and refused.errors.startswith("permission_required: ")


def test_a_key_is_made_used_listed_and_revoked(
    admin: CommandLine, account_relay: AccountRelay, tmp_path: Path, topic: str
) -> None:
    name = new_name()
    add_user(admin, name, "read", "write")
    line = logged_in(account_relay, tmp_path / "user", name, THEIRS)
    asked = ("--action", "write", "--topic", f"{topic}*", "--expires", "90d")
    (made,) = line.run("keys", "add", "for a sensor", *asked).lines
    shown = {"PULSAR_RELAY_API_KEY": made["key"]}
    assert line.run("publish", topic, "1", variables=shown).code == 0
    (listed,) = line.run("keys", "list").lines
    assert listed["key_id"] == made["key_id"] and "key" not in listed
    assert admin.run("keys", "list", "--user", name).lines == [listed]
    refused = line.run("keys", "list", variables=shown)
    assert refused.errors.startswith("login_required: ") and "pulsar-relay login" in refused.errors
    assert admin.run("keys", "revoke", made["key_id"], "--user", name).code == 0
    assert line.run("publish", topic, "1", variables=shown).code == 1
    assert line.run("keys", "list").lines == []


def test_a_topic_is_granted_read_and_taken_back(
    admin: CommandLine, account_relay: AccountRelay, tmp_path: Path, topic: str
) -> None:
    name = new_name()
    user = add_user(admin, name, "read", "write")
    line = logged_in(account_relay, tmp_path / "user", name, THEIRS)
    assert line.run("publish", topic, "1").code == 0
    theirs = f"{user['user_id']}/{topic}"
    assert admin.run("tail", theirs).errors.startswith("topic_not_found: ")
    (granted,) = line.run("grants", "add", topic, ADMIN).lines
    assert (granted["username"], granted["actions"]) == (ADMIN, ["read"])
    assert [one["payload"] for one in admin.run("tail", theirs).lines] == [1]
    both = line.run("grants", "add", topic, "users", "--action", "read", "--action", "write").lines
    assert {one["grantee"]: one["actions"] for one in both}["users"] == ["read", "write"]
    assert line.run("grants", "list", topic).lines == both
    for grantee in ("users", ADMIN):
        assert line.run("grants", "revoke", topic, grantee).code == 0
    assert line.run("grants", "list", topic).lines == []
    assert line.run("grants", "revoke", topic, ADMIN).errors.startswith("grant_not_found: ")
    assert admin.run("tail", theirs).errors.startswith("topic_not_found: ")


def test_sessions_are_listed_and_ended(
    admin: CommandLine, account_relay: AccountRelay, tmp_path: Path
) -> None:
    name = new_name()
    add_user(admin, name, "read")
    line = logged_in(account_relay, tmp_path / "user", name, THEIRS)
    (session,) = line.run("sessions", "list").lines
    assert admin.run("sessions", "list", "--user", name).lines == [session]
    assert line.run("sessions", "revoke", session["jti"]).code == 0
    assert line.run("sessions", "list").lines == []
    assert admin.run("sessions", "revoke", "--all", "--user", name).code == 0
    assert line.run("sessions", "list").errors.startswith("login_over: ")


def test_a_terminal_shows_tables(admin: CommandLine) -> None:
    code, shown = admin.run_on_terminal("users", "list")
    assert code == 0 and "permissions" in shown and ADMIN in shown and "{" not in shown
    code, shown = admin.run_on_terminal("sessions", "list")
    assert code == 0 and "password-login" in shown


def test_who_is_locked_out_comes_back_with_access_to_valkey(
    admin: CommandLine, account_relay: AccountRelay, relay_valkey: RealValkey
) -> None:
    name = new_name()
    add_user(admin, name, "write")
    admin.run("users", "set", name, "--close")
    store = ("--set", f"valkey.unix_socket={relay_valkey.socket_path}")
    done = admin.run("users", "recover", name, *store, stdin=b"found again\n")
    assert done.code == 0, done.errors
    login = account_relay.login(name, "found again")
    assert login.status_code == 200
    told = account_relay.ask("GET", "/auth/me", login.json()["access_token"]).json()
    assert sorted(told["permissions"]) == ["admin", "write"] and told["is_active"]
    (user,) = [one for one in admin.run("users", "list").lines if one["username"] == name]
    records = [one["payload"] for one in admin.run("tail", "system/audit", "-n", "100").lines]
    (recovered,) = [one for one in records if one["deed"] == "recover_user"]
    assert recovered["target"] == user["user_id"] and "user_id" not in recovered
    unknown = admin.run("users", "recover", "nobody", *store, stdin=b"found again\n")
    assert unknown.code == 1 and "user_not_found: " in unknown.errors
    short = admin.run("users", "recover", name, *store, stdin=b"short\n")
    assert short.code == 1 and "8 to 1024" in short.errors


def commands_of(document: str, heading: str) -> list[list[str]]:
    """Those of a section, word by word, with what is set for one of them."""
    text = (REPOSITORY / document).read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = text.split("```sh\n")[1:]
    lines = [line for block in blocks for line in block.partition("```")[0].splitlines()]
    return [shlex.split(line) for line in lines if "pulsar-relay " in line]


@pytest.mark.parametrize(
    ("document", "heading"),
    [
        ("docs/operations.md", "Accounts: `login`, `users`, `keys`, `grants`, `sessions`"),
        ("README.md", "With accounts"),
    ],
)
def test_what_the_documents_show_can_be_typed(
    document: str, heading: str, make_valkey: Callable[..., RealValkey], tmp_path: Path
) -> None:
    relay = AccountRelay(make_valkey().start().socket_path)
    line = CommandLine(relay.url, tmp_path)
    key = ""
    try:
        commands = commands_of(document, heading)
        assert len(commands) > 3
        for words in commands:
            variables = {"PULSAR_RELAY_API_KEY": key} if "=" in words[0] else {}
            name, *arguments = words[words.index("pulsar-relay") + 1 :]
            stdin = PASSWORD if name == "login" else THEIRS
            done = line.run(name, *arguments, stdin=stdin.encode() + b"\n", variables=variables)
            assert done.code == 0, (words, done.errors)
            if [name, *arguments[:1]] == ["keys", "add"]:
                key = done.lines[0]["key"]
    finally:
        relay.stop()


@pytest.mark.parametrize(
    "arguments",
    [
        ("users", "set", "galaxy"),
        ("users", "set", "galaxy", "--permission", "read", "--no-permission"),
        ("users", "add", "galaxy", "--permission", "all"),
        ("users", "add", "galaxy", "--password", "x"),
        ("keys", "add", "name", "--action", "write"),
        ("keys", "add", "name", "--action", "admin", "--topic", "*"),
        ("sessions", "revoke"),
        ("sessions", "revoke", "x", "--all"),
    ],
)
def test_what_means_nothing_is_refused(arguments: tuple[str, ...]) -> None:
    assert "Error: " in refusal(*arguments)
