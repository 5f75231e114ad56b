"""What a message costs that is kept in memory, so that whoever reads it needs no Valkey."""

from __future__ import annotations

from benchmarks.load.publishing import publish_in_crowd
from benchmarks.messages import payload
from benchmarks.scenarios.scenario import (
    LIMIT_SECONDS,
    PAYLOAD_BYTES,
    Field,
    Outcome,
    Scenario,
    refusals,
)
from benchmarks.targets.target import Meter, Target
from benchmarks.usage import usage_of

TOPICS = 50
MESSAGES = 1000
"""Of each topic: what `hot_buffer.max_messages` keeps."""
BULK_MESSAGES = 100


def hot_messages(field: Field, target: Target) -> Outcome:
    topics = [field.topic() for _ in range(field.amount(TOPICS))]
    templates = [
        target.dialect.bulk(topic, payload(PAYLOAD_BYTES), BULK_MESSAGES)  # type: ignore[union-attr]
        for topic in topics
    ]
    # Once around first: the topics are there, and what many requests need is taken from the system.
    field.publisher.begin(publish_in_crowd, target.port, templates, 1, LIMIT_SECONDS, len(topics))
    field.publisher.wait_for("ready")
    field.publisher.tell("go")
    field.publisher.result(2 * LIMIT_SECONDS)
    before = usage_of(target.pid).resident_bytes
    requests = len(topics) * (MESSAGES // BULK_MESSAGES - 1)
    field.publisher.begin(publish_in_crowd, target.port, templates, 1, LIMIT_SECONDS, requests)
    field.publisher.wait_for("ready")
    with Meter(target) as meter:
        field.publisher.tell("go")
        report = field.publisher.result(2 * LIMIT_SECONDS)
    published = report["published"]
    values = {
        "bytes": (usage_of(target.pid).resident_bytes - before) / published,
        "rate": published / report["seconds"],
        **meter.costs(published),
    }
    return Outcome(values, refusals(report))


SCENARIOS = (
    Scenario(
        "hot_messages",
        f"{TOPICS} topics with {MESSAGES:,} messages of {PAYLOAD_BYTES} bytes in memory",
        hot_messages,
        per="message",
        measure="bytes",
        unit="bytes each",
        smaller_is_better=True,
        needs="hot buffer",
        fresh=True,
    ),
)
