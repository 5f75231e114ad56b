"""The ten risks of OWASP's list for APIs (2023), each tried by requests to a relay with accounts."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from pulsar_relay.kinds import Rate
from tests.account_relays import PASSWORD, AccountRelay
from tests.account_relays import make_account_relay as make_account_relay
from tests.accounts import SECRET
from tests.conditions import WAIT_SECONDS
from tests.openid_provider import OpenIdProvider, openid_provider
from tests.sign_ins import Browser, oidc
from tests.talks import Talk

MakeRelay = Callable[..., AccountRelay]
_names = itertools.count(1)


class World:
    """A relay with an OpenID provider; two users, of whom the second tries what is the first's."""

    def __init__(self, make: MakeRelay, provider: OpenIdProvider) -> None:
        self.make, self.provider = make, provider
        self.relay = make(oidc=oidc(campus=provider.configured()), limits={"login_backoff_after": 1000})
        self.owner, self.other = self.relay.new_user("read", "write"), self.relay.new_user("read", "write")
        self.owners, self.others = self.token(self.owner), self.token(self.other)
        self.topic = f"topic-{next(_names)}"
        assert self.as_owner("POST", "/api/v1/messages", json=self.message).status_code == 201

    @property
    def message(self) -> dict[str, Any]:
        return {"topic": self.topic, "payload": "of the owner's"}

    def token(self, user: dict[str, Any]) -> str:
        return self.relay.token(user["username"], user["password"])

    def as_owner(self, method: str, path: str, **parts: Any) -> requests.Response:
        return self.relay.ask(method, path, self.owners, **parts)

    def as_other(self, method: str, path: str, **parts: Any) -> requests.Response:
        return self.relay.ask(method, path, self.others, **parts)


@pytest.fixture
def world(make_account_relay: MakeRelay) -> Iterator[World]:
    with openid_provider() as provider:
        yield World(make_account_relay, provider)


def what_is_anothers_is_as_what_is_not_there(world: World) -> None:
    """API1, broken object level authorization"""

    def asked(topic: str) -> Iterator[tuple[int, str]]:
        quoted = topic.replace("/", "%2F")
        attempts: list[tuple[str, str, Any]] = [
            ("GET", f"/api/v1/topics/{quoted}", None),
            ("PUT", f"/api/v1/topics/{quoted}", {"description": "mine"}),
            ("DELETE", f"/api/v1/topics/{quoted}", None),
            ("GET", f"/api/v1/topics/{quoted}/messages", None),
            ("GET", f"/api/v1/topics/{quoted}/permissions", None),
            ("POST", "/api/v1/messages", {"topic": topic, "payload": 1}),
            ("POST", "/messages/poll", {"topics": [topic], "timeout": 1, "since": {topic: ""}}),
            ("GET", f"/api/v1/poll?topics={quoted}&since=earliest&timeout=1", None),
            ("GET", f"/api/v1/stream?topics={quoted}&since=earliest", None),
        ]
        for method, path, body in attempts:
            answer = world.as_other(method, path, json=body)
            yield answer.status_code, answer.json()["error"]

    owner_id = world.owner["user_id"]
    there, nowhere = list(asked(f"{owner_id}/{world.topic}")), list(asked(f"{owner_id}/nothing"))
    assert there == nowhere
    assert {status for status, _ in there} == {404}
    headers = {"Authorization": f"Bearer {world.others}"}
    with Talk(world.relay.worker.ws_url, additional_headers=headers) as talk:
        talk.say("subscribe", topics=[f"{owner_id}/{world.topic}"], offset="earliest")
        assert talk.hear("error")["code"] == "topic_not_found"
        talk.say("publish", topic=f"{owner_id}/{world.topic}", payload=1)
        assert talk.hear("error")["code"] == "topic_not_found"
    session = world.as_owner("GET", "/auth/sessions").json()[0]["jti"]
    assert world.as_other("DELETE", f"/auth/sessions/{session}").status_code == 404
    key = world.as_owner("POST", "/auth/keys", json={"name": "k", "actions": ["read"], "topics": ["*"]})
    assert world.as_other("DELETE", f"/auth/keys/{key.json()['key_id']}").status_code == 404
    for path in ("sessions", "keys"):
        assert world.as_other("GET", f"/auth/{path}?user_id={owner_id}").status_code == 403
    history = world.as_owner("GET", f"/api/v1/topics/{world.topic}/messages").json()
    assert [one["payload"] for one in history["messages"]] == ["of the owner's"]


