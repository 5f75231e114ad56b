"""The device page: who signs in decides, and nobody decides for somebody else."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from pulsar_relay.accounts.user import UserPatch
from pulsar_relay.kinds import Rate
from tests.account_relays import UNLIMITED
from tests.openid_provider import openid_provider
from tests.sign_ins import PASSWORD, Browser, SignIns, oidc, sign_ins, ticket
from tests.valkeys import RealValkey


@pytest.fixture(scope="module")
def relay(relay_valkey: RealValkey) -> Iterator[SignIns]:
    with sign_ins(relay_valkey.socket_path, limits=UNLIMITED) as running:
        yield running


@pytest.fixture
def name(relay: SignIns) -> str:
    name = f"user-{uuid.uuid4().hex[:12]}"
    relay.make_user(name)
    return name


@pytest.fixture
def user_code(relay: SignIns) -> str:
    code: str = relay.post("/auth/device/code", client_hint="<b>Pulsar</b> & co").json()["user_code"]
    return code


@pytest.fixture
def browser(relay: SignIns) -> Browser:
    return Browser(relay.url)


def is_pending(relay: SignIns, user_code: str) -> bool:
    return relay.get("/auth/device", user_code=user_code).status_code == 200


def test_without_a_code_one_is_asked_for(relay: SignIns) -> None:
    for path in ("/auth/device", "/auth/device/"):
        answer = relay.get(path)
        assert answer.status_code == 200
        assert 'name="user_code"' in answer.text


@pytest.mark.parametrize("typed", ["BBBB-BBBB", "nonsense", "<script>", "x" * 5000])
def test_a_code_that_no_device_waits_with_is_not_found(relay: SignIns, typed: str) -> None:
    answer = relay.get("/auth/device", user_code=typed)
    assert answer.status_code == 404
    assert answer.headers["Content-Type"].startswith("text/html")
    assert typed not in answer.text


def test_a_code_is_found_however_it_is_typed(relay: SignIns, user_code: str) -> None:
    for typed in (
        user_code,
        user_code.lower(),
        user_code.replace("-", ""),
        f" {user_code.replace('-', ' ')} ",
    ):
        answer = relay.get("/auth/device", user_code=typed)
        assert answer.status_code == 200
        assert user_code in answer.text


def test_what_a_device_says_of_itself_is_text(
    relay: SignIns, user_code: str, name: str, browser: Browser
) -> None:
    for page in (relay.get("/auth/device", user_code=user_code), browser.sign_in(user_code, name)):
        assert "&lt;b&gt;Pulsar&lt;/b&gt; &amp; co" in page.text
        assert "<b>" not in page.text


def test_every_page_allows_no_script_and_no_frame_and_is_not_kept(
    relay: SignIns, user_code: str, name: str, browser: Browser
) -> None:
    confirm = browser.sign_in(user_code, name)
    pages = [
        relay.get("/auth/device"),
        relay.get("/auth/device", user_code=user_code),
        relay.get("/auth/device", user_code="none"),
        browser.sign_in(user_code, name, "wrong"),
        confirm,
        browser.decide(confirm),
        browser.decide(confirm),
    ]
    for page in pages:
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert page.headers["Cache-Control"] == "no-store"
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "<script" not in page.text
        assert "style=" not in page.text


def test_signing_in_lets_nobody_in_without_a_decision(
    relay: SignIns, user_code: str, name: str, browser: Browser
) -> None:
    page = browser.sign_in(user_code, name)
    assert (page.status_code, is_pending(relay, user_code)) == (200, True)
    for shown in (user_code, name, 'value="approve"', 'value="deny"'):
        assert shown in page.text
    assert browser.decide(page).status_code == 200
    assert not is_pending(relay, user_code)


def test_a_decision_is_made_once(relay: SignIns, user_code: str, name: str, browser: Browser) -> None:
    page = browser.sign_in(user_code, name)
    assert browser.decide(page, "perhaps").status_code == 422
    assert browser.decide(page, "deny").status_code == 200
    assert browser.decide(page, "approve").status_code == 400


def test_a_device_that_is_gone_meanwhile_is_said_to_be(
    relay: SignIns, user_code: str, name: str, browser: Browser
) -> None:
    page = browser.sign_in(user_code, name)
    assert relay.post("/auth/device/deny", user_code=user_code).status_code == 200
    answer = browser.decide(page)
    assert answer.status_code == 400
    assert "expired or already consumed" in answer.text


def test_a_ticket_is_good_in_the_browser_that_signed_in_only(
    relay: SignIns, user_code: str, name: str, browser: Browser
) -> None:
    page = browser.sign_in(user_code, name)
    other = Browser(relay.url)
    other.get("/auth/device", user_code=user_code)
    assert other.decide(page).status_code == 400
    assert is_pending(relay, user_code)
    assert relay.post("/auth/device/decision", ticket=ticket(page), decision="approve").status_code == 400


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_form_of_another_site_is_refused(
    relay: SignIns, user_code: str, name: str, browser: Browser, site: str
) -> None:
    page = browser.sign_in(user_code, name)
    form = {"ticket": ticket(page), "decision": "approve"}
    assert browser.post("/auth/device/decision", form, Sec_Fetch_Site=site).status_code == 403
    form = {"user_code": user_code, "username": name, "password": PASSWORD}
    assert browser.post("/auth/device/sign-in", form, Sec_Fetch_Site=site).status_code == 403
    assert is_pending(relay, user_code)
    # It was not even looked at.
    assert browser.decide(page).status_code == 200


def test_a_form_without_the_cookie_of_the_page_signs_nobody_in(
    relay: SignIns, user_code: str, name: str
) -> None:
    answer = relay.post("/auth/device/sign-in", user_code=user_code, username=name, password=PASSWORD)
    assert answer.status_code == 403


def test_the_cookie_is_no_scripts_and_no_other_sites(relay: SignIns, user_code: str) -> None:
    header = relay.get("/auth/device", user_code=user_code).headers["Set-Cookie"]
    assert header.startswith("relay-browser=")
    for word in ("HttpOnly", "SameSite=Lax", "Path=/"):
        assert word in header


def test_where_the_relay_is_reached_by_tls_the_cookie_goes_by_tls_only(relay_valkey: RealValkey) -> None:
    base = {"base_url": "https://relay.example.org"}
    with sign_ins(relay_valkey.socket_path, limits=UNLIMITED, oidc=base) as relay:
        code = relay.post("/auth/device/code").json()["user_code"]
        header = relay.get("/auth/device", user_code=code).headers["Set-Cookie"]
        assert header.startswith("__Host-relay-browser=")
        assert "Secure" in header


def test_a_wrong_password_is_said_and_waited_for(
    relay: SignIns, user_code: str, name: str, browser: Browser
) -> None:
    for _ in range(3):
        page = browser.sign_in(user_code, name, "wrong <one>")
        assert page.status_code == 401
        assert f'value="{name}"' in page.text
        assert "wrong &lt;one" not in page.text
    page = browser.sign_in(user_code, name)
    assert page.status_code == 429
    assert int(page.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("lacking", ["username", "password"])
def test_a_form_that_is_not_filled_in_comes_back(
    relay: SignIns, user_code: str, browser: Browser, lacking: str
) -> None:
    browser.get("/auth/device", user_code=user_code)
    form = {"user_code": user_code, "username": "somebody", "password": "something"} | {lacking: ""}
    answer = browser.post("/auth/device/sign-in", form)
    assert answer.status_code == 422
    assert user_code in answer.text


def test_an_account_that_is_closed_decides_nothing(
    relay: SignIns, user_code: str, name: str, browser: Browser
) -> None:
    page = browser.sign_in(user_code, name)
    user = relay.run(lambda: relay.accounts.users.find_by_name(name))
    assert user is not None
    relay.run(lambda: relay.accounts.users.patch(user.user_id, UserPatch(is_active=False)))
    assert browser.decide(page).status_code == 403
    assert browser.sign_in(user_code, name).status_code == 403
    assert is_pending(relay, user_code)


def test_a_password_that_is_changed_ends_what_was_signed_in_with_it(
    relay: SignIns, user_code: str, name: str, browser: Browser
) -> None:
    page = browser.sign_in(user_code, name)
    user = relay.run(lambda: relay.accounts.users.find_by_name(name))
    assert user is not None
    relay.run(lambda: relay.accounts.users.patch(user.user_id, UserPatch(password="another password")))
    assert browser.decide(page).status_code == 400
    assert is_pending(relay, user_code)


def test_user_codes_cannot_be_guessed_without_end(relay_valkey: RealValkey) -> None:
    with sign_ins(relay_valkey.socket_path, limits=UNLIMITED | {"device_page": Rate(3, 3600.0)}) as relay:
        answers = [relay.get(path, user_code="BBBB-BBBB") for path in ["/auth/device", "/auth/device/"] * 2]
        assert answers[-1].status_code == 429
        assert answers[-1].headers["Content-Type"].startswith("text/html")
        assert int(answers[-1].headers["Retry-After"]) > 0
        # All ways to try a code count together.
        assert relay.post("/auth/device/deny", user_code="BBBB-BBBB").status_code == 429


def test_passwords_are_tried_here_as_often_as_at_the_login(relay_valkey: RealValkey) -> None:
    with sign_ins(relay_valkey.socket_path, limits=UNLIMITED | {"login": Rate(1, 3600.0)}) as relay:
        code = relay.post("/auth/device/code").json()["user_code"]
        browser = Browser(relay.url)
        statuses = [browser.sign_in(code, name, "wrong").status_code for name in ("one", "two")]
        assert statuses[-1] == 429


def test_each_provider_has_a_link(relay_valkey: RealValkey) -> None:
    with (
        openid_provider() as provider,
        sign_ins(
            relay_valkey.socket_path, limits=UNLIMITED, oidc=oidc(campus=provider.configured())
        ) as relay,
    ):
        code = relay.post("/auth/device/code").json()["user_code"]
        page = relay.get("/auth/device", user_code=code)
        assert f'href="/auth/oidc/campus/login?device_user_code={code}"' in page.text
        assert "Sign in with The &lt;provider&gt;" in page.text
