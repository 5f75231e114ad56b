"""A provider over the wire: what it says of itself, its keys, and answers that are not to be used."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pulsar_relay.errors import RelayError
from pulsar_relay.identity_providers import IdentityProvider, IdentityProviders
from pulsar_relay.oidc.provider import Provider
from pulsar_relay.oidc.provider_calls import MOST_BYTES, ProviderCalls
from tests.accounts import Clock
from tests.openid_provider import CLIENT_ID, OpenIdProvider, as_json, key, openid_provider, public_jwk
from tests.openid_provider import claims as claims_of
from tests.stores import in_loop

DISCOVERY = "/.well-known/openid-configuration"


@pytest.fixture
def remote() -> Iterator[OpenIdProvider]:
    with openid_provider() as provider:
        provider.nonce = "the nonce"
        yield provider


@asynccontextmanager
async def local(
    remote: OpenIdProvider, clock: Callable[[], float] = time.monotonic, **fields: Any
) -> AsyncIterator[Provider]:
    calls = ProviderCalls(whole_seconds=2.0)
    try:
        yield Provider(configured(remote, **fields), calls, clock=clock)
    finally:
        calls.close()


def configured(remote: OpenIdProvider, **fields: Any) -> IdentityProvider:
    (settings,) = IdentityProviders().parse(json.dumps({"campus": remote.configured(**fields)}))
    return settings


async def refusal(attempt: Awaitable[object]) -> str:
    with pytest.raises(RelayError) as refused:
        await attempt
    return refused.value.code


def redeem(provider: Provider) -> Awaitable[tuple[Any, str | None]]:
    return provider.redeem("a code", "the verifier", "https://relay.example/callback", "the nonce")


@in_loop
async def test_a_code_is_redeemed_as_the_client_that_is_configured(remote: OpenIdProvider) -> None:
    async with local(remote) as provider:
        claims, access_token = await redeem(provider)
    assert claims["sub"] == "12345678-abc"
    assert access_token == "an access token"
    ((_, form, headers),) = [one for one in remote.asked if one[0] == "/token"]
    assert form == {
        "grant_type": "authorization_code",
        "code": "a code",
        "redirect_uri": "https://relay.example/callback",
        "client_id": CLIENT_ID,
        "code_verifier": "the verifier",
    }
    # As RFC 6749 has it: encoded as a form's values, then joined.
    assert headers["Authorization"] == "Basic cmVsYXklM0ErdGhlK2NsaWVudDphK3NlY3JldCslMjYrbW9yZQ=="


@in_loop
async def test_what_is_configured_needs_no_discovery(remote: OpenIdProvider) -> None:
    async with local(remote, discovery_url=None, **remote.document()) as provider:
        await redeem(provider)
    assert remote.count(DISCOVERY) == 0


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("", 600),
        ("max-age=1200", 1200),
        ("public, max-age=5", 60),
        ("max-age=999999999", 86400),
        ("no-store", 600),
    ],
)
def test_keys_are_kept_as_long_as_their_server_says_within_bounds(
    remote: OpenIdProvider, told: str, seconds: int
) -> None:
    clock = Clock(1000.0)
    remote.answer("/keys", {"keys": [public_jwk(key("RSA"))]}, Cache_Control=told)

    @in_loop
    async def ask() -> None:
        async with local(remote, clock) as provider:
            await redeem(provider)
            clock.now += seconds - 1
            await redeem(provider)
            assert remote.count("/keys") == 1
            clock.now += 2
            await redeem(provider)
            assert remote.count("/keys") == 2

    ask()


@in_loop
async def test_a_key_that_is_new_is_fetched_once(remote: OpenIdProvider) -> None:
    async with local(remote) as provider:
        remote.answer("/keys", {"keys": [public_jwk(key("RSA", "old"))]})
        assert await refusal(redeem(provider)) == "sign_in_invalid"
        assert remote.count("/keys") == 2
        remote.answer("/keys", {"keys": [public_jwk(key("RSA"))]})
        await redeem(provider)
        assert remote.count("/keys") == 3
        await redeem(provider)
        assert remote.count("/keys") == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"issuer": None},
        {"issuer": ""},
        {"issuer": 5},
        {"issuer": "https://another.example"},
        {"token_endpoint": None},
        {"token_endpoint": "http://provider.example/token"},
        {"token_endpoint": "ftp://127.0.0.1/token"},
        {"token_endpoint": "https://user@provider.example/"},
        {"token_endpoint": ["https://provider.example"]},
        {"jwks_uri": "file:///etc/passwd"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "https://a.example/" + "x" * 3000},
        {"userinfo_endpoint": "http://169.254.169.254/latest"},
    ],
    ids=str,
)
def test_a_document_that_leads_elsewhere_is_not_gone_by(
    remote: OpenIdProvider, changed: dict[str, Any]
) -> None:
    remote.answer(DISCOVERY, remote.document(**changed))

    @in_loop
    async def ask() -> None:
        async with local(remote) as provider:
            assert await refusal(provider.addresses()) == "provider_unavailable"

    ask()


def _endless(_: object) -> Any:
    return 200, {}, b"x" * (MOST_BYTES + 1)


def _late(_: object) -> Any:
    time.sleep(3)
    return as_json({})


@pytest.mark.parametrize("path", [DISCOVERY, "/keys", "/token"])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda _: as_json({}, 500), id="500"),
        pytest.param(lambda _: as_json({}, 302, Location="/elsewhere"), id="redirect"),
        pytest.param(lambda _: as_json([]), id="a list"),
        pytest.param(lambda _: (200, {}, b"<html>"), id="no JSON"),
        pytest.param(lambda _: (200, {}, b"[" * 100_000), id="deep"),
        pytest.param(lambda _: (200, {"X": "y" * 100_000}, b"{}"), id="long headers"),
        pytest.param(_endless, id="too long"),
        pytest.param(_late, id="too late"),
    ],
)
def test_an_answer_that_cannot_be_used_is_the_providers_fault(
    remote: OpenIdProvider, path: str, answer: Callable[[Any], Any]
) -> None:
    remote.answers[path] = answer

    @in_loop
    async def ask() -> None:
        async with local(remote) as provider:
            assert await refusal(redeem(provider)) == "provider_unavailable"

    ask()
    assert remote.count("/elsewhere") == 0


@in_loop
async def test_a_provider_that_is_not_there_is_unavailable(remote: OpenIdProvider) -> None:
    for nowhere in ("http://127.0.0.1:1", "https://127.0.0.1:1", "https://nowhere.invalid"):
        async with local(remote, discovery_url=f"{nowhere}{DISCOVERY}") as provider:
            assert await refusal(redeem(provider)) == "provider_unavailable"


@pytest.mark.parametrize(
    "answer", [{}, {"id_token": None}, {"id_token": 5}, {"id_token": ""}, {"error": "x"}]
)
def test_a_code_that_gives_no_id_token_signs_nobody_in(remote: OpenIdProvider, answer: object) -> None:
    remote.answer("/token", answer, 400 if "error" in str(answer) else 200)

    @in_loop
    async def ask() -> None:
        async with local(remote) as provider:
            assert await refusal(redeem(provider)) == "sign_in_invalid"

    ask()


@in_loop
async def test_a_token_of_another_sign_in_is_refused_without_a_word_of_it(remote: OpenIdProvider) -> None:
    async with local(remote) as provider:
        remote.nonce = "another, private"
        with pytest.raises(RelayError, match="another sign-in") as refused:
            await redeem(provider)
        assert "private" not in refused.value.message


@in_loop
async def test_claims_are_completed_from_the_providers_answer_about_the_same_person(
    remote: OpenIdProvider,
) -> None:
    remote.answer(DISCOVERY, remote.document(userinfo_endpoint=f"{remote.url}/me"))
    claims = claims_of(remote.url, "n")
    async with local(remote) as provider:
        remote.answer(
            "/me", {"sub": claims["sub"], "email": "a@b.example", "iss": "https://attacker.example"}
        )
        assert await provider.complete(claims, "the token") == {**claims, "email": "a@b.example"}
        assert remote.asked[-1][2]["Authorization"] == "Bearer the token"
        remote.answer("/me", {"sub": "another", "email": "a@b.example"})
        assert await refusal(provider.complete(claims, "the token")) == "sign_in_invalid"
        assert await provider.complete(claims, None) == claims
        assert await provider.complete(claims, "a\r\nX: y") == claims
