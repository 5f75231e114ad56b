"""The addresses of signing in with a browser, on a real port over a real Valkey, in a loop of their own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import re
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

import argon2
import requests
import uvloop
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from pulsar_relay.accounts.accounts import Accounts
from pulsar_relay.accounts.user import NewUser, User
from pulsar_relay.identity_providers import IdentityProviders
from pulsar_relay.limits.limiter import Limiter
from pulsar_relay.settings import AuthSettings, Settings
from pulsar_relay.sign_in import BrowserSignIn
from pulsar_relay.web.documents import DocumentHandler
from pulsar_relay.web.page import page_files
from pulsar_relay.web.perimeter import Perimeter
from pulsar_relay.web.sign_in_routes import sign_in_routes
from tests.accounts import SECRET
from tests.conditions import WAIT_SECONDS
from tests.stores import open_store, until

T = TypeVar("T")

PASSWORD = "its own password"
BROWSER = {"Accept": "text/html,*/*", "Sec-Fetch-Site": "same-origin"}


class SignIns:
    """At `url`; `accounts` belong to its loop. Without `has_accounts` it is a relay without any."""

    def __init__(self, unix_socket: str, *, has_accounts: bool = True, **sections: Mapping[str, Any]) -> None:
        settings = dataclasses.replace(Settings(), auth=AuthSettings(mode="accounts", jwt_secret=SECRET))
        for name, values in sections.items():
            settings = dataclasses.replace(
                settings, **{name: dataclasses.replace(getattr(settings, name), **values)}
            )
        self._settings, self._unix_socket, self._has_accounts = settings, unix_socket, has_accounts
        self._started: Future[str] = Future()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()), daemon=True)
        self._thread.start()
        self.url = self._started.result(WAIT_SECONDS)

    async def _serve(self) -> None:
        try:
            async with open_store(self._unix_socket) as opened:
                hasher = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
                self.client = opened.client
                self.accounts = Accounts(opened.client, opened.feed, self._settings.auth, hasher=hasher)
                opened.feed.start(lambda _: None, lambda _: None, lambda *_: None)
                self.accounts.start()
                await until(lambda: opened.feed.is_connected and self.accounts.roster.is_confirmed)
                await self._answer(Limiter(opened.client, self._settings.limits, opened.name))
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            raise

    async def _answer(self, limiter: Limiter) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        sign_in = BrowserSignIn(self.client, self.accounts, limiter, self._settings)
        routes = sign_in_routes(sign_in if self._has_accounts else None)
        routes += [(r"/page/([^/]+)", DocumentHandler, {"documents": page_files()})]
        server = HTTPServer(
            Application(routes, perimeter=Perimeter(self._settings.server), log_function=lambda _: None)
        )
        sockets = bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        self._started.set_result(f"http://127.0.0.1:{sockets[0].getsockname()[1]}")
        await self._stopping.wait()
        server.stop()
        await server.close_all_connections()
        sign_in.close()
        await limiter.aclose()
        await self.accounts.stop()

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(WAIT_SECONDS)

    def make_user(self, name: str) -> User:
        new = NewUser(name, permissions=("read", "write"))
        return self.run(lambda: self.accounts.users.create(new, PASSWORD))

    def post(self, path: str, /, **form: Any) -> requests.Response:
        return requests.post(self.url + path, data=form, timeout=WAIT_SECONDS)

    def get(self, path: str, /, **query: Any) -> requests.Response:
        return requests.get(self.url + path, params=query, timeout=WAIT_SECONDS, allow_redirects=False)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(WAIT_SECONDS)


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
def sign_ins(unix_socket: str, **arguments: Any) -> Iterator[SignIns]:
    running = SignIns(unix_socket, **arguments)
    try:
        yield running
    finally:
        running.stop()
