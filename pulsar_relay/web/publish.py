"""Publishing over HTTP: one message, or many in one request."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

from actors.protocol import Dedupe, Draft, Published, WallClock
from actors.stream import MessageId, timestamp_text
from pulsar_relay.errors import RelayError
from pulsar_relay.metrics import Latency
from pulsar_relay.relay import Relay
from pulsar_relay.message_reader import ItemError, PublishRequest
from pulsar_relay.requests import RequestReader, idempotency_key
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

    def initialize(self, publisher: Publisher, reader: RequestReader, **kwargs: Any) -> None:
        super().initialize(**kwargs)
        self.publisher = publisher
        self.reader = reader

    async def post(self) -> None:
        headers = self.request.headers
        request = self.reader.publish(self.request.body, headers.get("Content-Type"))
        published = await self.publisher.publish(request, idempotency_key(headers.get("Idempotency-Key")))
        self.answer(published_json(published, 0), 201)


class BulkHandler(PublishHandler):
    """POST /api/v1/messages/bulk"""

    async def post(self) -> None:
        headers = self.request.headers
        key = idempotency_key(headers.get("Idempotency-Key"))
        items, _is_atomic = self.reader.bulk(
            self.request.body, headers.get("Content-Type"), self.request.query_arguments
        )
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
        results: list[str | RelayError] = [
            item.error if isinstance(item, ItemError) else "" for item in items
        ]
        for indexes, outcome in zip(groups.values(), outcomes, strict=True):
            for position, index in enumerate(indexes):
                results[index] = (
                    outcome.ids[position] if isinstance(outcome, Published) else _relay_error(outcome)
                )
        if outcomes and all(isinstance(outcome, RelayError) for outcome in outcomes):
            # The store took nothing. Clients repeat a 503; inside a 207 they would not look for one.
            raise _relay_error(outcomes[0])  # type: ignore[arg-type]
        self.answer(_bulk_json(items, results), 207)


def _relay_error(outcome: BaseException) -> RelayError:
    if not isinstance(outcome, RelayError):
        raise outcome
    return outcome


def published_json(published: Published, index: int) -> dict[str, str]:
    id_text = published.ids[index]
    return {
        "message_id": id_text,
        "topic": published.topic,
        "timestamp": timestamp_text(MessageId.parse(id_text).milliseconds),
    }


def _bulk_json(
    items: Sequence[PublishRequest | ItemError], results: Sequence[str | RelayError]
) -> dict[str, Any]:
    answers: list[dict[str, Any]] = []
    accepted = 0
    for item, result in zip(items, results, strict=True):
        answer = {"message_id": None, "topic": item.topic, "status": "rejected", "error": None, "code": None}
        if isinstance(result, str):
            accepted += 1
            answer |= {"message_id": result, "status": "accepted"}
        else:
            answer |= {"error": _in_words(result), "code": result.code}
        answers.append(answer)
    summary = {"total": len(items), "accepted": accepted, "rejected": len(items) - accepted}
    return {"results": answers, "summary": summary}


def _in_words(error: RelayError) -> str:
    fields = "; ".join(
        f"{'.'.join(map(str, wrong.loc[3:]))} {wrong.message}".strip() for wrong in error.errors
    )
    return fields or error.message
