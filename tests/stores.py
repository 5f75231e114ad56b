"""Stores under test: a worker's client, feed and `ValkeyStore` over a real Valkey, in the test's own loop."""

from __future__ import annotations

import asyncio
import functools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ParamSpec

import uvloop

from actors.ports import Appended, Dedupe, Draft, Publish, StoreError
from actors.protocol import Fed
from actors.stream import BEGINNING, Message, MessageId
from pulsar_relay.settings import StorageSettings, ValkeySettings
from pulsar_relay.store.client import make_client
from pulsar_relay.store.cluster import Cluster
from pulsar_relay.store.feed import Feed
from pulsar_relay.store.shard import Shard
from pulsar_relay.store.valkey import ValkeyStore
from tests.clusters import ValkeyCluster
from tests.faults.proxy import FaultProxy
from tests.proxies import Proxy
from tests.valkeys import TIMEOUT_SCALE

P = ParamSpec("P")

Where = str | ValkeyCluster
"""The path of a server's socket, or a cluster."""

PROMPT_SECONDS = 0.1 * TIMEOUT_SCALE
"""A definite refusal must be told within this time."""


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test in an event loop of its own, the kind the relay runs in."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        uvloop.run(test(*args, **kwargs))

    return run


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until `condition()` is true."""
    deadline = time.monotonic() + seconds * TIMEOUT_SCALE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.002)


async def code_of(attempt: Awaitable[object]) -> str | None:
    """The code of the StoreError that `attempt` raises, None if it succeeds."""
    try:
        await attempt
    except StoreError as error:
        return error.code
    return None


async def until_code(
    attempt: Callable[[], Awaitable[object]], code: str | None, seconds: float = 10.0
) -> None:
    """Repeat `attempt()` until it raises a StoreError with this code, or with None, until it succeeds."""
    deadline = time.monotonic() + seconds * TIMEOUT_SCALE
    while (found := await code_of(attempt())) != code:
        assert time.monotonic() < deadline, f"waited in vain for {code}, there is {found}"
        await asyncio.sleep(0.002)


@dataclass
class OpenStore:
    """One worker's store. `fed` collects what its feed tells, `comparisons` how often it asked to compare,
    `compared` which topics, `claims` the client ids and generations it heard of."""

    name: str
    client: Shard | Cluster
    feed: Feed
    store: ValkeyStore
    fed: list[Fed] = field(default_factory=list)
    comparisons: int = 0
    compared: list[Sequence[str] | None] = field(default_factory=list)
    claims: list[tuple[str, int]] = field(default_factory=list)

    async def append(
        self, topic: str, *payloads: bytes, floor: MessageId = BEGINNING, key: str | None = None
    ) -> Appended:
        """One publish of these payloads, with an idempotency key or without."""
        return await self.store.append(topic, [publish(topic, *payloads, key=key)], floor)

    async def all_messages(self, topic: str) -> list[Message]:
        """Everything in the topic's stream, read in pages."""
        messages: list[Message] = []
        cursor = BEGINNING
        while True:
            page = await self.store.read(topic, cursor, 500, 1024 * 1024)
            messages += page.batch.messages
            cursor = page.batch.last
            if not page.has_more:
                return messages


def publish(topic: str, *payloads: bytes, key: str | None = None, digest: str = "body") -> Publish:
    dedupe = None if key is None else Dedupe(f"scope:{key}", digest)
    return Publish(topic, tuple(Draft(payload) for payload in payloads), dedupe)


def assert_contiguous(messages: Sequence[Message], after: MessageId = BEGINNING) -> None:
    """Each message names the one before it, and ids only go up."""
    for message in messages:
        assert message.prev == after, f"{message} follows {after}"
        assert message.id > after
        assert str(message.id) == message.id_text
        after = message.id


@asynccontextmanager
async def open_store(
    where: Where | Proxy | FaultProxy,
    *,
    name: str | None = None,
    valkey: dict[str, Any] | None = None,
    starts_feed: bool = False,
    replicas: int = 0,
    **storage: Any,
) -> AsyncIterator[OpenStore]:
    """A store over a cluster, or the server at a socket path or behind a proxy; `valkey` and `storage` change
    settings, `replicas` have to confirm appends.
    """
    settings = ValkeySettings()
    if isinstance(where, ValkeyCluster):
        settings = replace(settings, mode="cluster", addresses=where.addresses)
    elif not isinstance(where, str):
        settings = replace(settings, host=where.host, port=where.port)
    settings = replace(settings, **(valkey or {}))
    client = make_client(settings, where if isinstance(where, str) else None, replicas=replicas)
    name = name or secrets.token_hex(6)
    feed = Feed(client, name, settings.command_timeout_seconds)
    store = ValkeyStore(client, feed, name, replace(StorageSettings(), **storage))
    opened = OpenStore(name, client, feed, store)

    def on_reconnected(topics: Sequence[str] | None) -> None:
        opened.comparisons += 1
        opened.compared.append(topics)

    if starts_feed:
        feed.start(opened.fed.append, on_reconnected, lambda *claim: opened.claims.append(claim))
        await until(lambda: feed.is_connected)
    try:
        yield opened
    finally:
        await feed.stop()
        await store.close()
