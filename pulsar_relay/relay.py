"""Relay: the one object the front end knows. Where `await` meets actor.

Each method sends a message and awaits its answer; a refusal is raised as `RelayError`. It holds no message
and no subscription itself, only who is connected by which transport.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar, cast

from thespian.actors import ActorSystem

from actors.archive import ArchiveActor
from actors.claims import ClaimsActor
from actors.consumer_protocol import (
    AcknowledgeFor,
    Claimed,
    CompareClaims,
    DescribeConsumer,
    ForgetConsumer,
    ListConsumers,
    StartClaims,
)
from actors.counters import Counters
from actors.directory import DirectoryActor
from actors.ports import (
    Archive,
    ConsumerPage,
    ConsumerRecord,
    Dedupe,
    Description,
    Draft,
    HistoryPage,
    Publish,
    Sink,
    Store,
    TopicTerms,
    WallClock,
)
from actors.protocol import (
    Acknowledge,
    Census,
    ChangeLimits,
    ChangeTopic,
    CompareNow,
    CountTopics,
    CreateTopic,
    DeleteTopic,
    Describe,
    Disconnect,
    Drained,
    Expire,
    Fed,
    ListTopics,
    Locate,
    Located,
    Published,
    ReadHistory,
    Refused,
    StartArchive,
    StartDirectory,
    StartSubscriber,
    Subscribe,
    TakeCensus,
    TopicDeleted,
    TopicLimits,
    Unsubscribe,
)
from actors.runtime import AskFailed, AsyncioSystemBase
from actors.stream import MessageId
from actors.subscriber import SubscriberActor
from pulsar_relay.errors import RelayError
from pulsar_relay.store.schema import CANARY

T = TypeVar("T")


class Subscriber:
    """A connection's line to its `SubscriberActor`. Every method returns at once; answers go to the
    connection's sink.
    """

    __slots__ = ("_address", "_base", "_connections", "_is_gone", "_transport")

    def __init__(
        self, base: AsyncioSystemBase, address: Any, connections: Counter[str], transport: str | None
    ) -> None:
        self._base = base
        self._address = address
        self._connections = connections
        self._transport = transport
        self._is_gone = False

    def tell(self, message: Subscribe | Unsubscribe | Acknowledge | Drained | Expire) -> None:
        if not self._is_gone:
            self._base.tell(self._address, message)

    def disconnect(self) -> None:
        """The connection is over. May be called again."""
        if not self._is_gone:
            self._is_gone = True
            # A long-poll that was answered has ended by itself.
            if self._base.is_alive(self._address):
                self._base.tell(self._address, Disconnect())
            if self._transport is not None:
                self._connections[self._transport] -= 1


class Relay:
    """One per worker, on its loop. `start` before anything else."""

    def __init__(
        self,
        store: Store,
        archive: Archive,
        limits: TopicLimits,
        clock: WallClock,
        *,
        tick_seconds: float,
        compare_seconds: float,
        page_max_messages: int,
    ) -> None:
        self._store = store
        self._archive_port = archive
        self._limits = limits
        self._tick_seconds = tick_seconds
        self._compare_seconds = compare_seconds
        self._page_max_messages = page_max_messages
        self._subscriber_ids = itertools.count(1)
        self.clock = clock
        self.counters = Counters()
        self.connections: Counter[str] = Counter()
        """Open subscribers by transport."""
        self.is_leaving = False
        """True once the relay was told to stop: it is not ready, but may still serve for a while."""
        self.is_accepting = True
        """False once the relay is stopping: new subscribers and publishes are refused."""

    def start(self) -> None:
        self.base = AsyncioSystemBase()
        self._system = ActorSystem(systemBase=self.base, transientUnique=True)
        self._directory = self._system.createActor(DirectoryActor)
        start = StartDirectory(
            self._store, self._limits, self.clock, self.counters, self._tick_seconds, self._compare_seconds
        )
        self.base.tell(self._directory, start)
        self._claims = self._system.createActor(ClaimsActor)
        self.base.tell(self._claims, StartClaims(self._store))
        self._start_archive()

    def _start_archive(self) -> None:
        self._archive = self._system.createActor(ArchiveActor)
        self.base.tell(self._archive, StartArchive(self._archive_port))

    def reload(
        self,
        limits: TopicLimits,
        *,
        tick_seconds: float,
        compare_seconds: float,
        page_max_messages: int,
    ) -> None:
        """Go on within these limits: topics at once, and subscribers that come from now on."""
        self._limits = limits
        self._tick_seconds = tick_seconds
        self._compare_seconds = compare_seconds
        self._page_max_messages = page_max_messages
        self.base.tell(self._directory, ChangeLimits(limits, tick_seconds, compare_seconds))

    def stop(self) -> None:
        """End all actors; who still waits for an answer gets a refusal."""
        self._system.shutdown()

    # What the feed tells

    def take_news(self, fed: Fed) -> None:
        self.base.tell(self._directory, fed)

    def take_claim(self, client_id: str, generation: int) -> None:
        self.base.tell(self._claims, Claimed(client_id, generation))

    def compare_now(self, topics: Sequence[str] | None = None) -> None:
        """The feed of these topics, or of all, has missed something."""
        self.base.tell(self._directory, CompareNow(topics))
        self.base.tell(self._claims, CompareClaims())

    # What producers ask

    async def publish(self, topic: str, drafts: Sequence[Draft], dedupe: Dedupe | None = None) -> Published:
        """Append the drafts in one step, and return when they are in the stream.

        Cancelling the call does not call the publish back.
        """
        asking = self.publish_soon(topic, drafts, dedupe)
        with suppress(AskFailed):
            await asking
        return self.published(asking)

    def publish_soon(
        self, topic: str, drafts: Sequence[Draft], dedupe: Dedupe | None = None
    ) -> asyncio.Future[Any]:
        """Begin to append the drafts; `published` tells what the future's result means."""
        if not self.is_accepting:
            raise RelayError("shutting_down")
        return self._append_soon(topic, drafts, dedupe)

    def _append_soon(self, topic: str, drafts: Sequence[Draft], dedupe: Dedupe | None) -> asyncio.Future[Any]:
        return self.base.ask_soon(self._directory, Publish(topic, tuple(drafts), dedupe))

    async def publish_own(self, topic: str, drafts: Sequence[Draft], dedupe: Dedupe) -> Published:
        """As `publish`, for what the relay itself has to say: also while it is stopping."""
        asking = self._append_soon(topic, drafts, dedupe)
        with suppress(AskFailed):
            await asking
        return self.published(asking)

    def published(self, asking: asyncio.Future[Any]) -> Published:
        """The outcome of a `publish_soon` that is done. Raises RelayError."""
        return cast(Published, self._outcome(self._directory, asking))

    # What subscribers ask

    def open_subscriber(
        self,
        sink: Sink,
        transport: str | None,
        *,
        completes: bool = False,
        max_messages: int | None = None,
        subscribe: Subscribe | None = None,
    ) -> Subscriber:
        """A subscriber that writes to `sink`; `completes` makes it a long-poll, with at most `max_messages`
        a topic. `transport` None: one of the relay's own, which counts nowhere. `subscribe` is what it begins
        with; it may be told more.
        """
        if not self.is_accepting:
            raise RelayError("shutting_down")
        address = self._system.createActor(SubscriberActor)
        start = StartSubscriber(
            next(self._subscriber_ids),
            sink,
            self._directory,
            self._claims,
            self._store,
            max_messages or self._page_max_messages,
            completes,
            Counters() if transport is None else self.counters,
            is_counted=transport is not None,
            subscribe=subscribe,
        )
        self.base.tell(address, start)
        if transport is not None:
            self.connections[transport] += 1
        return Subscriber(self.base, address, self.connections, transport)

    async def newest(self, topics: Sequence[str]) -> dict[str, MessageId]:
        """Where each topic ends now; without those that cannot be found out at the moment.

        Whoever subscribes after these ids misses nothing that is published after the call returned.
        """
        asked = [self.base.ask_soon(self._directory, Locate(topic, ticket=0)) for topic in topics]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return {answer.topic: answer.newest for answer in answers if isinstance(answer, Located)}

    async def history(
        self, topic: str, cursor: MessageId | None, max_messages: int, *, descends: bool
    ) -> HistoryPage:
        ask = ReadHistory(topic, cursor, max_messages, self._limits.page_max_bytes, descends)
        return await self._ask(self._archive, ask, HistoryPage)

    async def describe(self, topic: str) -> Description:
        """What is stored of a topic; `topic_not_found` if nothing ever was."""
        description = await self._answer(self._archive, Describe(topic))
        if description is None:
            raise RelayError("topic_not_found")
        return cast(Description, description)

    async def create(self, topic: str, terms: TopicTerms) -> None:
        """Make a topic without messages; `topic_exists` if there is one already."""
        if not await self._answer(self._archive, CreateTopic(topic, terms)):
            raise RelayError("topic_exists")

    async def change(self, topic: str, terms: TopicTerms) -> None:
        """Change what is said of a topic; `topic_not_found` if there is none."""
        if not await self._answer(self._archive, ChangeTopic(topic, terms)):
            raise RelayError("topic_not_found")

    async def topics(self, after: str, limit: int) -> list[str]:
        return cast(list[str], await self._answer(self._archive, ListTopics(after, limit)))

    async def topic_count(self) -> int:
        return cast(int, await self._answer(self._archive, CountTopics()))

    async def acknowledge(self, client_id: str, cursors: Mapping[str, MessageId]) -> Mapping[str, MessageId]:
        """Move a named client's cursors forward; the stored ones. `ahead_of_stream` for ids no topic gave."""
        ask = AcknowledgeFor(client_id, cursors)
        return cast(Mapping[str, MessageId], await self._answer(self._archive, ask))

    async def consumer(self, client_id: str) -> ConsumerRecord:
        """What is kept of a named client; `consumer_not_found` if nothing is."""
        return await self._ask(self._archive, DescribeConsumer(client_id), ConsumerRecord)

    async def consumers(self, after: str, limit: int) -> ConsumerPage:
        return await self._ask(self._archive, ListConsumers(after, limit), ConsumerPage)

    async def forget(self, client_id: str) -> None:
        """Delete what is kept of a named client; `consumer_not_found` if nothing is, `consumer_connected`."""
        await self._answer(self._archive, ForgetConsumer(client_id))

    async def delete(self, topic: str) -> None:
        """Delete a topic with its messages; `topic_not_found` if there is none."""
        deleted = await self._ask(self._directory, DeleteTopic(topic), TopicDeleted)
        if not deleted.existed:
            raise RelayError("topic_not_found")

    async def census(self) -> Census:
        """What clients use; the relay's own topics, whose names nobody can use, are left out."""
        census = await self._ask(self._directory, TakeCensus(), Census)
        subscribers = {
            name: count for name, count in census.subscribers.items() if not name.startswith(CANARY)
        }
        own = len(census.subscribers) - len(subscribers)
        return replace(
            census,
            subscribers=subscribers,
            open_topics=census.open_topics - own,
            following_topics=census.following_topics - own,
        )

    async def _ask(self, address: Any, message: Any, answer_type: type[T]) -> T:
        answer = await self._answer(address, message)
        assert isinstance(answer, answer_type), answer
        return answer

    async def _answer(self, address: Any, message: Any) -> Any:
        asking = self.base.ask_soon(address, message)
        with suppress(AskFailed):
            await asking
        return self._outcome(address, asking)

    def _outcome(self, address: Any, asking: asyncio.Future[Any]) -> Any:
        """What the future of an ask says that is done. Raises RelayError."""
        try:
            answer = asking.result()
        except AskFailed as error:
            if not self.is_accepting:
                raise RelayError("shutting_down") from error
            # The actor failed, and was logged where it did. A topic is opened anew by who needs it next; the
            # archive has nobody else who would.
            if address is self._archive:
                self._start_archive()
            raise RelayError("internal_error") from error
        if isinstance(answer, Refused):
            raise RelayError(answer.code, answer.detail)
        return answer
