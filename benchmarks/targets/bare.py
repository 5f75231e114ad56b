"""The bare server: what the machine, uvloop and the load would give if a relay had nothing to do."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from benchmarks.dialects import RelayDialect
from benchmarks.machine import Placement
from benchmarks.processes import Program, free_port
from benchmarks.targets.target import CannotError
from benchmarks.valkeys import BenchValkey

ROOT = Path(__file__).parent.parent.parent


class BareTarget:
    def __init__(self, directory: Path, placement: Placement, level: str) -> None:
        if level != "memory":
            raise CannotError("stores nothing")
        self.valkey: BenchValkey | None = None
        self.port = free_port()
        command = [sys.executable, "-m", "benchmarks.bare_server", str(self.port)]
        self._program = Program(command, placement.worker, directory / "bare.log", {"PYTHONPATH": str(ROOT)})
        self._program.wait_for_port(self.port)
        self.pid = self._program.pid
        self.dialect = RelayDialect()
        self.versions: Mapping[str, str] = {"uvloop": metadata.version("uvloop")}
        self.cannot: Mapping[str, str] = {}

    def stored(self, topic: str) -> int:
        raise CannotError("stores nothing")

    def stop(self) -> None:
        self._program.stop()
