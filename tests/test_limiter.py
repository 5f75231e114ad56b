"""All limits of a worker together."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import valkey as valkey_client

from actors.ports import StoreError
from pulsar_relay.errors import RelayError, render
from pulsar_relay.kinds import Rate
from pulsar_relay.limits.limiter import FAILS_OPEN, Limiter, address, user
from pulsar_relay.settings import LimitSettings, ValkeySettings
from pulsar_relay.store.client import make_client
from tests.stores import Where, in_loop, open_store
from tests.valkeys import RealValkey


@asynccontextmanager
async def open_limiter(where: Where, settings: LimitSettings | None = None) -> AsyncIterator[Limiter]:
    async with open_store(where) as opened:
        limiter = Limiter(opened.client, settings or LimitSettings(), secrets.token_hex(4))
        yield limiter
        await limiter.aclose()


async def refusal(attempt: object) -> RelayError:
    with pytest.raises(RelayError) as refused:
        await attempt  # type: ignore[misc]
    return refused.value


def somebody() -> str:
    return f"u{secrets.token_hex(4)}"


def test_every_class_has_a_rate_in_the_settings() -> None:
    rates = {
        field.name
        for field in dataclasses.fields(LimitSettings)
        if isinstance(getattr(LimitSettings(), field.name), Rate)
    }
    assert rates == set(FAILS_OPEN)


def test_the_defaults_are_what_todays_clients_are_used_to() -> None:
    settings = LimitSettings()
    minute = {"login": 5, "refresh": 10, "device_code": 10, "device_token": 30, "device_page": 20}
    assert all(getattr(settings, name) == Rate(count, 60.0) for name, count in minute.items())


@in_loop
async def test_the_sixth_login_of_a_minute_is_refused_with_the_time_to_wait(where: Where) -> None:
    async with open_limiter(where) as limiter:
        who = address(f"10.{secrets.randbelow(256)}.{secrets.randbelow(256)}.{secrets.randbelow(256)}")
        for left in (4, 3, 2, 1, 0):
            verdict = await limiter.admit("login", who)
            assert verdict is not None
            assert verdict.headers["X-RateLimit-Limit"] == "5"
            assert verdict.headers["X-RateLimit-Remaining"] == str(left)
            assert 0 < int(verdict.headers["X-RateLimit-Reset"]) <= 60
        refused = await refusal(limiter.admit("login", who))
        status, headers, _ = render(refused)
        assert status == 429 and 1 <= int(headers["Retry-After"]) <= 12
        assert headers["X-RateLimit-Remaining"] == "0"
        assert limiter.refusals["login"] == 1
        assert await limiter.admit("refresh", who)


@in_loop
async def test_workers_share_what_they_count(where: Where) -> None:
    async with open_limiter(where) as one, open_limiter(where) as two:
        who = user(somebody())
        for limiter in (one, two, one, two, one):
            await limiter.admit("login", who)
        assert (await refusal(two.admit("login", who))).code == "rate_limited"


@in_loop
async def test_a_class_without_a_rate_is_not_limited(where: Where) -> None:
    async with open_limiter(where, LimitSettings(login=None)) as limiter:
        for _ in range(50):
            assert await limiter.admit("login", "address:x") is None


@in_loop
async def test_other_settings_hold_from_now_on_and_buckets_stay_as_full_as_they_are(where: Where) -> None:
    async with open_limiter(where) as limiter:
        who = user(somebody())
        for _ in range(5):
            await limiter.admit("login", who)
        limiter.reload(LimitSettings(login=Rate(5, 61.0)))
        assert (await refusal(limiter.admit("login", who))).code == "rate_limited"
        limiter.reload(LimitSettings(login=None, polls_per_user=1))
        assert await limiter.admit("login", who) is None
        assert await limiter.polls.take(who)
        assert await limiter.polls.take(who) is None


# Wrong passwords


@in_loop
async def test_each_wrong_password_doubles_the_wait_up_to_the_longest(valkey: str) -> None:
    settings = LimitSettings(login_backoff_first_seconds=10.0, login_backoff_longest_seconds=60.0)
    async with open_limiter(valkey, settings) as limiter:
        name, waits = somebody(), []
        for _ in range(8):
            await limiter.note_password(name, "192.0.2.1", is_right=False)
            (outcome,) = await asyncio.gather(
                limiter.admit_password(name, "192.0.2.1"), return_exceptions=True
            )
            waits.append(int(outcome.headers["Retry-After"]) if isinstance(outcome, RelayError) else 0)
        assert waits == [0, 0, 10, 20, 40, 60, 60, 60]


@in_loop
async def test_the_right_user_gets_in_from_another_address_and_others_from_the_same(where: Where) -> None:
    async with open_limiter(where) as limiter:
        name = somebody()
        for _ in range(10):
            await limiter.note_password(name, "192.0.2.1", is_right=False)
        assert (await refusal(limiter.admit_password(name, "192.0.2.1"))).code == "login_backoff"
        await limiter.admit_password(name, "192.0.2.2")
        await limiter.admit_password(somebody(), "192.0.2.1")
        assert limiter.refusals["login_backoff"] == 1


@in_loop
async def test_the_right_password_forgets_the_wrong_ones(where: Where) -> None:
    async with open_limiter(where) as limiter:
        name = somebody()
        for _ in range(2):
            await limiter.note_password(name, "192.0.2.1", is_right=False)
        await limiter.note_password(name, "192.0.2.1", is_right=True)
        for _ in range(2):
            await limiter.note_password(name, "192.0.2.1", is_right=False)
        await limiter.admit_password(name, "192.0.2.1")


@in_loop
async def test_what_people_type_as_their_name_is_in_no_key_and_expires(valkey: str) -> None:
    async with open_limiter(valkey) as limiter:
        for name in ("hunter2-typed-in-the-wrong-field", "x" * 100_000, "lone \ud800"):
            await limiter.note_password(name, "192.0.2.1", is_right=False)
        with valkey_client.Valkey(unix_socket_path=valkey) as client:
            keys = list(client.scan_iter("relay:backoff:*"))
            assert keys and all(len(key) < 100 and client.pttl(key) > 0 for key in keys)


# Without room in Valkey, and without Valkey


@in_loop
async def test_a_store_that_is_full_still_counts_so_that_an_operator_can_log_in(
    make_valkey: Callable[..., RealValkey],
) -> None:
    server = make_valkey().start()
    async with open_limiter(server.socket_path) as limiter:
        await limiter.admit("login", "user:x")
        server.config("maxmemory", "1")
        who = user(somebody())
        for _ in range(5):
            assert await limiter.admit("login", who)
        assert (await refusal(limiter.admit("login", who))).code == "rate_limited"
        await limiter.note_password("x", "192.0.2.1", is_right=False)
        assert await limiter.polls.take(who)


@in_loop
async def test_without_valkey_nobody_gets_to_try_passwords_and_publishes_go_on(tmp_path: Path) -> None:
    client = make_client(ValkeySettings(), str(tmp_path / "nobody"))
    limiter = Limiter(client, LimitSettings(), "w")
    for name, fails_open in FAILS_OPEN.items():
        if fails_open:
            assert await limiter.admit(name, "user:x")
        else:
            with pytest.raises(StoreError):
                await limiter.admit(name, "user:x")
    with pytest.raises(StoreError):
        await limiter.admit_password("x", "192.0.2.1")
    await limiter.aclose()
    await client.aclose()
