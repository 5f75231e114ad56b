"""What devices ask over HTTP: each row of the contract, by hand and by the client that people have."""

from __future__ import annotations

import base64
import json
import logging
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from pulsar_relay_client.credentials import CredentialsFile
from pulsar_relay_client.device_flow import DeviceFlowError, RelayDeviceFlowAuthenticator

from pulsar_relay.accounts.user import UserPatch
from pulsar_relay.kinds import Rate
from pulsar_relay.web.device import GRANT_TYPE
from tests.account_relays import UNLIMITED
from tests.conditions import WAIT_SECONDS
from tests.sign_ins import Browser, SignIns, sign_ins
from tests.valkeys import RealValkey


@pytest.fixture(scope="module")
def relay(relay_valkey: RealValkey) -> Iterator[SignIns]:
    with sign_ins(
        relay_valkey.socket_path, limits=UNLIMITED, device={"poll_interval_seconds": 1.0}
    ) as running:
        yield running


@pytest.fixture
def name() -> str:
    return f"user-{uuid.uuid4().hex[:12]}"


def codes(relay: SignIns, **form: Any) -> dict[str, Any]:
    answer = relay.post("/auth/device/code", **form)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def token(relay: SignIns, device_code: str, **form: Any) -> requests.Response:
    return relay.post("/auth/device/token", grant_type=GRANT_TYPE, device_code=device_code, **form)


def approve(relay: SignIns, user_code: str, name: str) -> None:
    browser = Browser(relay.url)
    answer = browser.decide(browser.sign_in(user_code, name))
    assert answer.status_code == 200, answer.text


def error(answer: requests.Response) -> str:
    assert answer.status_code == 400
    told: str = answer.json()["error"]
    return told


def test_codes_are_told_with_all_that_clients_need(relay: SignIns) -> None:
    made = codes(relay, client_hint="pulsar", scope="ignored")
    assert set(made) == {
        *(
            "device_code",
            "user_code",
            "verification_uri",
            "verification_uri_complete",
            "expires_in",
            "interval",
        ),
    }
    assert made["verification_uri"] == f"{relay.url}/auth/device"
    assert made["verification_uri_complete"] == f"{relay.url}/auth/device?user_code={made['user_code']}"
    assert (made["expires_in"], made["interval"]) == (600, 1)
    assert len(made["device_code"]) == 43


def test_a_configured_address_is_the_one_that_is_told(relay_valkey: RealValkey) -> None:
    base = {"base_url": "https://relay.example.org"}
    with sign_ins(relay_valkey.socket_path, limits=UNLIMITED, oidc=base) as relay:
        assert codes(relay)["verification_uri"] == "https://relay.example.org/auth/device"


def test_a_body_that_is_no_form_is_not_read(relay: SignIns) -> None:
    url = f"{relay.url}/auth/device/code"
    assert requests.post(url, json={"pair": "nonsense"}, timeout=WAIT_SECONDS).status_code == 200
    form = {"pair": (None, "nonsense")}
    assert requests.post(url, files=form, timeout=WAIT_SECONDS).status_code == 422
    assert relay.post("/auth/device/code", pair="nonsense").status_code == 422
    assert relay.post("/auth/device/code", pair="").status_code == 200


@pytest.mark.parametrize("missing", ["grant_type", "device_code"])
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_a_field_that_is_missing_is_422(relay: SignIns, missing: str, how: str) -> None:
    form = {"grant_type": "another", "device_code": "x"} | {missing: ""}
    answer = relay.post(
        "/auth/device/token", **{name: form[name] for name in form if how == "empty" or form[name]}
    )
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", missing]


def test_another_grant_type_is_told_before_the_code_is_looked_at(relay: SignIns) -> None:
    made = codes(relay)
    answer = relay.post("/auth/device/token", grant_type="password", device_code=made["device_code"])
    assert error(answer) == "unsupported_grant_type"
    assert error(token(relay, made["device_code"])) == "authorization_pending"


