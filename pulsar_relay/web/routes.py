"""Every address of the relay, in one place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tornado.web import Application

from pulsar_relay.accounts.user import READ, WRITE
from pulsar_relay.limits.limiter import Limiter
from pulsar_relay.relay import Relay
from pulsar_relay.requests import RequestReader
from pulsar_relay.settings import Settings
from pulsar_relay.sign_in import BrowserSignIn
from pulsar_relay.supervision.crew import Crew
from pulsar_relay.web.account_routes import AccountParts, account_routes
from pulsar_relay.web.connections import OpenConnections
from pulsar_relay.web.consumers import AcknowledgeHandler, ConsumerHandler, ConsumerListHandler
from pulsar_relay.web.cursor_cookie import CursorCookie
from pulsar_relay.web.documents import Document, DocumentHandler
from pulsar_relay.web.endpoint import Endpoints, Route
from pulsar_relay.web.gate import Gate, OpenGate
from pulsar_relay.web.handler import NotFoundHandler, endpoint_handler
from pulsar_relay.web.health import HealthHandler, MetricsHandler, ReadyHandler
from pulsar_relay.web.perimeter import NO_PERIMETER, Perimeter
from pulsar_relay.web.poll import PollEndpoints, PollStatsHandler, Waiters
from pulsar_relay.web.publish import PublishEndpoints, Publisher
from pulsar_relay.web.sign_in_routes import sign_in_routes
from pulsar_relay.web.sse import StreamHandler, StreamParts
from pulsar_relay.web.topics import HistoryEndpoint, StatsHandler, TopicHandler, TopicListHandler
from pulsar_relay.web.upgrade import PlainUpgrade, UpgradeHandler
from pulsar_relay.web.websocket import SocketParts

WEBSOCKET_PATH = "/ws"


@dataclass(frozen=True, slots=True)
class FrontParts:
    """What the handlers are given; made by the composition root."""

    relay: Relay
    settings: Settings
    gate: Gate
    limiter: Limiter
    sign_in: BrowserSignIn | None
    """None without accounts."""
    reader: RequestReader
    publisher: Publisher
    waiters: Waiters
    cookies: CursorCookie
    connections: OpenConnections
    crew: Crew
    sockets: SocketParts
    streams: StreamParts
    perimeter: Perimeter
    accounts: AccountParts | None
    """None without accounts."""
    openapi: Document
    docs: Document
    page: Document
    page_files: Mapping[str, Document]


def api_endpoints(parts: FrontParts) -> Endpoints:
    """The addresses that are asked thousands of times a second: they are answered without Tornado."""
    publish = PublishEndpoints(parts.publisher, parts.reader, parts.limiter)
    poll = PollEndpoints(
        parts.relay, parts.reader, parts.waiters, parts.cookies, parts.connections, parts.limiter
    )
    history = HistoryEndpoint(parts.relay, parts.reader, parts.limiter)
    guard = parts.gate.guard
    return Endpoints(
        [
            Route("POST", "/api/v1/messages", guard(publish.one, WRITE)),
            Route("POST", "/api/v1/messages/bulk", guard(publish.bulk, WRITE)),
            Route("POST", "/messages/poll", guard(poll.by_body, READ), ends_with_client=True),
            Route("GET", "/api/v1/poll", guard(poll.by_query, READ), ends_with_client=True),
            Route("GET", "/api/v1/topics/{}/messages", guard(history, READ), ends_with_client=True),
        ],
        PlainUpgrade(WEBSOCKET_PATH, parts.sockets, parts.gate),
        parts.perimeter,
    )


def api_application(parts: FrontParts, endpoints: Endpoints) -> Application:
    """All of the API's addresses: also those of the endpoints, for requests that are not plain."""
    relay, reader = parts.relay, parts.reader
    accounts = parts.accounts
    topics = {
        "relay": relay,
        "reader": reader,
        "crew": parts.crew,
        "accounts": None if accounts is None else accounts.accounts,
    }
    topic = r"/api/v1/topics/([^/]+)"
    consumer = r"/api/v1/consumers/([^/]+)"
    return _application(
        [
            *_by_path(endpoints.routes),
            *_by_path(() if accounts is None else account_routes(accounts, parts.gate)),
            *([] if parts.sign_in is None else sign_in_routes(parts.sign_in)),
            (r"/messages/poll/stats", PollStatsHandler, {"crew": parts.crew}),
            (WEBSOCKET_PATH, UpgradeHandler, {"sockets": parts.sockets}),
            (r"/api/v1/stream", StreamHandler, {"streams": parts.streams}),
            (r"/api/v1/topics", TopicListHandler, topics),
            (topic, TopicHandler, topics),
            (r"/api/v1/consumers", ConsumerListHandler, {"relay": relay, "reader": reader}),
            (consumer, ConsumerHandler, {"relay": relay}),
            (consumer + "/ack", AcknowledgeHandler, {"relay": relay, "reader": reader}),
            (r"/stats", StatsHandler, {"relay": relay, "crew": parts.crew}),
            (r"/health", HealthHandler),
            (
                r"/ready",
                ReadyHandler,
                {"crew": parts.crew, "durability": parts.settings.storage.durability},
            ),
            _metrics_route(parts),
            (r"/openapi\.json", DocumentHandler, {"documents": {"": parts.openapi}}),
            (r"/docs", DocumentHandler, {"documents": {"": parts.docs}}),
            (r"/", DocumentHandler, {"documents": {"": parts.page}}),
            (r"/page/([^/]+)", DocumentHandler, {"documents": parts.page_files}),
        ],
        parts.perimeter,
        parts.gate,
        parts.limiter,
    )


def _by_path(routes: Iterable[Route]) -> Iterator[tuple[Any, ...]]:
    """For Tornado, which has one handler for all methods of an address. Of addresses that could be told apart
    by nothing else the first counts.
    """
    paths: dict[str, dict[str, Route]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method] = route
    for path, methods in paths.items():
        yield path.replace("{}", "([^/]+)"), endpoint_handler(methods), {"routes": methods}


def metrics_application(parts: FrontParts) -> Application:
    """What the metrics port serves."""
    return _application([_metrics_route(parts)], NO_PERIMETER, OpenGate(), parts.limiter)


def _metrics_route(parts: FrontParts) -> tuple[Any, ...]:
    return (r"/metrics", MetricsHandler, {"crew": parts.crew})


def _application(routes: list[Any], perimeter: Perimeter, gate: Gate, limiter: Limiter) -> Application:
    return Application(
        routes,
        perimeter=perimeter,
        gate=gate,
        limiter=limiter,
        default_handler_class=NotFoundHandler,
        # Requests are counted, not logged; and they are in nobody's log with their query.
        log_function=lambda handler: None,
    )
