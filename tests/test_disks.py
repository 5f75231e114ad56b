from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.disks import MIB, PowerCutDisk, SmallDisk
from tests.valkeys import TIMEOUT_SCALE, VALKEY_CONF

SESSION = """
import os, sys
from pathlib import Path
from tests.faults.disks import SmallDisk

SmallDisk(Path(sys.argv[1]))
os._exit(1)
"""


def write(path: Path, data: bytes, *, is_synced: bool) -> None:
    with open(path, "ab") as file:
        file.write(data)
        file.flush()
        if is_synced:
            os.fsync(file.fileno())


def test_a_power_cut_takes_what_was_not_synced_and_nothing_else(power_cut_disk: PowerCutDisk) -> None:
    path = power_cut_disk.path / "log"
    write(path, b"synced", is_synced=True)
    write(path, b" and not", is_synced=False)
    write(power_cut_disk.path / "new", b"never synced", is_synced=False)
    assert path.read_bytes() == b"synced and not"
    power_cut_disk.cut_power()
    power_cut_disk.restore_power()
    assert path.read_bytes() == b"synced"
    assert not (power_cut_disk.path / "new").exists()


def test_without_power_nothing_can_be_written_and_with_it_again(power_cut_disk: PowerCutDisk) -> None:
    path = power_cut_disk.path / "log"
    power_cut_disk.cut_power()
    with pytest.raises(OSError) as refused:
        write(path, b"late", is_synced=True)
    assert refused.value.errno == errno.EIO
    power_cut_disk.restore_power()
    write(path, b"again", is_synced=True)
    power_cut_disk.cut_power()
    power_cut_disk.restore_power()
    assert path.read_bytes() == b"again"


def test_power_is_not_restored_under_somebody_who_still_sees_the_lost_pages(
    power_cut_disk: PowerCutDisk,
) -> None:
    with open(power_cut_disk.path / "log", "wb"):
        power_cut_disk.cut_power()
        with pytest.raises(subprocess.CalledProcessError, match="umount"):
            power_cut_disk.restore_power()
    power_cut_disk.restore_power()


def test_a_full_disk_takes_no_byte_more_until_it_is_freed(small_disk: SmallDisk) -> None:
    path = small_disk.path / "log"
    small_disk.fill(leave_bytes=MIB)
    assert small_disk.free_bytes == MIB
    write(path, bytes(MIB), is_synced=False)
    with pytest.raises(OSError) as refused:
        write(path, b"more", is_synced=False)
    assert refused.value.errno == errno.ENOSPC
    small_disk.free()
    write(path, b"more", is_synced=False)
    assert path.stat().st_size == MIB + 4


def test_a_disk_is_unmounted_at_the_end_and_when_the_test_run_dies(
    small_disk: SmallDisk, tmp_path: Path
) -> None:
    assert small_disk.path.is_mount()
    small_disk.close()
    small_disk.close()
    assert not small_disk.path.is_mount()
    # The output closes when the last process has ended that inherited it: the one that unmounts.
    subprocess.run(
        [sys.executable, "-c", SESSION, str(tmp_path)],
        cwd=VALKEY_CONF.parent,
        stdout=subprocess.PIPE,
        check=False,
        timeout=30 * TIMEOUT_SCALE,
    )
    assert not (tmp_path / "mounted").is_mount()
