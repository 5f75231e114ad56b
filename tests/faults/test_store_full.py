"""A store that has no room: full disks, snapshots that fail, memory at its limit."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.conditions import until
from tests.faults.disks import MIB, SmallDisk
from tests.faults.publishing import Answer, Publisher, read_back, readiness
from tests.relays import RelayProcess
from tests.talks import Talk
from tests.valkeys import TIMEOUT_SCALE, RealValkey
from tests.workers import RunningWorker

pytestmark = [pytest.mark.faults, pytest.mark.timeout(90 * TIMEOUT_SCALE)]

MakeValkey = Callable[..., RealValkey]
MakeRelay = Callable[..., RunningWorker]

REFUSED_SECONDS = 0.1 * TIMEOUT_SCALE
BACK_SECONDS = 1.0 * TIMEOUT_SCALE
FULL_SECONDS = 2.0
PAYLOAD = "x" * 2048


def is_refused_at_once(answer: Answer, code: str) -> bool:
    return (answer.status, answer.code) == (503, code) and answer.seconds < REFUSED_SECONDS


def connections_received(server: RealValkey) -> int:
    with server.client() as client:
        received: int = client.info("stats")["total_connections_received"]
        return received


def failures(url: str) -> dict[str, str]:
    """The checks of `/ready` that fail, with their codes."""
    return {name: check["code"] for name, check in readiness(url)[1].items() if not check["ok"]}


def stays_refused(publisher: Publisher, talk: Talk, url: str, topic: str, code: str) -> None:
    """For some seconds each publish is refused at once, with `code`; reads and the socket work meanwhile."""
    until(lambda: code in failures(url).values(), f"the relay is not ready: {code}")
    began = time.monotonic()
    while time.monotonic() - began < FULL_SECONDS:
        answer = publisher.post(PAYLOAD, key="refused")
        assert is_refused_at_once(answer, code), answer
        assert answer.retry_after
        assert list(read_back(url, topic)) == list(publisher.acknowledged)
        talk.ask("ping", "pong")


def test_a_full_disk_refuses_writes_at_once_while_reads_and_sockets_live(
    make_valkey: MakeValkey, make_relay: MakeRelay, small_disk: SmallDisk, topic: str
) -> None:
    server = make_valkey(small_disk.path / "valkey", settings={"appendfsync": "everysec"}).start()
    relay = make_relay(server.socket_path)
    with Publisher(relay.url, topic) as publisher, Talk(relay.ws_url) as talk:
        talk.subscribe(topic)
        small_disk.fill(leave_bytes=MIB)
        first = publisher.post_until_refused(PAYLOAD)
        assert is_refused_at_once(first, "store_disk_failed"), first
        talk.messages(len(publisher.acknowledged))
        before = connections_received(server)
        stays_refused(publisher, talk, relay.url, topic, "store_disk_failed")
        # A command that is refused is no reason to connect anew. Who asks here and the readers make a few.
        assert connections_received(server) < before + 5
        small_disk.free()
        assert publisher.post_until_taken(PAYLOAD, key="refused", seconds=10) < BACK_SECONDS
        assert talk.messages(1) == [PAYLOAD]
        until(lambda: readiness(relay.url)[0], "the relay is ready again")
        # What was acknowledged just before the disk was full is in the log by now as well.
        server.kill()
        server.start()
        until(lambda: readiness(relay.url)[0], "the relay is ready again")
        assert list(read_back(relay.url, topic)) == list(publisher.acknowledged)


def test_an_embedded_server_that_dies_of_a_full_disk_comes_back_with_everything(
    make_relay_process: Callable[..., RelayProcess], small_disk: SmallDisk, topic: str
) -> None:
    relay = make_relay_process("--set", "storage.durability=disk")
    relay.data_dir = small_disk.path / "data"
    relay.start()
    with Publisher(relay.url, topic) as publisher, Talk(relay.ws_url) as talk:
        talk.subscribe(topic)
        small_disk.fill(leave_bytes=MIB)
        refused = publisher.post_until_refused(PAYLOAD)
        assert (refused.status, refused.code, refused.retry_after) == (503, "store_unavailable", "1")
        talk.messages(len(publisher.acknowledged))
        assert not readiness(relay.url)[0]
        talk.ask("ping", "pong")
        small_disk.free()
        assert publisher.post_until_taken(PAYLOAD, key="last", seconds=10) < BACK_SECONDS
        # The refused one may be stored or not: its outcome was unknown.
        stored = read_back(relay.url, topic)
        assert [one for one in stored if one in publisher.acknowledged] == list(publisher.acknowledged)
        assert len(stored) - len(publisher.acknowledged) in (0, 1)
        assert talk.messages(len(stored) - len(publisher.acknowledged) + 1)[-1] == PAYLOAD
    assert any("died" in message for message in relay.messages)


@pytest.mark.parametrize("stops_writes", ["no", "yes"])
def test_a_snapshot_that_fails_stops_nothing_unless_the_operator_wants_it(
    make_valkey: MakeValkey, make_relay: MakeRelay, topic: str, stops_writes: str
) -> None:
    server = make_valkey(settings={"save": "3600 1", "stop-writes-on-bgsave-error": stops_writes}).start()
    relay = make_relay(server.socket_path)
    obstacle = server.directory / "dump.rdb"
    obstacle.mkdir()

    def snapshot() -> str:
        with server.client() as client:
            client.bgsave()
            until(lambda: not client.info("persistence")["rdb_bgsave_in_progress"], "the snapshot ends")
            return str(client.info("persistence")["rdb_last_bgsave_status"])

    with Publisher(relay.url, topic) as publisher, Talk(relay.ws_url) as talk:
        talk.subscribe(topic)
        assert publisher.post(PAYLOAD).status == 201
        talk.messages(1)
        assert snapshot() == "err"
        if stops_writes == "yes":
            stays_refused(publisher, talk, relay.url, topic, "store_disk_failed")
            obstacle.rmdir()
            assert snapshot() == "ok"
            assert publisher.post_until_taken(PAYLOAD, key="refused", seconds=10) < BACK_SECONDS
        else:
            assert publisher.post(PAYLOAD).status == 201
            assert readiness(relay.url)[0]
        talk.messages(1)
        assert list(read_back(relay.url, topic)) == list(publisher.acknowledged)


def test_a_full_memory_refuses_and_keeps_everything_until_retention_makes_room(
    make_valkey: MakeValkey, make_relay: MakeRelay, topic: str
) -> None:
    server = make_valkey(settings={"maxmemory": "8mb"}).start()
    relay = make_relay(server.socket_path)
    other = f"{topic}-other"
    with (
        Talk(relay.ws_url) as talk,
        Publisher(relay.url, topic) as publisher,
        Publisher(relay.url, other) as side,
    ):
        talk.subscribe(topic)
        assert side.post("kept").status == 201
        first = publisher.post_until_refused(PAYLOAD * 8)
        assert is_refused_at_once(first, "store_full"), first
        talk.messages(len(publisher.acknowledged))
        # At the limit itself a buffer more or less decides; now it is far behind.
        server.config("maxmemory", "7mb")
        stays_refused(publisher, talk, relay.url, topic, "store_full")
        assert read_back(relay.url, other) == side.acknowledged
        with server.client() as client:
            assert not list(client.scan_iter("*:idem:*"))
            # What retention does.
            client.xtrim(f"topic:{topic}:stream", maxlen=100, approximate=False)
            assert publisher.post_until_taken(PAYLOAD, key="refused", seconds=10) < BACK_SECONDS
            assert talk.messages(1) == [PAYLOAD]
            assert list(read_back(relay.url, topic)) == list(publisher.acknowledged)[-101:]
            assert len(list(client.scan_iter("*:idem:*"))) == 1
            assert client.info("stats")["evicted_keys"] == 0
        until(lambda: readiness(relay.url)[0], "the relay is ready again")
