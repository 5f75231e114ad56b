"""Host: what the kernel of Valkey's machine says, where that is this machine."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from pulsar_relay.checkup.finding import Finding, advice, ok, problem, unseen
from pulsar_relay.checkup.vitals import Vitals

LOW_SPACE_PERCENT = 10
NEEDED_FILES = 4096
_OPEN_FILES = re.compile(r"^Max open files\s+(\d+|unlimited)", re.MULTILINE)


class Host:
    """`root` is the file system's, another one in tests."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def findings(self, vitals: Vitals) -> Iterator[Finding]:
        if not self._runs(vitals.number("process_id")):
            yield unseen("host", "Valkey runs on another machine, or in another container; look there")
            return
        yield from self._overcommit()
        yield from self._huge_pages()
        yield from self._open_files(vitals.number("process_id"))
        yield from self._space(vitals)

    def _runs(self, pid: int) -> bool:
        # The number alone says nothing: a server elsewhere may have the number of somebody here.
        return "valkey" in (self._read(f"proc/{pid}/comm") or "")

    def _overcommit(self) -> Iterator[Finding]:
        value = self._read("proc/sys/vm/overcommit_memory")
        if value is None:
            yield unseen("overcommit", "cannot be read here")
        elif value.strip() != "1":
            text = f"vm.overcommit_memory is {value.strip()}: on a full machine snapshots and rewrites fail"
            yield advice("overcommit", text, "sysctl vm.overcommit_memory=1, and in /etc/sysctl.d")
        else:
            yield ok("overcommit", "vm.overcommit_memory is 1")

    def _huge_pages(self) -> Iterator[Finding]:
        value = self._read("sys/kernel/mm/transparent_hugepage/enabled")
        if value is None:
            yield unseen("huge pages", "cannot be read here")
        elif "[always]" in value:
            text = "transparent huge pages are `always`: a snapshot then copies far more memory"
            yield advice("huge pages", text, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
        else:
            yield ok("huge pages", "transparent huge pages are not forced on it")

    def _open_files(self, pid: int) -> Iterator[Finding]:
        found = _OPEN_FILES.search(self._read(f"proc/{pid}/limits") or "")
        if found is None:
            yield unseen("open files", "Valkey's limit cannot be read by this user")
        elif found[1] != "unlimited" and int(found[1]) < NEEDED_FILES:
            text = f"Valkey may open {found[1]} files: that limits its connections"
            yield advice("open files", text, "raise LimitNOFILE of its unit, or `ulimit -n`")
        else:
            yield ok("open files", f"Valkey may open {found[1]}")

    def _space(self, vitals: Vitals) -> Iterator[Finding]:
        directory = vitals.setting("dir")
        if directory is None:
            yield unseen("disk", "CONFIG GET dir is denied to this user", "ACL: +config|get")
            return
        try:
            usage = shutil.disk_usage(self._root / directory.lstrip("/"))
        except OSError:
            yield unseen("disk", "Valkey's directory cannot be read by this user")
            return
        free = usage.free * 100 // usage.total
        text = f"{free}% of the disk under Valkey's directory are free"
        needed = 2 * vitals.number("aof_current_size")
        if free < LOW_SPACE_PERCENT or usage.free < needed:
            yield problem("disk", f"{text}: when it is full, every publish is refused", "make room")
        else:
            yield ok("disk", text)

    def _read(self, name: str) -> str | None:
        try:
            return (self._root / name).read_text("utf-8", "replace")
        except OSError:
            return None
