"""How large a machine has to be: reads what was measured in docs/sizing.md, and does the sums.

python -m tools.sizing --a-minute 50000 --payload 2KB --kept 24h --connections 10000 --topics 200
"""

from __future__ import annotations

import argparse
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pulsar_relay.quantities import parse_duration, parse_size
from pulsar_relay.server import RESERVED_FILES
from pulsar_relay.settings import HotBufferSettings

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "sizing.md"
FULL = 0.8
"""Below the 85% at which ValkeyMemoryNearLimit fires."""
REPLICA_BYTES = 256_000_000
"""What Valkey lets a replica's output buffer grow to (client-output-buffer-limit replica, its default)."""
KERNEL_SHARE = 0.2
"""Left to the kernel, for its page cache and for everything else that runs."""


@dataclass(frozen=True)
class Measured:
    """The tables. `by_payload`: a row's values by payload size; `single`: the other ones."""

    by_payload: Mapping[str, Sequence[tuple[int, float]]]
    single: Mapping[str, float]

    def of_message(self, row: str, payload: int) -> float:
        """Bytes of a message of this payload, on the line between the two sizes next to it."""
        points = self.by_payload[row]
        place = min(max(1, bisect_left([size for size, _ in points], payload)), len(points) - 1)
        (small, low), (large, high) = points[place - 1], points[place]
        return low + (high - low) * (payload - small) / (large - small)


def measured(text: str) -> Measured:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"
    ]
    sizes: list[int] = []
    by_payload, single = {}, {}
    for name, *values in rows:
        if all(re.fullmatch(r"[\d,]+ B", value) for value in values):
            sizes = [int(_number(value.removesuffix(" B"))) for value in values]
        elif all(re.fullmatch(r"[\d,]+(\.\d+)?", value) for value in values):
            if len(values) == 1:
                single[name] = _number(values[0])
            elif len(values) == len(sizes):
                by_payload[name] = [*zip(sizes, map(_number, values), strict=True)]
    return Measured(by_payload, single)


def _number(text: str) -> float:
    return float(text.replace(",", ""))


@dataclass(frozen=True)
class Load:
    messages_a_minute: float
    payload_bytes: int
    kept_seconds: float
    connections: int
    topics: int
    replicas: int


def plan(load: Load, of: Measured) -> Iterator[tuple[str, str]]:
    """What is needed, and how that comes about."""
    yield from _valkey(load, of)
    yield from _disk(load, of)
    yield from _relay(load, of)


def _data_bytes(load: Load, of: Measured) -> float:
    messages = load.messages_a_minute * load.kept_seconds / 60
    topics = load.topics * of.single["a topic in Valkey, with one message of 100 B"]
    return messages * of.of_message("memory in Valkey", load.payload_bytes) + topics


def _rewrite(load: Load, of: Measured) -> tuple[float, float]:
    """How long one takes, and what memory it copies."""
    data = _data_bytes(load, of)
    seconds = data / of.single["data that a rewrite goes through in a millisecond"] / 1_000
    bytes_a_second = load.messages_a_minute / 60 * load.payload_bytes
    copied = (
        seconds * bytes_a_second * of.single["memory that a rewrite copies, for 1,000 B published meanwhile"]
    )
    return seconds, min(data, copied / 1_000)


def _valkey(load: Load, of: Measured) -> Iterator[tuple[str, str]]:
    messages = load.messages_a_minute * load.kept_seconds / 60
    each, data = of.of_message("memory in Valkey", load.payload_bytes), _data_bytes(load, of)
    seconds, copied = _rewrite(load, of)
    replicas = load.replicas * REPLICA_BYTES
    yield (
        "messages kept",
        f"{load.messages_a_minute:,.0f} × {load.kept_seconds / 60:,.0f} min = {messages:,.0f}",
    )
    yield "data in Valkey", f"{messages:,.0f} × {each:,.0f} B, and {load.topics:,} topics = {_size(data)}"
    yield "maxmemory", f"{_size(data)} ÷ {FULL} = {_size(data / FULL)}"
    yield (
        "copied by a rewrite",
        f"{_size(copied)} within {seconds:,.0f} s; at most {_size(data)}, if all is changed",
    )
    yield "replica buffers", f"{load.replicas} × {_size(REPLICA_BYTES)} = {_size(replicas)}"
    memory = (data / FULL + copied + replicas) / (1 - KERNEL_SHARE)
    yield "memory of its machine", f"the last three, and a fifth for the kernel = {_size(memory)}"


def _disk(load: Load, of: Measured) -> Iterator[tuple[str, str]]:
    messages = load.messages_a_minute * load.kept_seconds / 60
    written = (
        load.messages_a_minute
        / 60
        * of.of_message("append-only file, published one by one", load.payload_bytes)
    )
    base = messages * of.of_message("append-only file, once rewritten", load.payload_bytes)
    yield "written to the disk", f"{_size(written)} a second, if each message is published by itself"
    yield "append-only file", f"{_size(base)} once rewritten, twice that before the next: {_size(2 * base)}"
    yield "snapshot", f"{_size(base)}, and as much while the next one is written: {_size(2 * base)}"
    yield "disk", f"both, and the file that a rewrite makes = {_size(5 * base)}"


def _relay(load: Load, of: Measured) -> Iterator[tuple[str, str]]:
    each = of.single["an idle WebSocket in a worker"]
    idle, topic = (
        of.single["a worker that does nothing"],
        of.single["an open topic in a worker, with one message of 100 B"],
    )
    worker = idle + load.connections * each + load.topics * topic
    kernel = load.connections * of.single["an idle connection in the kernel"]
    yield (
        "workers' memory",
        (
            f"{load.connections:,} × {each:,.0f} B, {load.topics:,} × {topic:,.0f} B, "
            f"and itself = {_size(worker)}"
        ),
    )
    yield (
        "hot buffers",
        f"up to {_size(HotBufferSettings().total_bytes)} for each worker (`hot_buffer.total_bytes`)",
    )
    yield "kernel's memory", f"{_size(kernel)} for idle connections"
    yield (
        "open files",
        f"{load.connections:,} + {RESERVED_FILES} = {load.connections + RESERVED_FILES:,}, over all workers",
    )


def _size(size: float) -> str:
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size:,.0f} B"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--a-minute", type=float, required=True, help="messages published")
    parser.add_argument("--payload", type=parse_size, required=True, help="of each; 2KB is 2,000 bytes")
    parser.add_argument("--kept", type=parse_duration, required=True, help="retention, such as 24h")
    parser.add_argument("--connections", type=int, default=0, help="subscribers at the same time")
    parser.add_argument("--topics", type=int, default=1)
    parser.add_argument("--replicas", type=int, default=0, help="of Valkey")
    options = parser.parse_args(words)
    load = Load(
        options.a_minute, options.payload, options.kept, options.connections, options.topics, options.replicas
    )
    for name, text in plan(load, measured(DOCUMENT.read_text("utf-8"))):
        print(f"{name:24}{text}")


if __name__ == "__main__":
    main()
