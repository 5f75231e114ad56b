"""Topics: the list of them, what is stored of one, its history, and its end."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from actors.stream import MessageId
from pulsar_relay import wire
from pulsar_relay.errors import RelayError
from pulsar_relay.cursors import place
from pulsar_relay.fields import is_topic_name
from pulsar_relay.requests import RequestReader
from pulsar_relay.web.handler import ApiHandler

STATS = "stats"


class TopicListHandler(ApiHandler):
    """GET /api/v1/topics"""

    def initialize(self, reader: RequestReader, **kwargs: Any) -> None:
        super().initialize(**kwargs)
        self.reader = reader

    async def get(self) -> None:
        query = self.reader.topics_query(self.request.query_arguments)
        names = await self.relay.topics(query.after, query.limit + 1)
        if len(names) > query.limit:
            names = names[: query.limit]
            following = urlencode({"after": names[-1], "limit": query.limit})
            self.set_header("Link", f'<{self.request.path}?{following}>; rel="next"')
        self.answer([{"topic_name": name} for name in names])


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
        "subscribers": sum(census.subscribers.values()),
        "hot_bytes": census.hot_bytes,
    }


class StatsHandler(ApiHandler):
    """GET /stats"""

    async def get(self) -> None:
        self.answer(await relay_statistics(self))


class HistoryHandler(ApiHandler):
    """GET /api/v1/topics/{topic}/messages"""

    def initialize(self, reader: RequestReader, **kwargs: Any) -> None:
        super().initialize(**kwargs)
        self.reader = reader

    async def get(self, topic: str) -> None:
        topic = _existing_name(topic)
        query = self.reader.history_query(self.request.query_arguments)
        await self.relay.describe(topic)
        # A place that is no message id begins where the order begins, as it does for a poll.
        start = place(query.cursor) if query.cursor else None
        cursor = start if isinstance(start, MessageId) else None
        page = await self.relay.history(topic, cursor, query.limit, descends=query.descends)
        self.answer(wire.history_answer(page.messages, query.limit, query.order, query.cursor, page.has_more))


def _existing_name(topic: str) -> str:
    # A name no topic can have is simply not found, as any other that does not exist.
    if not is_topic_name(topic):
        raise RelayError("topic_not_found")
    return topic
