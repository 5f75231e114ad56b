from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from actors.ports import StoreError
from pulsar_relay.errors import ERRORS
from pulsar_relay.store.probe import STALE_SECONDS, Probe, ProbeReport
from tests.stores import in_loop, open_store, until
from tests.valkeys import RealValkey

MakeValkey = Callable[..., RealValkey]


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class _Hearing:
    """A feed as the probe sees it."""

    def __init__(self) -> None:
        self.failure: str | None = None
        self.heard_at: float | None = 100.0


class _Writing:
    """A store as the probe sees it: each write ends as `outcome` says, or never if that is None."""

    def __init__(self) -> None:
        self.outcome: StoreError | str | None = "written"
        self.writes = 0

    async def probe(self) -> None:
        self.writes += 1
        if self.outcome is None:
            await asyncio.Event().wait()
        if isinstance(self.outcome, StoreError):
            raise self.outcome


def _legs(report: ProbeReport) -> dict[str, str | None]:
    return {leg.name: leg.failure for leg in report.legs}


def test_before_the_first_write_it_is_not_ready() -> None:
    report = Probe({"valkey_write": _Writing().probe}, _Hearing(), 1.0, clock=_Clock()).report()
    assert not report.is_ready
    assert _legs(report) == {"valkey_write": "store_unavailable", "feed": None}
    assert report.legs[0].as_json() == {
        "ok": False,
        "code": "store_unavailable",
        "message": ERRORS["store_unavailable"].message,
        "last_success_seconds_ago": None,
    }


@in_loop
async def test_a_write_makes_it_ready_for_some_seconds() -> None:
    store, feed, clock = _Writing(), _Hearing(), _Clock()
    probe = Probe({"valkey_write": store.probe}, feed, 3600.0, clock=clock)
    probe.start()
    try:
        await until(lambda: probe.report().is_ready)
        clock.now += 2.5
        feed.heard_at = clock.now
        report = probe.report()
        assert report.is_ready
        assert [leg.age_seconds for leg in report.legs] == [2.5, 0.0]
        assert report.legs[0].as_json() == {
            "ok": True,
            "code": None,
            "message": None,
            "last_success_seconds_ago": 2.5,
        }
    finally:
        await probe.stop()


@in_loop
async def test_a_success_long_ago_proves_nothing() -> None:
    store, feed, clock = _Writing(), _Hearing(), _Clock()
    probe = Probe({"valkey_write": store.probe}, feed, 0.001, deadline_seconds=60.0, clock=clock)
    probe.start()
    try:
        await until(lambda: probe.report().is_ready)
        store.outcome = None
        writes = store.writes
        await until(lambda: store.writes > writes)
        clock.now += max(STALE_SECONDS, 2 * 60.001) + 0.1
        assert _legs(probe.report()) == {
            "valkey_write": "store_unavailable",
            "feed": "store_unavailable",
        }
    finally:
        await probe.stop()


@in_loop
async def test_a_write_that_is_refused_or_hangs_is_told_with_its_code_and_heals() -> None:
    store, feed = _Writing(), _Hearing()
    clock = _Clock()
    probe = Probe({"valkey_write": store.probe}, feed, 0.001, deadline_seconds=0.05, clock=clock)
    probe.start()
    try:
        await until(lambda: probe.report().is_ready)
        for outcome, code in ((StoreError("store_full"), "store_full"), (None, "store_unavailable")):
            store.outcome = outcome
            await until(lambda expected=code: _legs(probe.report())["valkey_write"] == expected)
            assert not probe.report().is_ready
            store.outcome = "written"
            await until(lambda: probe.report().is_ready)
    finally:
        await probe.stop()


@in_loop
async def test_a_feed_that_does_not_hear_makes_it_not_ready() -> None:
    store, feed = _Writing(), _Hearing()
    probe = Probe({"valkey_write": store.probe}, feed, 3600.0, clock=_Clock())
    probe.start()
    try:
        await until(lambda: probe.report().is_ready)
        feed.failure = "store_denied"
        assert _legs(probe.report()) == {"valkey_write": None, "feed": "store_denied"}
        assert not probe.report().is_ready
    finally:
        await probe.stop()


@in_loop
async def test_each_check_is_a_leg_and_none_waits_for_another(caplog: pytest.LogCaptureFixture) -> None:
    stuck, failing = _Writing(), _Writing()
    stuck.outcome, failing.outcome = None, StoreError("store_evicts", "set noeviction")
    probe = Probe(
        {"sound": _Writing().probe, "stuck": stuck.probe, "failing": failing.probe},
        _Hearing(),
        3600.0,
        deadline_seconds=0.05,
        clock=_Clock(),
    )
    probe.start()
    try:
        await until(lambda: "not ready" in caplog.text)
        assert _legs(probe.report()) == {
            "sound": None,
            "stuck": "store_unavailable",
            "failing": "store_evicts",
            "feed": None,
        }
        assert caplog.messages == [
            "not ready: stuck: store_unavailable",
            "not ready: failing: store_evicts: set noeviction",
        ]
    finally:
        await probe.stop()


@in_loop
async def test_a_check_with_a_bug_fails_its_leg_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    outcomes = [ValueError("a bug"), None]

    async def check() -> None:
        outcome = outcomes.pop(0) if len(outcomes) > 1 else outcomes[0]
        if outcome is not None:
            raise outcome

    probe = Probe({"checked": check}, _Hearing(), 0.001, clock=_Clock())
    probe.start()
    try:
        await until(lambda: probe.report().is_ready)
        assert "a check failed" in caplog.text
        assert "not ready: checked: internal_error" in caplog.text
    finally:
        await probe.stop()


@in_loop
async def test_stopping_may_come_early_and_twice() -> None:
    probe = Probe({"valkey_write": _Writing().probe}, _Hearing(), 1.0)
    await probe.stop()
    probe.start()
    await probe.stop()
    await probe.stop()


@in_loop
async def test_a_real_server_that_dies_comes_back_or_fills_up_is_seen(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    async with open_store(server.socket_path, starts_feed=True) as opened:
        probe = Probe({"valkey_write": partial(opened.store.probe, opened.client)}, opened.feed, 0.01)
        probe.start()
        try:
            await until(lambda: probe.report().is_ready)
            server.config("maxmemory", "1")
            await until(lambda: _legs(probe.report()) == {"valkey_write": "store_full", "feed": None})
            server.config("maxmemory", "0")
            await until(lambda: probe.report().is_ready)
            server.kill()
            gone = {"valkey_write": "store_unavailable", "feed": "store_unavailable"}
            await until(lambda: _legs(probe.report()) == gone)
            server.start()
            await until(lambda: probe.report().is_ready)
        finally:
            await probe.stop()


@pytest.mark.parametrize("pauses", [1, 2])
@in_loop
async def test_a_paused_server_is_seen_within_the_deadline(make_valkey: MakeValkey, pauses: int) -> None:
    server = make_valkey().start()
    async with open_store(server.socket_path, starts_feed=True) as opened:
        probe = Probe(
            {"valkey_write": partial(opened.store.probe, opened.client)},
            opened.feed,
            0.01,
            deadline_seconds=0.1,
        )
        probe.start()
        try:
            for _ in range(pauses):
                await until(lambda: probe.report().is_ready)
                server.pause()
                await until(lambda: not probe.report().is_ready, 1.0)
                server.resume()
            await until(lambda: probe.report().is_ready)
        finally:
            await probe.stop()
