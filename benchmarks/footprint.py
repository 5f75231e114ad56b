"""What a message, a topic, a connection takes: memory of Valkey and of a worker, and disk.

    python -m benchmarks.footprint [--megabytes 32] [--connections 2000] [--topics 2000]

Starts relays as users do, each with its embedded Valkey in a temporary directory, and prints the tables of
docs/sizing.md, in bytes. Memory of a worker is what its resident set grows by; of Valkey, `used_memory`.
Payloads are random text, which does not compress.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import platform
import random
import resource
import string
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
import valkey

from benchmarks.idle_clients import TRANSPORTS, IdleClients
from tests.relays import RelayProcess

SIZES = (100, 1_000, 2_000, 10_000, 100_000)
SINGLES = 500
TOGETHER = 100
LARGEST_REQUEST_BYTES = 1_000_000
WARM_UP = 200
WAIT_SECONDS = 60.0
SOCKET_SLABS = ("TCP", "sock_inode_cache", "dentry", "filp", "eventpoll_epi", "eventpoll_pwq")
"""What the kernel keeps of one accepted TCP connection that a loop watches, one of each."""


@dataclass
class Bench:
    """A relay, its Valkey, and what is asked of them."""

    relay: RelayProcess
    # Not `Valkey`: valkey-py types its answers as those of both its clients at once.
    valkey: Any
    session: requests.Session = field(default_factory=requests.Session)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Any:
        answer = self.session.post(self.relay.url + path, json=body, headers=headers, timeout=WAIT_SECONDS)
        assert answer.ok, answer.text
        return answer.json()

    def publish(self, drafts: Sequence[dict[str, Any]]) -> None:
        """In one request."""
        self.post("/api/v1/messages/bulk", {"messages": drafts})

    def publish_all(self, drafts: Sequence[dict[str, Any]]) -> None:
        """In requests of TOGETHER messages, or of a megabyte."""
        together = max(1, min(TOGETHER, LARGEST_REQUEST_BYTES // len(drafts[0]["payload"])))
        for start in range(0, len(drafts), together):
            self.publish(drafts[start : start + together])

    def information(self, name: str) -> int:
        return int(self.valkey.info()[name])

    @property
    def valkey_bytes(self) -> int:
        return self.information("used_memory")

    @property
    def worker_bytes(self) -> int:
        """Resident, without what is only mapped from files."""
        lines = Path(f"/proc/{self.relay.pid}/smaps_rollup").read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines[1:])
        return int(found["Private_Dirty"].split()[0]) * 1024

    def metric(self, name: str) -> float:
        lines = requests.get(self.relay.metrics_url, timeout=WAIT_SECONDS).text.splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).rpartition(" ")[2])

    def rewrite(self) -> int:
        """Compact the append-only file; its size after that."""
        self.valkey.bgrewriteaof()
        until(lambda: not self.information("aof_rewrite_in_progress"))
        assert self.valkey.info("persistence")["aof_last_bgrewrite_status"] == "ok"
        return self.information("aof_base_size")

    def one(self, pattern: str) -> float:
        """The memory of a key of this pattern, its place in the table of keys included."""
        key = next(self.valkey.scan_iter(pattern, count=1000))
        return float(self.valkey.memory_usage(key, samples=0))


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@contextmanager
def bench(*settings: str) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as directory:
        words = [word for setting in settings for word in ("--set", setting)]
        relay = RelayProcess(Path(directory), *words)
        try:
            relay.start()
            with valkey.Valkey(unix_socket_path=str(relay.data_dir / "valkey.sock")) as client:
                # A rewrite in between would be taken for messages that take nothing.
                client.config_set("auto-aof-rewrite-percentage", 0)
                yield Bench(relay, client)
        finally:
            relay.close()


def payload(size: int) -> str:
    """Its JSON text has so many bytes."""
    return "".join(random.choices(string.ascii_letters + string.digits, k=size - 2))


def drafts(topic: str, size: int, count: int) -> list[dict[str, Any]]:
    return [{"topic": topic, "payload": payload(size)} for _ in range(count)]


# -------------------------------------------------------------------------------------------------- messages

MESSAGE_ROWS = (
    "memory in Valkey",
    "append-only file, published one by one",
    f"append-only file, published {TOGETHER} or 1 MB at once",
    "append-only file, once rewritten",
    "hot buffer of a worker",
)


def messages(size: int, megabytes: int, singles: int = SINGLES) -> list[float]:
    """Bytes of a message with a payload of `size`: a value for each of MESSAGE_ROWS.

    `singles` of them are published one by one, then at least as many together, twice.
    """
    count = max(singles, megabytes * 1_000_000 // size // TOGETHER * TOGETHER)
    limits = ("hot_buffer.max_messages=10000000", "hot_buffer.max_bytes=4GiB", "hot_buffer.total_bytes=4GiB")
    with bench(*limits) as there:
        start = there.information("aof_current_size")
        for draft in drafts("m", size, singles):
            there.post("/api/v1/messages", draft)
        one_by_one = (there.information("aof_current_size") - start) / singles
        # Half of them first: what requests of this size take for themselves is there from then on.
        there.publish_all(drafts("m", size, count))
        base, memory, worker = there.rewrite(), there.valkey_bytes, there.worker_bytes
        start = there.information("aof_current_size")
        there.publish_all(drafts("m", size, count))
        together = (there.information("aof_current_size") - start) / count
        hot = (there.worker_bytes - worker) / count
        stored = (there.valkey_bytes - memory) / count
        return [stored, one_by_one, together, (there.rewrite() - base) / count, hot]


# -------------------------------------------------------------------------------------------------- a rewrite

STEADY_TOPICS = 10
STEADY_A_SECOND = 2_000


def rewrite(megabytes: int) -> dict[str, float]:
    """A rewrite of streams that are full and are published to all the while, messages of 1,000 B."""
    kept = megabytes * 1_000 // STEADY_TOPICS
    with bench(f"storage.max_messages_per_topic={kept}") as there:
        for number in range(STEADY_TOPICS):
            there.publish_all([{"topic": f"s{number}", "payload": payload(1_000)}] * kept)
        size, stopped, published = there.valkey_bytes, threading.Event(), Counter[str]()

        def load() -> None:
            for number in itertools.count():
                if stopped.wait(TOGETHER / STEADY_A_SECOND):
                    return
                with requests.Session() as session:
                    body = {"messages": drafts(f"s{number % STEADY_TOPICS}", 1_000, TOGETHER)}
                    assert session.post(f"{there.relay.url}/api/v1/messages/bulk", json=body).ok
                    published["bytes"] += 1_000 * TOGETHER

        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(load)
            until(lambda: published["bytes"])
            before, began = published["bytes"], time.monotonic()
            there.rewrite()
            meanwhile, seconds = published["bytes"] - before, time.monotonic() - began
            stopped.set()
            loading.result()
        copied = there.information("aof_last_cow_size")
        return {
            "memory that a rewrite copies, for 1,000 B published meanwhile": copied / meanwhile * 1_000,
            "data that a rewrite goes through in a millisecond": size / seconds / 1_000,
        }


# -------------------------------------------------------------------------------------- topics, keys, clients


def topics(count: int) -> dict[str, float]:
    with bench("topic.idle_retire=1h") as there:
        names = [f"topic-{number:06}" for number in range(WARM_UP + count)]
        there.publish_all([draft for name in names[:WARM_UP] for draft in drafts(name, 100, 1)])
        memory, worker = there.valkey_bytes, there.worker_bytes
        there.publish_all([draft for name in names[WARM_UP:] for draft in drafts(name, 100, 1)])
        worker, memory = there.worker_bytes - worker, there.valkey_bytes - memory
        batch = there.one("*:batch:*")
        return {
            "a topic in Valkey, with one message of 100 B": memory / count - batch,
            "a worker's last batch of a topic in Valkey, for 2 minutes": batch,
            "an open topic in a worker, with one message of 100 B": worker / count,
        }


def keys(count: int) -> dict[str, float]:
    """Idempotency keys of 36 characters, as a UUID has, and named clients with a place in one topic."""
    with bench() as there:
        draft = drafts("k", 100, 1)[0]
        headers = {"Idempotency-Key": f"{0:036}"}
        last = there.post("/api/v1/messages", draft, headers)["message_id"]
        memory = there.valkey_bytes
        for number in range(count):
            there.post(f"/api/v1/consumers/client-{number:06}/ack", {"topic": "k", "message_id": last})
        return {
            "an `Idempotency-Key` of 36 characters in Valkey": there.one("*:idem:*"),
            "a named client with a place in one topic, in Valkey": (there.valkey_bytes - memory) / count,
        }


# ----------------------------------------------------------------------------------------------- connections

LABELS = {
    "websocket": "an idle WebSocket in a worker",
    "sse": "an idle event stream in a worker",
    "poll": "a waiting poll in a worker",
    "kept": "a connection kept without a request in a worker",
}


def connections(count: int) -> dict[str, float]:
    return {LABELS[transport]: asyncio.run(_connections(transport, count)) for transport in TRANSPORTS}


async def _connections(transport: str, count: int) -> float:
    with bench() as there:
        there.publish(drafts("idle", 100, 1))
        async with IdleClients(there.relay.address, transport, "idle") as clients:
            await clients.add(WARM_UP)
            await _counted(there, transport, WARM_UP)
            worker = there.worker_bytes
            await clients.add(count)
            await _counted(there, transport, WARM_UP + count)
            return (there.worker_bytes - worker) / count


async def _counted(there: Bench, transport: str, count: int) -> None:
    if transport == "kept":
        return
    deadline = time.monotonic() + WAIT_SECONDS
    while there.metric(f'relay_connections{{transport="{transport}"}}') < count:
        assert time.monotonic() < deadline, "not all are there"
        await asyncio.sleep(0.05)


def socket_bytes() -> float | None:
    """What the kernel keeps of an idle connection; None where it does not say (it says it to root)."""
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()[2:]
    except OSError:
        return None
    sizes = {line.split()[0]: int(line.split()[3]) for line in lines}
    return float(sum(sizes.get(name, 0) for name in SOCKET_SLABS))


# ---------------------------------------------------------------------------------------------------- tables


def row(name: str, values: Sequence[float]) -> str:
    return f"| {name} | {' | '.join(f'{value:,.0f}' for value in values)} |"


def message_table(megabytes: int) -> Iterator[str]:
    yield f"| bytes of a message, by payload | {' | '.join(f'{size:,} B' for size in SIZES)} |"
    yield "| --- |" + " ---: |" * len(SIZES)
    columns = [messages(size, megabytes) for size in SIZES]
    for number, name in enumerate(MESSAGE_ROWS):
        yield row(name, [column[number] for column in columns])


def other_table(megabytes: int, connection_count: int, topic_count: int) -> Iterator[str]:
    yield "| bytes of | |"
    yield "| --- | ---: |"
    with bench() as there:
        yield row("a worker that does nothing", [there.worker_bytes])
        yield row("its Valkey, empty", [there.valkey_bytes])
    found = {
        **connections(connection_count),
        **topics(topic_count),
        **keys(topic_count),
        **rewrite(megabytes),
    }
    if (kernel := socket_bytes()) is not None:
        found["an idle connection in the kernel"] = kernel
    yield from (row(name, [value]) for name, value in found.items())


def versions() -> str:
    with bench() as there:
        server = there.valkey.info("server")["valkey_version"]
    python = platform.python_version()
    day = datetime.now(UTC).date()
    return f"{day}, Valkey {server}, Python {python}, Linux {platform.release()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=32, help="of payload for each size")
    parser.add_argument("--connections", type=int, default=2_000, help="of each transport")
    parser.add_argument("--topics", type=int, default=2_000, help="and idempotency keys, and named clients")
    options = parser.parse_args()
    # A connection is an open file: here, and in the relay, which inherits this.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(f"Measured {versions()}: `python -m benchmarks.footprint {' '.join(sys.argv[1:])}".rstrip() + "`\n")
    for line in message_table(options.megabytes):
        print(line, flush=True)
    print()
    for line in other_table(10 * options.megabytes, options.connections, options.topics):
        print(line, flush=True)


if __name__ == "__main__":
    main()
