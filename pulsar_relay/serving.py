"""What `serve` runs: the embedded Valkey, if none is configured, and around it one worker in this process,
or a supervisor with several.

One worker needs no supervisor: what would restart it restarts `serve`, and it is a process less.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from pulsar_relay.settings import Settings
from pulsar_relay.store.embedded import EmbeddedValkey
from pulsar_relay.supervision.cores import usable_cores
from pulsar_relay.supervision.listening import Ports
from pulsar_relay.supervision.supervisor import Supervisor

logger = logging.getLogger(__name__)


class Served(Protocol):
    """What is between the ports and Valkey."""

    async def start(self) -> Ports:
        """Return when requests are answered."""
        ...

    async def stop(self) -> None:
        """Stop in order. Called once, also where `start` failed or was cancelled."""
        ...

    def reload(self, settings: Settings) -> None:
        """Go on with these. Called once it has started, and not after `stop`."""
        ...

    def abandon(self) -> None:
        """This process is about to leave at once: end what it has started. Returns at once."""
        ...


MakeServed = Callable[[Settings, str | None, Path | None], Served]
"""Of the settings, and of the embedded server's socket and identity file. Raises ConfigError."""


class Serving:
    """One `serve`. What `make_served` makes is made when the embedded server runs, if there is to be one."""

    def __init__(
        self, settings: Settings, make_served: MakeServed, reload: Callable[[], Settings | None]
    ) -> None:
        """`reload` returns the settings to go on with, None for those there are."""
        self._settings = settings
        self._reload = reload
        self._make_served = make_served
        self._embedded = EmbeddedValkey.of(settings)
        self._served: Served | None = None
        self._is_started = False
        self._is_reload_due = False
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM or `stop`. Raises EmbeddedValkeyError, ConfigError or OSError if it cannot start."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        try:
            # Valkey may have gigabytes to load: who wants the relay to stop need not wait for that.
            if self._embedded is not None and not await self._is_done(
                loop.create_task(self._embedded.start())
            ):
                return
            await self._serve()
        finally:
            if self._embedded is not None:
                await self._embedded.stop()
            logger.info("relay: stopped")

    def stop(self) -> None:
        """Begin to stop in order. May be called again."""
        self._stopping.set()

    def reload(self) -> None:
        """Read the settings again; while the relay starts or stops, once it has started."""
        self._is_reload_due = True
        self._reload_if_due()

    def _reload_if_due(self) -> None:
        if not self._is_started or not self._is_reload_due or self._stopping.is_set():
            return
        assert self._served is not None
        self._is_reload_due = False
        settings = self._reload()
        if settings is not None:
            self._served.reload(settings)

    def abandon(self) -> None:
        """This process is about to leave at once: Valkey goes on without it, and nothing else does."""
        if self._served is not None:
            self._served.abandon()

    async def _serve(self) -> None:
        embedded = self._embedded
        unix_socket, identity = (embedded.socket_path, embedded.identity_path) if embedded else (None, None)
        served = self._served = self._make_served(self._settings, unix_socket, identity)
        try:
            starting = asyncio.get_running_loop().create_task(served.start())
            if await self._is_done(starting):
                _log_ready(self._settings, starting.result())
                self._is_started = True
                self._reload_if_due()
                await self._stopping.wait()
            logger.info("relay: stopping")
        finally:
            await served.stop()

    async def _is_done(self, work: asyncio.Task[Any]) -> bool:
        """Whether `work` ended before the relay was told to stop; else it is cancelled. Raises what it
        raised.
        """
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return False
            work.result()
            return True
        finally:
            stop.cancel()
            if work.cancel():
                await asyncio.wait((work,))


def how_to_serve(settings: Settings) -> MakeServed:
    """One worker, or as many as the settings say under a supervisor.

    All that a worker is made of is imported here, and not before: a supervisor needs none of it.
    """
    workers = settings.server.workers or usable_cores()
    if workers > 1:
        return lambda *made_of: Supervisor(workers, *made_of)
    make: MakeServed = importlib.import_module("pulsar_relay.server").Worker
    return make


def _log_ready(settings: Settings, ports: Ports) -> None:
    server = settings.server
    if settings.is_open_beyond_loopback:
        logger.warning(
            "relay: open beyond loopback without accounts: whoever reaches it reads and writes all topics"
        )
    logger.info("relay: listening on http://%s:%d", server.host, ports.api)
    if ports.metrics is not None:
        logger.info("relay: metrics on http://%s:%d/metrics", server.metrics_host, ports.metrics)
