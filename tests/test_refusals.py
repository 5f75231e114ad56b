from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import requests
import valkey as valkey_client
from libvalkey import ReplyError

from pulsar_relay.errors import ERRORS
from pulsar_relay.store.refusals import CODES, DeposedError, ScriptUnknownError, lost, refusal
from tests.stores import PROMPT_SECONDS
from tests.valkeys import TIMEOUT_SCALE, RealValkey
from tests.workers import RunningWorker


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_of_the_store_is_a_row_of_the_error_table_that_says_try_again(code: str) -> None:
    assert ERRORS[code].status == 503
    assert ERRORS[code].is_retryable


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "store_full"),
        ("MISCONF Errors writing to the AOF file: No space left on device", "store_disk_failed"),
        ("NOREPLICAS Not enough good replicas to write.", "store_replicas_missing"),
        ("LOADING Valkey is loading the dataset in memory", "store_loading"),
        ("BUSY Valkey is busy running a script.", "store_busy"),
        ("CLUSTERDOWN The cluster is down", "store_cluster_down"),
        ("MASTERDOWN Link with MASTER is down", "store_primary_down"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "store_moving"),
        ("UNBLOCKED force unblock from blocking operation", "store_read_only"),
        ("NOAUTH Authentication required.", "store_denied"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "store_denied"),
        ("ERR AUTH <password> called without any password configured for the default user.", "store_denied"),
        ("ERR invalid password", "store_denied"),
        ("ERR max number of clients reached", "store_crowded"),
        ("NOPERM User x has no permissions to run the 'evalsha' command", "store_denied"),
        ("ACL failure in script: User x has no permissions to run the 'xadd' command", "store_denied"),
        ("WRONGTYPE Operation against a key script: 5ba, on @user_script:12.", "store_damaged"),
        ("DAMAGED last id", "store_damaged"),
        ("STALE a later batch was appended", "store_unavailable"),
        ("ERR user_script:12: attempt to index a nil value", "store_error"),
        ("", "store_error"),
    ],
)
def test_an_error_valkey_answers_with_is_a_definite_refusal_with_a_code(text: str, code: str) -> None:
    told = refusal(ReplyError(text))
    assert told.code == code
    assert not told.is_outcome_unknown


@pytest.mark.parametrize(
    "text",
    [
        "READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down",
        "UNBLOCKED force unblock",
        "WAIT cannot be used with replica instances.",
    ],
)
def test_a_server_that_says_it_is_a_replica_is_to_be_looked_for_again(text: str) -> None:
    assert isinstance(refusal(ReplyError(text)), DeposedError)


def test_a_script_the_server_has_forgotten_is_told_apart() -> None:
    assert isinstance(refusal(ReplyError("NOSCRIPT No matching script.")), ScriptUnknownError)


def test_what_valkey_was_sent_is_neither_shown_nor_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        told = refusal(ReplyError("ERR unknown command 'FOO', with args beginning with: 'secret'"))
    assert "secret" not in caplog.text + str(told) + told.detail
    assert "unknown command" in caplog.text


def test_who_lost_a_connection_does_not_know_what_became_of_its_command() -> None:
    assert lost().is_outcome_unknown


# What a publisher is told, by a whole relay over a real server


@contextmanager
def _setting(server: RealValkey, name: str, value: str) -> Iterator[None]:
    usual = server.config(name)
    server.config(name, value)
    yield
    server.config(name, usual)


@contextmanager
def _full(server: RealValkey) -> Iterator[None]:
    with _setting(server, "maxmemory", "1"):
        yield


@contextmanager
def _without_replicas(server: RealValkey) -> Iterator[None]:
    with _setting(server, "min-replicas-to-write", "1"):
        yield


@contextmanager
def _replica(server: RealValkey) -> Iterator[None]:
    server.command("REPLICAOF", "127.0.0.1", "1")
    yield
    server.command("REPLICAOF", "NO", "ONE")


@contextmanager
def _without_snapshots(server: RealValkey) -> Iterator[None]:
    (server.directory / "dump.rdb").mkdir()
    server.config("stop-writes-on-bgsave-error", "yes")
    server.config("save", "3600 1")
    server.command("SET", "changed", "1")
    server.command("BGSAVE")
    _wait(lambda: "rdb_last_bgsave_status:err" in _information(server))
    yield
    server.config("save", "")


