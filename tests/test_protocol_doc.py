"""docs/protocol.md and docs/accounts.md are true: every example is run, and answered as it says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from websockets.asyncio.client import ClientConnection, connect

from pulsar_relay.operations import operations
from tests.account_relays import AccountRelay
from tests.valkeys import RealValkey
from tests.workers import RunningWorker, make_settings

DOCUMENT = Path(__file__).parent.parent / "docs/protocol.md"
ABOUT_ACCOUNTS = DOCUMENT.with_name("accounts.md")
OF_FORMS = ("/auth/device/sign-in", "/auth/device/decision", "/auth/oidc/{provider}/callback")
"""Where only a browser comes to, from another page."""
WAIT_SECONDS = 20
ANY = "…"
NAMED = re.compile(r"‹(\w+)›")

ANSWER = re.compile(r"((?:[\w-]+: [^\n]*\n)*)\n?(.*)", re.DOTALL)
CLIENT_FRAMES = ("subscribe", "unsubscribe", "publish", "ack", "ping", "authenticate")
SERVER_FRAMES = (
    *("subscribed", "unsubscribed", "message", "published", "acknowledged", "pong", "error"),
    *("gap", "reset", "authenticated"),
)

FENCE = re.compile(r"^```(http|websocket|events)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Example:
    """One fenced block; `line` is where it stands."""

    def __init__(self, kind: str, text: str, line: int) -> None:
        self.kind = kind
        self.text = text
        self.line = line


def examples(document: Path = DOCUMENT) -> list[Example]:
    text = document.read_text("utf-8")
    return [
        Example(match[1], match[2], text.count("\n", 0, match.start()) + 1) for match in FENCE.finditer(text)
    ]


ALL = [*examples(), *examples(ABOUT_ACCOUNTS)]


class Reader:
    """Runs examples; remembers the values that one names and a later one uses, written `‹name›`."""

    def __init__(self, url: str, ws_url: str) -> None:
        self._url = url
        self._ws_url = ws_url
        self._names: dict[str, str] = {}

    def run(self, example: Example) -> None:
        getattr(self, f"_run_{example.kind}")(example.text)

    def _fill(self, text: str) -> str:
        return NAMED.sub(lambda match: self._names.get(match[1], match[0]), text)

    def _compare(self, actual: Any, expected: Any, place: str = "answer") -> None:
        if isinstance(expected, str) and (named := NAMED.fullmatch(expected)):
            if named[1] not in self._names:
                self._names[named[1]] = str(actual)
            assert str(actual) == self._names[named[1]], place
        elif expected == ANY:
            return
        elif isinstance(expected, dict) and isinstance(actual, dict):
            named_keys = {self._fill(key): value for key, value in expected.items() if key != ANY}
            if ANY in expected:
                assert named_keys.keys() <= actual.keys(), place
            else:
                assert actual.keys() == named_keys.keys(), place
            for key, value in named_keys.items():
                self._compare(actual[key], value, f"{place}.{key}")
        elif isinstance(expected, list) and isinstance(actual, list):
            if expected[-1:] == [ANY]:
                expected = expected[:-1]
                actual = actual[: len(expected)]
            assert len(actual) == len(expected), (place, actual)
            for index, value in enumerate(expected):
                self._compare(actual[index], value, f"{place}[{index}]")
        else:
            assert actual == (self._fill(expected) if isinstance(expected, str) else expected), place

    def _send(self, head: str, *, stream: bool = False) -> requests.Response:
        head, _, body = head.strip("\n").partition("\n\n")
        first, *lines = head.split("\n")
        method, path = first.split(" ")
        headers = dict(line.split(": ", 1) for line in lines)
        if body:
            headers.setdefault("Content-Type", "application/json")
        return requests.request(
            method, self._url + path, headers=headers, data=body.encode(), timeout=WAIT_SECONDS, stream=stream
        )

    def _run_http(self, text: str) -> None:
        head, status, tail = re.split(r"^(\d{3})$", text, maxsplit=1, flags=re.MULTILINE)
        answer = self._send(self._fill(head))
        assert answer.status_code == int(status), answer.text
        parts = ANSWER.fullmatch(tail.strip("\n") + "\n")
        assert parts is not None
        headers, body = parts.groups()
        for line in headers.splitlines():
            name, value = line.split(": ", 1)
            assert re.fullmatch(
                re.escape(self._fill(value)).replace(ANY, ".*"), answer.headers.get(name, "")
            ), name
        if body.strip() and answer.headers["Content-Type"].startswith("application/json"):
            self._compare(answer.json(), json.loads(body))
        elif body.strip():
            for line in body.strip().splitlines():
                assert re.search(re.escape(line).replace(ANY, ".*"), answer.text), line
        elif not headers:
            assert not answer.content

    def _run_websocket(self, text: str) -> None:
        asyncio.run(asyncio.wait_for(self._talk(text), WAIT_SECONDS))

    async def _talk(self, text: str) -> None:
        token = self._names.get("token")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with connect(self._ws_url, additional_headers=headers) as socket:
            for line in filter(None, text.split("\n")):
                await self._say_or_hear(socket, line)

    async def _say_or_hear(self, socket: ClientConnection, line: str) -> None:
        direction, frame = line[:2], line[2:]
        if direction == "> ":
            await socket.send(self._fill(frame))
        else:
            assert direction == "< ", line
            self._compare(json.loads(await socket.recv()), json.loads(frame), line)

    def _run_events(self, text: str) -> None:
        head, status, tail = re.split(r"^(\d{3})$", text, maxsplit=1, flags=re.MULTILINE)
        with self._send(self._fill(head), stream=True) as answer:
            assert answer.status_code == int(status)
            lines = (line.decode() for line in answer.iter_lines(chunk_size=None))
            for expected in tail.strip("\n").split("\n"):
                actual = next(lines)
                if expected.startswith("data: "):
                    self._compare(json.loads(actual.removeprefix("data: ")), json.loads(expected[6:]))
                else:
                    assert re.fullmatch(re.escape(self._fill(expected)).replace(ANY, ".*"), actual), (
                        expected,
                        actual,
                    )


def test_every_example_of_the_protocol_does_what_it_says(
    make_valkey: Callable[..., RealValkey], make_relay: Callable[..., RunningWorker]
) -> None:
    # On a Valkey of its own: the document lists all topics there are.
    relay = make_relay(make_valkey().start().socket_path)
    read(DOCUMENT, relay)


def test_every_example_about_accounts_does_what_it_says(make_valkey: Callable[..., RealValkey]) -> None:
    auth = {"bootstrap_password": "correct horse battery staple"}
    relay = AccountRelay(make_valkey().start().socket_path, auth=auth)
    try:
        read(ABOUT_ACCOUNTS, relay.worker)
    finally:
        relay.stop()


def read(document: Path, relay: RunningWorker) -> None:
    reader = Reader(relay.url, relay.ws_url)
    for example in examples(document):
        try:
            reader.run(example)
        except (AssertionError, KeyError, ValueError) as error:
            where = f"docs/{document.name}:{example.line}"
            pytest.fail(f"{where}: {type(error).__name__} {error}\n{example.text}")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (method, operation.path)
        for operation in operations(make_settings(auth={"mode": "accounts"}))
        for method in operation.methods
        if method != "HEAD" and operation.path not in OF_FORMS
    ],
)
def test_every_route_has_an_example(method: str, path: str) -> None:
    if path == "/ws":
        assert any(example.kind == "websocket" for example in examples())
        return
    pattern = re.sub(r"\\\{\w+\\\}", "[^/?]+", re.escape(path))
    heads = [re.split(r"^\d{3}$", example.text, flags=re.MULTILINE)[0] for example in ALL]
    assert any(re.match(rf"{method} {pattern}(\?|$)", head, re.MULTILINE) for head in heads)


@pytest.mark.parametrize("schema", CLIENT_FRAMES)
def test_every_frame_of_a_client_has_an_example(schema: str) -> None:
    spoken = [line for example in ALL if example.kind == "websocket" for line in example.text.splitlines()]
    assert any(line.startswith("> ") and f'"type": "{schema}"' in line for line in spoken)


@pytest.mark.parametrize("kind", SERVER_FRAMES)
def test_every_frame_of_the_relay_has_an_example(kind: str) -> None:
    spoken = [line for example in ALL if example.kind == "websocket" for line in example.text.splitlines()]
    assert any(line.startswith("< ") and f'"type": "{kind}"' in line for line in spoken)
