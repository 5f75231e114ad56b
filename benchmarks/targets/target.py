"""A running target, and the meter that is held against it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from benchmarks.dialects import Dialect
from benchmarks.usage import Usage, usage_of
from benchmarks.valkeys import BenchValkey, Traffic


class Target(Protocol):
    """Started by its constructor, which raises CannotError where it cannot run here, or not at that level."""

    versions: Mapping[str, str]
    """Of all that is measured with it."""
    port: int
    pid: int
    """Of the process whose work, with its children's, is the worker's."""
    valkey: BenchValkey | None
    cannot: Mapping[str, str]
    """What scenarios may need and this target has not, with the reason."""

    @property
    def dialect(self) -> Dialect: ...

    def stored(self, topic: str) -> int:
        """How many messages the target's store has of the topic."""
        ...

    def stop(self) -> None: ...


class CannotError(Exception):
    """This target cannot do what was asked, and why."""


class Meter:
    """What happened between entering and leaving: seconds, the worker's and its store's use, traffic."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def __enter__(self) -> Self:
        self._worker, self._store, self._traffic = self._readings()
        self._started = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.monotonic() - self._started
        worker, store, traffic = self._readings()
        self.worker = worker - self._worker
        self.store = store - self._store
        self.commands = traffic.commands - self._traffic.commands
        self.store_bytes = (
            traffic.received_bytes
            - self._traffic.received_bytes
            + traffic.sent_bytes
            - self._traffic.sent_bytes
        )

    def costs(self, operations: int) -> dict[str, float]:
        """Of one operation, and how much of the time the worker had to wait for its core."""
        if not operations:
            return {}
        costs = {
            "worker_us": self.worker.cpu_seconds / operations * 1e6,
            "worker_load": self.worker.cpu_seconds / self.seconds,
            "worker_waited": self.worker.waited_seconds / self.seconds,
        }
        if self._target.valkey is not None:
            costs |= {
                "store_us": self.store.cpu_seconds / operations * 1e6,
                "store_commands": self.commands / operations,
                "store_bytes": self.store_bytes / operations,
            }
        return costs

    def _readings(self) -> tuple[Usage, Usage, Traffic]:
        valkey = self._target.valkey
        if valkey is None:
            return usage_of(self._target.pid), Usage(0, 0, 0), Traffic(0, 0, 0)
        return usage_of(self._target.pid), usage_of(valkey.pid), valkey.traffic()
