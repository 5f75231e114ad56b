"""A relay with accounts, and its admin, asked by HTTP."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from tests.accounts import SECRET
from tests.conditions import WAIT_SECONDS, until
from tests.valkeys import RealValkey
from tests.workers import RunningWorker, make_settings

ADMIN, PASSWORD = "admin", "its own long password"
UNLIMITED = dict.fromkeys(("login", "refresh", "device_code", "device_token", "device_page"))
"""All tests have one address."""
_numbers = itertools.count(1)


class AccountRelay:
    """One worker with accounts. Limits by address are off unless `limits` says otherwise."""

    def __init__(self, socket_path: str, **sections: dict[str, Any]) -> None:
        auth = {
            "mode": "accounts",
            "jwt_secret": SECRET,
            "bootstrap_username": ADMIN,
            "bootstrap_password": PASSWORD,
            **sections.pop("auth", {}),
        }
        limits = {**UNLIMITED, **sections.pop("limits", {})}
        self.worker = RunningWorker(socket_path, make_settings(auth=auth, limits=limits, **sections))
        self.url = self.worker.url
        until(lambda: self.ask("GET", "/ready").ok, "there is an admin")

    def ask(self, method: str, path: str, token: str | None = None, **parts: Any) -> requests.Response:
        headers = parts.pop("headers", {})
        if token is not None:
            headers = {"Authorization": f"Bearer {token}", **headers}
        return requests.request(method, self.url + path, headers=headers, timeout=WAIT_SECONDS, **parts)

    def login(self, username: str = ADMIN, password: str = PASSWORD, **parts: Any) -> requests.Response:
        form = {"username": username, "password": password, "grant_type": "password"}
        return self.ask("POST", "/auth/login", data=form, **parts)

    def token(self, username: str = ADMIN, password: str = PASSWORD) -> str:
        answer = self.login(username, password)
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token

    def new_user(self, *permissions: str) -> dict[str, Any]:
        """As registered, with `password`."""
        password = "a password of theirs"
        asked = {"username": f"user-{next(_numbers)}-{id(self)}", "password": password}
        answer = self.ask("POST", "/auth/register", self.token(), json=asked | {"permissions": permissions})
        assert answer.status_code == 201, answer.text
        return answer.json() | {"password": password}

    def stop(self) -> None:
        self.worker.stop()


@pytest.fixture(scope="module")
def account_relay(relay_valkey: RealValkey) -> Iterator[AccountRelay]:
    running = AccountRelay(relay_valkey.socket_path)
    yield running
    running.stop()


@pytest.fixture
def make_account_relay(relay_valkey: RealValkey) -> Iterator[Callable[..., AccountRelay]]:
    made: list[AccountRelay] = []

    def make(**sections: dict[str, Any]) -> AccountRelay:
        made.append(AccountRelay(relay_valkey.socket_path, **sections))
        return made[-1]

    yield make
    for running in made:
        running.stop()
