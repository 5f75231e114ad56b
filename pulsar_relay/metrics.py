"""Metrics: what the worker counts, in Prometheus' terms.

The actors count in plain integers; here they are read when somebody scrapes. No series has a label whose
values a client can invent.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from actors.counters import Counters
from actors.ports import (
    Appended,
    Archive,
    Claim,
    ConsumerPage,
    ConsumerRecord,
    Description,
    HistoryPage,
    Position,
    Publish,
    Store,
    StoreError,
    StreamPage,
    TopicTerms,
    Trimmed,
)
from actors.stream import MessageId
from pulsar_relay.canary import Canary
from pulsar_relay.errors import ERRORS
from pulsar_relay.limits.limiter import CONNECTIONS, FAILS_OPEN, LOGIN_BACKOFF, POLLS
from pulsar_relay.relay import Relay
from pulsar_relay.store.probe import ProbeReport
from pulsar_relay.survey import Standing

T = TypeVar("T")

LATENCY_BOUNDS_SECONDS = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)


OPERATIONS = (
    *("append", "read", "follow", "position", "positions", "trim", "delete", "acknowledge", "claim"),
    *("mark", "release", "claims", "consumer", "consumers", "forget"),
    *("history", "describe", "create", "change", "topics", "topic_count"),
)
"""What `MeteredStore` tells apart."""
ANSWERS = ("taken_over", "ahead_of_stream", "consumer_not_found", "consumer_connected")
"""What a store that works well says to a client that does not."""
LIMITS = (*FAILS_OPEN, LOGIN_BACKOFF, CONNECTIONS, POLLS)
"""What a request can be refused by."""
STORE_ERRORS = ("overloaded", "internal_error", *(code for code in ERRORS if code.startswith("store_")))


class Latency:
    """A histogram of seconds: one bisection an observation, formatted when scraped."""

    __slots__ = ("_counts", "sum_seconds")

    def __init__(self) -> None:
        self._counts = [0] * (len(LATENCY_BOUNDS_SECONDS) + 1)
        self.sum_seconds = 0.0

    @property
    def count(self) -> int:
        return sum(self._counts)

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(LATENCY_BOUNDS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds

    def family(self, name: str, documentation: str) -> HistogramMetricFamily:
        total = 0
        buckets = []
        for bound, count in zip([*map(str, LATENCY_BOUNDS_SECONDS), "+Inf"], self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return HistogramMetricFamily(name, documentation, buckets=buckets, sum_value=self.sum_seconds)


class WorkerMetrics:
    """Everything one worker exports. `watch` names the relay whose counters are read at each scrape."""

    def __init__(self) -> None:
        self._counters = Counters()
        self._connections: Mapping[str, int] = {}
        self._report: Callable[[], ProbeReport] = ProbeReport
        self._canary: Canary | None = None
        self._standing: Callable[[], Standing | None] = lambda: None
        self._refusals: Mapping[str, int] = {}
        # Without accounts there are none.
        self._deeds_done: Mapping[str, int] = {}
        self._deeds_refused: Mapping[str, int] = {}
        self._shut_out: Mapping[str, int] = {}
        self.publish_latency = Latency()
        self.delivery_latency = Latency()
        self.valkey_latency = Latency()
        # From 0: a series that begins with its first error has no rate that an alert could see.
        self.valkey_operations = Counter(dict.fromkeys(OPERATIONS, 0))
        self.valkey_errors = Counter(dict.fromkeys(STORE_ERRORS, 0))
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(self)

    def watch(self, relay: Relay) -> None:
        self._counters = relay.counters
        self._connections = relay.connections

    def watch_readiness(self, report: Callable[[], ProbeReport], canary: Canary) -> None:
        self._report = report
        self._canary = canary

    def watch_consumers(self, standing: Callable[[], Standing | None]) -> None:
        self._standing = standing

    def watch_refusals(self, refusals: Mapping[str, int]) -> None:
        self._refusals = refusals

    def watch_accounts(
        self, done: Mapping[str, int], refused: Mapping[str, int], shut_out: Mapping[str, int]
    ) -> None:
        """Deeds done and refused, and guests shut out by why."""
        self._deeds_done, self._deeds_refused, self._shut_out = done, refused, shut_out

    def collect(self) -> Iterator[Metric]:
        for name, documentation, label, counts in (
            ("relay_account_deeds", "What was done to accounts and by them.", "deed", self._deeds_done),
            ("relay_account_deeds_refused", "What was tried and refused.", "deed", self._deeds_refused),
            ("relay_guests_shut_out", "What ended with what had let it in.", "code", self._shut_out),
        ):
            yield _labelled(CounterMetricFamily(name, documentation, labels=[label]), counts)
        for name, documentation, value in self._counted():
            yield CounterMetricFamily(name, documentation, value=value)
        lagging = "Subscribers that read from their cursor because their connection is slow."
        yield GaugeMetricFamily(
            "relay_lagging_subscribers", lagging, value=self._counters.lagging_subscribers
        )
        yield _labelled(
            GaugeMetricFamily("relay_connections", "Open subscribers by transport.", labels=["transport"]),
            {"websocket": 0, "sse": 0, "poll": 0, **self._connections},
        )
        yield _labelled(
            CounterMetricFamily("relay_valkey_operations", "Operations on Valkey.", labels=["operation"]),
            self.valkey_operations,
        )
        yield _labelled(
            CounterMetricFamily("relay_valkey_errors", "Operations on Valkey that failed.", labels=["code"]),
            self.valkey_errors,
        )
        yield _labelled(
            CounterMetricFamily(
                "relay_requests_limited", "Requests refused because of a limit.", labels=["limit"]
            ),
            {**dict.fromkeys(LIMITS, 0), **self._refusals},
        )
        report = self._report()
        yield _labelled(
            GaugeMetricFamily("relay_ready", "What readiness stands on: 1 sound, 0 not.", labels=["leg"]),
            {leg.name: leg.failure is None for leg in report.legs},
        )
        if report.shards:
            yield _labelled(
                GaugeMetricFamily(
                    "relay_shard_ready", "The shards of a cluster: 1 sound, 0 not.", labels=["shard"]
                ),
                {name: code is None for name, code in report.shards.items()},
            )
        if self._canary is not None:
            yield GaugeMetricFamily(
                "relay_canary_seconds",
                "How long the last message that the relay sent to itself was on its way.",
                value=self._canary.delivery_seconds,
            )
        yield from self._consumers()
        yield self.publish_latency.family(
            "relay_publish_latency_seconds", "From a publish being understood to its append being confirmed."
        )
        yield self.delivery_latency.family(
            "relay_delivery_latency_seconds",
            "From the time in a message's id to its batch being encoded to be written.",
        )
        yield self.valkey_latency.family("relay_valkey_latency_seconds", "Duration of operations on Valkey.")

    def _consumers(self) -> Iterator[Metric]:
        """Nothing where another worker surveys: each client is counted once."""
        standing = self._standing()
        if standing is None:
            return
        for name, documentation, value in (
            ("relay_consumers", "Clients with a name.", standing.consumers),
            ("relay_consumers_connected", "Clients with a name that are connected.", standing.connected),
            (
                "relay_consumers_near_loss",
                "Clients with a name from whose unread messages retention takes the first before long.",
                standing.near_loss,
            ),
            (
                "relay_consumers_with_losses",
                "Clients with a name that have not read what is not kept any more.",
                standing.with_losses,
            ),
            (
                "relay_consumer_lag_messages",
                "Messages that the named client furthest behind has not acknowledged, of one topic.",
                standing.lag_messages,
            ),
            (
                "relay_consumer_lag_seconds",
                "Age of the oldest message that a named client has not acknowledged.",
                standing.lag_seconds,
            ),
        ):
            yield GaugeMetricFamily(name, documentation, value=value)

    def _counted(self) -> Iterator[tuple[str, str, int]]:
        counters = self._counters
        yield "relay_messages_received", "Messages published and appended.", counters.messages_published
        yield (
            "relay_messages_delivered",
            "Messages handed to subscribers' connections.",
            counters.messages_delivered,
        )
        yield (
            "relay_publishes_replayed",
            "Publishes answered from an earlier attempt.",
            counters.replayed_publishes,
        )
        yield "relay_publishes_refused", "Publishes that were not appended.", counters.refused_publishes
        yield (
            "relay_appends",
            "Batches appended: messages received by this is the group commit's size.",
            counters.append_batches,
        )
        yield "relay_hot_buffer_hits", "Fetches served from memory.", counters.hot_hits
        yield "relay_hot_buffer_misses", "Fetches that had to read the stream.", counters.hot_misses
        yield "relay_gaps", "Gaps announced to subscribers.", counters.gaps
        yield "relay_resets", "Resets announced to subscribers.", counters.resets
        yield (
            "relay_order_inversions",
            "Appends whose ids were not above all seen before; anything but 0 is a bug.",
            counters.order_inversions,
        )
        yield (
            "relay_duplicates",
            "Batches that reached a subscriber a second time, and were not written; anything but 0 is a bug.",
            counters.duplicates,
        )
        yield (
            "relay_unannounced_gaps",
            "Batches that did not follow a subscriber's cursor; anything but 0 is a bug.",
            counters.unannounced_gaps,
        )
        yield (
            "relay_subscribers_demoted",
            "Times a slow subscriber was sent to read from its cursor.",
            counters.demotions,
        )
        yield (
            "relay_takeovers",
            "Connections closed because another one presented their client_id; growing, two share a name.",
            counters.takeovers,
        )
        yield "relay_messages_trimmed", "Messages removed by retention.", counters.trimmed_messages
        yield (
            "relay_topics_failed",
            "Topic actors that failed and were rebuilt; anything but 0 is a bug.",
            counters.topics_failed,
        )


def _labelled(family: Any, values: Mapping[str, float]) -> Metric:
    for label, value in sorted(values.items()):
        family.add_metric([label], value)
    return family  # type: ignore[no-any-return]


class MeteredStore:
    """A store, counted and timed: the `Store` and `Archive` ports again, around the real ones."""

    def __init__(self, store: Store, archive: Archive, metrics: WorkerMetrics) -> None:
        self._store = store
        self._archive = archive
        self._metrics = metrics

    async def _metered(self, operation: str, awaitable: Awaitable[T]) -> T:
        self._metrics.valkey_operations[operation] += 1
        started = time.perf_counter()
        try:
            return await awaitable
        except Exception as error:
            self._count(error)
            raise
        finally:
            self._metrics.valkey_latency.observe(time.perf_counter() - started)

    def _count(self, error: BaseException) -> None:
        if not isinstance(error, StoreError):
            # A bug of ours; where it goes it is logged.
            self._metrics.valkey_errors["internal_error"] += 1
        elif error.code not in ANSWERS:
            self._metrics.valkey_errors[error.code] += 1

    def append(self, topic: str, publishes: Sequence[Publish], floor: MessageId) -> asyncio.Future[Appended]:
        # The hot path: a callback where the others have a coroutine, which would need a task.
        metrics = self._metrics
        metrics.valkey_operations["append"] += 1
        started = time.perf_counter()

        def on_appended(append: asyncio.Future[Appended]) -> None:
            metrics.valkey_latency.observe(time.perf_counter() - started)
            if not append.cancelled() and (error := append.exception()) is not None:
                self._count(error)

        append: Any = self._store.append(topic, publishes, floor)  # a future already
        append.add_done_callback(on_appended)
        return append  # type: ignore[no-any-return]

    async def read(self, topic: str, after: MessageId, max_messages: int, max_bytes: int) -> StreamPage:
        return await self._metered("read", self._store.read(topic, after, max_messages, max_bytes))

    async def follow(self, topic: str) -> Position:
        return await self._metered("follow", self._store.follow(topic))

    def unfollow(self, topic: str) -> None:
        self._store.unfollow(topic)

    async def position(self, topic: str) -> Position:
        return await self._metered("position", self._store.position(topic))

    async def positions(self, topics: Sequence[str]) -> Sequence[Position | None]:
        return await self._metered("positions", self._store.positions(topics))

    async def trim(self, topic: str, now_ms: int) -> Trimmed:
        return await self._metered("trim", self._store.trim(topic, now_ms))

    async def delete(self, topic: str) -> Position | None:
        return await self._metered("delete", self._store.delete(topic))

    async def claim(
        self, client_id: str, subscriber_id: int, topics: Sequence[str], *, is_held: bool
    ) -> Claim:
        claim = self._store.claim(client_id, subscriber_id, topics, is_held=is_held)
        return await self._metered("claim", claim)

    async def acknowledge(
        self,
        client_id: str,
        subscriber_id: int | None,
        cursors: Mapping[str, MessageId],
        *,
        proves: bool,
    ) -> Mapping[str, MessageId]:
        stored = self._store.acknowledge(client_id, subscriber_id, cursors, proves=proves)
        return await self._metered("acknowledge", stored)

    async def mark(self, client_id: str, delivered: Mapping[str, MessageId]) -> None:
        await self._metered("mark", self._store.mark(client_id, delivered))

    async def release(self, client_id: str, subscriber_id: int, delivered: Mapping[str, MessageId]) -> None:
        await self._metered("release", self._store.release(client_id, subscriber_id, delivered))

    async def claims(self, client_ids: Sequence[str]) -> Mapping[str, int]:
        return await self._metered("claims", self._store.claims(client_ids))

    async def history(
        self, topic: str, cursor: MessageId | None, max_messages: int, max_bytes: int, *, descends: bool
    ) -> HistoryPage:
        page = self._archive.history(topic, cursor, max_messages, max_bytes, descends=descends)
        return await self._metered("history", page)

    async def describe(self, topic: str) -> Description | None:
        return await self._metered("describe", self._archive.describe(topic))

    async def create(self, topic: str, terms: TopicTerms) -> bool:
        return await self._metered("create", self._archive.create(topic, terms))

    async def change(self, topic: str, terms: TopicTerms) -> bool:
        return await self._metered("change", self._archive.change(topic, terms))

    async def consumer(self, client_id: str) -> ConsumerRecord:
        return await self._metered("consumer", self._archive.consumer(client_id))

    async def consumers(self, after: str, limit: int) -> ConsumerPage:
        return await self._metered("consumers", self._archive.consumers(after, limit))

    async def forget(self, client_id: str) -> None:
        await self._metered("forget", self._archive.forget(client_id))

    async def topics(self, after: str, limit: int) -> Sequence[str]:
        return await self._metered("topics", self._archive.topics(after, limit))

    async def topic_count(self) -> int:
        return await self._metered("topic_count", self._archive.topic_count())
