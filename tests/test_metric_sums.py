from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pulsar_relay.metrics import Latency, WorkerMetrics
from pulsar_relay.supervision.metric_sums import (
    GAUGES,
    GROWING,
    OF_A_PROCESS,
    MetricSums,
    as_metrics,
    crew_metrics,
    metered,
    own_metrics,
    text,
)
from pulsar_relay.supervision.parts import Family, Metered
from tests.workers import RunningWorker

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def values(part: Metered) -> Values:
    return {
        (name, tuple(sorted(labels.items()))): value
        for family in part.families
        for name, labels, value in family.samples
    }


def counter(name: str, value: float, **labels: str) -> Family:
    return Family(name, "", "counter", [(f"{name}_total", labels, value)])


def gauge(name: str, value: float, **labels: str) -> Family:
    return Family(name, "", "gauge", [(name, labels, value)])


def summed(*parts: Metered) -> Values:
    sums = MetricSums()
    for worker, part in enumerate(parts):
        sums.add(part, str(worker))
    return values(sums.metered())


def test_each_gauge_of_a_worker_has_a_rule(relay: RunningWorker) -> None:
    families = metered(WorkerMetrics().registry.collect()).families
    families += metered(relay.worker.metrics.registry.collect()).families
    names = {
        family.name
        for family in families
        if family.kind not in GROWING and not family.name.startswith(OF_A_PROCESS)
    }
    consumers = {name for name in GAUGES if name.startswith("relay_consumer")}
    assert names | consumers | {"relay_shard_ready"} == set(GAUGES)


def test_a_gauge_without_a_rule_is_an_error() -> None:
    with pytest.raises(KeyError, match="relay_new"):
        summed(Metered([gauge("relay_new", 1.0)]))


def test_counters_add_up_label_by_label() -> None:
    one = Metered([counter("x", 1.0, code="a"), counter("y", 5.0)])
    other = Metered([counter("x", 2.0, code="a"), counter("y", 6.0)])
    third = Metered([counter("x", 7.0, code="b")])
    assert summed(one, other, third) == {
        ("x_total", (("code", "a"),)): 3.0,
        ("x_total", (("code", "b"),)): 7.0,
        ("y_total", ()): 11.0,
    }


def test_histograms_add_up_bucket_by_bucket() -> None:
    quick, slow = Latency(), Latency()
    quick.observe(0.0)
    slow.observe(0.3)
    slow.observe(1e9)
    found = summed(*[metered([latency.family("h", "about h")]) for latency in (quick, slow)])
    assert found["h_bucket", (("le", "0.0005"),)] == 1
    assert found["h_bucket", (("le", "0.5"),)] == 2
    assert found["h_bucket", (("le", "+Inf"),)] == found["h_count", ()] == 3
    assert found["h_sum", ()] == 1e9 + 0.3


@pytest.mark.parametrize(
    ("name", "together"),
    [
        ("relay_connections", 5.0),
        ("relay_lagging_subscribers", 5.0),
        ("relay_ready", 2.0),
        ("relay_canary_seconds", 3.0),
        ("relay_consumers", 3.0),
    ],
)
def test_a_gauge_follows_its_rule(name: str, together: float) -> None:
    assert summed(Metered([gauge(name, 2.0)]), Metered([gauge(name, 3.0)])) == {(name, ()): together}


def test_what_only_one_worker_exports_is_exported() -> None:
    assert summed(Metered([gauge("relay_consumers", 4.0)]), Metered()) == {("relay_consumers", ()): 4.0}


def test_what_a_process_says_of_itself_stays_apart() -> None:
    part = Metered([gauge("process_open_fds", 9.0), counter("python_gc_collections", 1.0, generation="0")])
    assert summed(part, part) == {
        ("process_open_fds", (("worker", "0"),)): 9.0,
        ("process_open_fds", (("worker", "1"),)): 9.0,
        ("python_gc_collections_total", (("generation", "0"), ("worker", "0"))): 1.0,
        ("python_gc_collections_total", (("generation", "0"), ("worker", "1"))): 1.0,
    }


def test_of_a_worker_that_has_ended_only_what_grows_goes_on_counting() -> None:
    sums = MetricSums()
    sums.add_ended(Metered([counter("x", 3.0), gauge("relay_connections", 9.0), gauge("process_fds", 1.0)]))
    sums.add_ended(Metered([counter("x", 4.0)]))
    sums.add(Metered([counter("x", 1.0), gauge("relay_connections", 2.0)]), "0")
    assert values(sums.metered()) == {("x_total", ()): 8.0, ("relay_connections", ()): 2.0}


def test_one_worker_alone_comes_out_as_it_went_in(relay: RunningWorker) -> None:
    part = metered(
        family
        for family in relay.worker.metrics.registry.collect()
        if not family.name.startswith(OF_A_PROCESS)
    )
    assert summed(part) == values(part)


def test_the_page_can_be_read() -> None:
    part = metered(own_metrics().collect())
    page = text([*as_metrics(part), *crew_metrics({0: True, 3: False}, restarts=7)]).decode()
    found = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert found["relay_workers", ()] == 2
    assert found["relay_worker_up", ("0",)] == 1 and found["relay_worker_up", ("3",)] == 0
    assert found["relay_worker_restarts_total", ()] == 7
    assert found["process_resident_memory_bytes", ()] > 0
