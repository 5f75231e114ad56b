"""Forged tokens, sent to a relay with accounts in each way in which a token can be shown to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import quote

import jwt
import pytest
import requests

from tests.account_relays import AccountRelay
from tests.account_relays import account_relay as account_relay
from tests.conditions import WAIT_SECONDS
from tests.forgeries import changed, forged
from tests.talks import Talk

EXAMPLE = {"sub": "x", "username": "x", "permissions": [], "iat": 0, "exp": 0, "jti": "0" * 32} | {
    "iss": "x",
    "aud": "x",
    "gen": 0,
}
NO_HEADER = {"leading space", "trailing line feed", "NUL", "lone surrogate", "no ASCII"}
"""What no header can carry as it is. In a frame it can come."""
FORGERIES = sorted(forged(EXAMPLE, 0))
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
Show = Callable[[AccountRelay, str], requests.Response]


class Owner:
    """A user with a topic, and all that is forged of their token."""

    def __init__(self, relay: AccountRelay) -> None:
        self.relay = relay
        user = relay.new_user("read", "write", "admin")
        self.tokens = relay.login(user["username"], user["password"]).json()
        self.token: str = self.tokens["access_token"]
        self.good = jwt.decode(self.token, options={"verify_signature": False})
        self.forged = forged(self.good, int(time.time()))
        key = relay.ask("POST", "/auth/keys", self.token, json={"name": "k"} | EVERYTHING)
        assert key.status_code == 201, key.text
        self.key: str = key.json()["key"]


EVERYTHING = {"actions": ["read", "write"], "topics": ["*"]}


@pytest.fixture(scope="module")
def owner(account_relay: AccountRelay) -> Owner:
    return Owner(account_relay)


def by_header(method: str, path: str, **parts: object) -> Show:
    return lambda relay, token: relay.ask(method, path, token, **parts)


def by_subprotocol(relay: AccountRelay, token: str) -> requests.Response:
    return relay.ask("GET", "/ws", headers={**UPGRADE, "Sec-WebSocket-Protocol": f"bearer, bearer.{token}"})


def by_address(relay: AccountRelay, token: str) -> requests.Response:
    url = f"{relay.url}/api/v1/stream?topics=t&access_token={quote(token, safe='')}"
    return requests.get(url, stream=True, timeout=WAIT_SECONDS)


WAYS: dict[str, Show] = {
    "publish": by_header("POST", "/api/v1/messages", json={"topic": "t", "payload": 1}),
    "poll": by_header("POST", "/messages/poll", json={"topics": ["t"], "timeout": 1}),
    "who am I": by_header("GET", "/auth/me"),
    "administer": by_header("GET", "/auth/users"),
    "event stream": by_header("GET", "/api/v1/stream?topics=t", stream=True),
    "websocket": by_header("GET", "/ws", headers=UPGRADE),
    "websocket, by subprotocol": by_subprotocol,
    "event stream, by address": by_address,
}


@pytest.mark.parametrize("what", [name for name in FORGERIES if name not in NO_HEADER])
def test_a_forged_token_opens_nothing(owner: Owner, what: str) -> None:
    for way, show in WAYS.items():
        with show(owner.relay, owner.forged[what]) as answer:
            assert answer.status_code == 401, f"{way}: {answer.status_code}"
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            told = answer.json()
        assert told["error"] in ("invalid_token", "unauthenticated")
        assert owner.good["sub"] not in str(told)


def test_the_token_they_were_made_of_opens_all_of_it(owner: Owner) -> None:
    """Otherwise the table would prove nothing."""
    for token in (owner.token, changed(owner.good)):
        for way in ("publish", "poll", "who am I", "administer", "event stream", "event stream, by address"):
            with WAYS[way](owner.relay, token) as answer:
                assert answer.status_code < 300, f"{way}: {answer.status_code}"
        with Talk(owner.relay.worker.ws_url, additional_headers={"Authorization": f"Bearer {token}"}) as talk:
            talk.subscribe("t")


def test_a_forged_token_renews_no_connection(owner: Owner) -> None:
    headers = {"Authorization": f"Bearer {owner.token}"}
    with Talk(owner.relay.worker.ws_url, additional_headers=headers) as talk:
        for what in FORGERIES:
            talk.say("authenticate", token=owner.forged[what], ref=what)
            frame = talk.hear("error")
            # A lone surrogate is no JSON, and nothing of such a frame is believed, its `ref` neither.
            assert frame.get("ref") == (None if what == "lone surrogate" else what), frame
            assert frame["code"] in ("invalid_token", "unauthenticated", "invalid_request", "invalid_json"), (
                frame
            )
        talk.say("authenticate", token=owner.token)
        talk.hear("authenticated")


@pytest.mark.parametrize(
    "kind", ["refresh token", "secret of a refresh token", "id of a session", "device code"]
)
def test_what_is_good_for_something_else_is_no_access_token(owner: Owner, kind: str) -> None:
    jti, _, secret = owner.tokens["refresh_token"].partition(".")
    code = owner.relay.ask("POST", "/auth/device/code").json()
    shown = {
        "refresh token": owner.tokens["refresh_token"],
        "secret of a refresh token": secret,
        "id of a session": jti,
        "device code": code.get("device_code", "none"),
    }[kind]
    for way, show in WAYS.items():
        with show(owner.relay, shown) as answer:
            assert answer.status_code == 401, way


def test_an_access_token_or_key_is_good_for_nothing_else(owner: Owner) -> None:
    for shown in (owner.token, owner.key):
        refresh = owner.relay.ask("POST", "/auth/token/refresh", json={"refresh_token": shown})
        assert refresh.status_code == 401
    grant = "urn:ietf:params:oauth:grant-type:device_code"
    form = {"grant_type": grant, "device_code": owner.token}
    answer = owner.relay.ask("POST", "/auth/device/token", data=form)
    assert (answer.status_code, answer.json()["error"]) == (400, "expired_token")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_token_with_one_character_changed_anywhere_opens_nothing(owner: Owner, place: int) -> None:
    parts = owner.token.split(".")
    for at in range(0, len(parts[place]), 7):
        text = parts[place]
        other = "A" if text[at] != "A" else "Q"
        shown = ".".join([*parts[:place], text[:at] + other + text[at + 1 :], *parts[place + 1 :]])
        assert owner.relay.ask("GET", "/auth/me", shown).status_code == 401


def test_a_key_with_one_character_changed_anywhere_opens_nothing(owner: Owner) -> None:
    assert owner.relay.ask("GET", "/auth/me", owner.key).status_code == 200
    for at, letter in enumerate(owner.key):
        shown = owner.key[:at] + ("A" if letter != "A" else "B") + owner.key[at + 1 :]
        assert owner.relay.ask("GET", "/auth/me", shown).status_code == 401, at
