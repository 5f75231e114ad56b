"""How fast messages get from publishers to many subscribers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.dialects import Subscription
from benchmarks.load.publishing import publish_at_pace, publish_in_crowd
from benchmarks.load.receiving import receive_all, receive_and_time
from benchmarks.messages import FIRST, Template, payload
from benchmarks.scenarios.scenario import (
    LIMIT_SECONDS,
    PAYLOAD_BYTES,
    Field,
    Outcome,
    Scenario,
    refusals,
    speed,
)
from benchmarks.targets.target import Meter, Target

SUBSCRIBERS = 100
PUBLISHERS = 32
TOPICS = 1000
SLOW_PAYLOAD_BYTES = 2000
"""So that what a slow subscriber misses does not fit into the kernel's buffers."""
PACE = 200
PACED_SUBSCRIBERS = 20


def fan_out_one(field: Field, target: Target) -> Outcome:
    return _websockets(field, target, publishers=1)


def fan_out_many(field: Field, target: Target) -> Outcome:
    return _websockets(field, target, publishers=PUBLISHERS)


def fan_out_sse(field: Field, target: Target) -> Outcome:
    topic = field.topic()
    template = target.dialect.publish(topic, payload(PAYLOAD_BYTES))
    return _fan_out(field, target, [template], [target.dialect.sse([topic])] * SUBSCRIBERS, PUBLISHERS)


def one_slow(field: Field, target: Target) -> Outcome:
    return _websockets(field, target, publishers=PUBLISHERS, size=SLOW_PAYLOAD_BYTES, with_slow=True)


def none_slow(field: Field, target: Target) -> Outcome:
    return _websockets(field, target, publishers=PUBLISHERS, size=SLOW_PAYLOAD_BYTES)


def thousand_topics(field: Field, target: Target) -> Outcome:
    topics = [field.topic() for _ in range(field.amount(TOPICS))]
    templates = [target.dialect.publish(topic, payload(PAYLOAD_BYTES)) for topic in topics]
    subscriptions = [target.dialect.websocket([topic]) for topic in topics]
    return _fan_out(field, target, templates, subscriptions, PUBLISHERS)


def latency(field: Field, target: Target) -> Outcome:
    topic = field.topic()
    template = target.dialect.publish(topic, payload(PAYLOAD_BYTES))
    subscriptions = [target.dialect.websocket([topic])] * PACED_SUBSCRIBERS
    messages = round(PACE * field.seconds)
    field.receiver.begin(receive_and_time, target.port, subscriptions, LIMIT_SECONDS)
    field.receiver.wait_for("there")
    field.publish_first(target, template)
    field.receiver.wait_for("ready")
    field.publisher.begin(publish_at_pace, target.port, template, PACE, messages, 16)
    field.publisher.wait_for("ready")
    with Meter(target) as meter:
        field.publisher.tell("go")
        sent = field.publisher.result()
    field.publish_last(target, template)
    field.receiver.tell(sent["sent"])
    report = field.receiver.result(LIMIT_SECONDS + 30)
    values = {
        "p50_ms": report["p50_ms"],
        "p99_ms": report["p99_ms"],
        **meter.costs(report["deliveries"]),
    }
    return Outcome(values, refusals(sent) | report["complaints"])


def _websockets(
    field: Field, target: Target, *, publishers: int, size: int = PAYLOAD_BYTES, with_slow: bool = False
) -> Outcome:
    topic = field.topic()
    template = target.dialect.publish(topic, payload(size))
    subscription = target.dialect.websocket([topic])
    fast = SUBSCRIBERS - with_slow
    slow = subscription if with_slow else None
    return _fan_out(field, target, [template], [subscription] * fast, publishers, slow)


def _fan_out(
    field: Field,
    target: Target,
    templates: Sequence[Template],
    subscriptions: Sequence[Subscription],
    publishers: int,
    slow: Subscription | None = None,
) -> Outcome:
    """Publishers as fast as they are answered, until all subscribers have everything."""
    field.receiver.begin(receive_all, target.port, subscriptions, slow, LIMIT_SECONDS)
    field.receiver.wait_for("there", LIMIT_SECONDS)
    field.publish_first(target, *templates)
    field.receiver.wait_for("ready")
    field.publisher.begin(publish_in_crowd, target.port, templates, publishers, field.seconds)
    field.publisher.wait_for("ready")
    with Meter(target) as meter:
        field.publisher.tell("go")
        sent = field.publisher.result(field.seconds + LIMIT_SECONDS)
        field.publish_last(target, *templates)
        field.receiver.tell(_expected(sent["published"], len(templates)))
        report = field.receiver.result(2 * LIMIT_SECONDS + 30)
    seconds = (report["ended"] - sent["started"]) / 1e9
    values = {
        **speed(report["deliveries"], seconds),
        "publishes": sent["published"] / sent["seconds"],
        "publish_p99_ms": sent["p99_ms"],
        **meter.costs(report["deliveries"]),
    }
    if slow:
        values["late_seconds"] = report["late_seconds"]
    return Outcome(values, refusals(sent) | report["complaints"])


def _expected(published: int, topics: int) -> list[range]:
    """The numbers of each topic's messages: they took turns."""
    return [range(FIRST + 1 + index, FIRST + 1 + published, topics) for index in range(topics)]


_scenario = partial(Scenario, per="delivery")

SCENARIOS = (
    _scenario("fan_out_1", f"Fan-out: {SUBSCRIBERS} WebSockets, 1 publisher", fan_out_one),
    _scenario("fan_out_32", f"Fan-out: {SUBSCRIBERS} WebSockets, {PUBLISHERS} publishers", fan_out_many),
    _scenario(
        "fan_out_sse",
        f"Fan-out: {SUBSCRIBERS} event streams, {PUBLISHERS} publishers",
        fan_out_sse,
        needs="sse",
    ),
    _scenario(
        "thousand_topics", f"{TOPICS:,} topics × 1 subscriber, {PUBLISHERS} publishers", thousand_topics
    ),
    _scenario(
        "none_slow",
        f"{SUBSCRIBERS} subscribers, {SLOW_PAYLOAD_BYTES:,} bytes a message, {PUBLISHERS} publishers",
        none_slow,
    ),
    _scenario("one_slow", "The same, and one of them reads nothing until the others are done", one_slow),
    _scenario(
        "latency",
        f"Publish to receive: {PACE} messages/s, {PACED_SUBSCRIBERS} subscribers",
        latency,
        measure="p99_ms",
        unit="ms",
        smaller_is_better=True,
    ),
)
