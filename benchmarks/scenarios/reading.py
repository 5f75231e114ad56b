"""How fast what is stored is read: by polls that follow a topic, page by page, and by those who come back."""

from __future__ import annotations

from functools import partial

from benchmarks.load.polling import poll_all, read_back
from benchmarks.load.publishing import publish_in_crowd
from benchmarks.load.receiving import catch_up
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

POLLERS = 20
POLLED_MESSAGES = 600
POLL_PUBLISHERS = 4
HISTORY_MESSAGES = 20_000
STORE_SECONDS = 120.0
"""The longest time for storing what is then read. Who stores less in it is asked for less."""
RETURNING = 1000
BACKLOG_MESSAGES = 600
"""Sixty seconds at ten messages a second."""


def long_poll(field: Field, target: Target) -> Outcome:
    topic, dialect = field.topic(), target.dialect
    template = dialect.publish(topic, payload(PAYLOAD_BYTES))
    field.publish_first(target, template)
    field.receiver.begin(poll_all, target.port, dialect, topic, POLLERS, LIMIT_SECONDS)
    field.receiver.wait_for("ready")
    messages = field.amount(POLLED_MESSAGES)
    field.publisher.begin(publish_in_crowd, target.port, [template], POLL_PUBLISHERS, LIMIT_SECONDS, messages)
    field.publisher.wait_for("ready")
    with Meter(target) as meter:
        field.publisher.tell("go")
        sent = field.publisher.result(2 * LIMIT_SECONDS)
        field.publish_last(target, template)
        field.receiver.tell(range(FIRST + 1, FIRST + 1 + sent["published"]))
        report = field.receiver.result(LIMIT_SECONDS + 30)
    seconds = (report["ended"] - sent["started"]) / 1e9
    values = {
        **speed(report["deliveries"], seconds),
        "polls": float(report["polls"]),
        **meter.costs(report["polls"]),
    }
    return Outcome(values, refusals(sent) | report["complaints"])


def read_history(field: Field, target: Target) -> Outcome:
    topic = field.topic()
    template = target.dialect.publish(topic, payload(PAYLOAD_BYTES))
    numbers = _store(field, target, topic, template, field.amount(HISTORY_MESSAGES))
    arguments = (target.port, target.dialect, topic, numbers, LIMIT_SECONDS)
    field.receiver.begin(read_back, *arguments)
    field.receiver.wait_for("ready")
    with Meter(target) as meter:
        field.receiver.tell("go")
        field.receiver.wait_for("ended", LIMIT_SECONDS + 30)
    report = field.receiver.result()
    values = {
        **speed(report["deliveries"], report["seconds"]),
        "pages": float(report["polls"]),
        **meter.costs(report["deliveries"]),
    }
    return Outcome(values, report["complaints"])


def catch_up_one(field: Field, target: Target) -> Outcome:
    return _come_back(field, target, 1, field.amount(HISTORY_MESSAGES))


def resume_storm(field: Field, target: Target) -> Outcome:
    return _come_back(field, target, field.amount(RETURNING), BACKLOG_MESSAGES)


def _come_back(field: Field, target: Target, subscribers: int, messages: int) -> Outcome:
    topic = field.topic()
    # What a subscriber had before it left: a message without a number.
    before = field.publish_first(target, target.dialect.publish(topic, b'{"before":true}'))
    template = target.dialect.publish(topic, payload(PAYLOAD_BYTES))
    numbers = _store(field, target, topic, template, messages)
    subscription = target.dialect.websocket([topic], before or "earliest")
    field.receiver.begin(catch_up, target.port, [subscription] * subscribers, numbers, LIMIT_SECONDS)
    field.receiver.wait_for("ready")
    with Meter(target) as meter:
        field.receiver.tell("go")
        field.receiver.wait_for("ended", 2 * LIMIT_SECONDS)
    report = field.receiver.result(LIMIT_SECONDS)
    values = {
        **speed(report["deliveries"], report["seconds"]),
        "seconds": report["seconds"],
        **meter.costs(report["deliveries"]),
    }
    return Outcome(values, report["complaints"])


def _store(field: Field, target: Target, topic: str, template: Template, messages: int) -> range:
    """The first message, so many or what can be stored in time, and the last. Returns the numbers between."""
    field.publish_first(target, template)
    if "bulk" in target.cannot:
        templates, requests, connections = [template], messages, 8
    else:
        messages = (messages + 99) // 100 * 100
        bulk = target.dialect.bulk(topic, payload(PAYLOAD_BYTES), 100)  # type: ignore[union-attr]
        templates, requests, connections = [bulk], messages // 100, 1
    field.publisher.begin(publish_in_crowd, target.port, templates, connections, STORE_SECONDS, requests)
    field.publisher.wait_for("ready")
    field.publisher.tell("go")
    report = field.publisher.result(STORE_SECONDS + LIMIT_SECONDS)
    if complaints := refusals(report):
        raise RuntimeError(str(complaints))
    field.publish_last(target, template)
    return range(FIRST + 1, FIRST + 1 + report["published"])


_scenario = partial(Scenario, per="delivery")

SCENARIOS = (
    Scenario(
        "long_poll",
        f"{POLLERS} long-pollers follow {POLLED_MESSAGES} messages, {POLL_PUBLISHERS} publishers",
        long_poll,
        per="poll",
    ),
    _scenario("read_back", f"Read back {HISTORY_MESSAGES:,} messages, page by page", read_history),
    _scenario(
        "catch_up",
        f"Catch up with {HISTORY_MESSAGES:,} messages on a WebSocket",
        catch_up_one,
        needs="websocket resume",
    ),
    _scenario(
        "resume_storm",
        f"{RETURNING:,} subscribers come back at once over {BACKLOG_MESSAGES} messages",
        resume_storm,
        needs="websocket resume",
    ),
)
