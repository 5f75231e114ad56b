"""Valkey clusters for tests: real nodes that share the slots, with replicas, whose slots can be moved.

Plain blocking code, as in `tests/valkeys.py`. There is no valkey-cli here: what it does is said by hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import valkey as valkey_client

from pulsar_relay.store import schema
from pulsar_relay.store.slots import SLOTS, slot_of
from tests.valkeys import TIMEOUT_SCALE, RealValkey

NODE_TIMEOUT_MS = 1000
"""A node that is silent for so long counts as down."""


class ClusterNode(RealValkey):
    """One node; its address stays the same over its restarts."""

    @property
    def node_id(self) -> str:
        return str(_text(self.command("CLUSTER", "MYID")))

    @property
    def is_primary(self) -> bool:
        role = self.command("ROLE")
        assert isinstance(role, list | tuple)
        return bool(role[0] == b"master")

    @property
    def place(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def name(self) -> str:
        """As the relay names it."""
        return f"{self.host}:{self.port}"


class ValkeyCluster:
    """Primaries with the slots spread evenly over them, and so many replicas of each."""

    def __init__(
        self,
        make_directory: Callable[[], Path],
        *,
        primaries: int = 3,
        replicas: int = 0,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        own = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(NODE_TIMEOUT_MS),
            "cluster-require-full-coverage": "no",
            # A replica that has heard nothing for long may still be the only one there is.
            "cluster-replica-validity-factor": "0",
            "repl-diskless-sync-delay": "0",
            "appendfsync": "always",
            **(settings or {}),
        }
        count = primaries * (1 + replicas)
        self.nodes = [ClusterNode(make_directory(), tcp=True, settings=own) for _ in range(count)]
        self._primaries = primaries

    def start(self) -> ValkeyCluster:
        """Return when every node knows all others, and all slots are served."""
        for node in self.nodes:
            node.start()
        first, width = self.nodes[0], SLOTS // self._primaries
        for index, node in enumerate(self.nodes[: self._primaries]):
            last = SLOTS - 1 if index == self._primaries - 1 else (index + 1) * width - 1
            node.command("CLUSTER", "ADDSLOTSRANGE", index * width, last)
            node.command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        for node in self.nodes[1:]:
            first.command("CLUSTER", "MEET", node.host, node.port)
        known = str(len(self.nodes))
        self.wait_until(
            lambda: all(self._info(node)["cluster_known_nodes"] == known for node in self.nodes),
            "the nodes do not find each other",
        )
        for index, node in enumerate(self.nodes[self._primaries :]):
            node.command("CLUSTER", "REPLICATE", self.nodes[index % self._primaries].node_id)
        self.wait_until(self._is_whole, "the cluster does not get ready")
        return self

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        return tuple((node.host, node.port) for node in self.nodes)

    @property
    def primaries(self) -> Sequence[ClusterNode]:
        """Those that own slots, as the first node that runs believes."""
        return list(dict.fromkeys(self._owners().values()))

    def owner(self, key: str) -> ClusterNode:
        """The primary that has this key, or would have it."""
        return self._owners()[slot_of(key)]

    def replica_of(self, primary: ClusterNode) -> ClusterNode:
        told = primary.command("CLUSTER", "REPLICAS", primary.node_id)
        assert isinstance(told, list)
        ids = [str(_text(line)).split(" ")[0] for line in told]
        return next(node for node in self.nodes if node.is_running and node.node_id in ids)

    def topics_on(self, node: ClusterNode, count: int = 1) -> list[str]:
        """Names of topics that are, or would be, on this primary."""
        owners = self._owners()
        names = (f"topic-{number}" for number in range(100_000))
        found = (name for name in names if owners[slot_of(schema.stream(name))] is node)
        return [next(found) for _ in range(count)]

    def move(self, slot: int, target: ClusterNode) -> None:
        """The slot with all its keys, in one atomic step, as Valkey 9 does it."""
        source = self._owners()[slot]
        if source is target:
            return
        source.command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.node_id)
        self.wait_until(lambda: self._knows(slot, target), f"slot {slot} does not move")

    def begin_move(self, slot: int, target: ClusterNode) -> ClusterNode:
        """The classic way, key by key; returns the source. Nothing is moved yet."""
        source = self._owners()[slot]
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.node_id)
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.node_id)
        return source

    def move_keys(self, slot: int, source: ClusterNode, target: ClusterNode, count: int = 1000) -> None:
        keys = source.command("CLUSTER", "GETKEYSINSLOT", slot, count)
        assert isinstance(keys, list)
        if keys:
            source.command("MIGRATE", target.host, target.port, "", 0, 5000, "REPLACE", "KEYS", *keys)

    def end_move(self, slot: int, target: ClusterNode) -> None:
        """The target is the slot's owner, and all primaries know."""
        for node in [target, *(one for one in self.primaries if one is not target)]:
            node.command("CLUSTER", "SETSLOT", slot, "NODE", target.node_id)

    def move_classically(self, slot: int, target: ClusterNode) -> None:
        """All of it."""
        if self._owners()[slot] is target:
            return
        source = self.begin_move(slot, target)
        while source.command("CLUSTER", "COUNTKEYSINSLOT", slot):
            self.move_keys(slot, source, target)
        self.end_move(slot, target)

    def wait_for_failover(self, replica: ClusterNode) -> None:
        """Return when the replica is a primary, and all that run know."""
        self.wait_until(
            lambda: all(replica in self._owners(node).values() for node in self.nodes if node.is_running),
            "no failover happens",
        )

    def wait_until(self, is_true: Callable[[], object], complaint: str) -> None:
        deadline = time.monotonic() + 30 * TIMEOUT_SCALE
        while not is_true():
            assert time.monotonic() < deadline, f"{complaint}:\n{self.nodes[0].log()[-3000:]}"
            time.sleep(0.02)

    def client(self) -> valkey_client.ValkeyCluster:
        """A new blocking client; the caller closes it."""
        node = self._running()
        return valkey_client.ValkeyCluster(
            node.host, node.port, socket_timeout=10 * TIMEOUT_SCALE, require_full_coverage=False
        )

    def command(self, *words: str | bytes | float) -> Any:
        """Run one command on the primary of its key."""
        key = words[3] if words[0] == "EVALSHA" else words[1]
        return self.owner(key if isinstance(key, str) else str(_text(key))).command(*words)

    def flush(self) -> None:
        """Empty all shards."""
        for node in self.primaries:
            node.command("FLUSHALL")

    def close(self) -> None:
        for node in self.nodes:
            node.close()

    def _running(self) -> ClusterNode:
        return next(node for node in self.nodes if node.is_running)

    def _info(self, node: ClusterNode) -> dict[str, str]:
        text = str(_text(node.command("CLUSTER", "INFO")))
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def _owners(self, asked: ClusterNode | None = None) -> dict[int, ClusterNode]:
        """By slot; those that nobody has are missing."""
        by_port = {node.port: node for node in self.nodes}
        ranges = (asked or self._running()).command("CLUSTER", "SLOTS")
        return {
            slot: by_port[primary[1]]
            for first, last, primary, *_ in ranges  # type: ignore[attr-defined]
            for slot in range(first, last + 1)
        }

    def _knows(self, slot: int, target: ClusterNode) -> bool:
        return all(self._owners(node).get(slot) is target for node in self.nodes if node.is_running)

    def _is_whole(self) -> bool:
        for index, node in enumerate(self.nodes):
            information = self._info(node)
            if information["cluster_state"] != "ok" or information["cluster_slots_ok"] != str(SLOTS):
                return False
            if index >= self._primaries:
                with node.client() as client:
                    if client.info("replication")["master_link_status"] != "up":
                        return False
        return True


