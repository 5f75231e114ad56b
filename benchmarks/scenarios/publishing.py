"""How fast messages are taken in, when nobody receives them."""

from __future__ import annotations

from functools import partial

from benchmarks.load.publishing import publish_frames, publish_in_crowd
from benchmarks.messages import Template, payload
from benchmarks.scenarios.scenario import PAYLOAD_BYTES, Field, Outcome, Scenario, refusals
from benchmarks.targets.target import Meter, Target

PUBLISHERS = 32
BULK_PUBLISHERS = 10
BULK_MESSAGES = 100
SOCKETS = 4
WINDOW = 64


def publish_single(field: Field, target: Target) -> Outcome:
    topic = field.topic()
    template = target.dialect.publish(topic, payload(PAYLOAD_BYTES))
    return _in_crowd(field, target, topic, template, PUBLISHERS)


def publish_idempotent(field: Field, target: Target) -> Outcome:
    topic = field.topic()
    template = target.dialect.publish(topic, payload(PAYLOAD_BYTES), key=topic)
    return _in_crowd(field, target, topic, template, PUBLISHERS)


def publish_bulk(field: Field, target: Target) -> Outcome:
    topic = field.topic()
    template = target.dialect.bulk(topic, payload(PAYLOAD_BYTES), BULK_MESSAGES)  # type: ignore[union-attr]
    return _in_crowd(field, target, topic, template, BULK_PUBLISHERS)


def publish_ndjson(field: Field, target: Target) -> Outcome:
    topic = field.topic()
    template = target.dialect.ndjson(topic, payload(PAYLOAD_BYTES), BULK_MESSAGES)  # type: ignore[union-attr]
    return _in_crowd(field, target, topic, template, BULK_PUBLISHERS)


def publish_websocket(field: Field, target: Target) -> Outcome:
    topic, dialect = field.topic(), target.dialect
    template = dialect.publish_frame(topic, payload(PAYLOAD_BYTES))  # type: ignore[union-attr]
    handshake = dialect.open_websocket()  # type: ignore[union-attr]
    _make(field, target, topic)
    field.publisher.begin(publish_frames, target.port, handshake, template, SOCKETS, WINDOW, field.seconds)
    return _report(field, target, topic)


def _in_crowd(field: Field, target: Target, topic: str, template: Template, publishers: int) -> Outcome:
    _make(field, target, topic)
    field.publisher.begin(publish_in_crowd, target.port, [template], publishers, field.seconds)
    return _report(field, target, topic)


def _make(field: Field, target: Target, topic: str) -> None:
    """Some targets fail where many publish at once to a topic that is not there yet."""
    field.publish_first(target, target.dialect.publish(topic, payload(PAYLOAD_BYTES)))


def _report(field: Field, target: Target, topic: str) -> Outcome:
    field.publisher.wait_for("ready")
    with Meter(target) as meter:
        field.publisher.tell("go")
        report = field.publisher.result()
    published = report["published"]
    values = {
        "rate": published / report["seconds"],
        "p50_ms": report.get("p50_ms", 0.0),
        "p99_ms": report.get("p99_ms", 0.0),
        **meter.costs(published),
    }
    complaints = refusals(report)
    if target.valkey is not None and (stored := target.stored(topic) - 1) != published:
        complaints["acknowledged and not stored, or stored twice"] = abs(stored - published)
    return Outcome(values, complaints)


_scenario = partial(Scenario, per="message")

SCENARIOS = (
    _scenario("publish", f"Publish: single POSTs, {PUBLISHERS} connections", publish_single),
    _scenario(
        "publish_disk", "The same, level `disk`: each group is on disk first", publish_single, level="disk"
    ),
    _scenario(
        "publish_replica", "The same, level `replica`: a replica has it", publish_single, level="replica"
    ),
    _scenario(
        "publish_idempotent",
        "The same, each with its Idempotency-Key",
        publish_idempotent,
        needs="idempotency",
    ),
    _scenario(
        "publish_bulk",
        f"Bulk POSTs of {BULK_MESSAGES}, {BULK_PUBLISHERS} connections",
        publish_bulk,
        needs="bulk",
    ),
    _scenario(
        "publish_bulk_disk",
        "The same, level `disk`",
        publish_bulk,
        needs="bulk",
        level="disk",
    ),
    _scenario(
        "publish_ndjson",
        f"NDJSON bodies of {BULK_MESSAGES} lines, {BULK_PUBLISHERS} connections",
        publish_ndjson,
        needs="ndjson",
    ),
    _scenario(
        "publish_websocket",
        f"WebSocket publishing, {SOCKETS} connections, {WINDOW} on their way on each",
        publish_websocket,
        needs="websocket publishing",
    ),
)
