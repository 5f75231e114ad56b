from __future__ import annotations

import os
from pathlib import Path

import pytest

from pulsar_relay.supervision.cores import usable_cores

HERE = len(os.sched_getaffinity(0))


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def quota(cgroups: Path, group: str, **files: str) -> None:
    (cgroups / group).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (cgroups / group / name.replace("__", ".")).write_text(text + "\n")


def cores(cgroups: Path, membership: str) -> int:
    file = cgroups.parent / "membership"
    file.write_text(membership)
    return usable_cores(cgroups, file)


def test_without_a_quota_it_is_every_core_this_process_may_run_on(cgroups: Path) -> None:
    assert cores(cgroups, "0::/\n") == HERE
    assert usable_cores(cgroups, cgroups / "none") == HERE
    assert 1 <= usable_cores() <= HERE


def test_affinity_counts(cgroups: Path) -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:1])
    try:
        assert cores(cgroups, "0::/\n") == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.skipif(HERE < 2, reason="a quota below one core is one core, which this machine has anyway")
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("max 100000", HERE),
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("150000 100000", 2),
        ("nonsense", HERE),
    ],
)
def test_a_containers_quota_is_rounded_up(cgroups: Path, text: str, wanted: int) -> None:
    quota(cgroups, "", cpu__max=text)
    assert cores(cgroups, "0::/\n") == wanted


def test_the_least_quota_on_the_way_up_counts(cgroups: Path) -> None:
    quota(cgroups, "a", cpu__max="100000 100000")
    quota(cgroups, "a/b", cpu__max="max 100000")
    assert cores(cgroups, "0::/a/b\n") == 1


def test_a_path_that_is_only_known_outside_of_the_container_leads_to_its_root(cgroups: Path) -> None:
    quota(cgroups, "", cpu__max="100000 100000")
    assert cores(cgroups, "0::/system.slice/docker-1.scope\n") == 1
    assert cores(cgroups, "0::/../../other\n") == 1


def test_the_first_version_of_control_groups_counts_too(cgroups: Path) -> None:
    quota(cgroups, "cpu,cpuacct/a", cpu__cfs_quota_us="100000", cpu__cfs_period_us="100000")
    assert cores(cgroups, "4:memory:/a\n3:cpu,cpuacct:/a\n") == 1
    quota(cgroups, "cpu,cpuacct/a", cpu__cfs_quota_us="-1")
    assert cores(cgroups, "4:memory:/a\n3:cpu,cpuacct:/a\n") == HERE