def passwords_and_tokens_cannot_be_tried_out_or_kept(world: World) -> None:
    """API2, broken authentication"""
    guarded = world.make(limits={"login_backoff_after": 2})
    user = guarded.new_user("read")
    for name in (user["username"], f"nobody-{next(_names)}"):
        told = [guarded.login(name, f"guess {number}") for number in range(4)]
        assert [one.status_code for one in told][:2] == [401, 401]
        assert told[-1].status_code == 429
        assert int(told[-1].headers["Retry-After"]) >= 1
        assert {one.json()["error"] for one in told} <= {"wrong_password", "login_backoff"}
    signed_in = world.relay.login(world.owner["username"], world.owner["password"]).json()
    first, token = signed_in["refresh_token"], signed_in["access_token"]
    assert world.relay.ask("POST", "/auth/logout", token).status_code == 204
    assert world.relay.ask("GET", "/auth/me", token).json()["error"] == "token_revoked"
    second = world.relay.ask("POST", "/auth/token/refresh", json={"refresh_token": first}).json()
    third = world.relay.ask(
        "POST", "/auth/token/refresh", json={"refresh_token": second["refresh_token"]}
    ).json()
    replay = world.relay.ask("POST", "/auth/token/refresh", json={"refresh_token": first})
    assert replay.status_code == 401
    after = world.relay.ask("POST", "/auth/token/refresh", json={"refresh_token": third["refresh_token"]})
    assert after.status_code == 401


def fields_that_are_not_ones_own_to_set_are_not_set_and_secrets_not_shown(world: World) -> None:
    """API3, broken object property level authorization"""
    own = f"/auth/users/{world.other['user_id']}"
    assert world.as_other("PATCH", own, json={"permissions": ["admin"]}).status_code == 403
    more = {"owner_id": world.owner["user_id"], "length": 7, "epoch": "mine"}
    made = world.as_other("POST", "/api/v1/topics", json={"topic_name": world.topic} | more)
    assert (made.status_code, made.json()["owner_id"]) == (201, world.other["user_id"])
    changed = world.as_other("PUT", f"/api/v1/topics/{world.topic}", json={"description": "x"} | more)
    assert (changed.json()["owner_id"], changed.json()["length"]) == (world.other["user_id"], 0)
    sent = {"topic": world.topic, "payload": 1, "message_id": "1-1", "timestamp": "then", "owner": "x"}
    assert world.as_other("POST", "/api/v1/messages", json=sent).json()["message_id"] != "1-1"
    asked = {"username": f"new-{next(_names)}", "password": PASSWORD, "user_id": "mine", "generation": 9}
    user = world.relay.ask("POST", "/auth/register", world.relay.token(), json=asked).json()
    assert (user["user_id"] != "mine", user["permissions"]) == (True, [])
    admin = world.relay.token()
    for path in ("/auth/me", "/auth/users", "/auth/sessions", "/auth/keys"):
        told = world.relay.ask("GET", path, admin).text
        for secret in ("argon2", PASSWORD, SECRET, "digest"):
            assert secret not in told, path


