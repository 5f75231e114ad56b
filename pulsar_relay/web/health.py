"""Health, readiness and metrics: what operators' machines ask."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from pulsar_relay import __version__
from pulsar_relay.errors import ERRORS
from pulsar_relay.relay import Relay
from pulsar_relay.store.probe import Probe
from pulsar_relay.web.handler import ApiHandler


class HealthHandler(ApiHandler):
    """GET /health: the loop turns, or there would be no answer."""

    def get(self) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.answer({"status": "healthy", "timestamp": now, "version": __version__})

    head = get


class ReadyHandler(ApiHandler):
    """GET /ready: a write to the store succeeded within the last seconds, and the relay is not stopping."""

    def initialize(self, relay: Relay, probe: Probe, durability: str) -> None:
        self.relay = relay
        self.probe = probe
        self.durability = durability

    def get(self) -> None:
        report = self.probe.report()
        is_accepting = self.relay.is_accepting and not self.relay.is_leaving
        is_ready = report.is_ready and is_accepting
        checks: dict[str, Any] = {leg.name: leg.as_json() for leg in report.legs}
        leaving = None if is_accepting else "shutting_down"
        checks["accepting"] = {
            "ok": is_accepting,
            "code": leaving,
            "message": leaving and ERRORS[leaving].message,
        }
        if not is_ready:
            self.set_header("Retry-After", "1")
        answer = {"ready": is_ready, "durability": self.durability, "checks": checks}
        self.answer(answer, 200 if is_ready else 503)

    head = get


class MetricsHandler(ApiHandler):
    """GET /metrics"""

    def initialize(self, registry: CollectorRegistry) -> None:
        self.registry = registry

    def get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(generate_latest(self.registry))

    head = get
