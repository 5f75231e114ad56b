"""What is measured: programs that are started, addressed and watched in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.machine import Placement
from benchmarks.targets.bare import BareTarget
from benchmarks.targets.nchan import NchanTarget
from benchmarks.targets.predecessor import PredecessorTarget
from benchmarks.targets.relay import RelayTarget
from benchmarks.targets.relay_accounts import RelayAccountsTarget
from benchmarks.targets.target import Target

TARGETS: Mapping[str, Callable[[Path, Placement, str], Target]] = {
    "relay": RelayTarget,
    "relay-accounts": RelayAccountsTarget,
    "pulsar-relay-0.2.1": PredecessorTarget,
    "nchan": NchanTarget,
    "bare": BareTarget,
}
"""By name, how to start one: where its files go, its cores, its durability level."""

__all__ = ["TARGETS", "Target"]
