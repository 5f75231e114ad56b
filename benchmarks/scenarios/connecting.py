"""What a connection costs that does nothing."""

from __future__ import annotations

import time

from benchmarks.load.receiving import hold
from benchmarks.scenarios.scenario import Field, Outcome, Scenario
from benchmarks.targets.target import Meter, Target
from benchmarks.usage import usage_of

CONNECTIONS = 2000
WARM_UP = 50
"""Connections made before, which fill what a first use fills once."""
SETTLE_SECONDS = 0.3


def idle(field: Field, target: Target) -> Outcome:
    subscription = target.dialect.websocket([field.topic()])
    field.publisher.begin(hold, target.port, [subscription] * WARM_UP)
    field.publisher.wait_for("ready")
    field.publisher.tell("go")
    field.publisher.wait_for("there")
    before = usage_of(target.pid).resident_bytes
    connections = field.amount(CONNECTIONS)
    field.receiver.begin(hold, target.port, [subscription] * connections)
    field.receiver.wait_for("ready")
    with Meter(target) as meter:
        field.receiver.tell("go")
        field.receiver.wait_for("there", 120)
    # What was needed to connect is given back by then.
    time.sleep(SETTLE_SECONDS)
    after = usage_of(target.pid).resident_bytes
    with Meter(target) as resting:
        time.sleep(field.seconds)
    for player in (field.receiver, field.publisher):
        player.tell("go")
    held = field.receiver.result()
    warm = field.publisher.result()
    values = {
        "rate": connections / held["seconds"],
        "bytes": (after - before) / connections,
        "resting_us": resting.worker.cpu_seconds / resting.seconds / (connections + WARM_UP) * 1e6,
        **meter.costs(connections),
    }
    return Outcome(values, {"closed": held["closed"] + warm["closed"]})


SCENARIOS = (
    Scenario(
        "idle",
        f"{CONNECTIONS:,} WebSockets that receive nothing",
        idle,
        per="connection",
        measure="bytes",
        unit="bytes each",
        smaller_is_better=True,
        fresh=True,
    ),
)
