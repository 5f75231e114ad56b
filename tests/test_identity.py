"""Which store a relay knows, and what it does with one that is empty or another."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import valkey as valkey_client
from websockets.sync.client import ClientConnection, connect

from actors.ports import StoreError
from pulsar_relay.config import ConfigError
from pulsar_relay.settings import ValkeySettings
from pulsar_relay.store import schema
from pulsar_relay.store.client import Client, make_client
from pulsar_relay.store.identity import ID_FORM, StoreIdentity, accept, identity_of
from tests.commands import CommandLine
from tests.relays import RelayProcess
from tests.stores import code_of, in_loop, until_code
from tests.valkeys import TIMEOUT_SCALE, RealValkey
from tests.workers import RunningWorker

MakeValkey = Callable[..., RealValkey]
MakeRelay = Callable[..., RunningWorker]
OTHER = "0" * 24


def _client(where: str, identity: StoreIdentity) -> Client:
    return make_client(ValkeySettings(), where, identity=identity)


def _fields(server: RealValkey) -> dict[bytes, bytes]:
    with server.client() as client:
        fields: dict[bytes, bytes] = client.hgetall(schema.IDENTITY)
        return fields


def _id(server: RealValkey) -> str:
    return _fields(server)[b"id"].decode()


# One relay's memory, and one store


@in_loop
async def test_the_first_relay_gives_a_store_its_id_and_all_others_remember_it(
    make_valkey: MakeValkey,
) -> None:
    server = make_valkey().start()
    server.command("SET", "topic:old", "from before stores had an id")
    identities = [StoreIdentity() for _ in range(5)]
    clients = [_client(server.socket_path, identity) for identity in identities]
    for client in clients:
        await client.command("PING")
    (known,) = {identity.remembered for identity in identities}
    assert known is not None
    assert ID_FORM.fullmatch(known)
    assert _fields(server) == {b"id": known.encode()}
    for client in clients:
        await client.aclose()


@in_loop
async def test_the_question_comes_before_anything_else_on_every_connection(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    identity = StoreIdentity()
    client = _client(server.socket_path, identity)
    await client.command("PING")
    server.stop()
    shutil.rmtree(server.directory / "appendonlydir")
    server.start()
    await until_code(lambda: client.command("SET", "x", 1), "store_empty")
    await until_code(lambda: client.pages.call("GET", "x"), "store_empty")
    assert server.command("DBSIZE") == 0
    await client.aclose()


@in_loop
async def test_another_store_is_refused_until_the_known_one_is_back(make_valkey: MakeValkey) -> None:
    known, foreign = make_valkey().start(), make_valkey().start()
    for server in (known, foreign):
        first = _client(server.socket_path, StoreIdentity())
        await first.command("PING")
        await first.aclose()
    identity = StoreIdentity()
    identity.remembered = _id(known)
    client = _client(foreign.socket_path, identity)
    with pytest.raises(StoreError) as caught:
        await client.command("SET", "x", 1)
    assert (caught.value.code, caught.value.is_outcome_unknown) == ("store_foreign", False)
    assert foreign.command("KEYS", "*") == [schema.IDENTITY.encode()]
    await client.aclose()
    client = _client(known.socket_path, identity)
    assert await client.command("SET", "x", 1) == b"OK"
    await client.aclose()


@in_loop
async def test_a_store_that_is_emptied_under_open_connections_is_found_out_and_they_are_ended(
    make_valkey: MakeValkey, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_valkey().start()
    identity = StoreIdentity()
    client = _client(server.socket_path, identity)
    await client.command("PING")
    await client.pages.call("PING")
    await identity.check(client.command)
    known = identity.remembered
    server.command("FLUSHALL")
    assert await code_of(identity.check(client.command)) == "store_empty"
    await until_code(lambda: client.command("SET", "x", 1), "store_empty")
    await until_code(lambda: client.pages.call("SET", "x", 1), "store_empty")
    for _ in range(3):
        assert await code_of(identity.check(client.command)) == "store_empty"
    assert server.command("DBSIZE") == 0
    told = [record.message for record in caplog.records if record.levelno == logging.CRITICAL]
    assert len(told) == 1
    assert told[0].endswith(f"pulsar-relay store accept {known}")
    await client.aclose()


@in_loop
async def test_an_accepted_store_is_taken_by_all_who_remember_the_old_one(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    identity, stranger = StoreIdentity(), StoreIdentity()
    succeeded: list[str | None] = []
    identity.start(lambda: succeeded.append(identity.remembered))
    client = _client(server.socket_path, identity)
    await client.command("PING")
    known = identity.remembered
    assert known is not None
    stranger.remembered = OTHER
    server.command("FLUSHALL")
    assert await code_of(identity.check(client.command)) == "store_empty"
    operator = make_client(ValkeySettings(), server.socket_path)
    found = await accept(operator.command, known)
    assert found not in (known, OTHER)
    assert list((await identity_of(operator.command)).succeeds) == [known]
    await until_code(lambda: client.command("SET", "x", 1), None)
    assert succeeded == [found]
    strangers = _client(server.socket_path, stranger)
    assert await code_of(strangers.command("PING")) == "store_foreign"
    with pytest.raises(ValueError, match="nothing to accept"):
        await accept(operator.command, found)
    for one in (client, operator, strangers):
        await one.aclose()


@in_loop
async def test_a_store_that_takes_no_writes_is_given_its_id_later(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    server.config("maxmemory", "1")
    identity = StoreIdentity()
    client = _client(server.socket_path, identity)
    assert await client.command("GET", "x") is None
    assert identity.remembered is None
    server.config("maxmemory", "0")
    await identity.check(client.command)
    assert identity.remembered == _id(server)
    await client.aclose()


@in_loop
async def test_a_store_that_loads_or_lets_nobody_in_is_neither_empty_nor_foreign(
    make_valkey: MakeValkey,
) -> None:
    server = make_valkey().start()
    identity = StoreIdentity()
    identity.remembered = OTHER
    server.command("ACL", "SETUSER", "default", "-hgetall")
    client = _client(server.socket_path, identity)
    assert await code_of(client.command("PING")) == "store_denied"
    server.kill()
    assert await code_of(client.command("PING")) == "store_unavailable"
    await client.aclose()


# The file


@in_loop
async def test_a_file_remembers_over_restarts_and_follows_a_succession(
    make_valkey: MakeValkey, tmp_path: Path
) -> None:
    server = make_valkey().start()
    file = tmp_path / "identity"
    client = _client(server.socket_path, StoreIdentity(file))
    await client.command("PING")
    await client.aclose()
    known = _id(server)
    assert file.read_text() == f"{known}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    server.command("FLUSHALL")
    again = StoreIdentity(file)
    assert again.remembered == known
    client = _client(server.socket_path, again)
    assert await code_of(client.command("PING")) == "store_empty"
    operator = make_client(ValkeySettings(), server.socket_path)
    found = await accept(operator.command, known)
    await until_code(lambda: client.command("PING"), None)
    assert file.read_text() == f"{found}\n"
    await client.aclose()
    await operator.aclose()


def test_a_file_that_cannot_be_used_is_refused_with_the_cure(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_text("something else")
    for file, cure in (
        (damaged, "remove the file"),
        (tmp_path, "correct `storage.identity_file`"),
        (tmp_path / "nowhere" / "identity", "make it"),
    ):
        with pytest.raises(ConfigError, match=cure):
            StoreIdentity(file)
    assert StoreIdentity(tmp_path / "not yet").remembered is None


@in_loop
async def test_a_file_that_cannot_be_written_stops_nothing_and_is_told(
    make_valkey: MakeValkey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_valkey().start()
    identity = StoreIdentity(tmp_path / "identity")
    (tmp_path / f"identity.{os.getpid()}.new").mkdir()
    client = _client(server.socket_path, identity)
    await client.command("PING")
    assert identity.remembered == _id(server)
    assert "cannot be kept" in caplog.text
    await client.aclose()


# A whole relay


@contextmanager
def _subscribed(relay: RunningWorker, topic: str, **fields: Any) -> Iterator[ClientConnection]:
    with connect(relay.ws_url) as socket:
        socket.send(json.dumps({"type": "subscribe", "topics": [topic], **fields}))
        assert json.loads(socket.recv(10))["type"] == "subscribed"
        yield socket


def _publish(relay: RunningWorker, topic: str, payload: object) -> requests.Response:
    message = {"topic": topic, "payload": payload}
    return requests.post(f"{relay.url}/api/v1/messages", json=message, timeout=10)


def _checks(url: str) -> dict[str, str | None]:
    checks = requests.get(f"{url}/ready", timeout=10).json()["checks"]
    return {name: check.get("code") for name, check in checks.items()}


def _wait(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds * TIMEOUT_SCALE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def _is_ready(url: str) -> bool:
    return requests.get(f"{url}/ready", timeout=10).ok


def _wipe(server: RealValkey) -> None:
    server.command("FLUSHALL")


def _lose(server: RealValkey) -> None:
    server.stop()
    shutil.rmtree(server.directory / "appendonlydir")
    server.start()


@pytest.mark.parametrize("trouble", [_wipe, _lose], ids=["FLUSHALL", "lost files"])
def test_a_relay_whose_store_is_empty_refuses_everything_until_an_operator_accepts_it(
    make_valkey: MakeValkey, make_relay: MakeRelay, topic: str, trouble: Callable[[RealValkey], None]
) -> None:
    server = make_valkey().start()
    relays = [make_relay(server.socket_path), make_relay(server.socket_path)]
    last = [_publish(relays[0], topic, number).json()["message_id"] for number in range(3)][-1]
    known = _id(server)
    with _subscribed(relays[1], topic) as socket:
        trouble(server)
        for relay in relays:
            _wait(lambda url=relay.url: _checks(url)["store_identity"] == "store_empty")
            refused = _publish(relay, topic, "refused")
            assert (refused.status_code, refused.json()["error"]) == (503, "store_empty")
            assert int(refused.headers["Retry-After"]) >= 1
            history = requests.get(f"{relay.url}/api/v1/topics/{topic}/messages", timeout=10)
            assert (history.status_code, history.json()["error"]) == (503, "store_empty")
        assert [key for key in server.command("KEYS", "*") if b"probe" not in key] in ([], _recent(server))  # type: ignore[attr-defined]
        _accept(server, known)
        for relay in relays:
            _wait(lambda url=relay.url: _is_ready(url), 3.0)
        notice = json.loads(socket.recv(10))
        assert (notice["type"], notice["topic"]) == ("reset", topic)
        published = _publish(relays[0], topic, "after")
        assert published.status_code == 201
        message = json.loads(socket.recv(10))
        assert message["payload"] == "after"
        assert _number(message["message_id"]) > _number(last)
    for relay in relays:
        assert relay.worker._identity.remembered == _id(server) != known
    key = relays[0].worker._cookies.key
    assert key == relays[1].worker._cookies.key
    _wait(lambda: server.command("GET", schema.COOKIE_KEY) == (key or "").encode())


def _recent(server: RealValkey) -> list[bytes]:
    """What the relays had written between the loss and their noticing it: up to a second under FLUSHALL."""
    keys = server.command("KEYS", "*")
    assert isinstance(keys, list)
    assert schema.IDENTITY.encode() not in keys
    return [key for key in keys if b"probe" not in key]


def _number(message_id: str) -> tuple[int, int]:
    milliseconds, _, number = message_id.partition("-")
    return int(milliseconds), int(number)


def _accept(server: RealValkey, known: str) -> None:
    server.command("HSETNX", schema.IDENTITY, "id", "f" * 24)
    server.command("HSET", schema.IDENTITY, f"succeeds:{known}", "now")


def test_a_wipe_that_spares_the_identity_only_makes_topics_anew(
    make_valkey: MakeValkey, make_relay: MakeRelay, topic: str
) -> None:
    server = make_valkey().start()
    relay = make_relay(server.socket_path)
    assert _publish(relay, topic, 1).status_code == 201
    known = _id(server)
    with server.client() as client:
        for key in client.scan_iter():
            if not key.startswith(b"user"):
                client.delete(key)
    assert _publish(relay, topic, 2).status_code == 201
    history = requests.get(f"{relay.url}/api/v1/topics/{topic}/messages", timeout=10).json()
    assert [message["payload"] for message in history["messages"]] == [2]
    _wait(lambda: _is_ready(relay.url))
    assert _id(server) == known


def test_a_relay_that_starts_on_a_foreign_store_answers_and_is_not_ready(
    make_valkey: MakeValkey, make_relay: MakeRelay, topic: str, tmp_path: Path
) -> None:
    server = make_valkey().start()
    file = tmp_path / "identity"
    file.write_text(OTHER)
    relay = make_relay(server.socket_path, storage={"identity_file": file})
    assert _checks(relay.url)["store_identity"] in ("store_empty", "store_unavailable")
    _wait(lambda: _checks(relay.url)["store_identity"] == "store_empty")
    assert _publish(relay, topic, 1).json()["error"] == "store_empty"
    poll = {"topics": [topic], "timeout": 1}
    assert requests.post(f"{relay.url}/messages/poll", json=poll, timeout=10).status_code == 503
    assert server.command("DBSIZE") == 0
    _accept(server, OTHER)
    _wait(lambda: _is_ready(relay.url), 3.0)
    assert file.read_text() == f"{_id(server)}\n"
    assert _publish(relay, topic, 1).status_code == 201
    _wait(lambda: requests.post(f"{relay.url}/messages/poll", json=poll, timeout=10).ok)


# The operator's commands


def test_an_embedded_server_that_lost_its_files_is_not_filled_anew_and_the_logged_command_accepts_it(
    make_relay_process: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    relay = make_relay_process().start()
    line = CommandLine(relay.url, tmp_path)
    assert line.run("publish", "t", "1").code == 0
    file = relay.data_dir / "store-identity"
    known = file.read_text().strip()
    relay.stop()
    shutil.rmtree(relay.data_dir / "appendonlydir")
    relay.start()
    _wait(lambda: _checks(relay.url)["store_identity"] == "store_empty")
    refused = requests.post(f"{relay.url}/api/v1/messages", json={"topic": "t", "payload": 2}, timeout=10)
    assert (refused.status_code, refused.json()["error"]) == (503, "store_empty")
    where = ("--data-dir", str(relay.data_dir))
    assert "none" in line.run("store", "show", *where).text.splitlines()[0]
    (told,) = [message for message in relay.messages if "pulsar-relay store accept" in message]
    command = told.partition("pulsar-relay ")[2].split()
    assert command == ["store", "accept", known]
    accepted = line.run(*command, *where)
    assert accepted.code == 0, accepted.errors
    _wait(lambda: _is_ready(relay.url), 3.0)
    assert file.read_text().strip() not in (known, "")
    assert line.run("publish", "t", "3").code == 0
    shown = line.run("store", "show", *where).text
    assert known in shown
    assert "everysec" in shown


def test_an_embedded_server_whose_directory_was_emptied_under_it_is_not_filled_anew(
    make_relay_process: Callable[..., RelayProcess],
) -> None:
    relay = make_relay_process().start()
    message = {"topic": "t", "payload": 1}
    assert requests.post(f"{relay.url}/api/v1/messages", json=message, timeout=10).status_code == 201
    file = relay.data_dir / "store-identity"
    known = file.read_text().strip()
    file.unlink()
    shutil.rmtree(relay.data_dir / "appendonlydir")
    os.kill(int(json.loads((relay.data_dir / "server.json").read_text())["pid"]), signal.SIGKILL)
    _wait(lambda: _checks(relay.url)["store_identity"] == "store_empty")
    refused = requests.post(f"{relay.url}/api/v1/messages", json=message, timeout=10)
    assert (refused.status_code, refused.json()["error"]) == (503, "store_empty")
    assert [text for text in relay.messages if text.endswith(f"pulsar-relay store accept {known}")]
    with valkey_client.Valkey(unix_socket_path=str(relay.data_dir / "valkey.sock")) as client:
        assert client.dbsize() == 0


def test_a_store_is_accepted_while_no_relay_runs_on_it(
    make_relay_process: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    relay = make_relay_process().start()
    known = (relay.data_dir / "store-identity").read_text().strip()
    relay.stop()
    shutil.rmtree(relay.data_dir / "appendonlydir")
    where = ("--data-dir", str(relay.data_dir))
    line = CommandLine(relay.url, tmp_path)
    assert line.run("store", "accept", known, *where).code == 0
    relay.start()
    _wait(lambda: _is_ready(relay.url))
    again = (relay.data_dir / "store-identity").read_text().strip()
    assert again != known
    told = line.run("store", "accept", again, *where)
    assert (told.code, "nothing to accept" in told.text) == (0, True)


def test_an_id_that_is_none_and_a_store_that_is_not_there_are_refused(tmp_path: Path) -> None:
    line = CommandLine("http://127.0.0.1:1", tmp_path)
    assert line.run("store", "accept", "nonsense").code == 2
    nowhere = line.run("store", "show", "--data-dir", str(tmp_path / "nowhere"))
    assert nowhere.code == 1
    assert "there is no store in" in nowhere.errors
    away = line.run("store", "accept", OTHER, "--valkey-host", "127.0.0.1", "--valkey-port", "1")
    assert (away.code, "store_unavailable" in away.errors) == (1, True)
