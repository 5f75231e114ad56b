"""Topics: the list of them, what is stored of one, its history, and its end."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from actors.stream import Message
from pulsar_relay import wire
from pulsar_relay.errors import RelayError
from pulsar_relay.schemas import is_topic_name, parse_history_query, parse_list_query
from pulsar_relay.web.handler import ApiHandler

STATS = "stats"


class TopicListHandler(ApiHandler):
    """GET /api/v1/topics"""

    async def get(self) -> None:
        query = parse_list_query(self.request.query_arguments)
        names = await self.relay.topics(query.after, query.limit + 1)
        if len(names) > query.limit:
            names = names[: query.limit]
            following = urlencode({"after": names[-1], "limit": query.limit})
            self.set_header("Link", f'<{self.request.path}?{following}>; rel="next"')
        census = await self.relay.census()
        self.answer([{"topic_name": name, "subscribers": census.subscribers.get(name, 0)} for name in names])


class TopicHandler(ApiHandler):
    """GET and DELETE /api/v1/topics/{topic}"""

    async def get(self, topic: str) -> None:
        if topic == STATS:
            self.answer(await self._statistics())
            return
        self.answer(await self._information(_existing_name(topic)))

    async def delete(self, topic: str) -> None:
        await self.relay.delete(_existing_name(topic))
        self.set_status(204)
        self.clear_header("Content-Type")
        self.finish()

    async def _information(self, topic: str) -> dict[str, Any]:
        description = await self.relay.describe(topic)
        census = await self.relay.census()
        return {
            "topic_name": topic,
            "length": description.length,
            "first_id": description.oldest,
            "last_id": description.newest,
            "epoch": description.epoch,
            "subscribers": census.subscribers.get(topic, 0),
        }

    async def _statistics(self) -> dict[str, Any]:
        """The statistics' address is also the address of a topic of that name: if there is one, both are told."""
        statistics: dict[str, Any] = {}
        try:
            statistics = await self._information(STATS)
        except RelayError as error:
            if error.code != "topic_not_found":
                raise
        return statistics | await relay_statistics(self)


async def relay_statistics(handler: ApiHandler) -> dict[str, Any]:
    relay = handler.relay
    census = await relay.census()
    return {
        "total_topics": await relay.topic_count(),
        "open_topics": census.open_topics,
        "following_topics": census.following_topics,
        "hot_buffer_bytes": census.hot_bytes,
        "connections": {transport: count for transport, count in relay.connections.items() if count},
        "messages_received": relay.counters.messages_published,
        "messages_delivered": relay.counters.messages_delivered,
    }


class StatsHandler(ApiHandler):
    """GET /stats"""

    async def get(self) -> None:
        self.answer(await relay_statistics(self))


class HistoryHandler(ApiHandler):
    """GET /api/v1/topics/{topic}/messages"""

    async def get(self, topic: str) -> None:
        topic = _existing_name(topic)
        query = parse_history_query(self.request.query_arguments)
        await self.relay.describe(topic)
        page = await self.relay.history(topic, query.cursor, query.limit, descends=query.descends)
        self.answer(wire.history_answer(page.messages, query, _next_cursor(page.messages)))


def _next_cursor(messages: Any) -> str | None:
    last: Message | None = messages[-1] if messages else None
    return last.id_text if last is not None else None


def _existing_name(topic: str) -> str:
    # A name no topic can have is simply not found, as any other that does not exist.
    if not is_topic_name(topic):
        raise RelayError("topic_not_found")
    return topic
