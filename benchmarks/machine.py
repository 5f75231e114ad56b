"""Which core does what, and what the machine is."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Placement:
    """The cores of the measured worker, of its store, and of the load.

    The worker has its core for itself wherever there are two; store and load share one only if there are no
    more. All empty: one core, or pinning is not wanted.
    """

    worker: frozenset[int]
    store: frozenset[int]
    load: frozenset[int]

    @classmethod
    def of_this_machine(cls) -> Placement:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            return cls(frozenset(), frozenset(), frozenset())
        if len(cores) == 2:
            return cls(frozenset(cores[:1]), frozenset(cores[1:]), frozenset(cores[1:]))
        return cls(frozenset(cores[:1]), frozenset(cores[1:2]), frozenset(cores[2:]))


def pin(cores: frozenset[int]) -> None:
    """Hold this process, and what it starts from now on, on these cores."""
    if cores:
        os.sched_setaffinity(0, cores)


def description() -> dict[str, str | int]:
    """What a reader must know of the machine to read its numbers."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def commit() -> str:
    """Of the relay that was measured, with a + where files were changed after it; empty outside of git."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    place = Path(__file__).parent
    found = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
