"""Topics: the list of them, how one is made and changed, what is stored of it, its history, and its end."""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import urlencode

from actors.ports import StoreError, TopicTerms
from actors.stream import MessageId, timestamp_text
from pulsar_relay import wire
from pulsar_relay.accounts.accounts import Accounts
from pulsar_relay.accounts.audit import Actor, AuditRecord, Deed, Kind
from pulsar_relay.accounts.user import ADMIN, READ, WRITE
from pulsar_relay.cursors import place
from pulsar_relay.errors import RelayError
from pulsar_relay.limits.limiter import Limiter
from pulsar_relay.relay import Relay
from pulsar_relay.requests import RequestReader
from pulsar_relay.supervision.crew import Crew
from pulsar_relay.web.caller import Caller, existing, is_of_another, may
from pulsar_relay.web.endpoint import Answer, Request
from pulsar_relay.web.handler import ApiHandler

STATS = "stats"
_TOPICS = uuid.UUID("6ac1a9a4-5f0e-4f7e-9d3b-2c8f4be0d1a7")
"""Of which topics' ids are made. Never to change."""


class TopicListHandler(ApiHandler):
    """GET and POST /api/v1/topics"""

    def initialize(self, relay: Relay, reader: RequestReader, crew: Crew, accounts: Accounts | None) -> None:
        self.relay = relay
        self.reader = reader
        self.crew = crew
        self.accounts = accounts

    async def get(self) -> None:
        self.caller.require_all_topics()
        query = self.reader.topics_query(self.request.query_arguments)
        prefix = self.caller.prefix
        # They are in alphabetical order, so a user's stand together.
        topics = await self.relay.topics(prefix + query.after, query.limit + 1)
        names = [self.caller.told(topic) for topic in topics if topic.startswith(prefix)]
        if len(names) > query.limit:
            names = names[: query.limit]
            following = urlencode({"after": names[-1], "limit": query.limit})
            self.set_header("Link", f'<{self.request.path}?{following}>; rel="next"')
        self.answer([{"topic_name": name, "topic_id": topic_id(prefix + name)} for name in names])

    async def post(self) -> None:
        self.caller.require(WRITE)
        name, terms = self.reader.new_topic(self.body(), self.request.headers.get("Content-Type"))
        topic = self.caller.own(name, WRITE)
        await self.relay.create(topic, terms)
        _note(self, Deed.MAKE_TOPIC, topic, terms)
        self.answer(await topic_information(self.relay, self.crew, topic, self.caller), 201)


def topic_id(topic: str) -> str:
    """A UUID for clients that know a topic by one. It goes with the name, inside: a topic that is deleted and
    made again has the same, and another epoch.
    """
    return str(uuid.uuid5(_TOPICS, topic))


def _note(
    handler: TopicListHandler | TopicHandler, deed: Deed, topic: str, terms: TopicTerms | None = None
) -> None:
    """Who did it, for the audit; without accounts nobody can tell."""
    if handler.accounts is None:
        return
    fields = []
    if terms is not None:
        fields += ["description"] * (terms.description is not None) + ["limits"] * bool(terms.limits)
    actor = Actor.of(handler.caller.principal, handler.client_address)
    handler.accounts.audit.write(
        AuditRecord(deed=deed, actor=actor, kind=Kind.TOPIC, target=topic, fields=fields)
    )


async def topic_information(relay: Relay, crew: Crew, topic: str, caller: Caller) -> dict[str, Any]:
    """What is stored of a topic, what was said of it, and who reads it."""
    description = await relay.describe(topic)
    holdings = await crew.holdings(topic)
    own, effective = description.own, description.effective
    created_ms = description.created_ms
    return {
        "topic_name": caller.told(topic),
        "topic_id": topic_id(topic),
        "owner_id": topic.rpartition("/")[0] or wire.OWNER,
        "created_at": None if created_ms is None else timestamp_text(created_ms),
        "description": description.text,
        "max_messages": own.max_messages,
        "retention": _seconds(own.retention_ms),
        "effective": {
            "max_messages": effective.max_messages,
            "retention": _seconds(effective.retention_ms),
        },
        "length": description.length,
        "first_id": description.oldest,
        "last_id": description.newest,
        "epoch": description.epoch,
        "subscribers": holdings.subscribers,
    }


