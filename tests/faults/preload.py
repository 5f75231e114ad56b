"""Preload: a process whose syncs are slow or fail, and whose wall clock was set, changed while it runs.

`preload.c`, compiled once a session, goes between the process and its C library. The two speak through a page
of shared memory: what a test sets holds from the process's next call on.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("preload.c")
_SYNC_DELAY, _SYNC_ERROR, _CLOCK, _SYNCS_BEGUN, _SYNCS_ENDED = range(0, 40, 8)


class Preload:
    """Start a process with `environment` to have it in hand; its children are as well.

    Everything may be changed at any time. A process that is started later begins as things are set then.
    """

    def __init__(self, library: Path, control: Path) -> None:
        control.write_bytes(bytes(mmap.PAGESIZE))
        with open(control, "r+b") as file:
            self._page = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self.environment: Mapping[str, str] = {"LD_PRELOAD": str(library), "FAULT_CONTROL": str(control)}

    @property
    def sync_seconds(self) -> float:
        """How much longer each fsync and fdatasync takes; also those under way end when it is lowered."""
        return self._read(_SYNC_DELAY) / 1000

    @sync_seconds.setter
    def sync_seconds(self, seconds: float) -> None:
        self._write(_SYNC_DELAY, round(seconds * 1000))

    @property
    def sync_error(self) -> int:
        """What syncs fail with, such as `errno.EIO`, and then sync nothing; 0 lets them succeed."""
        return self._read(_SYNC_ERROR)

    @sync_error.setter
    def sync_error(self, number: int) -> None:
        assert number == 0 or number in errno.errorcode
        self._write(_SYNC_ERROR, number)

    @property
    def clock_seconds(self) -> float:
        """How far the wall clock is ahead of the true one (negative: behind). Other clocks stay true."""
        return self._read(_CLOCK) / 1000

    @clock_seconds.setter
    def clock_seconds(self, seconds: float) -> None:
        self._write(_CLOCK, round(seconds * 1000))

    @property
    def syncs_ended(self) -> int:
        """How many syncs have returned, over all processes started with this."""
        return self._read(_SYNCS_ENDED)

    @property
    def syncs_under_way(self) -> int:
        return self._read(_SYNCS_BEGUN) - self.syncs_ended

    def heal(self) -> None:
        """No fault from now on."""
        self.sync_seconds = self.clock_seconds = self.sync_error = 0

    def close(self) -> None:
        """Let go of the page. Processes keep it, and go on as it was left."""
        self._page.close()

    def _read(self, offset: int) -> int:
        value: int = struct.unpack_from("=q", self._page, offset)[0]
        return value

    def _write(self, offset: int, value: int) -> None:
        struct.pack_into("=q", self._page, offset, value)


@pytest.fixture(scope="session")
def preload_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled library; skips where there is no C compiler or no LD_PRELOAD."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler (`cc`)")
    library = tmp_path_factory.mktemp("preload") / "preload.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", str(library), str(SOURCE), "-ldl"], check=True
    )
    return library


@pytest.fixture
def make_preload(
    preload_library: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Preload]]:
    """Makes one for each process that is to have faults of its own."""
    made: list[Preload] = []

    def make() -> Preload:
        made.append(Preload(preload_library, tmp_path_factory.mktemp("preload") / "control"))
        return made[-1]

    yield make
    for preload in made:
        preload.close()
