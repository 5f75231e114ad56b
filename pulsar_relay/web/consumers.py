"""Consumers: named clients, how far they are behind, and acknowledging without a WebSocket."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from actors.lag import lag
from actors.ports import ConsumerEntry, Place
from pulsar_relay.errors import FieldError, RelayError
from pulsar_relay.relay import Relay
from pulsar_relay.requests import RequestReader
from pulsar_relay.schemas import CLIENT_ID_MAX_LENGTH
from pulsar_relay.web.handler import ApiHandler


class ConsumerListHandler(ApiHandler):
    """GET /api/v1/consumers"""

    def initialize(self, relay: Relay, reader: RequestReader) -> None:
        self.relay = relay
        self.reader = reader

    async def get(self) -> None:
        query = self.reader.consumers_query(self.request.query_arguments)
        page = await self.relay.consumers(query.after, query.limit)
        if page.last is not None:
            following = urlencode({"after": page.last, "limit": query.limit})
            self.set_header("Link", f'<{self.request.path}?{following}>; rel="next"')
        self.answer([_entry(consumer) for consumer in page.consumers])


class ConsumerHandler(ApiHandler):
    """GET and DELETE /api/v1/consumers/{client_id}"""

    def initialize(self, relay: Relay) -> None:
        self.relay = relay

    async def get(self, client_id: str) -> None:
        record = await self.relay.consumer(_existing_name(client_id))
        topics = {place.topic: self._standing(place) for place in record.places}
        self.answer({**_entry(record.entry), "topics": topics})

    async def delete(self, client_id: str) -> None:
        await self.relay.forget(_existing_name(client_id))
        self.set_status(204)
        self.clear_header("Content-Type")
        self.finish()

    def _standing(self, place: Place) -> dict[str, Any]:
        behind = lag(place, self.relay.clock())
        return {
            "cursor": None if place.cursor is None else str(place.cursor),
            "delivered": None if place.delivered is None else str(place.delivered),
            "lag_messages": behind.messages,
            "lag_seconds": behind.seconds,
            "lost_messages": behind.lost,
            "messages_to_loss": behind.messages_to_loss,
            "seconds_to_loss": behind.seconds_to_loss,
        }


class AcknowledgeHandler(ApiHandler):
    """POST /api/v1/consumers/{client_id}/ack"""

    def initialize(self, relay: Relay, reader: RequestReader) -> None:
        self.relay = relay
        self.reader = reader

    async def post(self, client_id: str) -> None:
        if not _is_name(client_id):
            wrong = FieldError(("path", "client_id"), f"must be 1 to {CLIENT_ID_MAX_LENGTH} characters")
            raise RelayError("invalid_request", errors=[wrong])
        cursors = self.reader.acknowledgement(self.body(), self.request.headers.get("Content-Type"))
        stored = await self.relay.acknowledge(client_id, cursors)
        told = {topic: str(cursor) for topic, cursor in stored.items()}
        self.answer({"client_id": client_id, "cursors": told})


def _entry(consumer: ConsumerEntry) -> dict[str, Any]:
    return {
        "client_id": consumer.client_id,
        "connected": consumer.is_connected,
        "idle_seconds": consumer.idle_ms / 1000,
    }


def _existing_name(client_id: str) -> str:
    # A name no client can have is simply not found, as any other of which nothing is kept.
    if not _is_name(client_id):
        raise RelayError("consumer_not_found")
    return client_id


def _is_name(client_id: str) -> bool:
    return 1 <= len(client_id) <= CLIENT_ID_MAX_LENGTH
