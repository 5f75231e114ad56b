"""The Lua scripts as files, and what holds for all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import valkey as valkey_client

import pulsar_relay

SCRIPTS = sorted(Path(pulsar_relay.__file__).parent.glob("*/*.lua"))
WRITING = {
    *(
        "append",
        "acknowledge",
        "change",
        "change_user",
        "claim",
        "create",
        "create_user",
        "decide_device",
        "delete",
        "delete_user",
        "forget",
        "make_device",
        "open_session",
        "poll_device",
        "put_record",
        "restore",
        "rotate",
        "trim",
    ),
}
MAKING_ROOM = {"delete", "delete_user", "forget", "trim"}
TAKING_AWAY = {"change_user", "deny", "drop_record"}
"""Whom a full store must not keep from what is to be taken from them."""
LIMITING = {"bucket", "login_backoff", "seats"}
"""What is small and expires, and without which nobody could log in to make room."""


def _name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", SCRIPTS, ids=_name)
def test_a_script_says_whether_it_writes(path: Path) -> None:
    first = path.read_text("utf-8").splitlines()[0]
    if path.stem in MAKING_ROOM | TAKING_AWAY | LIMITING:
        assert first == "#!lua flags=allow-oom"
    elif path.stem in WRITING:
        assert first == "#!lua"
    else:
        assert first == "#!lua flags=no-writes"


@pytest.mark.parametrize("path", SCRIPTS, ids=_name)
def test_a_script_is_loadable_has_short_lines_and_tells_its_keys(path: Path, valkey: str) -> None:
    text = path.read_text("utf-8")
    with valkey_client.Valkey(unix_socket_path=valkey) as client:
        client.script_load(text)
    assert max(map(len, text.splitlines())) <= 110
    assert re.search(r"^-- KEYS ", text, re.MULTILINE)
    assert re.search(r"^-- .*Reply", text, re.MULTILINE)


@pytest.mark.parametrize("path", SCRIPTS, ids=_name)
def test_a_script_names_no_key_that_it_was_not_given(path: Path) -> None:
    # In a cluster, and with permissions by key, only declared keys may be touched.
    calls = re.findall(r"(?:redis\.p?call|[( ]call|do_call)\('[A-Z]+', ([^,)]+)", path.read_text("utf-8"))
    named = {
        "stream",
        "meta",
        "key",
        "filled",
        "batch_key",
        # Of accounts.
        *(
            "users",
            "passwords",
            "names",
            "name_order",
            "federated",
            "imported",
            "changes",
            "sessions",
            "spare",
        ),
        *("api_keys", "uses", "keys_of", "grants", "grants_of", "denied", "records", "owned", "beside"),
        "session",
        *("device", "user_code"),
        "ARGV[5]",  # the channel of changes, as the two below
        "ARGV[6]",
        "ARGV[7]",
        "KEYS[1]",
        "KEYS[2]",
        "KEYS[i]",
        "KEYS[i + 1]",
        "ARGV[4]",  # append's feed channel
        "'STREAM'",  # XINFO STREAM stream
        "'NUMSUB'",  # PUBSUB NUMSUB channel
    }
    assert set(calls) <= named