def _text(reply: object) -> object:
    return reply.decode() if isinstance(reply, bytes) else reply


@pytest.fixture(scope="session")
def cluster_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    """The session's shared cluster of three primaries. Not to be hurt: `make_cluster` is for faults."""
    cluster = ValkeyCluster(lambda: tmp_path_factory.mktemp("cluster"), settings={"appendfsync": "everysec"})
    try:
        yield cluster.start()
    finally:
        cluster.close()


@pytest.fixture
def valkey_cluster(cluster_servers: ValkeyCluster) -> ValkeyCluster:
    """The shared cluster, emptied for this test."""
    cluster_servers.flush()
    return cluster_servers


@pytest.fixture(params=["one server", "cluster"])
def where(request: pytest.FixtureRequest) -> str | ValkeyCluster:
    """The shared server, and then the shared cluster, emptied: what a store can be over."""
    name = "valkey" if request.param == "one server" else "valkey_cluster"
    found: str | ValkeyCluster = request.getfixturevalue(name)
    return found


@pytest.fixture
def admin(
    request: pytest.FixtureRequest,
) -> Iterator[valkey_client.Valkey | valkey_client.ValkeyCluster]:
    """Somebody else's client of what the test is over: of `where`, or else of the shared server."""
    found = request.getfixturevalue("where" if "where" in request.fixturenames else "valkey")
    client = found.client() if isinstance(found, ValkeyCluster) else None
    with client or valkey_client.Valkey(unix_socket_path=found) as opened:
        yield opened


@pytest.fixture
def make_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ValkeyCluster]]:
    """Start clusters of the test's own (arguments as for `ValkeyCluster`), ended with the test."""
    clusters: list[ValkeyCluster] = []

    def make(**arguments: Any) -> ValkeyCluster:
        cluster = ValkeyCluster(lambda: tmp_path_factory.mktemp("cluster"), **arguments)
        clusters.append(cluster)
        return cluster.start()

    yield make
    for cluster in clusters:
        cluster.close()
