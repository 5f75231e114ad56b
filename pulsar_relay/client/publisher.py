"""Publisher: messages to one topic, each stored once however often it has to be sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from pulsar_relay.client.backoff import Backoff
from pulsar_relay.client.errors import ClientError, LostError, NotARelayError, RefusedError, UnreachableError
from pulsar_relay.client.http import Answer, HttpClient

SINGLE = "/api/v1/messages"
BULK = "/api/v1/messages/bulk"
_TOO_MUCH = frozenset({"bulk_too_large", "body_too_large"})


class PublishResult(msgspec.Struct):
    """What became of one message of many, as the relay tells it."""

    status: str
    topic: str | None = None
    message_id: str | None = None
    error: str | None = None
    code: str | None = None

    @property
    def is_accepted(self) -> bool:
        return self.status == "accepted"


class _PublishAnswer(msgspec.Struct):
    message_id: str


class _BulkAnswer(msgspec.Struct):
    results: list[PublishResult]


class Publisher:
    """Publishes JSON texts, which pass through untouched, to `topic`.

    While the relay is away or overloaded, the same request is sent again under the same key, for up to
    `timeout_seconds` each; `on_retry` is told of each failure and the seconds until the next try. One
    request is on its way at a time, so messages are stored in the order given.
    """

    def __init__(
        self,
        http: HttpClient,
        topic: str,
        *,
        ttl_seconds: int | None,
        metadata: Mapping[str, str],
        timeout_seconds: float,
        on_retry: Callable[[ClientError, float], None],
    ) -> None:
        self._http = http
        self._head = b'{"topic":' + msgspec.json.encode(topic) + b',"payload":'
        self._tail = b"}"
        if metadata:
            self._tail = b',"metadata":' + msgspec.json.encode(dict(metadata)) + self._tail
        if ttl_seconds is not None:
            self._tail = b',"ttl":%d' % ttl_seconds + self._tail
        self._timeout_seconds = timeout_seconds
        self._on_retry = on_retry
        self._has_answered = False

    async def publish(self, payload: bytes, key: str) -> bytes:
        """Publish one message; returns the relay's answer, as JSON. Raises ClientError."""
        answer = await self._post(SINGLE, self._message(payload), key)
        answer.read(_PublishAnswer)
        return answer.body

    async def publish_all(self, payloads: Sequence[bytes], keys: Sequence[str]) -> list[PublishResult]:
        """Publish in bulk, in order; a request's key is that of its first message. Raises ClientError.

        More than the relay takes at a time is sent in parts; what is too large even alone is rejected alone.
        """
        body = b'{"messages":[' + b",".join(map(self._message, payloads)) + b"]}"
        try:
            answer = await self._post(BULK, body, keys[0])
        except RefusedError as error:
            if error.code not in _TOO_MUCH:
                raise
            if len(payloads) == 1:
                return [PublishResult("rejected", error=error.message, code=error.code)]
            half = len(payloads) // 2
            first = await self.publish_all(payloads[:half], keys[:half])
            return first + await self.publish_all(payloads[half:], keys[half:])
        results = answer.read(_BulkAnswer).results
        if len(results) != len(payloads):
            raise NotARelayError("not every message was answered.")
        return results

    def _message(self, payload: bytes) -> bytes:
        return self._head + payload + self._tail

    async def _post(self, path: str, body: bytes, key: str) -> Answer:
        deadline = time.monotonic() + self._timeout_seconds
        backoff = Backoff()
        is_uncertain = False
        while True:
            try:
                answer = await self._http.request(
                    "POST",
                    self._http.address.url(path),
                    body=body,
                    headers={"Idempotency-Key": key},
                    timeout_seconds=max(0.001, deadline - time.monotonic()),
                )
            except ClientError as error:
                is_uncertain = is_uncertain or isinstance(error, LostError)
                seconds = backoff.next(error.retry_after_seconds)
                if not self._may_retry(error, deadline - seconds):
                    raise _told(error, key) if is_uncertain else error from None
                self._on_retry(error, seconds)
                await asyncio.sleep(seconds)
            else:
                self._has_answered = True
                return answer

    def _may_retry(self, error: ClientError, latest: float) -> bool:
        if not error.is_retryable or time.monotonic() >= latest:
            return False
        # Nobody there at the very first try: more often than not the address is wrong.
        return self._has_answered or not isinstance(error, UnreachableError)


def _told(error: ClientError, key: str) -> ClientError:
    """The error, with what to do about a request of which nobody knows whether it was carried out."""
    return ClientError(
        error.code,
        f"{error.message} Whether it was stored is not known; to be sure, publish it again with "
        f"--idempotency-key {key}",
        is_retryable=error.is_retryable,
    )
