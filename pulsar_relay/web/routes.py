"""Every address of the relay, in one place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry
from tornado.web import Application

from pulsar_relay.frames import FrameReader
from pulsar_relay.relay import Relay
from pulsar_relay.requests import RequestReader
from pulsar_relay.settings import Settings
from pulsar_relay.store.probe import Probe
from pulsar_relay.web.connections import OpenConnections
from pulsar_relay.web.cursor_cookie import CursorCookie
from pulsar_relay.web.docs import DocsHandler, OpenApiHandler
from pulsar_relay.web.handler import NotFoundHandler
from pulsar_relay.web.health import HealthHandler, MetricsHandler, ReadyHandler
from pulsar_relay.web.poll import GetPollHandler, PollStatsHandler, PostPollHandler, Waiters
from pulsar_relay.web.publish import BulkHandler, Publisher, PublishHandler
from pulsar_relay.web.sse import StreamHandler
from pulsar_relay.web.topics import HistoryHandler, StatsHandler, TopicHandler, TopicListHandler
from pulsar_relay.web.websocket import RelayWebSocket

Encode = Callable[[Sequence[Any]], bytes]


@dataclass(frozen=True, slots=True)
class FrontParts:
    """What the handlers are given; made by the composition root."""

    relay: Relay
    settings: Settings
    reader: RequestReader
    publisher: Publisher
    waiters: Waiters
    cookies: CursorCookie
    connections: OpenConnections
    probe: Probe
    registry: CollectorRegistry
    frames: FrameReader
    websocket_frames: Encode
    sse_events: Encode
    openapi: bytes
    docs_page: bytes
    docs_policy: str


def api_application(parts: FrontParts) -> Application:
    """The API's addresses."""
    base = {"relay": parts.relay, "settings": parts.settings, "connections": parts.connections}
    read = {**base, "reader": parts.reader}
    publish = {**read, "publisher": parts.publisher}
    poll = {
        **read,
        "waiters": parts.waiters,
        "cursor_cookie": parts.cookies,
        "connections": parts.connections,
    }
    sockets = {**base, "publisher": parts.publisher}
    streams = {**read, "encode": parts.sse_events}
    topic = r"/api/v1/topics/([^/]+)"
    return _application(
        [
            (r"/api/v1/messages", PublishHandler, publish),
            (r"/api/v1/messages/bulk", BulkHandler, publish),
            (r"/messages/poll", PostPollHandler, poll),
            (r"/api/v1/poll", GetPollHandler, poll),
            (r"/messages/poll/stats", PollStatsHandler, {**base, "waiters": parts.waiters}),
            (r"/ws", RelayWebSocket, {**sockets, "frames": parts.frames, "encode": parts.websocket_frames}),
            (r"/api/v1/stream", StreamHandler, streams),
            (r"/api/v1/topics", TopicListHandler, read),
            (topic, TopicHandler, base),
            (topic + "/messages", HistoryHandler, read),
            (r"/stats", StatsHandler, base),
            (r"/health", HealthHandler, base),
            (r"/ready", ReadyHandler, {**base, "probe": parts.probe}),
            (r"/metrics", MetricsHandler, {**base, "registry": parts.registry}),
            (r"/openapi.json", OpenApiHandler, {**base, "document": parts.openapi}),
            (r"/docs", DocsHandler, {**base, "page": parts.docs_page, "policy": parts.docs_policy}),
        ],
        parts,
    )


def metrics_application(parts: FrontParts) -> Application:
    """What the metrics port serves."""
    base = {"relay": parts.relay, "settings": parts.settings, "connections": parts.connections}
    return _application([(r"/metrics", MetricsHandler, {**base, "registry": parts.registry})], parts)


def _application(routes: list[Any], parts: FrontParts) -> Application:
    subscriber = parts.settings.subscriber
    return Application(
        routes,
        default_handler_class=NotFoundHandler,
        default_handler_args={
            "relay": parts.relay,
            "settings": parts.settings,
            "connections": parts.connections,
        },
        log_function=lambda handler: None,
        websocket_ping_interval=subscriber.ping_interval_seconds,
        websocket_ping_timeout=subscriber.ping_timeout_seconds,
        websocket_max_message_size=subscriber.max_frame_bytes,
    )
