"""Which worker has which connection: the kernel knows, and is asked over and over."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.relays import RelayProcess

ASKED_EVERY_SECONDS = 0.01
_ESTABLISHED = "01"

Ends = tuple[int, int]
"""A connection by its ports: the relay's, and the client's."""


class Placement:
    """Asks while its `with` block runs. One that lived shortly may be unseen: asking takes the kernel
    long where many others have connections.

    Workers that come in the place of others are found as the nodes' logs tell of them.
    """

    def __init__(self, nodes: Sequence[RelayProcess]) -> None:
        self._nodes = nodes
        self._workers: dict[Ends, int] = {}
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._ask_on, name="placement", daemon=True)

    def __enter__(self) -> Self:
        self._ask()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._has_ended.set()
        self._thread.join()

    @property
    def connections(self) -> Mapping[int, int]:
        """How many connections each worker, by its pid, was seen with."""
        counts: dict[int, int] = defaultdict(int)
        for pid in list(self._workers.values()):
            counts[pid] += 1
        return counts

    def _ask_on(self) -> None:
        while not self._has_ended.wait(ASKED_EVERY_SECONDS):
            self._ask()

    def _ask(self) -> None:
        inodes = _accepted({node.address[1] for node in self._nodes})
        for node in self._nodes:
            for pid in node.workers.values():
                for inode in _sockets_of(pid) & inodes.keys():
                    self._workers[inodes[inode]] = pid


def worker_with(node: RelayProcess, port: int) -> int:
    """The pid of the worker that has accepted the connection from this port."""
    inodes = {inode for inode, (_, theirs) in _accepted({node.address[1]}).items() if theirs == port}
    (pid,) = [pid for pid in node.workers.values() if _sockets_of(pid) & inodes]
    return pid


def _accepted(ports: set[int]) -> dict[str, Ends]:
    """The inodes of the connections that are open to these ports."""
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, ours, theirs, state, _, _, _, _, _, inode, *_ = line.split()
        port = int(ours.rpartition(":")[2], 16)
        if state == _ESTABLISHED and port in ports:
            found[inode] = port, int(theirs.rpartition(":")[2], 16)
    return found


def _sockets_of(pid: int) -> set[str]:
    """The inodes of the sockets that a process has open; none if it has ended."""
    inodes = set()
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                kind, _, inode = str(descriptor.readlink()).partition(":[")
                if kind == "socket":
                    inodes.add(inode.rstrip("]"))
    return inodes
