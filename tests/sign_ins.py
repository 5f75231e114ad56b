"""Relays whose accounts people sign in to with a browser or a device."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

import requests

from pulsar_relay.accounts.user import NewUser, User
from pulsar_relay.identity_providers import IdentityProviders
from tests.conditions import WAIT_SECONDS
from tests.people import accounts_of, open_relay
from tests.workers import RunningWorker

T = TypeVar("T")

PASSWORD = "its own password"
BROWSER = {"Accept": "text/html,*/*", "Sec-Fetch-Site": "same-origin"}


class SignIns:
    """A relay at `url`; `accounts` belong to its loop."""

    def __init__(self, relay: RunningWorker) -> None:
        self.relay = relay
        self.url = relay.url
        self.accounts = accounts_of(relay)

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async def run() -> T:
            return await work()

        return self.relay.wait(run())

    def make_user(self, name: str) -> User:
        new = NewUser(name, permissions=("read", "write"))
        return self.run(lambda: self.accounts.users.create(new, PASSWORD))

    def post(self, path: str, /, **form: Any) -> requests.Response:
        return requests.post(self.url + path, data=form, timeout=WAIT_SECONDS)

    def get(self, path: str, /, **query: Any) -> requests.Response:
        return requests.get(self.url + path, params=query, timeout=WAIT_SECONDS, allow_redirects=False)


class Browser:
    """Keeps cookies and fills in forms."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.headers.update(BROWSER)

    def get(self, path: str, **query: str) -> requests.Response:
        return self.session.get(self.url + path, params=query, timeout=WAIT_SECONDS, allow_redirects=False)

    def post(self, path: str, form: Mapping[str, str], **headers: str) -> requests.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.session.post(self.url + path, data=form, headers=sent, timeout=WAIT_SECONDS)

    def sign_in(self, user_code: str, username: str, password: str = PASSWORD) -> requests.Response:
        self.get("/auth/device", user_code=user_code)
        form = {"user_code": user_code, "username": username, "password": password}
        return self.post("/auth/device/sign-in", form)

    def decide(self, page: requests.Response, decision: str = "approve") -> requests.Response:
        return self.post("/auth/device/decision", {"ticket": ticket(page), "decision": decision})


def ticket(page: requests.Response) -> str:
    found = re.search(r'name="ticket" value="([^"]+)"', page.text)
    assert found is not None, page.text
    return found[1]


def oidc(**providers: Mapping[str, Any]) -> dict[str, Any]:
    """The settings' section."""
    return {"enabled": True, "providers": IdentityProviders().parse(json.dumps(providers))}


@contextlib.contextmanager
def sign_ins(socket_path: str, **sections: Any) -> Iterator[SignIns]:
    running = open_relay(socket_path, **sections)
    try:
        yield SignIns(running)
    finally:
        running.stop()
