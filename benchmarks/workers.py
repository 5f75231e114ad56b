"""What more workers bring: publishes and deliveries a second, and the processor time of each.

    python -m benchmarks.workers [--workers 1 2 4] [--seconds 4] [--rounds 3]

Each round starts a relay with its own Valkey for each number of workers, in turn, so that a busy moment of
the machine hits all alike. Publishers and subscribers are processes of their own on the same machine: where
cores are few, they and Valkey take their part, and the processor time a message is what can be compared.
Prints the best round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import uvloop

CLIENTS = 2
"""Processes that publish, or that subscribe."""
CONNECTIONS = 32
"""Of each of them."""
TOPICS = 16
PAYLOAD = "x" * 200
BULK = 20
HEAD = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@dataclass(frozen=True)
class Outcome:
    """`processor_us` is what workers and supervisor took for each, Valkey and clients aside."""

    a_second: float
    processor_us: float


class Relay:
    """A relay with so many workers, in a directory of its own."""

    def __init__(self, workers: int) -> None:
        self._directory = tempfile.TemporaryDirectory()
        path = Path(self._directory.name)
        options = ["--workers", str(workers), "--port", "0", "--set", "server.metrics_port=0"]
        log = path / "log"
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pulsar_relay", "serve", *options],
                cwd=path,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            )
        while not (found := re.search(r"metrics on http://127.0.0.1:(\d+)", log.read_text())):
            assert self._process.poll() is None, log.read_text()
            time.sleep(0.02)
        self._metrics = int(found[1])
        listening = re.search(r"listening on http://127.0.0.1:(\d+)", log.read_text())
        assert listening
        self.port = int(listening[1])

    def processor_seconds(self) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics") as answer:
            text = answer.read().decode()
        each = re.findall(r"^process_cpu_seconds_total(?:\{.*\})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, each))

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        self._directory.cleanup()


async def publish(port: int, number: int, path: bytes, messages: int, until: float) -> int:
    """Publish on one connection, one request after the other; returns how many messages were acknowledged."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    message = {"topic": f"topic-{number % TOPICS}", "payload": PAYLOAD}
    value = message if messages == 1 else {"messages": [message] * messages}
    body = json.dumps(value).encode()
    request = HEAD % (path, len(body)) + body
    acknowledged = 0
    while time.monotonic() < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 201", b"HTTP/1.1 207")), head
        length = re.search(rb"Content-Length: (\d+)", head)
        assert length
        await reader.readexactly(int(length[1]))
        acknowledged += messages
    writer.close()
    return acknowledged


async def subscribe(port: int, number: int, until: float) -> int:
    """Take what comes on one WebSocket; returns how many messages that were."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(UPGRADE)
    await reader.readuntil(b"\r\n\r\n")
    text = json.dumps({"type": "subscribe", "topics": [f"topic-{number % TOPICS}"]}).encode()
    writer.write(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
    received = 0
    try:
        async with asyncio.timeout(until - time.monotonic()):
            while data := await reader.read(1 << 18):
                received += data.count(b'"message_id"')
    except TimeoutError:
        pass
    writer.close()
    return received


def client(kind: str, port: int, first: int, until: float) -> int:
    """One process of clients."""

    async def run() -> int:
        numbers = range(first, first + CONNECTIONS)
        if kind == "subscribe":
            each = [subscribe(port, number, until) for number in numbers]
        else:
            each = [publish(port, number, b"/api/v1/messages", 1, until) for number in numbers]
        return sum(await asyncio.gather(*each))

    return uvloop.run(run())


def feeder(port: int, until: float) -> int:
    """One process that publishes for the subscribers, in bulk."""

    async def run() -> int:
        path = b"/api/v1/messages/bulk"
        return sum(await asyncio.gather(*[publish(port, n, path, BULK, until) for n in range(TOPICS)]))

    return uvloop.run(run())


def measured(kind: str, workers: int, seconds: float) -> Outcome:
    relay = Relay(workers)
    try:
        with multiprocessing.get_context("spawn").Pool(CLIENTS + 1) as pool:
            pool.map(abs, range(CLIENTS + 1))  # the processes are there, and have imported what they need
            before, began = relay.processor_seconds(), time.monotonic()
            until = began + seconds
            jobs = [
                pool.apply_async(client, (kind, relay.port, number * CONNECTIONS, until))
                for number in range(CLIENTS)
            ]
            if kind == "subscribe":
                pool.apply_async(feeder, (relay.port, until))
            done = sum(job.get() for job in jobs)
            took = relay.processor_seconds() - before
        return Outcome(done / seconds, took / max(done, 1) * 1e6)
    finally:
        relay.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for kind, title in (("publish", "publishes"), ("subscribe", "deliveries")):
        best: dict[int, Outcome] = {}
        for _ in range(options.rounds):
            for workers in options.workers:
                outcome = measured(kind, workers, options.seconds)
                known = best.get(workers)
                if known is None or outcome.a_second > known.a_second:
                    best[workers] = outcome
        for workers, outcome in best.items():
            print(
                f"{title:10}  {workers} workers  {outcome.a_second:9,.0f} a second  "
                f"{outcome.processor_us:7.1f} us of processor time each"
            )


if __name__ == "__main__":
    main()