def nobody_gets_more_than_there_is(world: World) -> None:
    """API4, unrestricted resource consumption"""
    small = world.make(server={"max_body_bytes": 10_000}, subscriber={"max_frame_bytes": 10_000})
    token = small.token(small.new_user("read", "write")["username"], "a password of theirs")

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 1000

    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    too_large: list[Any] = [b"x" * 20_000, chunks()]
    for body in too_large:
        answer = requests.post(
            f"{small.url}/api/v1/messages", data=body, headers=headers, timeout=WAIT_SECONDS
        )
        assert answer.status_code == 413
    bulk = [{"topic": "t", "payload": 1}] * 1001
    attempts: list[tuple[str, Any, int]] = [
        ("/api/v1/messages/bulk", {"messages": bulk}, 422),
        ("/messages/poll", {"topics": [f"t{number}" for number in range(21)]}, 422),
        ("/api/v1/messages", {"topic": "t", "payload": 1, "metadata": {"x": "y" * 10**6}}, 422),
        ("/api/v1/messages", {"topic": "t" * 256, "payload": 1}, 422),
    ]
    for path, body, status in attempts:
        assert world.as_other("POST", path, json=body).status_code == status, path
    nested = b'{"topic": "t", "payload": ' + b"[" * 5000 + b"]" * 5000 + b"}"
    answer = world.as_other(
        "POST", "/api/v1/messages", data=nested, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert world.as_other("GET", "/health", headers={"X-Long": "x" * 100_000}).status_code == 431
    ours = {"Authorization": f"Bearer {token}"}
    with Talk(small.worker.ws_url, additional_headers=ours) as talk:
        talk.say_raw(json.dumps({"type": "ping", "ref": "x" * 20_000}))
        assert talk.close_code() == 1009
    limited = world.make(limits={"connections_per_user": 1, "publish": Rate(1, 60.0)})
    user = limited.new_user("read", "write")
    token = limited.token(user["username"], user["password"])
    body = {"topic": "t", "payload": 1}
    answers = [limited.ask("POST", "/api/v1/messages", token, json=body) for _ in range(2)]
    assert [one.status_code for one in answers] == [201, 429]
    assert int(answers[1].headers["Retry-After"]) >= 1
    theirs = {"Authorization": f"Bearer {token}"}
    with Talk(limited.worker.ws_url, additional_headers=theirs):
        second = limited.ask("GET", "/api/v1/stream?topics=t", token)
        assert (second.status_code, second.json()["error"]) == (429, "too_many_user_connections")


def what_is_an_admins_is_no_other_users(world: World) -> None:
    """API5, broken function level authorization"""
    theirs = f"/auth/users/{world.owner['user_id']}"
    attempts: list[tuple[str, str, Any]] = [
        ("GET", "/auth/users", None),
        ("GET", "/auth/users/stats", None),
        ("POST", "/auth/register", {"username": "mine", "password": PASSWORD}),
        ("PATCH", theirs, {"is_active": False}),
        ("DELETE", theirs, None),
        ("GET", "/stats", None),
        ("DELETE", f"/auth/sessions?user_id={world.owner['user_id']}", None),
    ]
    everything = {"name": "k", "actions": ["read", "write"], "topics": ["*"]}
    admins_key = world.relay.ask("POST", "/auth/keys", world.relay.token(), json=everything).json()["key"]
    for method, path, body in attempts:
        answer = world.as_other(method, path, json=body)
        assert (answer.status_code, answer.json()["error"]) == (403, "permission_required"), path
        by_key = world.relay.ask(method, path, admins_key, json=body)
        assert by_key.status_code == 403, path
        assert world.relay.ask(method, path, json=body).status_code == 401, path
    assert world.relay.ask("POST", "/auth/keys", admins_key, json=everything).status_code == 403
    assert world.as_owner("GET", "/auth/me").json()["is_active"]


def a_rate_is_one_for_all_workers(world: World) -> None:
    """API6, unrestricted access to sensitive business flows"""
    rates = {"login": Rate(3, 60.0), "refresh": Rate(3, 60.0)}
    proxied = {"trusted_proxies": ("127.0.0.1",)}
    one, two = (world.make(limits=rates, server=proxied) for _ in range(2))
    # An address of its own, so that it has asked for nothing yet.
    address = {"X-Forwarded-For": "203.0.113.7"}
    told = [relay.login("nobody", "guess", headers=address).status_code for relay in (one, two, one, two)]
    assert told == [401, 401, 401, 429]
    body = {"refresh_token": "no.token"}
    told = [
        relay.ask("POST", "/auth/token/refresh", json=body, headers=address).status_code
        for relay in (two, one, two, one)
    ]
    assert told == [401, 401, 401, 429]


def nobody_says_where_the_relay_asks(world: World) -> None:
    """API7, server side request forgery"""
    with openid_provider() as elsewhere:
        quoted = elsewhere.url.replace("/", "%2F").replace(":", "%3A")
        well_known = f"{quoted}%2F.well-known%2Fopenid-configuration"
        for name in (quoted, well_known, "campus%2F..%2F" + quoted, f"campus%40{quoted}"):
            for step in ("login", "callback"):
                answer = world.relay.ask("GET", f"/auth/oidc/{name}/{step}", allow_redirects=False)
                assert answer.status_code == 404
        browser = Browser(world.relay.url)
        query = {"next": elsewhere.url, "redirect_uri": elsewhere.url, "iss": elsewhere.url}
        answer = browser.get("/auth/oidc/campus/login", **query)
        assert answer.headers["Location"].startswith(f"{world.provider.url}/authorize")
        assert elsewhere.url not in answer.headers["Location"]
        back = world.provider.follow(answer.headers["Location"])
        assert browser.get("/auth/oidc/campus/callback", **back, iss=elsewhere.url).status_code == 400
        assert elsewhere.asked == []


def nothing_is_told_that_helps_nobody_but_an_attacker(world: World) -> None:
    """API8, security misconfiguration"""
    foreign = {"Origin": "https://evil.example", "Access-Control-Request-Method": "DELETE"}
    for method in ("GET", "POST", "OPTIONS"):
        answer = world.as_other(method, "/api/v1/topics", headers=foreign)
        assert "Access-Control-Allow-Origin" not in answer.headers
    for method in ("TRACE", "CONNECT", "PROPFIND"):
        assert world.as_other(method, "/api/v1/messages").status_code in (400, 405)
    page = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    with pytest.raises(Exception, match="403"):
        Talk(world.relay.worker.ws_url, additional_headers=page | {"Authorization": f"Bearer {world.others}"})
    for path in ("/auth/me", "/auth/users", "/auth/sessions", "/auth/none", "/auth/device"):
        headers = world.as_owner("GET", path).headers
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert headers["Cache-Control"] == "no-store", path
    for header in ("Server", "X-Powered-By"):
        assert world.as_other("GET", "/health").headers.get(header, "").lower().find("tornado") == -1
    broken = world.as_other(
        "POST", "/api/v1/messages", data=b"{", headers={"Content-Type": "application/json"}
    )
    assert "Traceback" not in broken.text
    assert ".py" not in broken.text


def what_is_not_documented_is_not_there_and_what_is_asks_who_it_is(world: World) -> None:
    """API9, improper inventory management"""
    for path in ("/api/v0/messages", "/api/v2/messages", "/api/messages", "/debug", "/admin", "/.git/config"):
        assert world.as_owner("GET", path).status_code == 404, path
    document = world.relay.ask("GET", "/openapi.json").json()
    is_open = {"/health", "/ready", "/metrics", "/openapi.json", "/docs", "/"}
    asked = 0
    for path, methods in document["paths"].items():
        if path in is_open or path.startswith(("/page/", "/auth/device", "/auth/oidc")):
            continue
        address = path
        for name in ("{topic}", "{client_id}", "{user_id}", "{jti}", "{key_id}", "{grantee}"):
            address = address.replace(name, "nothing")
        for method in methods:
            answer = world.relay.ask(method.upper(), address)
            asked += 1
            assert answer.status_code not in (404, 405) or path == "/ws", (method, path, answer.status_code)
            is_form = path in ("/auth/login", "/auth/token/refresh", "/auth/token/revoke")
            assert is_form or path == "/ws" or answer.status_code == 401, (method, path, answer.status_code)
    assert asked > 20


def what_a_provider_answers_is_believed_only_if_it_is_right(world: World) -> None:
    """API10, unsafe consumption of APIs"""
    provider = world.provider
    good = dict(provider.answers)

    def attempt() -> requests.Response:
        browser = Browser(world.relay.url)
        browser.session.headers["Accept"] = "application/json"
        begun = browser.get("/auth/oidc/campus/login")
        assert begun.status_code == 302, begun.text
        return browser.get("/auth/oidc/campus/callback", **provider.follow(begun.headers["Location"]))

    provider.changed = {"sub": f"of-{next(_names)}-{time.time()}", "preferred_username": f"p-{time.time()}"}
    assert attempt().status_code == 200
    users = len(world.relay.ask("GET", "/auth/users?limit=1000", world.relay.token()).json())
    for changes in (
        {"aud": "another"},
        {"iss": "https://evil.example"},
        {"nonce": "x"},
        {"exp": 1},
        {"sub": ""},
    ):
        provider.changed = {"sub": f"new-{next(_names)}"} | changes
        assert attempt().status_code == 400, changes
    provider.changed = {}
    hostile: list[Callable[[dict[str, str]], Any]] = [
        lambda _: (200, {}, b"<html>"),
        lambda _: (200, {}, b"[" * 100_000),
        lambda _: (200, {}, b'{"id_token": ' + b'"x' * 10 + b'"}'),
        lambda _: (200, {}, b" " * 30_000_000),
        lambda _: (302, {"Location": f"{world.relay.url}/auth/users"}, b""),
        lambda _: (500, {}, b""),
        lambda _: (200, {}, json.dumps({"id_token": {"a": 1}}).encode()),
    ]
    for answer in hostile:
        provider.answers["/token"] = answer
        assert attempt().status_code in (400, 502)
    provider.answers = good
    assert len(world.relay.ask("GET", "/auth/users?limit=1000", world.relay.token()).json()) == users


RISKS: dict[str, Callable[[World], None]] = {
    "API1": what_is_anothers_is_as_what_is_not_there,
    "API2": passwords_and_tokens_cannot_be_tried_out_or_kept,
    "API3": fields_that_are_not_ones_own_to_set_are_not_set_and_secrets_not_shown,
    "API4": nobody_gets_more_than_there_is,
    "API5": what_is_an_admins_is_no_other_users,
    "API6": a_rate_is_one_for_all_workers,
    "API7": nobody_says_where_the_relay_asks,
    "API8": nothing_is_told_that_helps_nobody_but_an_attacker,
    "API9": what_is_not_documented_is_not_there_and_what_is_asks_who_it_is,
    "API10": what_a_provider_answers_is_believed_only_if_it_is_right,
}


@pytest.mark.parametrize("risk", RISKS)
def test_a_risk_is_none_here(world: World, risk: str) -> None:
    RISKS[risk](world)
