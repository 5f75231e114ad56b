"""Two relays with accounts over one Valkey, and people who use them."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import pytest
import requests

from pulsar_relay.accounts.accounts import Accounts
from pulsar_relay.accounts.grants import Grantee
from pulsar_relay.accounts.user import NewUser, User, UserPatch
from tests.accounts import SECRET
from tests.conditions import WAIT_SECONDS, until
from tests.talks import Talk
from tests.valkeys import RealValkey
from tests.workers import RunningWorker, make_settings

_numbers = itertools.count(1)
BOTH = ("read", "write")


class Pair(NamedTuple):
    """Two workers of one relay."""

    one: RunningWorker
    two: RunningWorker


def accounts_of(relay: RunningWorker) -> Accounts:
    accounts = relay.worker.accounts
    assert accounts is not None
    return accounts


def open_relay(socket_path: str, **sections: Any) -> RunningWorker:
    """With accounts, ready."""
    auth = {"mode": "accounts", "jwt_secret": SECRET, **sections.pop("auth", {})}
    settings = make_settings(auth=auth, **sections)
    running = RunningWorker(socket_path, settings)
    ready = f"{running.url}/ready"
    until(lambda: requests.get(ready, timeout=WAIT_SECONDS).ok, "the relay is ready")
    return running


@pytest.fixture(scope="module")
def pair(relay_valkey: RealValkey) -> Iterator[Pair]:
    running = Pair(open_relay(relay_valkey.socket_path), open_relay(relay_valkey.socket_path))
    yield running
    for one in running:
        one.stop()


class Person:
    """A user, and one access token of theirs, good for `seconds`; `key` takes its place."""

    def __init__(
        self, relay: RunningWorker, permissions: Sequence[str] = BOTH, *, seconds: float | None = None
    ) -> None:
        self.relay = relay
        self.accounts = accounts_of(relay)
        new = NewUser(f"person-{next(_numbers)}-{id(self)}", permissions=permissions)
        self.user: User = relay.wait(self.accounts.users.create(new))
        self.shown = self.another_token(seconds)

    @property
    def id(self) -> str:
        return self.user.user_id

    def another_token(self, seconds: float | None = None) -> str:
        tokens = self.accounts.tokens
        usual = tokens.lifetime_seconds
        if seconds is not None:
            tokens.lifetime_seconds = int(seconds)
        try:
            return tokens.issue(self.user).text
        finally:
            tokens.lifetime_seconds = usual

    def key(self, actions: Sequence[str], topics: Sequence[str]) -> str:
        made = self.accounts.api_keys.make(self.id, "for tests", actions, topics)
        return self.relay.wait(made)[1]

    def grant(self, topic: str, grantee: str, *actions: str) -> None:
        self.relay.wait(self.accounts.grants.set(self.id, topic, Grantee(grantee), actions))

    def patch(self, **changes: Any) -> None:
        self.user = self.relay.wait(self.accounts.users.patch(self.id, UserPatch(**changes)))

    def sign_out(self) -> None:
        async def sign_out() -> None:
            await self.accounts.sign_out(await self.accounts.authenticator.authenticate(self.shown))

        self.relay.wait(sign_out())

    def at(self, relay: RunningWorker, shown: str | None = None) -> Asking:
        return Asking(relay, self.shown if shown is None else shown)


class Asking:
    """Requests to one relay, with a token or key, "" for none."""

    def __init__(self, relay: RunningWorker, shown: str) -> None:
        self._relay = relay
        self.headers = {"Authorization": f"Bearer {shown}"} if shown else {}

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        return requests.request(
            method,
            self._relay.url + path,
            json=body,
            headers=self.headers | headers,
            timeout=WAIT_SECONDS,
        )

    def publish(self, topic: str, payload: Any = None, **headers: str) -> requests.Response:
        return self.ask("POST", "/api/v1/messages", {"topic": topic, "payload": payload or {}}, **headers)

    def poll(self, *topics: str, timeout: float = 1, **fields: Any) -> requests.Response:
        return self.ask("POST", "/messages/poll", {"topics": topics, "timeout": timeout, **fields})

    def history(self, topic: str) -> requests.Response:
        return self.ask("GET", f"/api/v1/topics/{topic.replace('/', '%2F')}/messages")

    def talk(self) -> Talk:
        return Talk(self._relay.ws_url, additional_headers=self.headers)

    def polling(self, *topics: str) -> Future[requests.Response]:
        """A poll that waits in a thread of its own, once the relay has it."""
        answer: Future[requests.Response] = Future()
        waiters = self._relay.worker.waiters
        before = waiters.active

        def poll() -> None:
            answer.set_result(self.poll(*topics, timeout=60))

        threading.Thread(target=poll, daemon=True).start()
        until(lambda: waiters.active > before, "the poll waits")
        return answer


class Stream:
    """An event stream, read until it ends."""

    def __init__(self, asking: Asking, relay: RunningWorker, topics: str, query: str = "") -> None:
        address = f"{relay.url}/api/v1/stream?topics={topics}{query}"
        self.response = requests.get(address, headers=asking.headers, stream=True, timeout=WAIT_SECONDS)
        self._lines = self.response.iter_lines()

    def event(self, name: str) -> Any:
        """The data of the next event of this name."""
        for line in self._lines:
            if line == f"event: {name}".encode():
                break
        else:
            raise AssertionError(f"the stream ended without {name}")
        return json.loads(next(line for line in self._lines if line.startswith(b"data: "))[6:])

    def ends(self) -> bool:
        return not [line for line in self._lines if line.startswith(b"data")]
