"""What processes have used so far: processor time to the nanosecond, and memory, from /proc."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process with all its threads and children."""

    cpu_seconds: float
    waited_seconds: float
    """How long they were ready to run and another process had the core."""
    resident_bytes: int

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(
            self.cpu_seconds - earlier.cpu_seconds,
            self.waited_seconds - earlier.waited_seconds,
            self.resident_bytes - earlier.resident_bytes,
        )


def usage_of(pid: int) -> Usage:
    """Threads that have ended meanwhile are not in it: no target ends threads while it is measured."""
    ran = waited = resident = 0
    for process in _family(pid):
        for schedule in Path(f"/proc/{process}/task").glob("*/schedstat"):
            with suppress(OSError):
                on_core, ready, _ = map(int, schedule.read_text().split())
                ran += on_core
                waited += ready
        resident += _resident_bytes(process)
    return Usage(ran / 1e9, waited / 1e9, resident)


def _family(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name before the last bracket may hold anything.
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def _resident_bytes(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0
