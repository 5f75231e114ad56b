"""Consumers: named clients, how far they are behind, and acknowledging without a WebSocket."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from actors.lag import lag
from actors.ports import ConsumerEntry, Place
from pulsar_relay.accounts.user import READ
from pulsar_relay.errors import FieldError, RelayError
from pulsar_relay.relay import Relay
from pulsar_relay.requests import RequestReader
from pulsar_relay.web.handler import ApiHandler
from pulsar_relay.wire import CLIENT_ID_MAX_LENGTH


class ConsumerListHandler(ApiHandler):
    """GET /api/v1/consumers"""

    def initialize(self, relay: Relay, reader: RequestReader) -> None:
        self.relay = relay
        self.reader = reader

    async def get(self) -> None:
        self.caller.require_all_topics()
        query = self.reader.consumers_query(self.request.query_arguments)
        prefix = self.caller.prefix
        page = await self.relay.consumers(prefix + query.after, query.limit)
        # They are in alphabetical order, so a user's stand together.
        if page.last is not None and page.last.startswith(prefix):
            following = urlencode({"after": page.last.removeprefix(prefix), "limit": query.limit})
            self.set_header("Link", f'<{self.request.path}?{following}>; rel="next"')
        own = [consumer for consumer in page.consumers if consumer.client_id.startswith(prefix)]
        self.answer([_entry(consumer, prefix) for consumer in own])


class ConsumerHandler(ApiHandler):
    """GET and DELETE /api/v1/consumers/{client_id}"""

    def initialize(self, relay: Relay) -> None:
        self.relay = relay

    async def get(self, client_id: str) -> None:
        caller = self.caller
        caller.require_all_topics()
        record = await self.relay.consumer(caller.client(_existing_name(client_id)))
        topics = {caller.told(place.topic): self._standing(place) for place in record.places}
        self.answer({**_entry(record.entry, caller.prefix), "topics": topics})

    async def delete(self, client_id: str) -> None:
        self.caller.require(READ)
        self.caller.require_all_topics()
        await self.relay.forget(self.caller.client(_existing_name(client_id)))
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
        caller = self.caller
        caller.require(READ)
        if not _is_name(client_id):
            wrong = FieldError(("path", "client_id"), f"must be 1 to {CLIENT_ID_MAX_LENGTH} characters")
            raise RelayError("invalid_request", errors=[wrong])
        named = self.reader.acknowledgement(self.body(), self.request.headers.get("Content-Type"))
        cursors = {caller.reach(name, READ): cursor for name, cursor in named.items()}
        stored = await self.relay.acknowledge(caller.client(client_id), cursors)
        told = {caller.told(topic): str(cursor) for topic, cursor in stored.items()}
        self.answer({"client_id": client_id, "cursors": told})


def _entry(consumer: ConsumerEntry, prefix: str) -> dict[str, Any]:
    return {
        "client_id": consumer.client_id.removeprefix(prefix),
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
