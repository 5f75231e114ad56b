"""Publishing over HTTP: one message, or many in one request."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

from actors.protocol import Dedupe, Draft, Published, WallClock
from actors.stream import MessageId
from pulsar_relay.errors import RelayError
from pulsar_relay.metrics import Latency
from pulsar_relay.relay import Relay
from pulsar_relay.schemas import ItemError, PublishRequest, idempotency_key, parse_bulk, parse_publish
from pulsar_relay.web.handler import ApiHandler

SCOPE = "-"
"""Whose idempotency keys these are. Without accounts all callers are one."""


class Publisher:
    """Turns checked requests into drafts and publishes them; shared by HTTP and WebSocket."""

    def __init__(self, relay: Relay, clock: WallClock, latency: Latency) -> None:
        self._relay = relay
        self._clock = clock
        self._latency = latency

    async def publish(self, request: PublishRequest, key: str | None = None) -> Published:
        """Append one message. Raises RelayError."""
        return await self.publish_all(request.topic, [request], key)

    async def publish_all(self, topic: str, requests: Sequence[PublishRequest], key: str | None) -> Published:
        """Append messages of one topic in one step, in order."""
        started = time.perf_counter()
        drafts = [self._draft(request) for request in requests]
        dedupe = None if key is None else Dedupe(f"{SCOPE}:{key}", _digest(requests))
        published = await self._relay.publish(topic, drafts, dedupe)
        self._latency.observe(time.perf_counter() - started)
        return published

    def _draft(self, request: PublishRequest) -> Draft:
        expires_at_ms = None if request.ttl_seconds is None else self._clock() + request.ttl_seconds * 1000
        return Draft(request.payload, request.metadata, expires_at_ms)


def _digest(requests: Iterable[PublishRequest]) -> str:
    """Tells two bodies under one key apart. Over the values' exact bytes: a client repeats what it sent, it does not rewrite it."""
    digest = hashlib.blake2b(digest_size=12)
    for request in requests:
        for part in (request.payload, request.metadata or b"", str(request.ttl_seconds).encode()):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.hexdigest()


class PublishHandler(ApiHandler):
    """POST /api/v1/messages"""

    def initialize(self, publisher: Publisher, **kwargs: Any) -> None:
        super().initialize(**kwargs)
        self.publisher = publisher

    async def post(self) -> None:
        request = parse_publish(self.json_body())
        published = await self.publisher.publish(request, idempotency_key(self.request.headers))
        self.answer(published_json(published, 0), 201)


class BulkHandler(PublishHandler):
    """POST /api/v1/messages/bulk"""

    async def post(self) -> None:
        items = parse_bulk(self.json_body(), self.limits.publish.bulk_max_messages)
        key = idempotency_key(self.request.headers)
        if self.flag("atomic"):
            _require_atomic(items)
        groups: dict[str, list[int]] = {}
        for index, item in enumerate(items):
            if isinstance(item, PublishRequest):
                groups.setdefault(item.topic, []).append(index)
        outcomes = await asyncio.gather(
            *(
                self.publisher.publish_all(topic, [items[index] for index in indexes], key)  # type: ignore[misc]
                for topic, indexes in groups.items()
            ),
            return_exceptions=True,
        )
        results: list[Any] = [item if isinstance(item, ItemError) else None for item in items]
        for indexes, outcome in zip(groups.values(), outcomes, strict=True):
            for position, index in enumerate(indexes):
                results[index] = (
                    outcome.ids[position] if isinstance(outcome, Published) else _relay_error(outcome)
                )
        self._refuse_if_nothing_stored(results)
        self.answer(_bulk_json(items, results), 207)

    def _refuse_if_nothing_stored(self, results: Sequence[Any]) -> None:
        """A store that took none of the messages is a 503, which clients repeat; inside a 207 they would not look for it."""
        failures = [result for result in results if isinstance(result, RelayError)]
        if failures and not any(isinstance(result, str) for result in results):
            raise failures[0]


def _require_atomic(items: Sequence[PublishRequest | ItemError]) -> None:
    errors = [item for item in items if isinstance(item, ItemError)]
    if errors:
        raise RelayError("invalid_request", errors=[error for item in errors for error in item.errors])
    if len({item.topic for item in items if isinstance(item, PublishRequest)}) > 1:
        raise RelayError("atomic_needs_one_topic")


def _relay_error(outcome: BaseException) -> RelayError:
    if not isinstance(outcome, RelayError):
        raise outcome
    return outcome


def published_json(published: Published, index: int) -> dict[str, str]:
    id_text = published.ids[index]
    return {
        "message_id": id_text,
        "topic": published.topic,
        "timestamp": MessageId.parse(id_text).timestamp,
    }


def _bulk_json(items: Sequence[PublishRequest | ItemError], results: Sequence[Any]) -> dict[str, Any]:
    answers = []
    for item, result in zip(items, results, strict=True):
        if isinstance(result, str):
            answers.append({"message_id": result, "topic": item.topic, "status": "accepted", "error": None})
        else:
            rejected: dict[str, Any] = {"message_id": None, "topic": item.topic, "status": "rejected"}
            rejected["error"] = result.message
            rejected["code"] = result.code
            answers.append(rejected)
    accepted = sum(isinstance(result, str) for result in results)
    summary = {"total": len(items), "accepted": accepted, "rejected": len(items) - accepted}
    return {"results": answers, "summary": summary}
