"""Health, readiness and metrics: what operators' machines ask."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from pulsar_relay import __version__
from pulsar_relay.errors import ERRORS
from pulsar_relay.supervision.crew import Crew
from pulsar_relay.web.handler import ApiHandler


class HealthHandler(ApiHandler):
    """GET /health: the loop turns, or there would be no answer."""

    is_public = True

    def get(self) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.answer({"status": "healthy", "timestamp": now, "version": __version__})

    head = get


class ReadyHandler(ApiHandler):
    """GET /ready: each worker wrote to the store within the last seconds, and none is stopping."""

    is_public = True

    def initialize(self, crew: Crew, durability: str) -> None:
        self.crew = crew
        self.durability = durability

    async def get(self) -> None:
        readiness = await self.crew.readiness()
        checks: dict[str, Any] = {leg.name: leg.as_json() for leg in readiness.legs()}
        checks["accepting"] = _check(None if readiness.accepts else "shutting_down")
        checks["answering"] = _check(None if readiness.answers else "workers_silent")
        is_ready = readiness.is_ready
        if not is_ready:
            self.set_header("Retry-After", "1")
        answer: dict[str, Any] = {"ready": is_ready, "durability": self.durability, "checks": checks}
        answer["workers"] = [
            {"worker": each.worker, "ready": each.is_ready, "failing": each.failing}
            for each in readiness.workers
        ]
        if shards := readiness.shards():
            answer["shards"] = {name: {"ok": code is None, "code": code} for name, code in shards.items()}
        self.answer(answer, 200 if is_ready else 503)

    head = get


def _check(failure: str | None) -> dict[str, object]:
    return {"ok": failure is None, "code": failure, "message": failure and ERRORS[failure].message}


class MetricsHandler(ApiHandler):
    """GET /metrics"""

    is_public = True

    def initialize(self, crew: Crew) -> None:
        self.crew = crew

    async def get(self) -> None:
        text = await self.crew.metrics()
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(text)

    head = get
