"""Publishing over HTTP: one message, or many in one request."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from actors.ports import Dedupe, Draft, WallClock
from actors.protocol import Published
from actors.stream import timestamp_text
from pulsar_relay import wire
from pulsar_relay.accounts.user import WRITE
from pulsar_relay.errors import RelayError
from pulsar_relay.limits.limiter import Limiter
from pulsar_relay.limits.verdict import UNLIMITED, Verdict
from pulsar_relay.message_reader import ItemError, PublishRequest
from pulsar_relay.metrics import Latency
from pulsar_relay.relay import Relay
from pulsar_relay.requests import RequestReader, idempotency_key
from pulsar_relay.web.caller import Caller
from pulsar_relay.web.endpoint import Answer, Request


class Publisher:
    """Turns checked requests into drafts and publishes them; shared by HTTP and WebSocket. Each raises
    RelayError, also where the caller may not write the topic.
    """

    def __init__(self, relay: Relay, clock: WallClock, latency: Latency) -> None:
        self._relay = relay
        self._clock = clock
        self._latency = latency

    async def publish_all(
        self, caller: Caller, topic: str, requests: Sequence[PublishRequest], key: str | None
    ) -> Published:
        """Append messages of one topic, which the caller has reached, in one step and in order.

        Cancelling the call does not call the publish back.
        """
        started = time.perf_counter()
        published = await self._relay.publish(topic, *self._drafts(caller, requests, key))
        self._latency.observe(time.perf_counter() - started)
        return published

    def publish_then(
        self,
        caller: Caller,
        request: PublishRequest,
        key: str | None,
        told: Callable[[Published | Exception], None],
    ) -> None:
        """Begin to append one message, and have `told` called with the outcome: for who has no task to wait.
        Raises if it cannot begin.
        """
        topic = caller.reach(request.topic, WRITE)
        started = time.perf_counter()

        def tell(asking: asyncio.Future[Any]) -> None:
            try:
                published = self._relay.published(asking)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is told
                told(error)
                return
            self._latency.observe(time.perf_counter() - started)
            told(published)

        self._relay.publish_soon(topic, *self._drafts(caller, [request], key)).add_done_callback(tell)

    def _drafts(
        self, caller: Caller, requests: Sequence[PublishRequest], key: str | None
    ) -> tuple[list[Draft], Dedupe | None]:
        dedupe = None if key is None else Dedupe(f"{caller.scope}:{key}", digest_of(requests))
        return [self._draft(request) for request in requests], dedupe

    def _draft(self, request: PublishRequest) -> Draft:
        expires_at_ms = None if request.ttl_seconds is None else self._clock() + request.ttl_seconds * 1000
        return Draft(request.payload, request.metadata, expires_at_ms)


def digest_of(requests: Iterable[PublishRequest]) -> str:
    """Tells two bodies under one key apart. Over the values' exact bytes: a client repeats what it sent, it
    does not rewrite it.
    """
    digest = hashlib.blake2b(digest_size=12)
    for request in requests:
        for part in (request.payload, request.metadata or b"", str(request.ttl_seconds).encode()):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.hexdigest()


Item = PublishRequest | ItemError
Outcome = str | RelayError
"""Of one message of a bulk request: its id, or why it has none."""


class PublishEndpoints:
    """POST /api/v1/messages and /api/v1/messages/bulk"""

    def __init__(self, publisher: Publisher, reader: RequestReader, limiter: Limiter) -> None:
        self._publisher = publisher
        self._reader = reader
        self._limiter = limiter

    async def one(self, request: Request) -> Answer:
        headers = request.headers
        message = self._reader.publish(request.plain_body(), headers.get("content-type"))
        key = idempotency_key(headers.get("idempotency-key"))
        caller = request.caller
        topic = caller.reach(message.topic, WRITE)
        verdict = self._limiter.charge_now("publish", caller.counted_as)
        if verdict is None:
            verdict = await self._limiter.charge("publish", caller.counted_as)
        published = await self._publisher.publish_all(caller, topic, [message], key)
        return Answer(201, wire.json_text(published_json(published, caller)), verdict=verdict)

    async def bulk(self, request: Request) -> Answer:
        headers = request.headers
        key = idempotency_key(headers.get("idempotency-key"))
        # All or nothing is a matter of reading: what is left then is one topic, and its messages are one
        # append.
        items, _is_atomic = self._reader.bulk(
            request.plain_body(), headers.get("content-type"), request.query
        )
        groups, answers = _by_topic(items, request.caller)
        cost = sum(len(indexes) for topic, indexes in groups.items() if topic not in answers)
        verdict = await self._charge(request.caller, cost)
        publishes = [
            self._publish(request.caller, topic, [items[index] for index in indexes], key)
            for topic, indexes in groups.items()
            if topic not in answers
        ]
        published = [await publishes[0]] if len(publishes) == 1 else await asyncio.gather(*publishes)
        reached = [topic for topic in groups if topic not in answers]
        answers.update(zip(reached, published, strict=True))
        _refuse_what_to_repeat(answers, is_repeatable=key is not None)
        body = wire.json_text(_bulk_json(items, _outcomes(items, groups, answers)))
        return Answer(207, body, verdict=verdict)

    async def _charge(self, caller: Caller, cost: int) -> Verdict:
        return await self._limiter.charge("publish", caller.counted_as, cost) if cost else UNLIMITED

    async def _publish(
        self, caller: Caller, topic: str, requests: Sequence[Any], key: str | None
    ) -> Published | RelayError:
        try:
            return await self._publisher.publish_all(caller, topic, requests, key)
        except RelayError as error:
            return error


def _by_topic(
    items: Sequence[Item], caller: Caller
) -> tuple[dict[str, list[int]], dict[str, Published | RelayError]]:
    """The places of the messages of each topic; and of those topics that the caller may not write, why."""
    groups: dict[str, list[int]] = {}
    refusals: dict[str, Published | RelayError] = {}
    topics: dict[str, str] = {}
    for index, item in enumerate(items):
        if isinstance(item, PublishRequest):
            name = item.topic
            topic = topics.get(name)
            if topic is None:
                try:
                    topic = caller.reach(name, WRITE)
                except RelayError as error:
                    topic = caller.inside(name)
                    refusals[topic] = error
                topics[name] = topic
            groups.setdefault(topic, []).append(index)
    return groups, refusals


def _refuse_what_to_repeat(answers: Mapping[str, Published | RelayError], *, is_repeatable: bool) -> None:
    """Raise where the client should send the whole request again: clients repeat a 503, and would not look
    for one inside a 207.

    That is where no topic took its messages, and where the request has a key, under which those that are
    stored are not stored again.
    """
    failures = [answer for answer in answers.values() if isinstance(answer, RelayError)]
    passing = [error for error in failures if error.kind.is_retryable]
    if passing and (is_repeatable or len(failures) == len(answers)):
        raise passing[0]
    if failures and len(failures) == len(answers):
        raise failures[0]


def _outcomes(
    items: Sequence[Item],
    groups: Mapping[str, Sequence[int]],
    answers: Mapping[str, Published | RelayError],
) -> list[Outcome]:
    outcomes: list[Any] = [item.error if isinstance(item, ItemError) else None for item in items]
    for topic, indexes in groups.items():
        answer = answers[topic]
        for position, index in enumerate(indexes):
            outcomes[index] = answer if isinstance(answer, RelayError) else answer.ids[position]
    return outcomes


def published_json(published: Published, caller: Caller) -> dict[str, str]:
    """What is told of the one message that was published."""
    id_text = published.ids[0]
    return {
        "message_id": id_text,
        "topic": caller.told(published.topic),
        "timestamp": timestamp_text(int(id_text.partition("-")[0])),
    }


def _bulk_json(items: Sequence[Item], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    results: list[dict[str, Any]] = []
    accepted = 0
    for item, outcome in zip(items, outcomes, strict=True):
        result = {"message_id": None, "topic": item.topic, "status": "rejected", "error": None, "code": None}
        if isinstance(outcome, RelayError):
            result |= {"error": _in_words(outcome), "code": outcome.code}
        else:
            accepted += 1
            result |= {"message_id": outcome, "status": "accepted"}
        results.append(result)
    summary = {"total": len(items), "accepted": accepted, "rejected": len(items) - accepted}
    return {"results": results, "summary": summary}


def _in_words(error: RelayError) -> str:
    fields = "; ".join(
        f"{'.'.join(map(str, wrong.loc[3:]))} {wrong.message}".strip() for wrong in error.errors
    )
    return fields or error.message
