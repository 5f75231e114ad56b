"""Signing in at a provider over HTTP: the way there, the way back, and whatever else may come back."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests

from pulsar_relay.accounts.user import FederatedIdentity, NewUser, UserPatch
from pulsar_relay.web.device import GRANT_TYPE
from tests.account_relays import UNLIMITED
from tests.openid_provider import CLIENT_ID, OpenIdProvider, openid_provider
from tests.sign_ins import PASSWORD, Browser, SignIns, oidc, sign_ins
from tests.valkeys import RealValkey


@pytest.fixture(scope="module")
def world(relay_valkey: RealValkey) -> Iterator[tuple[SignIns, OpenIdProvider]]:
    with openid_provider() as provider:
        providers = oidc(campus=provider.configured(), other=provider.configured())
        with sign_ins(relay_valkey.socket_path, limits=UNLIMITED, oidc=providers) as relay:
            yield relay, provider


@pytest.fixture
def relay(world: tuple[SignIns, OpenIdProvider]) -> SignIns:
    return world[0]


@pytest.fixture
def provider(world: tuple[SignIns, OpenIdProvider]) -> Iterator[OpenIdProvider]:
    provider = world[1]
    provider.changed = {"sub": uuid.uuid4().hex, "preferred_username": f"p-{uuid.uuid4().hex[:12]}"}
    answers = dict(provider.answers)
    yield provider
    provider.answers = answers


@pytest.fixture
def browser(relay: SignIns) -> Browser:
    return Browser(relay.url)


def begin(browser: Browser, provider: OpenIdProvider, **query: str) -> dict[str, str]:
    """What the browser brings back from the provider."""
    answer = browser.get("/auth/oidc/campus/login", **query)
    assert answer.status_code == 302, answer.text
    return provider.follow(answer.headers["Location"])


def come_back(browser: Browser, query: dict[str, str], provider: str = "campus") -> requests.Response:
    browser.session.headers["Accept"] = "application/json"
    return browser.get(f"/auth/oidc/{provider}/callback", **query)


def test_providers_are_listed(relay: SignIns) -> None:
    listed = relay.get("/auth/oidc/providers").json()
    assert [one["name"] for one in listed] == ["campus", "other"]
    assert listed[0] == {
        "name": "campus",
        "display_name": "The <provider>",
        "login_url": f"{relay.url}/auth/oidc/campus/login",
    }


def test_the_way_to_the_provider_says_all_that_the_contract_asks(
    relay: SignIns, provider: OpenIdProvider, browser: Browser
) -> None:
    answer = browser.get("/auth/oidc/campus/login", next="/elsewhere")
    parts = urlsplit(answer.headers["Location"])
    query = dict(parse_qsl(parts.query))
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{provider.url}/authorize"
    assert query.pop("tenant") == "1"
    drawn = {query.pop(name) for name in ("state", "nonce", "code_challenge")}
    assert {len(one) for one in drawn} == {43}
    assert query == {
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": f"{relay.url}/auth/oidc/campus/callback",
        "scope": "openid email profile",
        "code_challenge_method": "S256",
    }
    assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_who_comes_back_gets_an_access_token(
    relay: SignIns, provider: OpenIdProvider, browser: Browser
) -> None:
    answer = browser.get("/auth/oidc/campus/login")
    sent = dict(parse_qsl(urlsplit(answer.headers["Location"]).query))
    answer = come_back(browser, provider.follow(answer.headers["Location"]))
    assert answer.status_code == 200
    told = answer.json()
    assert told["refresh_token"] is told["refresh_token_secondary"] is None
    assert (told["token_type"], told["expires_in"]) == ("bearer", 600)
    verifier = [form for path, form, _ in provider.asked if path == "/token"][-1]["code_verifier"]
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    assert sent["code_challenge"] == challenge
    principal = relay.run(lambda: relay.accounts.authenticator.authenticate(told["access_token"]))
    assert principal.user.username == provider.changed["preferred_username"]
    assert principal.user.federated == FederatedIdentity(provider.url, provider.changed["sub"])
    assert principal.permissions == {"read", "write"}


def test_a_state_is_good_once(provider: OpenIdProvider, browser: Browser) -> None:
    query = begin(browser, provider)
    assert come_back(browser, query).status_code == 200
    answer = come_back(browser, query)
    assert answer.status_code == 400
    assert "Invalid or expired state" in answer.json()["detail"]


def test_a_state_is_good_in_the_browser_that_began_only(
    relay: SignIns, provider: OpenIdProvider, browser: Browser
) -> None:
    query = begin(browser, provider)
    other = Browser(relay.url)
    other.get("/auth/oidc/campus/login")
    assert come_back(other, query).status_code == 400
    assert come_back(Browser(relay.url), begin(browser, provider)).status_code == 400


def test_a_state_is_good_for_its_own_provider_only(provider: OpenIdProvider, browser: Browser) -> None:
    assert come_back(browser, begin(browser, provider), "other").status_code == 400


def test_an_answer_that_names_another_issuer_is_refused(provider: OpenIdProvider, browser: Browser) -> None:
    query = begin(browser, provider)
    assert come_back(browser, query | {"iss": "https://attacker.example"}).status_code == 400
    assert come_back(browser, begin(browser, provider) | {"iss": provider.url}).status_code == 200


@pytest.mark.parametrize("query", [{}, {"code": "x"}, {"state": "x"}, {"code": "", "state": ""}])
def test_without_code_and_state_nobody_comes_back(browser: Browser, query: dict[str, str]) -> None:
    assert come_back(browser, query).status_code == 400


def test_what_a_provider_says_of_an_error_is_told_and_ends_the_sign_in(
    provider: OpenIdProvider, browser: Browser
) -> None:
    query = begin(browser, provider)
    told = {"error": "access_denied", "error_description": "no\n<b>" + "x" * 1000}
    answer = come_back(browser, {"state": query["state"], **told})
    assert answer.status_code == 400
    assert "OIDC error: access_denied: no?<b>xxx" in answer.json()["detail"]
    assert len(answer.json()["detail"]) < 500
    assert come_back(browser, query).status_code == 400


@pytest.mark.parametrize("path", ["login", "callback"])
def test_a_provider_that_is_not_configured_is_not_found(relay: SignIns, path: str) -> None:
    assert relay.get(f"/auth/oidc/none/{path}").status_code == 404


def test_without_providers_there_is_nothing_to_sign_in_with(relay_valkey: RealValkey) -> None:
    with sign_ins(relay_valkey.socket_path) as relay:
        assert relay.get("/auth/oidc/providers").json() == []
        for path in ("login", "callback"):
            answer = relay.get(f"/auth/oidc/campus/{path}")
            assert answer.status_code == 404
            assert "OIDC disabled" in answer.json()["detail"]


@pytest.mark.parametrize(
    "changed",
    [{"nonce": "x"}, {"aud": "x"}, {"iss": "https://x.example"}, {"exp": 1}, {"sub": ""}, {"sub": None}],
    ids=str,
)
def test_an_id_token_that_is_wrong_signs_nobody_in(
    provider: OpenIdProvider, browser: Browser, changed: dict[str, Any]
) -> None:
    query = begin(browser, provider)
    provider.changed |= changed
    answer = come_back(browser, query)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("OIDC validation failed")


def test_a_code_that_the_provider_does_not_know_signs_nobody_in(
    provider: OpenIdProvider, browser: Browser
) -> None:
    query = begin(browser, provider)
    provider.answer("/token", {"error": "invalid_grant"}, 400)
    answer = come_back(browser, query)
    assert (answer.status_code, answer.json()["error"]) == (400, "sign_in_invalid")


def test_a_provider_that_fails_is_a_502(provider: OpenIdProvider, browser: Browser) -> None:
    query = begin(browser, provider)
    provider.answer("/token", {}, 503)
    assert come_back(browser, query).status_code == 502


def test_a_provider_that_is_not_there_is_a_502(relay_valkey: RealValkey) -> None:
    with openid_provider() as provider:
        configured = oidc(campus=provider.configured())
    with sign_ins(relay_valkey.socket_path, limits=UNLIMITED, oidc=configured) as relay:
        assert relay.get("/auth/oidc/campus/login").status_code == 502


def test_an_account_that_is_closed_gets_nothing(
    relay: SignIns, provider: OpenIdProvider, browser: Browser
) -> None:
    assert come_back(browser, begin(browser, provider)).status_code == 200
    identity = FederatedIdentity(provider.url, provider.changed["sub"])
    user = relay.run(lambda: relay.accounts.users.find_federated(identity))
    assert user is not None
    relay.run(lambda: relay.accounts.users.patch(user.user_id, UserPatch(is_active=False)))
    answer = come_back(browser, begin(browser, provider))
    assert answer.status_code == 403
    assert "access_token" not in answer.text


def test_the_name_of_a_local_account_is_a_conflict(
    relay: SignIns, provider: OpenIdProvider, browser: Browser
) -> None:
    new = NewUser(provider.changed["preferred_username"])
    relay.run(lambda: relay.accounts.users.create(new, PASSWORD))
    assert come_back(browser, begin(browser, provider)).status_code == 409


def codes(relay: SignIns) -> dict[str, str]:
    made: dict[str, str] = relay.post("/auth/device/code", client_hint="a device").json()
    return made


def test_a_device_is_let_in_by_somebody_who_has_come_back_and_said_yes(
    relay: SignIns, provider: OpenIdProvider, browser: Browser
) -> None:
    made = codes(relay)
    page = come_back(browser, begin(browser, provider, device_user_code=made["user_code"]))
    assert page.status_code == 200
    assert page.headers["Content-Type"].startswith("text/html")
    form = {"grant_type": GRANT_TYPE, "device_code": made["device_code"]}
    assert relay.post("/auth/device/token", **form).json() == {"error": "authorization_pending"}
    assert browser.decide(page).status_code == 200
    name = f"device:{hashlib.sha256(made['device_code'].encode()).hexdigest()}"
    key = f"user-data:{{accounts}}:{name}"
    relay.run(lambda: relay.relay.worker._client.command("HDEL", key, "polled_at"))
    told = relay.post("/auth/device/token", **form).json()
    _, claims, _ = told["access_token"].split(".")
    assert (
        json.loads(base64.urlsafe_b64decode(claims + "=="))["username"]
        == provider.changed["preferred_username"]
    )


def test_a_device_that_is_gone_is_told_before_anybody_is_made_a_user(
    relay: SignIns, provider: OpenIdProvider, browser: Browser
) -> None:
    made = codes(relay)
    query = begin(browser, provider, device_user_code=made["user_code"])
    relay.post("/auth/device/deny", user_code=made["user_code"])
    answer = come_back(browser, query)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("Device-flow session expired or already consumed")
    identity = FederatedIdentity(provider.url, provider.changed["sub"])
    assert relay.run(lambda: relay.accounts.users.find_federated(identity)) is None


def test_what_goes_wrong_is_a_page_for_who_looks_at_pages(provider: OpenIdProvider, browser: Browser) -> None:
    answer = browser.get("/auth/oidc/campus/callback", error="<script>", state="x")
    assert answer.status_code == 400
    assert "OIDC error: &lt;script&gt;" in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