def test_an_unknown_code_is_told_as_expired(relay: SignIns) -> None:
    answer = token(relay, "x" * 43)
    assert error(answer) == "expired_token"
    assert answer.json() == {"error": "expired_token", "error_description": "Unknown device_code"}


def test_pending_then_too_early_then_let_in_and_then_unknown(relay: SignIns, name: str) -> None:
    user = relay.make_user(name)
    made = codes(relay, client_hint="pulsar")
    answer = token(relay, made["device_code"], client_id="ignored")
    assert (error(answer), answer.json()) == ("authorization_pending", {"error": "authorization_pending"})
    assert error(token(relay, made["device_code"])) == "slow_down"
    approve(relay, made["user_code"], name)
    answer = _in_time(relay, made["device_code"])
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    told = answer.json()
    assert set(told) == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert (told["token_type"], told["expires_in"]) == ("bearer", 600)
    _, claims, _ = told["access_token"].split(".")
    assert json.loads(base64.urlsafe_b64decode(claims + "=="))["sub"] == user.user_id
    (session,) = relay.run(lambda: relay.accounts.sessions.list(user.user_id))
    assert session.hint == "pulsar"
    assert token(relay, made["device_code"]).json()["error_description"] == "Unknown device_code"


def _in_time(relay: SignIns, device_code: str) -> requests.Response:
    """The first answer that is not that it came too early."""
    while True:
        answer = token(relay, device_code)
        if answer.json().get("error") != "slow_down":
            return answer


def test_a_pair_are_two_sessions_that_know_nothing_of_each_other(relay: SignIns, name: str) -> None:
    user = relay.make_user(name)
    made = codes(relay, pair="true", client_hint="pulsar")
    approve(relay, made["user_code"], name)
    told = token(relay, made["device_code"]).json()
    first, second = told["refresh_token"], told["refresh_token_secondary"]
    sessions = relay.run(lambda: relay.accounts.sessions.list(user.user_id))
    assert {session.hint for session in sessions} == {"pulsar", "pulsar-secondary"}
    relay.run(lambda: relay.accounts.sessions.revoke(first, whole_chain=True))
    relay.run(lambda: relay.accounts.refresh(second))


def test_many_that_poll_at_the_same_time_get_one_session(relay: SignIns, name: str) -> None:
    user = relay.make_user(name)
    made = codes(relay)
    approve(relay, made["user_code"], name)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: token(relay, made["device_code"]), range(16)))
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 15
    assert len(relay.run(lambda: relay.accounts.sessions.list(user.user_id))) == 1


def test_a_device_can_be_denied_by_its_user_code_alone(relay: SignIns) -> None:
    made = codes(relay)
    typed = made["user_code"].lower().replace("-", " ")
    answer = relay.post("/auth/device/deny", user_code=typed)
    assert (answer.status_code, answer.json()) == (200, {"status": "denied"})
    answer = relay.post("/auth/device/deny", user_code=typed)
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("Unknown user_code")
    assert token(relay, made["device_code"]).json() == {"error": "access_denied"}
    assert error(token(relay, made["device_code"])) == "expired_token"
    assert relay.post("/auth/device/deny").status_code == 422


def test_a_page_of_another_site_denies_nothing(relay: SignIns) -> None:
    made = codes(relay)
    headers = {"Sec-Fetch-Site": "cross-site"}
    answer = requests.post(
        f"{relay.url}/auth/device/deny",
        data={"user_code": made["user_code"]},
        headers=headers,
        timeout=WAIT_SECONDS,
    )
    assert (answer.status_code, answer.json()["error"]) == (403, "cross_site")


@pytest.mark.parametrize("change", [UserPatch(is_active=False), UserPatch(password="another password")])
def test_an_account_that_is_closed_after_the_approval_gets_nothing(
    relay: SignIns, name: str, change: UserPatch
) -> None:
    user = relay.make_user(name)
    made = codes(relay, pair="true")
    approve(relay, made["user_code"], name)
    relay.run(lambda: relay.accounts.users.patch(user.user_id, change))
    assert error(token(relay, made["device_code"])) == "access_denied"
    assert relay.run(lambda: relay.accounts.sessions.list(user.user_id)) == []


