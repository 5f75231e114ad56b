"""What fault scenarios are made of: a seed, relays on a Valkey that can be hurt, and a load."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.clusters import ValkeyCluster
from tests.faults.load import Load
from tests.faults.proxy import FaultProxy, make_proxy
from tests.relays import RelayProcess
from tests.sentinels import SERVICE, SentinelGroup
from tests.valkeys import RealValkey

__all__ = ["make_load", "make_nodes_on", "make_proxy", "make_relay_on", "seed"]

Whole = RealValkey | ValkeyCluster | SentinelGroup
"""What holds a whole store."""


@pytest.fixture
def seed() -> str:
    """Decides what is left to chance. Printed; FAULTS_SEED in the environment brings a run back."""
    chosen = os.environ.get("FAULTS_SEED") or secrets.token_hex(4)
    print(f"FAULTS_SEED={chosen}")  # noqa: T201  # pytest shows it with a failure
    return chosen


@pytest.fixture
def make_load(seed: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Load]:
    """Makes loads: the relays' addresses, the store, and settings as for `Load`."""

    def make(relays: list[str], store: Whole, **settings: object) -> Load:
        return Load(tmp_path_factory.mktemp("load"), relays, store, seed, **settings)  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_nodes_on(make_relay_on: Callable[..., RelayProcess]) -> Callable[..., list[RelayProcess]]:
    """Starts nodes of two workers each: one for each store, which may be the same one again and again; with
    further arguments for `serve`.
    """

    def make(stores: Sequence[RealValkey | FaultProxy], *arguments: str) -> list[RelayProcess]:
        return [make_relay_on(store, "--workers", "2", *arguments) for store in stores]

    return make


@pytest.fixture
def make_relay_on(make_relay_process: Callable[..., RelayProcess]) -> Iterator[Callable[..., RelayProcess]]:
    """Starts a relay on a Valkey, over its socket, or on what a proxy leads to, or on a cluster, or a
    Sentinel group; with further arguments for `serve`. A relay that logs an error has a bug, whatever was
    done to it: the test fails.
    """
    relays: list[RelayProcess] = []

    def make(store: Whole | FaultProxy, *arguments: str) -> RelayProcess:
        if isinstance(store, FaultProxy):
            told = {"host": store.host, "port": store.port}
        elif isinstance(store, RealValkey):
            told = {"unix_socket": store.socket_path}
        else:
            told = {"addresses": ",".join(f"{host}:{port}" for host, port in store.addresses)}
            if isinstance(store, SentinelGroup):
                told |= {"mode": "sentinel", "sentinel_service": SERVICE}
            else:
                told |= {"mode": "cluster"}
        place = [word for name, value in told.items() for word in ("--set", f"valkey.{name}={value}")]
        relays.append(make_relay_process(*place, *arguments))
        return relays[-1].start()

    yield make
    errors = [line for relay in relays for line in relay.log.splitlines() if '"level": "error"' in line]
    assert not errors, "\n".join(errors[:5])