@contextmanager
def _forbidding(server: RealValkey) -> Iterator[None]:
    server.command("ACL", "SETUSER", "default", "-xadd")
    yield
    server.command("ACL", "SETUSER", "default", "+xadd")


@contextmanager
def _busy(server: RealValkey) -> Iterator[None]:
    server.config("busy-reply-threshold", "20")
    hog = threading.Thread(target=_hog, args=(server,))
    hog.start()
    _wait(lambda: _is_busy(server))
    yield
    server.command("SCRIPT", "KILL")
    hog.join()


def _hog(server: RealValkey) -> None:
    with pytest.raises(valkey_client.ResponseError, match="killed"):
        server.command("EVAL", "while true do end", 0)


def _is_busy(server: RealValkey) -> bool:
    try:
        server.command("PING")
    except valkey_client.ResponseError as error:
        return "BUSY" in str(error)
    return False


def _information(server: RealValkey) -> str:
    with server.client() as client:
        return "".join(f"{name}:{value}\n" for name, value in client.info("persistence").items())


def _wait(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds * TIMEOUT_SCALE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (_full, "store_full"),
        (_without_replicas, "store_replicas_missing"),
        (_replica, "store_read_only"),
        (_without_snapshots, "store_disk_failed"),
        (_forbidding, "store_denied"),
        (_busy, "store_busy"),
    ],
    ids=["OOM", "NOREPLICAS", "READONLY", "MISCONF", "NOPERM", "BUSY"],
)
def test_a_refused_publish_is_answered_within_100_ms_and_the_next_one_a_second_after_the_cure(
    make_valkey: Callable[..., RealValkey],
    make_relay: Callable[..., RunningWorker],
    trouble: Callable[[RealValkey], Iterator[None]],
    code: str,
) -> None:
    server = make_valkey().start()
    relay = make_relay(server.socket_path)
    with requests.Session() as session:

        def publish() -> requests.Response:
            message = {"topic": "t", "payload": 1}
            return session.post(f"{relay.url}/api/v1/messages", json=message, timeout=10)

        assert publish().status_code == 201
        with trouble(server):  # type: ignore[attr-defined]
            begun = time.monotonic()
            refused = publish()
            seconds = time.monotonic() - begun
            assert (refused.status_code, refused.json()["error"]) == (503, code)
            assert refused.json()["retry"] is True
            assert int(refused.headers["Retry-After"]) >= 1
            assert seconds < PROMPT_SECONDS
        _wait(lambda: publish().status_code == 201, 1.0)
    assert server.command("XLEN", "topic:t:stream") == 2


def test_a_relay_that_starts_while_valkey_loads_says_so_within_100_ms_and_goes_on_when_it_has_loaded(
    make_valkey: Callable[..., RealValkey], make_relay: Callable[..., RunningWorker]
) -> None:
    server = make_valkey(settings={"aof-use-rdb-preamble": "yes"}).start()
    server.command("DEBUG", "POPULATE", 50_000)
    server.command("BGREWRITEAOF")
    _wait(lambda: "aof_rewrite_in_progress:0" in _information(server))
    server.stop()
    server.settings |= {"key-load-delay": "200", "loading-process-events-interval-bytes": "1024"}
    server.start(wait=False)
    _wait(lambda: _is_loading(server))
    relay = make_relay(server.socket_path)
    with requests.Session() as session:

        def publish() -> requests.Response:
            message = {"topic": "t", "payload": 1}
            return session.post(f"{relay.url}/api/v1/messages", json=message, timeout=10)

        begun = time.monotonic()
        refused = publish()
        seconds = time.monotonic() - begun
        assert (refused.status_code, refused.json()["error"]) == (503, "store_loading")
        assert seconds < PROMPT_SECONDS
        checks = requests.get(f"{relay.url}/ready", timeout=10).json()["checks"]
        assert checks["valkey_write"]["code"] in ("store_loading", "store_unavailable")
        server.command("CONFIG", "SET", "key-load-delay", "0")
        _wait(lambda: not _is_loading(server), 30.0)
        _wait(lambda: publish().status_code == 201, 1.0)


def _is_loading(server: RealValkey) -> bool:
    try:
        server.command("GET", "x")
    except valkey_client.BusyLoadingError:
        return True
    except valkey_client.ConnectionError:
        return False
    return False