def test_an_account_that_is_deleted_after_the_approval_gets_nothing(relay: SignIns, name: str) -> None:
    user = relay.make_user(name)
    made = codes(relay)
    approve(relay, made["user_code"], name)
    relay.run(lambda: relay.accounts.users.delete(user.user_id))
    assert error(token(relay, made["device_code"])) == "access_denied"


def test_a_device_beyond_the_rate_is_told_to_slow_down_and_not_lost(relay_valkey: RealValkey) -> None:
    """Today's client gives up on a 429."""
    with sign_ins(relay_valkey.socket_path, limits=UNLIMITED | {"device_token": Rate(1, 3600.0)}) as relay:
        made = codes(relay)
        answers = [token(relay, made["device_code"]) for _ in range(2)]
        assert "slow_down" in map(error, answers)
        assert answers[1].headers["X-RateLimit-Remaining"] == "0"


@pytest.mark.parametrize(
    ("limit", "path"), [("device_code", "/auth/device/code"), ("device_page", "/auth/device/deny")]
)
def test_codes_cannot_be_asked_for_or_guessed_without_end(
    relay_valkey: RealValkey, limit: str, path: str
) -> None:
    with sign_ins(relay_valkey.socket_path, limits=UNLIMITED | {limit: Rate(2, 3600.0)}) as relay:
        answers = [relay.post(path, user_code="BBBB-BBBB") for _ in range(3)]
        assert answers[-1].status_code == 429
        assert int(answers[-1].headers["Retry-After"]) > 0


def test_no_code_token_or_password_is_logged(
    relay: SignIns, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    relay.make_user(name)
    made = codes(relay)
    browser = Browser(relay.url)
    browser.sign_in(made["user_code"], name, "a wrong password")
    approve(relay, made["user_code"], name)
    told = token(relay, made["device_code"]).json()
    written = "\n".join(
        str(record.__dict__) for record in caplog.records if not record.name.startswith("urllib3")
    )
    assert "approve_device" in written
    for secret in (*told.values(), made["device_code"], made["user_code"], "a wrong password"):
        if isinstance(secret, str) and secret != "bearer":
            assert secret not in written


# ------------------------------------------------------------------------------ the client that people have


def authenticator(relay: SignIns, folder: Path, **arguments: Any) -> RelayDeviceFlowAuthenticator:
    return RelayDeviceFlowAuthenticator(relay.url, CredentialsFile(folder / "credentials.json"), **arguments)


def user_code_of(uri: str, user_code: str) -> str:
    assert uri.endswith(f"/auth/device?user_code={user_code}")
    return user_code


def test_the_clients_authenticator_signs_in(relay: SignIns, name: str, tmp_path: Path) -> None:
    user = relay.make_user(name)
    tmp_path.chmod(0o700)
    flow = authenticator(
        relay,
        tmp_path,
        pair=True,
        on_user_code=lambda uri, code: approve(relay, user_code_of(uri, code), name),
    )
    credentials = flow.run()
    assert credentials["refresh_token_secondary"]
    signed_in = relay.run(lambda: relay.accounts.refresh(credentials["refresh_token"]))
    assert signed_in.access.user_id == user.user_id
    stored = json.loads((tmp_path / "credentials.json").read_text())
    assert stored["access_token"] == credentials["access_token"]


def test_the_clients_authenticator_hears_that_it_was_refused(
    relay: SignIns, name: str, tmp_path: Path
) -> None:
    relay.make_user(name)

    def refuse(uri: str, user_code: str) -> None:
        browser = Browser(relay.url)
        assert browser.decide(browser.sign_in(user_code, name), "deny").status_code == 200

    with pytest.raises(DeviceFlowError, match="denied"):
        authenticator(relay, tmp_path, on_user_code=refuse).run()
