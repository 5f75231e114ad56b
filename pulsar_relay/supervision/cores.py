"""How many processor cores this process may use: what `server.workers: auto` means."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cores(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """The cores this process may run on, or fewer if a container's quota is less, rounded up; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [math.ceil(quota) for quota in _quotas(cgroups, membership)]
    return max(1, min([allowed, *quotas]))


def _quotas(cgroups: Path, membership: Path) -> Iterator[float]:
    """The quota, in cores, of this process's control group and of each above it, where there is one."""
    lines: list[str] = []
    with suppress(OSError):
        lines = membership.read_text().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        is_second = not controllers
        if not is_second and "cpu" not in controllers.split(","):
            continue
        root = cgroups if is_second else cgroups / controllers
        # In a container the path may be the host's, which is not to be seen; the root is the container's.
        group = root / path.lstrip("/")
        for place in dict.fromkeys([group, *group.parents, root]):
            if place == root or root in place.parents:
                yield from _quota(place, is_second=is_second)


def _quota(group: Path, *, is_second: bool) -> Iterator[float]:
    with suppress(OSError, ValueError):
        if is_second:
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        if float(quota) > 0:
            yield float(quota) / float(period)
