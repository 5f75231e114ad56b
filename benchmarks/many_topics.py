"""What topics cost that nobody talks about: in Valkey, open in a worker, and in other workers.

    python -m benchmarks.many_topics [--stored 100000] [--open 5000] [--seconds 60] [--a-second 1000]

Starts relays of one worker each, as users do, over one Valkey, and prints a table. Memory is what is resident
and not only mapped from files, processor time what the kernel counted, commands those that Valkey ran besides
the benchmark's own.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from websockets.asyncio.client import ClientConnection, connect

from tests.relays import RelayProcess
from tests.valkeys import RealValkey

TOGETHER = 100
TOPICS_A_SOCKET = 50
OWN_COMMANDS = {"info", "client|list", "config|resetstat"}
WAIT_SECONDS = 120.0
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Spent:
    """During a time: processor seconds of a worker and of Valkey, and commands by their names."""

    worker_seconds: float
    valkey_seconds: float
    commands: Mapping[str, int]
    feed_bytes: int
    """What Valkey sent on the worker's feed connection."""


class Bench:
    """A Valkey, and relays on it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count()
        self.valkey = RealValkey(directory / "valkey").start()
        # valkey-py types its answers as those of both its clients at once.
        self.admin: Any = self.valkey.client()

    def close(self) -> None:
        self.admin.close()
        self.valkey.close()

    @contextmanager
    def relay(self, *settings: str) -> Iterator[RelayProcess]:
        place = f"valkey.unix_socket={self.valkey.socket_path}"
        words = [word for setting in (place, *settings) for word in ("--set", setting)]
        relay = RelayProcess(self._directory / f"relay-{next(self._numbers)}", *words)
        try:
            yield relay.start()
        finally:
            relay.close()

    def publish_to(self, relay: RelayProcess, prefix: str, count: int) -> None:
        """One message of 100 B to each of so many topics."""
        with requests.Session() as session:
            for start in range(0, count, TOGETHER):
                numbers = range(start, min(start + TOGETHER, count))
                drafts = [{"topic": f"{prefix}-{number:06}", "payload": "x" * 98} for number in numbers]
                answer = session.post(
                    f"{relay.url}/api/v1/messages/bulk", json={"messages": drafts}, timeout=WAIT_SECONDS
                )
                assert answer.ok, answer.text

    async def spent(self, relay: RelayProcess, seconds: float) -> Spent:
        """What is spent while so many seconds pass."""
        self.admin.config_resetstat()
        feed = self._feed_bytes()
        before = processor_seconds(relay.pid), processor_seconds(self.valkey.pid)
        await asyncio.sleep(seconds)
        after = processor_seconds(relay.pid), processor_seconds(self.valkey.pid)
        commands = {
            name.removeprefix("cmdstat_"): int(found["calls"])
            for name, found in self.admin.info("commandstats").items()
        }
        return Spent(
            after[0] - before[0],
            after[1] - before[1],
            {name: calls for name, calls in commands.items() if name not in OWN_COMMANDS},
            self._feed_bytes() - feed,
        )

    def _feed_bytes(self) -> int:
        """Of the feed that follows most."""
        clients = self.admin.client_list(_type="pubsub")
        return max((int(one["sub"]), int(one["tot-net-out"])) for one in clients)[1] if clients else 0


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines[1:])
    return int(found["Private_Dirty"].split()[0]) * 1024


@asynccontextmanager
async def followers(relay: RelayProcess, prefix: str, count: int) -> AsyncIterator[list[ClientConnection]]:
    """Sockets that follow so many topics together."""
    sockets = []
    try:
        for start in range(0, count, TOPICS_A_SOCKET):
            numbers = range(start, min(start + TOPICS_A_SOCKET, count))
            one = await connect(relay.ws_url, ping_interval=None, max_size=None)
            sockets.append(one)
            topics = [f"{prefix}-{number:06}" for number in numbers]
            await one.send(json.dumps({"type": "subscribe", "topics": topics}))
            assert json.loads(await one.recv())["type"] == "subscribed"
        yield sockets
    finally:
        for one in sockets:
            one.transport.abort()


async def publish_evenly(relay: RelayProcess, prefix: str, count: int, a_second: int) -> None:
    """Until cancelled, in requests of ten messages to as many topics."""
    loop, numbers = asyncio.get_running_loop(), itertools.cycle(range(count))
    began, sent = loop.time(), 0
    with requests.Session() as session:
        while True:
            drafts = [{"topic": f"{prefix}-{next(numbers):06}", "payload": "x" * 98} for _ in range(10)]
            url = f"{relay.url}/api/v1/messages/bulk"
            answer = await asyncio.to_thread(session.post, url, json={"messages": drafts})
            assert answer.ok, answer.text
            sent += 10
            await asyncio.sleep(max(0.0, began + sent / a_second - loop.time()))


# ---------------------------------------------------------------------------------------------- what it costs


async def stored(bench: Bench, count: int, seconds: float) -> Iterator[str]:
    """Topics that are in Valkey and open nowhere."""
    rows = []
    for held in (0, count):
        if held:
            with bench.relay() as relay:
                before = int(bench.admin.info("memory")["used_memory"])
                bench.publish_to(relay, "stored", count)
            memory = int(bench.admin.info("memory")["used_memory"]) - before
            rows.append(row(f"{count:,} topics in Valkey", f"{memory / 1e6:,.0f} MB there"))
        starts = []
        for _ in range(3):
            began = time.monotonic()
            with bench.relay():
                starts.append(time.monotonic() - began)
        with bench.relay() as relay:
            began_bytes = resident_bytes(relay.pid)
            spent = await bench.spent(relay, seconds)
            rows += [
                row(f"a relay starts, {held:,} topics there", f"{sorted(starts)[1]:.2f} s"),
                row("its memory", f"{began_bytes / 1e6:.1f} MB"),
                row(f"its memory {seconds:g} s later", f"{resident_bytes(relay.pid) / 1e6:.1f} MB"),
                *spent_rows(spent, seconds),
            ]
    return iter(rows)


async def opened(bench: Bench, count: int, seconds: float, a_second: int) -> Iterator[str]:
    """Topics that are followed in one worker, while nobody publishes, and while others are published to."""
    rows = []
    with bench.relay() as relay, bench.relay() as other:
        bench.publish_to(other, "open", count)
        idle = await bench.spent(relay, seconds)
        rows += [f"| **a worker that has nothing open**, {seconds:g} s | |", *spent_rows(idle, seconds)]
        before = resident_bytes(relay.pid)
        async with followers(relay, "open", count):
            grown = resident_bytes(relay.pid) - before
            sockets = count // TOPICS_A_SOCKET
            rows.append(row(f"{count:,} topics followed, by {sockets} sockets", f"{grown / 1e6:.1f} MB"))
            quiet = await bench.spent(relay, seconds)
            rows += [f"| **nobody publishes**, {seconds:g} s | |", *spent_rows(quiet, seconds)]
            publishing = asyncio.create_task(publish_evenly(other, "other", count, a_second))
            await asyncio.sleep(5)
            busy = await bench.spent(relay, seconds)
            publishing.cancel()
            rows += [
                f"| **another worker publishes to others**, {seconds:g} s | |",
                *spent_rows(busy, seconds),
            ]
    return iter(rows)


def spent_rows(spent: Spent, seconds: float) -> list[str]:
    most = Counter(spent.commands).most_common(8)
    return [
        row("processor time of the worker, a minute", f"{spent.worker_seconds * 60 / seconds:.2f} s"),
        row("processor time of Valkey, a minute", f"{spent.valkey_seconds * 60 / seconds:.2f} s"),
        row("sent to it by the feed, a second", f"{spent.feed_bytes / seconds:,.0f} B"),
        row("commands, a second", ", ".join(f"{name} {calls / seconds:,.1f}" for name, calls in most)),
    ]


def row(name: str, value: str) -> str:
    return f"| {name} | {value} |"


async def _main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory))
        try:
            for line in await opened(bench, options.open, options.seconds, options.a_second):
                print(line, flush=True)
            bench.admin.flushall()
        finally:
            bench.close()
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory))
        try:
            for line in await stored(bench, options.stored, options.seconds):
                print(line, flush=True)
        finally:
            bench.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stored", type=int, default=100_000)
    parser.add_argument("--open", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--a-second", type=int, default=1_000)
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
