"""The composition root: builds a worker from the settings, starts and stops it in a written order.

Start: store and feed -> actors -> accounts -> probe -> ports. So whoever can connect can publish.

Stop: not ready -> `server.shutdown_notice` passes -> no new connections -> waiting polls answered, WebSockets
closed 1012, streams ended -> publishes under way answered -> actors -> accounts -> feed and store.
After the notice within `server.shutdown_deadline`; what is acknowledged is in the stream long before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from actors.ports import StoreError
from actors.protocol import TopicLimits
from actors.stream import HotLimits
from pulsar_relay import apidoc, wire
from pulsar_relay.accounts.accounts import Accounts
from pulsar_relay.audit_topic import RelayAuditTopic
from pulsar_relay.canary import Canary
from pulsar_relay.frames import FrameReader
from pulsar_relay.limits.limiter import Limiter
from pulsar_relay.metrics import MeteredStore, WorkerMetrics
from pulsar_relay.relay import Relay
from pulsar_relay.requests import RequestReader
from pulsar_relay.settings import Settings
from pulsar_relay.sign_in import BrowserSignIn
from pulsar_relay.store.backing import Backing
from pulsar_relay.store.client import make_client
from pulsar_relay.store.feed import Feed
from pulsar_relay.store.identity import StoreIdentity
from pulsar_relay.store.probe import Check, Probe
from pulsar_relay.store.retention import Retention
from pulsar_relay.store.shard_checks import ShardChecks
from pulsar_relay.store.valkey import ValkeyStore
from pulsar_relay.supervision.crew import Alone, Crew
from pulsar_relay.supervision.listening import BACKLOG, Ports, hang_up
from pulsar_relay.supervision.metric_sums import metered
from pulsar_relay.supervision.parts import Holdings, Part, PartSource, Question, Readiness, Waiting, What
from pulsar_relay.survey import ConsumerSurvey
from pulsar_relay.web.account_routes import AccountParts
from pulsar_relay.web.connections import OpenConnections
from pulsar_relay.web.cursor_cookie import CursorCookie
from pulsar_relay.web.documents import HTML, JSON, Document
from pulsar_relay.web.front import FrontServer
from pulsar_relay.web.gate import AccountsGate, Gate, OpenGate
from pulsar_relay.web.guests import Guests
from pulsar_relay.web.heartbeat import Heartbeats
from pulsar_relay.web.page import page, page_files
from pulsar_relay.web.perimeter import Perimeter
from pulsar_relay.web.poll import Waiters
from pulsar_relay.web.publish import Publisher
from pulsar_relay.web.routes import FrontParts, api_application, api_endpoints, metrics_application
from pulsar_relay.web.sse import StreamParts
from pulsar_relay.web.user_accounts import OwnedTopics
from pulsar_relay.web.websocket import SocketParts

logger = logging.getLogger(__name__)

RESERVED_FILES = 256
"""Descriptors kept for Valkey, logs, the embedded server and accepting: at the limit an accept loop spins."""
STORE_RETRY_SECONDS = 0.5
PROBE_SECONDS = 1.0


def wall_clock() -> int:
    return time.time_ns() // 1_000_000


Listen = Callable[[], tuple[list[socket.socket], list[socket.socket]]]


class Worker:
    """One relay in this process and loop."""

    def __init__(
        self,
        settings: Settings,
        unix_socket: str | None = None,
        identity_file: Path | None = None,
        *,
        known_store: str | None = None,
        make_crew: Callable[[PartSource], Crew] = Alone,
    ) -> None:
        """`unix_socket` and `identity_file` are the embedded server's; `known_store` is the identity of the
        store that a worker before this one knew. `make_crew` is given this worker, to answer for all there
        are. ConfigError if the file, or the one the settings name, cannot be used.
        """
        self._settings = settings
        self._name = secrets.token_hex(6)
        valkey = settings.valkey
        self._identity = StoreIdentity(identity_file or settings.storage.identity_file)
        self._identity.remembered = self._identity.remembered or known_store
        self._client = make_client(
            valkey, unix_socket, replicas=settings.replicas_to_wait_for, identity=self._identity
        )
        self._feed = Feed(self._client, self._name, valkey.command_timeout_seconds)
        self._limits = Limiter(self._client, settings.limits, self._name)
        self._limiting: asyncio.Task[None] | None = None
        self._store = ValkeyStore(self._client, self._feed, self._name, settings.storage)
        self.connections = OpenConnections()
        self.waiters = Waiters()
        self._cookies = CursorCookie()
        self._learning: asyncio.Task[None] | None = None
        self._build_relay()
        self._build_accounts()
        self._canary = Canary(self.relay, self._client, self._name, PROBE_SECONDS)
        self._backing = Backing(self._client, settings)
        shards = ShardChecks(self._client, lambda: self._client.refused_shards, lambda: self._feed.failures)
        checks: dict[str, Check] = {
            "valkey_write": shards.of_each("valkey_write", self._store.probe),
            "store_identity": self._client.check_identity,
            "durability": shards.of_each("durability", self._backing.check_durability),
            "eviction": shards.of_each("eviction", self._backing.check_eviction),
        }
        if self.accounts is not None:
            checks["accounts"] = self.accounts.check
        others = [self._canary.leg]
        self._probe = Probe(checks, self._feed, PROBE_SECONDS, others=others, shards=shards.by_shard)
        self.metrics.watch_readiness(self._probe.report, self._canary)
        self.metrics.watch_refusals(self._limits.refusals)
        if self.accounts is not None and self._guests is not None:
            audit = self.accounts.audit
            self.metrics.watch_accounts(audit.done, audit.refused, self._guests.shut_out)
        self._retention = Retention(self._client, settings.storage, self.relay.counters)
        self._survey = ConsumerSurvey(
            self._store, lambda: self._retention.is_leading, settings.storage.trim_interval_seconds
        )
        self.metrics.watch_consumers(lambda: self._survey.standing)
        self._crew = make_crew(self)
        self._sockets: list[socket.socket] = []
        self._servers: list[HTTPServer] = []

    @property
    def known_store(self) -> str | None:
        """The identity of the store it works on, None before it has met one."""
        return self._identity.remembered

    async def part(self, question: Question) -> Part:
        """What this worker contributes to an answer for all. Raises RelayError."""
        match question.what:
            case What.METRICS:
                return metered(self.metrics.registry.collect())
            case What.READINESS:
                is_accepting = self.relay.is_accepting and not self.relay.is_leaving
                report = self._probe.report()
                return Readiness(report.legs, is_accepting, dict(report.shards))
            case What.WAITING:
                waiters = self.waiters
                return Waiting(waiters.active, dict(waiters.topics), dict(waiters.scopes))
            case What.HOLDINGS:
                return await self._holdings(question.topic)

    async def _holdings(self, topic: str) -> Holdings:
        census = await self.relay.census()
        counts = census.subscribers
        subscribers = counts.get(topic, 0) if topic else sum(counts.values())
        return Holdings(census.open_topics, census.following_topics, census.hot_bytes, subscribers)

    def _build_relay(self) -> None:
        settings = self._settings
        # The relay counts, the metrics read what it counted, and meter the store it works on.
        self.metrics = WorkerMetrics()
        store = MeteredStore(self._store, self._store, self.metrics)
        self.relay = Relay(
            store,
            store,
            topic_limits(settings),
            wall_clock,
            tick_seconds=settings.storage.trim_interval_seconds,
            compare_seconds=settings.topic.compare_interval_seconds,
            page_max_messages=settings.subscriber.page_max_messages,
        )
        self.metrics.watch(self.relay)

    def _build_accounts(self) -> None:
        self.accounts: Accounts | None = None
        self.audit_topic: RelayAuditTopic | None = None
        self._guests: Guests | None = None
        self._gate: Gate = OpenGate(counts_addresses=self._settings.limits.counts_addresses)
        self._sign_in: BrowserSignIn | None = None
        if self._settings.auth.mode == "accounts":
            auth = self._settings.auth
            self.audit_topic = RelayAuditTopic(self.relay, auth, self._name)
            self.accounts = Accounts(self._client, self._feed, auth, audit_topic=self.audit_topic)
            self._guests = Guests(self.accounts, time.time)
            self._gate = AccountsGate(self.accounts, self._guests)
            self._sign_in = BrowserSignIn(self._client, self.accounts, self._limits, self._settings)

    async def start(self, listen: Listen | None = None) -> Ports:
        """Returns when requests are answered. The store may still be away: then they are answered 503.

        `listen` returns the sockets to answer on, those of the API and those for metrics; without it they
        are made as the settings say. Raises MisfitError if the store is there and its settings do not back
        what the relay promises.
        """
        settings = self._settings
        self.relay.start()
        self._identity.start(self._go_on_with_another_store)
        try:
            await self._backing.refuse_misfit()
        except StoreError as error:
            logger.warning("store: cannot be asked for its settings yet (%s)", error.code)
        self._feed.start(self.relay.take_news, self.relay.compare_now, self.relay.take_claim)
        if self.accounts is not None:
            self.accounts.start()
        if self.audit_topic is not None:
            self.audit_topic.start()
        self._probe.start()
        self._canary.start()
        self._limiting = asyncio.get_running_loop().create_task(self._limits.run(), name="limits")
        self._retention.start()
        self._survey.start()
        if not await self._learn_cookie_key():
            self._learn_cookie_key_later()
        parts = self._front_parts(self._cookies)
        endpoints = api_endpoints(parts)
        self.api = api_application(parts, endpoints)
        self._front = FrontServer(
            self.api,
            endpoints,
            settings.server,
            max_connections(settings.server.max_connections),
            lambda: self.connections.socket_count,
        )
        api_sockets, metrics_sockets = (listen or self._bind)()
        await self._front.accept_from(api_sockets)
        port = self._answers_on(api_sockets, self._front)
        if not metrics_sockets:
            return Ports(port, None)
        metrics = HTTPServer(metrics_application(parts))
        metrics.add_sockets(metrics_sockets)
        return Ports(port, self._answers_on(metrics_sockets, metrics))

    def _bind(self) -> tuple[list[socket.socket], list[socket.socket]]:
        server = self._settings.server
        api = bind_sockets(server.port, server.host, backlog=BACKLOG)
        if server.metrics_port is None:
            return api, []
        return api, bind_sockets(server.metrics_port, server.metrics_host, backlog=BACKLOG)

    def _answers_on(self, sockets: list[socket.socket], server: HTTPServer) -> int:
        self._servers.append(server)
        self._sockets += sockets
        return int(sockets[0].getsockname()[1])

    async def _learn_cookie_key(self) -> bool:
        """From the store, where all workers find the same; False if it cannot be asked now."""
        try:
            self._cookies.learn(await self._store.cookie_key(self._cookies.key))
        except StoreError as error:
            logger.warning("store: not there yet (%s), trying again", error.code)
            return False
        return True

    def _learn_cookie_key_later(self) -> None:
        async def learn() -> None:
            has_learnt = False
            while not has_learnt:
                await asyncio.sleep(STORE_RETRY_SECONDS)
                has_learnt = await self._learn_cookie_key()

        if self._learning is None or self._learning.done():
            self._learning = asyncio.get_running_loop().create_task(learn(), name="cookie key")

    def _go_on_with_another_store(self) -> None:
        # Before a worker that starts later makes a key of its own, which the others would not know.
        self._learn_cookie_key_later()
        self.relay.compare_now()
        if self.audit_topic is not None:
            self.audit_topic.declare()

    def _front_parts(self, cookies: CursorCookie) -> FrontParts:
        settings, limits = self._settings, self._settings.subscriber
        document = apidoc.document(settings)
        reader = RequestReader(settings.publish, settings.poll, limits)
        publisher = Publisher(self.relay, wall_clock, self.metrics.publish_latency)
        perimeter = Perimeter(settings.server)
        return FrontParts(
            relay=self.relay,
            settings=settings,
            gate=self._gate,
            limiter=self._limits,
            sign_in=self._sign_in,
            reader=reader,
            publisher=publisher,
            waiters=self.waiters,
            cookies=cookies,
            connections=self.connections,
            crew=self._crew,
            sockets=SocketParts(
                self.relay,
                limits,
                FrameReader(settings.publish, limits),
                publisher,
                self.connections,
                Heartbeats(
                    limits.ping_interval_seconds, limits.ping_timeout_seconds, limits.stall_limit_seconds
                ),
                self._gate,
                self._limits,
                self._timed(wire.websocket_frames),
                self._timed(wire.full_websocket_frames),
                perimeter,
            ),
            streams=StreamParts(
                self.relay,
                limits,
                reader,
                self.connections,
                self._timed(wire.sse_events),
                self._timed(wire.full_sse_events),
            ),
            perimeter=perimeter,
            accounts=self._account_parts(),
            openapi=Document(apidoc.as_json(document), JSON),
            docs=Document(apidoc.page(document), HTML, apidoc.PAGE_POLICY),
            page=page(has_accounts=self.accounts is not None),
            page_files=page_files(),
        )

    def _account_parts(self) -> AccountParts | None:
        if self.accounts is None:
            return None
        return AccountParts(self.accounts, self._limits, OwnedTopics(self.relay))

    def _timed(self, encode: Any) -> Any:
        """`encode`, which runs once a batch, also observes how old the batch is by then."""
        observe = self.metrics.delivery_latency.observe

        def encode_and_observe(messages: Sequence[Any]) -> bytes:
            data: bytes = encode(messages)
            observe(max(0, wall_clock() - messages[-1].id.milliseconds) / 1000)
            return data

        return encode_and_observe

    def reload(self, settings: Settings) -> None:
        """Go on with these, as far as they can change: requests and connections from now on, and topics at
        once. The others must be what they were. May be called once it is started.
        """
        self._settings = settings
        storage = settings.storage
        self._store.reload(storage)
        self._limits.reload(settings.limits)
        self._retention.reload(storage)
        self._survey.reload(storage.trim_interval_seconds)
        self.relay.reload(
            topic_limits(settings),
            tick_seconds=storage.trim_interval_seconds,
            compare_seconds=settings.topic.compare_interval_seconds,
            page_max_messages=settings.subscriber.page_max_messages,
        )
        if self.accounts is None:
            self._gate = OpenGate(counts_addresses=settings.limits.counts_addresses)
        parts = self._front_parts(self._cookies)
        endpoints = api_endpoints(parts)
        self.api = api_application(parts, endpoints)
        server = settings.server
        self._front.reload(self.api, endpoints, server, max_connections(server.max_connections))

    def abandon(self) -> None:
        """Nothing of a worker runs outside of its process."""

    async def stop(self, *, gives_notice: bool = True) -> None:
        """See the module's text. Returns within notice and deadline; may be called once."""
        self.relay.is_leaving = True
        if self._servers and gives_notice:
            await asyncio.sleep(self._settings.server.shutdown_notice_seconds)
        await self._canary.stop()
        self.relay.is_accepting = False
        hang_up(self._sockets)
        for server in self._servers:
            server.stop()
        for connection in self.connections:
            connection.go_away()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.server.shutdown_deadline_seconds):
                await self.connections.drained()
        for server in self._servers:
            await server.close_all_connections()
        if self.audit_topic is not None:
            await self.audit_topic.stop()
        self.relay.stop()
        if self._learning is not None:
            self._learning.cancel()
        if self._limiting is not None:
            self._limiting.cancel()
        await self._probe.stop()
        await self._survey.stop()
        if self._guests is not None:
            self._guests.stop()
        if self.accounts is not None:
            await self.accounts.stop()
        if self._sign_in is not None:
            self._sign_in.close()
        await self._limits.aclose()
        await self._retention.stop()
        await self._feed.stop()
        await self._store.close()


def topic_limits(settings: Settings) -> TopicLimits:
    hot, topic, storage = settings.hot_buffer, settings.topic, settings.storage
    return TopicLimits(
        batch_max_messages=topic.batch_max_messages,
        batch_max_bytes=topic.batch_max_bytes,
        pending_max_messages=topic.pending_max_messages,
        pending_max_bytes=topic.pending_max_bytes,
        page_max_bytes=settings.subscriber.page_max_bytes,
        hot=HotLimits(hot.max_messages, hot.max_bytes, int(hot.max_age_seconds * 1000)),
        hot_total_bytes=hot.total_bytes,
        idle_ticks=max(1, round(topic.idle_retire_seconds / storage.trim_interval_seconds)),
    )


def max_connections(configured: int) -> int:
    """The cap on connections: as configured, but never more than open files allow."""
    files, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = max(16, files - RESERVED_FILES)
    return min(configured, possible) if configured else possible
