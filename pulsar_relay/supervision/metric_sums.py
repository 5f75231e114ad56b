"""What the metrics of many workers are together.

A counter is the sum over all workers, those included that have ended: a sum that fell would look to
Prometheus as if it began again from 0. A gauge follows its rule. What a process says of itself stays apart,
with the worker's number as a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from pulsar_relay.supervision.parts import Family, Metered

OF_A_PROCESS = ("process_", "python_")
GROWING = ("counter", "histogram")
SUPERVISOR = "supervisor"
"""Stands where a worker's number stands in what processes say of themselves."""

GAUGES: Mapping[str, Callable[[float, float], float]] = MappingProxyType(
    {
        "relay_connections": float.__add__,
        "relay_lagging_subscribers": float.__add__,
        "relay_ready": min,
        "relay_shard_ready": min,
        "relay_canary_seconds": max,
        # One worker of all hosts surveys. While that changes there may be two who have, and both are right.
        "relay_consumers": max,
        "relay_consumers_connected": max,
        "relay_consumers_near_loss": max,
        "relay_consumers_with_losses": max,
        "relay_consumer_lag_messages": max,
        "relay_consumer_lag_seconds": max,
    }
)
"""What two workers' values of a gauge are together."""

_Labels = tuple[tuple[str, str], ...]
_Samples = dict[tuple[str, _Labels], float]


class MetricSums:
    """Families with their samples, to which more are added. Families keep the order they came in."""

    def __init__(self) -> None:
        self._heads: dict[str, Family] = {}
        self._samples: dict[str, _Samples] = {}

    def add(self, metered: Metered, worker: str) -> None:
        """Add what a worker exports. KeyError for a gauge that has no rule."""
        for family in metered.families:
            if family.name.startswith(OF_A_PROCESS):
                self._put(family, {"worker": worker}, _refuse)
            elif family.kind in GROWING:
                self._put(family, {}, float.__add__)
            else:
                self._put(family, {}, GAUGES[family.name])

    def add_ended(self, metered: Metered) -> None:
        """Add what a worker had counted when it ended. Its gauges ended with it."""
        for family in metered.families:
            if family.kind in GROWING and not family.name.startswith(OF_A_PROCESS):
                self._put(family, {}, float.__add__)

    def metered(self) -> Metered:
        """All of it, as if one worker exported it."""
        return Metered(
            [
                Family(
                    head.name,
                    head.documentation,
                    head.kind,
                    [
                        (name, dict(labels), value)
                        for (name, labels), value in self._samples[head.name].items()
                    ],
                )
                for head in self._heads.values()
            ]
        )

    def _put(
        self, family: Family, more: Mapping[str, str], together: Callable[[float, float], float]
    ) -> None:
        self._heads.setdefault(family.name, family)
        samples = self._samples.setdefault(family.name, {})
        for name, labels, value in family.samples:
            key = name, tuple(sorted({**labels, **more}.items()))
            known = samples.get(key)
            samples[key] = value if known is None else together(known, value)


def _refuse(_known: float, _value: float) -> float:
    raise AssertionError("two processes of one name")


def metered(collectors: Iterable[Metric]) -> Metered:
    """What a registry's `collect` yields, as values."""
    return Metered(
        [
            Family(
                metric.name,
                metric.documentation,
                metric.type,
                [(sample.name, dict(sample.labels), float(sample.value)) for sample in metric.samples],
            )
            for metric in collectors
        ]
    )


def crew_metrics(answering: Mapping[int, bool], restarts: int) -> Iterator[Metric]:
    """What is exported about the workers themselves. `answering`: each that runs, and whether it answers."""
    yield GaugeMetricFamily("relay_workers", "Workers that run.", value=len(answering))
    up = GaugeMetricFamily(
        "relay_worker_up", "1: the worker of this number answers; 0: it runs and does not.", labels=["worker"]
    )
    for worker, answers in sorted(answering.items()):
        up.add_metric([str(worker)], answers)
    yield up
    yield CounterMetricFamily(
        "relay_worker_restarts", "Times a worker was started again because it had ended.", value=restarts
    )


def own_metrics() -> CollectorRegistry:
    """What this process says of itself."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def text(collected: Iterable[Metric]) -> bytes:
    """As Prometheus reads it."""
    return generate_latest(_Collected(list(collected)))


def as_metrics(part: Metered) -> Iterator[Metric]:
    for family in part.families:
        metric = Metric(family.name, family.documentation, family.kind)
        for name, labels, value in family.samples:
            metric.add_sample(name, labels, value)
        yield metric


class _Collected(CollectorRegistry):
    """A registry of metrics that have been collected already."""

    def __init__(self, metrics: list[Metric]) -> None:
        super().__init__()
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics
