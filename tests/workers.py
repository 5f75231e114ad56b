"""A relay in this process: a worker on a loop in a thread of its own, over a real Valkey, on real ports."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest
import uvloop

from pulsar_relay.server import Worker
from pulsar_relay.settings import Settings
from pulsar_relay.supervision.listening import Ports
from tests.valkeys import RealValkey

T = TypeVar("T")

START_SECONDS = 20.0
_numbers = itertools.count(1)


class RunningWorker:
    """Started by its constructor; `stop` ends it in order. `url` is where its API answers."""

    def __init__(self, unix_socket: str | None, settings: Settings) -> None:
        self._settings = settings
        self._unix_socket = unix_socket
        self._started: Future[Ports] = Future()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()
        self.ports = self._started.result(START_SECONDS)
        self.url = f"http://127.0.0.1:{self.ports.api}"
        self.ws_url = f"ws://127.0.0.1:{self.ports.api}/ws"

    def _run(self) -> None:
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        try:
            self.worker = Worker(self._settings, self._unix_socket)
            self._started.set_result(await self.worker.start())
        except BaseException as error:
            self._started.set_exception(error)
            raise
        await self._stopping.wait()
        await self.worker.stop()

    def call(self, function: Callable[[], Any]) -> Any:
        """Run `function` on the worker's loop and return what it returns."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(START_SECONDS)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the worker's loop and return what comes of it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_SECONDS)

    def stop(self) -> None:
        """May be called again."""
        if not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(START_SECONDS)
        assert not self._thread.is_alive(), "the worker did not stop"


def make_settings(**sections: dict[str, Any]) -> Settings:
    """The default settings on free ports, with some changed: `make_settings(poll={"max_topics": 3})`."""
    settings = Settings()
    sections = {"server": {"port": 0, "metrics_port": 0} | sections.pop("server", {}), **sections}
    changed = {
        name: dataclasses.replace(getattr(settings, name), **values) for name, values in sections.items()
    }
    return dataclasses.replace(settings, **changed)


@pytest.fixture(scope="session")
def relay_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealValkey]:
    """The Valkey of `relay` and `make_relay`; never emptied, since a relay is working on it."""
    server = RealValkey(tmp_path_factory.mktemp("relay-valkey"))
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="session")
def relay(relay_valkey: RealValkey) -> Iterator[RunningWorker]:
    """One relay with the default settings for all tests; they keep apart by the names of their topics."""
    running = RunningWorker(relay_valkey.socket_path, make_settings())
    yield running
    running.stop()


@pytest.fixture
def make_relay(relay_valkey: RealValkey) -> Iterator[Callable[..., RunningWorker]]:
    """Makes relays with settings of their own; stopped at the end of the test."""
    made: list[RunningWorker] = []

    def make(unix_socket: str | None = None, **sections: dict[str, Any]) -> RunningWorker:
        settings = make_settings(**sections)
        if settings.uses_embedded_server:
            unix_socket = unix_socket or relay_valkey.socket_path
        made.append(RunningWorker(unix_socket, settings))
        return made[-1]

    yield make
    for running in made:
        running.stop()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic name no other test uses."""
    return f"t{next(_numbers)}-{request.node.name[:100]}".translate(_PLAIN)


_PLAIN = {ord(character): "-" for character in " []()<>{}/\\:;,.'\"=+*&%$#@!?|~`^"}
