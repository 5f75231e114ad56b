"""This relay, as users start it, on a Valkey of its own."""

from __future__ import annotations

import json
import re
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pulsar_relay
from benchmarks.dialects import RelayDialect
from benchmarks.machine import Placement, commit
from benchmarks.processes import Program
from benchmarks.valkeys import BenchValkey

ROOT = Path(__file__).parent.parent.parent


class RelayTarget:
    def __init__(
        self,
        directory: Path,
        placement: Placement,
        level: str,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`variables` are settings of its environment, besides."""
        self.valkey: BenchValkey | None = BenchValkey(directory, placement.store, level)
        self._valkey = self.valkey
        settings = {
            "server.port": "0",
            "server.metrics_port": "0",
            "valkey.host": "127.0.0.1",
            "valkey.port": str(self._valkey.port),
            "storage.durability": level,
            "log.format": "json",
        }
        options = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        command = [sys.executable, "-m", "pulsar_relay", "serve", *options]
        self._program = Program(
            command, placement.worker, directory / "relay.log", {"PYTHONPATH": str(ROOT), **variables}
        )
        line = self._program.wait_for_log("relay: listening on ")
        found = re.search(r"listening on \S*?:(\d+)", json.loads(line)["message"])
        assert found is not None
        self.port = int(found[1])
        self._program.wait_for_port(self.port)
        self.pid = self._program.pid
        self.dialect = RelayDialect()
        self.versions: Mapping[str, str] = {
            "relay": f"{pulsar_relay.__version__} {commit()}".strip(),
            "valkey": self._valkey.version,
        }
        self.cannot: Mapping[str, str] = self._missing()

    def stored(self, topic: str) -> int:
        return int(str(self._valkey.command("XLEN", f"topic:{topic}:stream")))

    def stop(self) -> None:
        self._program.stop()
        self._valkey.stop()

    def _missing(self) -> dict[str, str]:
        """Of older or newer relays, by what their own description says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/openapi.json", timeout=10) as answer:
            paths = json.load(answer)["paths"]
        kinds = paths["/api/v1/messages/bulk"]["post"]["requestBody"]["content"]
        return {} if "application/x-ndjson" in kinds else {"ndjson": "takes no NDJSON"}
