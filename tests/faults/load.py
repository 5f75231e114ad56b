"""A load on relays while faults happen, and the verdict on it.

    with make_load([relay.url, other.url], valkey) as load:     # consumers attached, messages flow
        load.wait_for_acks(50)                                  # so many more messages are acknowledged
        valkey.kill()
        healed = load.healed(valkey.start)                      # when it was whole again
        load.wait_for_acks(50)
        verdict = load.finish()                                 # drain, read the store, judge: must be clean
    assert verdict.until_ok(healed) < 1

Producers and consumers are processes of their own (`producers.py`, `consumers.py`): what the test does never
holds them up. They take the relays in turn and go to the next one on trouble; all relays must be on `store`.
`load.random` decides what a fault run leaves to chance; its seed is printed with every failure and can be
given as FAULTS_SEED. `finish` needs the store reachable, and the relays working, by the time it is called.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from pulsar_relay.store import schema
from tests.clusters import ValkeyCluster
from tests.faults.consumers import ConsumersPlan
from tests.faults.history import History, Verdict, judge
from tests.faults.producers import LAST_SECONDS, ProducersPlan
from tests.faults.records import Answered, Attached, Content, Detached, Log, LogReader, Record, Stored
from tests.relays import REPOSITORY, environment
from tests.sentinels import SentinelGroup
from tests.valkeys import TIMEOUT_SCALE, RealValkey

START_SECONDS = 30 * TIMEOUT_SCALE
DRAIN_SECONDS = 10 * TIMEOUT_SCALE
"""How long consumers have to catch up after the last message was acknowledged."""
CONSUMERS = ("socket", "socket", "returning", "returning", "named", "events", "poll", "cookie")
SHOWN_ANOMALIES = 20


class Child:
    """A process of the load; see `orders.py`."""

    def __init__(self, module: str, plan: msgspec.Struct, directory: Path) -> None:
        self._log = directory / f"{module}.log"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"tests.faults.{module}", msgspec.json.encode(plan).decode()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=REPOSITORY,
                env=environment(),
                start_new_session=True,
            )

    def order(self, value: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(value) + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Wait for the child's next answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"a process of the load ended:\n{self._log.read_text()}"
        return msgspec.json.decode(line)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Load:
    """Use in a `with` block, which it enters with consumers attached and the first messages acknowledged.

    `settings` of the plans: `producers` and their `per_second` each, `topics` (so many), `consumers` (their
    kinds), `pad_bytes`, `stay_seconds` of consumers that come back, `timeout_seconds` of a publish.
    """

    def __init__(
        self,
        directory: Path,
        relays: Sequence[str],
        store: RealValkey | ValkeyCluster | SentinelGroup,
        seed: str,
        *,
        producers: int = 8,
        per_second: float = 12.0,
        topics: int = 4,
        consumers: Sequence[str] = CONSUMERS,
        pad_bytes: int = 200,
        stay_seconds: float = 1.5,
        timeout_seconds: float = 15.0,
    ) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.topics = [f"topic-{index}" for index in range(topics)]
        self.directory = directory
        self._store = store
        self._producing = ProducersPlan(
            directory=str(directory),
            relays=relays,
            topics=self.topics,
            producers=producers,
            per_second=per_second,
            pad_bytes=pad_bytes,
            seed=seed,
            timeout_seconds=timeout_seconds,
        )
        self._consuming = ConsumersPlan(
            directory=str(directory),
            relays=relays,
            topics=self.topics,
            kinds=consumers,
            stay_seconds=stay_seconds,
        )
        self._logs = [LogReader(directory / f"producer-p{index}.jsonl") for index in range(producers)]
        self._consumer_logs = {
            f"{kind}{number}": LogReader(directory / f"consumer-{kind}{number}.jsonl")
            for number, kind in enumerate(consumers)
        }
        self._attached: dict[str, list[Attached]] = {name: [] for name in self._consumer_logs}
        self._answers: list[Answered] = []
        self._oks = 0
        self._children: list[Child] = []
        self.history = History()
        """All records of the run, once it is finished."""

    def __enter__(self) -> Self:
        try:
            self._consumers = self._start("consumers", self._consuming)
            assert self._consumers.answer() == "ready"
            self._producers = self._start("producers", self._producing)
            self.wait_for_acks(2 * self._producing.producers, seconds=START_SECONDS)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if error is not None:
            error.add_note(f"FAULTS_SEED={self.seed}, logs in {self.directory}")

    @property
    def answers(self) -> Sequence[Answered]:
        """How all attempts to publish ended so far; those of one producer in their order."""
        for log in self._logs:
            for record in log.new():
                if isinstance(record, Answered):
                    self._answers.append(record)
                    self._oks += record.outcome == "ok"
        return self._answers

    @property
    def acknowledged(self) -> int:
        """How many messages are acknowledged so far."""
        assert self.answers is not None
        return self._oks

    def wait_for_acks(self, count: int, *, seconds: float = 20 * TIMEOUT_SCALE) -> None:
        """Return when `count` more messages are acknowledged; fail after `seconds`."""
        wanted = self.acknowledged + count
        self.wait_until(lambda: self.acknowledged >= wanted, f"{count} more acknowledgements", seconds)

    def wait_until(
        self, is_true: Callable[[], object], what: str, seconds: float = 20 * TIMEOUT_SCALE
    ) -> None:
        """Return as soon as `is_true`; fail after `seconds`."""
        deadline = time.monotonic() + seconds
        while not is_true():
            assert time.monotonic() < deadline, f"in vain for {seconds} s: {what}; {self._answers[-3:]}"
            time.sleep(0.01)

    def detached(self, *kinds: str) -> list[Detached]:
        """Of a finished run, how sessions of consumers of these kinds ended, in the order of each."""
        return [
            record
            for records in self.history.consumers.values()
            for record in records
            if isinstance(record, Detached) and record.consumer.rstrip("0123456789") in kinds
        ]

    def attached(self, *kinds: str) -> Mapping[str, Sequence[Attached]]:
        """How consumers of these kinds attached so far, by their names."""
        for name, log in self._consumer_logs.items():
            self._attached[name] += [record for record in log.new() if isinstance(record, Attached)]
        return {name: found for name, found in self._attached.items() if name.rstrip("0123456789") in kinds}

    def last(self, seconds: float) -> None:
        """Let a fault last; the load goes on meanwhile."""
        time.sleep(seconds)

    def healed(self, heal: Callable[[], object]) -> float:
        """End a fault with `heal`, and return when it had ended."""
        heal()
        return time.monotonic()

    def finish(
        self,
        *,
        allowed: Sequence[str] = (),
        allows_notices: bool = False,
        cuts: Sequence[float] = (),
        wipes: Sequence[float] = (),
        trimmed: Mapping[str, str] | None = None,
    ) -> Verdict:
        """Stop the producers, let the consumers catch up, read the store, and judge: fails on any anomaly
        but those of the `allowed` kinds, and on notices unless allowed. The other arguments are `judge`'s.
        """
        self._producers.order("stop")
        unacknowledged = self._producers.answer()["unacknowledged"]
        assert not unacknowledged, f"{unacknowledged} producers had no answer in {LAST_SECONDS} s"
        newest = {
            topic: entries[-1].message_id for topic in self.topics if (entries := list(self._entries(topic)))
        }
        self._consumers.order({"newest": newest, "seconds": DRAIN_SECONDS})
        assert self._consumers.answer() == "drained"
        self.history = History.of(self._records())
        verdict = judge(self.history, cuts=cuts, wipes=wipes, trimmed=trimmed)
        print(  # noqa: T201  # for `pytest -rP`, and with a failure
            f"{verdict.acknowledged} acknowledged, {verdict.longest_without_ok:.3f} s without one, "
            f"{verdict.largest_lag:.3f} s of lag, {verdict.most_attempts} attempts, "
            f"{len(verdict.notices)} notices"
        )
        found = [anomaly for anomaly in verdict.anomalies if anomaly.kind not in allowed]
        assert not found, self._shown("anomalies", found)
        # Each name has one client only; nobody else may be taken for it.
        deposed = [detached for detached in self.detached("named") if detached.cause == "4003"]
        assert not deposed, self._shown("takeovers", deposed)
        notices = [] if allows_notices else verdict.notices
        assert not notices, self._shown("notices", notices)
        return verdict

    def _close(self) -> None:
        for child in self._children:
            child.close()

    def _start(self, module: str, plan: msgspec.Struct) -> Child:
        self._children.append(Child(module, plan, self.directory))
        return self._children[-1]

    def _entries(self, topic: str) -> Iterator[Stored]:
        """The topic's stream, straight from Valkey."""
        with self._store.client() as client:
            for message_id, fields in client.xrange(schema.stream(topic)):
                content = Content.of(msgspec.json.decode(fields[b"payload"]))
                yield Stored(topic, message_id.decode(), content)

    def _records(self) -> Iterator[Record]:
        with Log(self.directory / "store.jsonl") as log:
            for entry in chain.from_iterable(map(self._entries, self.topics)):
                log.write(entry)
        for path in sorted(self.directory.glob("*.jsonl")):
            yield from LogReader(path).new()

    def _shown(self, what: str, found: Sequence[object]) -> str:
        lines = [str(one) for one in found[:SHOWN_ANOMALIES]]
        if len(found) > SHOWN_ANOMALIES:
            lines.append(f"and {len(found) - SHOWN_ANOMALIES} more")
        return "\n".join([f"{len(found)} {what}; logs in {self.directory}", *lines])