def _seconds(milliseconds: int | None) -> float | None:
    """A number that can be sent back as it is."""
    if milliseconds is None:
        return None
    seconds, rest = divmod(milliseconds, 1000)
    return milliseconds / 1000 if rest else seconds


class TopicHandler(ApiHandler):
    """GET, PUT and DELETE /api/v1/topics/{topic}"""

    def initialize(self, relay: Relay, reader: RequestReader, crew: Crew, accounts: Accounts | None) -> None:
        self.relay = relay
        self.reader = reader
        self.crew = crew
        self.accounts = accounts

    async def get(self, name: str) -> None:
        if name == STATS:
            self.answer(await self._statistics())
        else:
            self.answer(await self._information(name))

    async def _information(self, name: str) -> dict[str, Any]:
        name = existing(name)
        # What there is of one's own topics needs no permission; what is in them does.
        caller = self.caller
        topic = caller.reach(name, READ) if is_of_another(name, caller) else caller.own(name, None)
        return await topic_information(self.relay, self.crew, topic, caller)

    async def put(self, name: str) -> None:
        topic = self.caller.own(existing(name), WRITE)
        terms = self.reader.topic_change(self.body(), self.request.headers.get("Content-Type"))
        await self.relay.change(topic, terms)
        _note(self, Deed.CHANGE_TOPIC, topic, terms)
        self.answer(await topic_information(self.relay, self.crew, topic, self.caller))

    async def delete(self, name: str) -> None:
        topic = self.caller.own(existing(name), WRITE)
        # First: to who may write it a topic that is gone would come back with the next message. And once
        # more, for what was granted meanwhile.
        await self._forget_grants(topic)
        await self.relay.delete(topic)
        await self._forget_grants(topic)
        _note(self, Deed.DELETE_TOPIC, topic)
        self.set_status(204)
        self.clear_header("Content-Type")
        self.finish()

    async def _forget_grants(self, topic: str) -> None:
        if self.accounts is None:
            return
        try:
            await self.accounts.grants.forget(*topic.split("/"))
        except StoreError as error:
            raise RelayError(error.code) from error

    async def _statistics(self) -> dict[str, Any]:
        """The statistics' address is also that of a topic of this name: if there is one, both are told."""
        information: dict[str, Any] = {}
        try:
            information = await self._information(STATS)
        except RelayError as error:
            if error.code != "topic_not_found":
                raise
        if not information or may(self.caller, ADMIN):
            information |= await relay_statistics(self.relay, self.crew, self.caller)
        return information


async def relay_statistics(relay: Relay, crew: Crew, caller: Caller) -> dict[str, Any]:
    """What the workers hold, and how many topics the store has. Of all users, and so for admins."""
    caller.require(ADMIN)
    holdings = await crew.holdings()
    return {
        "total_topics": await relay.topic_count(),
        "open_topics": holdings.open_topics,
        "following_topics": holdings.following_topics,
        "subscribers": holdings.subscribers,
        "hot_bytes": holdings.hot_bytes,
    }


class StatsHandler(ApiHandler):
    """GET /stats"""

    def initialize(self, relay: Relay, crew: Crew) -> None:
        self.relay = relay
        self.crew = crew

    async def get(self) -> None:
        self.answer(await relay_statistics(self.relay, self.crew, self.caller))


class HistoryEndpoint:
    """GET /api/v1/topics/{topic}/messages"""

    def __init__(self, relay: Relay, reader: RequestReader, limiter: Limiter) -> None:
        self._relay = relay
        self._reader = reader
        self._limiter = limiter

    async def __call__(self, request: Request) -> Answer:
        caller = request.caller
        topic = caller.reach(existing(request.argument), READ)
        query = self._reader.history_query(request.query)
        verdict = await self._limiter.charge("read", caller.counted_as)
        # A place that is no message id begins where the order begins, as it does for a poll.
        start = place(query.cursor) if query.cursor else None
        cursor = start if isinstance(start, MessageId) else None
        page = await self._relay.history(topic, cursor, query.limit, descends=query.descends)
        if not page.messages and not page.has_more:
            # Only an empty answer may be about a topic that does not exist.
            await self._relay.describe(topic)
        items = wire.items_for(page.messages, caller.prefix)
        total, limit, order = len(page.messages), query.limit, query.order
        return Answer(
            200,
            wire.history_answer(items, total, limit, order, query.cursor, page.end, has_more=page.has_more),
            verdict=verdict,
        )
