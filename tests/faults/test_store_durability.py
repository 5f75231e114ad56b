"""What a store still has after its disk was slow, failed, or lost its power: everything, or all but a tail
that is announced."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conditions import until
from tests.faults.disks import PowerCutDisk
from tests.faults.history import Verdict
from tests.faults.load import CONSUMERS, Load
from tests.faults.preload import Preload
from tests.faults.publishing import Publisher, read_back, readiness
from tests.relays import RelayProcess
from tests.talks import Talk
from tests.valkeys import TIMEOUT_SCALE, RealValkey
from tests.workers import RunningWorker

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120 * TIMEOUT_SCALE)]

MakeValkey = Callable[..., RealValkey]
MakeRelayOn = Callable[..., RelayProcess]
MakeLoad = Callable[..., Load]

# A place that the store keeps for a client is lost with the store.
UNNAMED = tuple(kind for kind in CONSUMERS if kind != "named")

ANSWERS_ARRIVE_SECONDS = 0.3 * TIMEOUT_SCALE
BACK_SECONDS = 1.0 * TIMEOUT_SCALE
REFUSED_SECONDS = 0.1 * TIMEOUT_SCALE


def assert_only_tails_are_lost(verdict: Verdict, cuts: Sequence[float], seconds: float) -> None:
    """Of what was acknowledged until `seconds` before a cut, everything is there, and nothing is missing in
    between. That whoever had a lost message was told is in the verdict already: else it is a phantom.
    """
    lost = [anomaly for anomaly in verdict.anomalies if anomaly.kind == "lost-acked"]
    for anomaly in lost:
        cut = min(cut for cut in cuts if cut >= anomaly.at)
        assert anomaly.where == "tail", anomaly
        assert cut - anomaly.at <= seconds + ANSWERS_ARRIVE_SECONDS, f"{cut - anomaly.at:.2f} s: {anomaly}"
    assert bool(lost) == bool(verdict.notices)


@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
def test_a_stalled_disk_and_a_kill(
    make_valkey: MakeValkey,
    make_relay_on: MakeRelayOn,
    make_load: MakeLoad,
    make_preload: Callable[[], Preload],
    appendfsync: str,
) -> None:
    preload = make_preload()
    server = make_valkey(settings={"appendfsync": appendfsync}, environment=preload.environment).start()
    urls = [make_relay_on(server).url for _ in range(2)]
    with make_load(urls, server, consumers=CONSUMERS if appendfsync == "always" else UNNAMED) as load:
        load.wait_for_acks(50)
        preload.sync_seconds = 3
        # Into the postponed write, or behind it.
        load.last(load.random.choice([2.5, 3.8]))
        server.kill()
        # Long enough for answers that were under way to arrive.
        load.last(ANSWERS_ARRIVE_SECONDS)
        killed = load.healed(preload.heal)
        healed = load.healed(server.start)
        load.wait_for_acks(50)
        if appendfsync == "always":
            verdict = load.finish()
        else:
            verdict = load.finish(allowed=["lost-acked"], allows_notices=True, cuts=[killed])
            assert_only_tails_are_lost(verdict, [killed], 2.2)
    assert verdict.until_ok(healed) < BACK_SECONDS


@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
def test_a_power_cut(
    make_valkey: MakeValkey,
    make_relay_on: MakeRelayOn,
    make_load: MakeLoad,
    power_cut_disk: PowerCutDisk,
    appendfsync: str,
) -> None:
    server = make_valkey(power_cut_disk.path / "valkey", settings={"appendfsync": appendfsync}).start()
    urls = [make_relay_on(server).url for _ in range(2)]
    cuts, healed = [], 0.0
    with make_load(urls, server, consumers=CONSUMERS if appendfsync == "always" else UNNAMED) as load:
        for _ in range(2):
            load.wait_for_acks(50)
            load.last(load.random.uniform(0.5, 1.5))
            server.pause()
            power_cut_disk.cut_power()
            server.kill()
            load.last(ANSWERS_ARRIVE_SECONDS)
            cuts.append(load.healed(power_cut_disk.restore_power))
            healed = load.healed(server.start)
            load.wait_for_acks(50)
        if appendfsync == "always":
            verdict = load.finish()
        else:
            verdict = load.finish(allowed=["lost-acked"], allows_notices=True, cuts=cuts)
            assert_only_tails_are_lost(verdict, cuts, 1.1)
    assert verdict.until_ok(healed) < BACK_SECONDS


def test_a_disk_that_fails_to_sync_refuses_writes_at_once_until_the_log_is_rewritten(
    make_valkey: MakeValkey,
    make_relay: Callable[..., RunningWorker],
    make_preload: Callable[[], Preload],
    topic: str,
) -> None:
    preload = make_preload()
    server = make_valkey(settings={"appendfsync": "everysec"}, environment=preload.environment).start()
    relay = make_relay(server.socket_path)
    with Publisher(relay.url, topic) as publisher, Talk(relay.ws_url) as talk:
        talk.subscribe(topic)
        assert publisher.post("before").status == 201
        preload.sync_error = errno.EIO
        until(lambda: publisher.post("during").status != 201, "the store refuses writes")
        talk.messages(len(publisher.acknowledged))
        answer = publisher.post("refused", key="refused")
        assert (answer.status, answer.code, answer.retry_after) == (503, "store_disk_failed", "1")
        assert answer.seconds < REFUSED_SECONDS
        assert list(read_back(relay.url, topic)) == list(publisher.acknowledged)
        until(lambda: not readiness(relay.url)[0], "the relay is not ready")
        preload.heal()
        # What was not synced is not tried again; who runs the server must have it all written anew.
        assert publisher.post("refused", key="refused").status == 503
        server.command("BGREWRITEAOF")
        assert publisher.post_until_taken("refused", key="refused", seconds=10) < BACK_SECONDS
        assert talk.messages(1) == ["refused"]
        assert list(read_back(relay.url, topic)) == list(publisher.acknowledged)
        until(lambda: readiness(relay.url)[0], "the relay is ready again")


def test_an_answer_after_a_restart_waits_for_the_sync_of_what_the_dead_server_wrote(
    make_valkey: MakeValkey,
    make_relay: Callable[..., RunningWorker],
    make_preload: Callable[[], Preload],
    power_cut_disk: PowerCutDisk,
    topic: str,
) -> None:
    preload = make_preload()
    server = make_valkey(power_cut_disk.path / "valkey", environment=preload.environment).start()
    relay = make_relay(server.socket_path)
    with Publisher(relay.url, topic) as publisher, ThreadPoolExecutor(1) as pool:
        assert publisher.post("before").status == 201
        preload.sync_seconds = 1000
        answer = pool.submit(publisher.post, "written, not synced", key="key")
        until(lambda: preload.syncs_under_way, "the server writes, and waits for the disk")
        server.kill()
        preload.heal()
        server.start()
        # Either the relay repeated its batch, or the publisher repeats its message.
        if answer.result().status != 201:
            assert publisher.post("written, not synced", key="key").status == 201
        server.pause()
        power_cut_disk.cut_power()
        server.kill()
        power_cut_disk.restore_power()
        server.start()
        until(lambda: readiness(relay.url)[0], "the relay is ready again")
        assert read_back(relay.url, topic) == publisher.acknowledged


def test_an_embedded_server_that_dies_of_a_failing_disk_comes_back_with_everything(
    make_relay_process: Callable[..., RelayProcess], make_preload: Callable[[], Preload], topic: str
) -> None:
    preload = make_preload()
    relay = make_relay_process("--set", "storage.durability=disk", variables=preload.environment).start()
    with Publisher(relay.url, topic) as publisher, Talk(relay.ws_url) as talk:
        talk.subscribe(topic)
        for number in range(100):
            assert publisher.post(number).status == 201
        assert talk.messages(100) == list(range(100))
        preload.sync_error = errno.EIO
        answer = publisher.post("unknown", key="unknown")
        assert (answer.status, answer.code, answer.retry_after) == (503, "store_unavailable", "1")
        preload.heal()
        assert publisher.post_until_taken("unknown", key="unknown", seconds=10) < BACK_SECONDS
        assert talk.messages(1) == ["unknown"]
        talk.ask("ping", "pong")
        assert read_back(relay.url, topic) == publisher.acknowledged
    assert any("died" in message for message in relay.messages)
