"""RequestReader: from the bytes of an HTTP request to values that hold what they promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from actors.ports import TopicTerms
from actors.stream import MessageId
from pulsar_relay import json_text
from pulsar_relay.cursors import ACKED, read_last_event_id
from pulsar_relay.errors import FieldError, RelayError
from pulsar_relay.fields import is_topic_name
from pulsar_relay.json_text import Fields, JsonError
from pulsar_relay.loading import BODY, Query, load_query, load_texts, split_object
from pulsar_relay.message_reader import ItemError as ItemError
from pulsar_relay.message_reader import MessageReader
from pulsar_relay.message_reader import PublishRequest as PublishRequest
from pulsar_relay.schemas import (
    POLL_MIN_TIMEOUT_SECONDS,
    BulkQuery,
    ConsumersQuery,
    NewTopic,
    TopicChange,
    TopicsQuery,
    acknowledge_schema,
    history_query_schema,
    poll_query_schema,
    poll_schema,
    stream_query_schema,
)
from pulsar_relay.settings import PollSettings, PublishSettings, SubscriberSettings
from pulsar_relay.wire import CLIENT_ID_MAX_LENGTH

IDEMPOTENCY_KEY_MAX_LENGTH = 255
PLAIN_POLL_MAX_BYTES = 64 * 1024
NDJSON = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
"""No name is registered for it: these are the ones in use."""


class PollRequest(msgspec.Struct, frozen=True):
    """`since` is topic to cursor text, never empty, None for a poll without cursors.

    It may name topics that are not asked for; that it names any at all shows a client that keeps cursors, so
    a topic it does not name must not begin with the next message. It says `acked` only if there is a
    `client_id`.
    """

    topics: Sequence[str]
    since: Mapping[str, str] | None
    timeout_seconds: float
    limit: int
    client_id: str | None = None


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """`since` is as for `PollRequest`, taken from `Last-Event-ID` where the client sent one."""

    topics: Sequence[str]
    since: Mapping[str, str] | None
    client_id: str | None = None


@dataclass(frozen=True, slots=True)
class HistoryRequest:
    """`cursor` is None to begin at the end that the order starts from."""

    limit: int
    order: str
    cursor: str | None

    @property
    def descends(self) -> bool:
        return self.order == "desc"


@dataclass(frozen=True, slots=True)
class ListRequest:
    """`after` is "" to begin with the first name."""

    limit: int
    after: str


class _PlainPoll(msgspec.Struct):
    """A poll whose fields have the types that need no coercion."""

    topics: list[str]
    since: dict[str, str | None] | None = None
    timeout: float | None = None
    limit: int | None = None
    client_id: str | None = None


class RequestReader:
    """Reads every HTTP request. Each method raises RelayError for what is not valid."""

    def __init__(self, publish: PublishSettings, poll: PollSettings, subscriber: SubscriberSettings) -> None:
        self._messages = MessageReader(publish)
        self._limits = poll
        self._bulk_query = BulkQuery()
        self._poll_fields = Fields("topics", "since", "timeout", "limit", "client_id")
        self._poll = poll_schema(poll)()
        self._poll_query = poll_query_schema(poll)()
        self._plain_poll = msgspec.json.Decoder(_PlainPoll)
        self._stream_query = stream_query_schema(subscriber.max_topics)()
        self._history_query = history_query_schema(poll)()
        self._topics_query = TopicsQuery()
        self._new_topic, self._topic_change = NewTopic(), TopicChange()
        self._new_topic_fields = Fields(*self._new_topic.fields)
        self._topic_change_fields = Fields(*self._topic_change.fields)
        self._consumers_query = ConsumersQuery()
        self._acknowledge = acknowledge_schema(subscriber.max_topics)()
        self._acknowledge_fields = Fields("topic", "message_id", "cursors")

    def publish(self, body: bytes, content_type: str | None) -> PublishRequest:
        check_content_type(content_type)
        return self._messages.one(body)

    def bulk(
        self, body: bytes, content_type: str | None, query: Query
    ) -> tuple[Sequence[PublishRequest | ItemError], bool]:
        """The messages in the order sent, and whether they are to be stored all or none.

        In the first case every message is valid and they have one topic.
        """
        is_atomic = bool(load_query(self._bulk_query, query)["atomic"])
        if media_type(content_type) in NDJSON:
            items = self._messages.lines(body)
        else:
            check_content_type(content_type, "application/json or application/x-ndjson")
            items = self._messages.bulk(body)
        if is_atomic:
            _refuse_unless_whole(items)
        return items, is_atomic

    def poll(self, body: bytes, content_type: str | None) -> PollRequest:
        check_content_type(content_type)
        return self._read_plain_poll(body) or self.any_poll(body)

    def any_poll(self, body: bytes) -> PollRequest:
        """The request in `body`, by the schema alone."""
        found = load_texts(self._poll, split_object(self._poll_fields, body, BODY), BODY)
        return self._poll_request(**found)

    def poll_query(self, query: Query) -> PollRequest:
        found = load_query(self._poll_query, query)
        found["since"] = _spread(found["since"], found["topics"])
        return self._poll_request(**found)

    def stream_query(self, query: Query, last_event_id: str | None) -> StreamRequest:
        found = load_query(self._stream_query, query)
        topics = found["topics"]
        since = (
            read_last_event_id(last_event_id, topics) if last_event_id else _spread(found["since"], topics)
        )
        return StreamRequest(topics, _named(since, found["client_id"]), found["client_id"])

    def history_query(self, query: Query) -> HistoryRequest:
        found = load_query(self._history_query, query)
        # 400, not 422, is what older clients know here.
        if found["order"] not in ("asc", "desc"):
            raise RelayError("bad_request", "`order` must be `asc` or `desc`.")
        if found["limit"] < 1:
            raise RelayError("bad_request", "`limit` must be at least 1.")
        limit = min(found["limit"], self._limits.max_limit_messages)
        return HistoryRequest(limit, found["order"], found["cursor"] or None)

    def topics_query(self, query: Query) -> ListRequest:
        found = load_query(self._topics_query, query)
        return ListRequest(found["limit"], found["after"])

    def consumers_query(self, query: Query) -> ListRequest:
        found = load_query(self._consumers_query, query)
        return ListRequest(found["limit"], found["after"])

    def acknowledgement(self, body: bytes, content_type: str | None) -> Mapping[str, MessageId]:
        """Topic to message id, at least one."""
        check_content_type(content_type)
        found = load_texts(self._acknowledge, split_object(self._acknowledge_fields, body, BODY), BODY)
        cursors = found["cursors"]
        if cursors is None:
            cursors = {found["topic"]: found["message_id"]}
        try:
            return {topic: MessageId.parse(text) for topic, text in cursors.items()}
        except ValueError:
            raise RelayError("invalid_cursor") from None

    def new_topic(self, body: bytes, content_type: str | None) -> tuple[str, TopicTerms]:
        """The name of a topic to be made, and what is said of it."""
        check_content_type(content_type)
        found = load_texts(self._new_topic, split_object(self._new_topic_fields, body, BODY), BODY)
        return found["topic_name"], _terms(found)

    def topic_change(self, body: bytes, content_type: str | None) -> TopicTerms:
        check_content_type(content_type)
        texts = split_object(self._topic_change_fields, body, BODY)
        return _terms(load_texts(self._topic_change, texts, BODY))

    def _read_plain_poll(self, body: bytes) -> PollRequest | None:
        """The request, if it is written as clients write it: what is unusual is for the schema to judge."""
        if len(body) > PLAIN_POLL_MAX_BYTES:
            return None
        try:
            json_text.check_encoding(body)
            plain = self._plain_poll.decode(body)
        except (JsonError, msgspec.DecodeError, RecursionError):
            return None
        topics = plain.topics
        if not 1 <= len(topics) <= self._limits.max_topics or not all(map(is_topic_name, topics)):
            return None
        if plain.limit is not None and plain.limit < 1:
            return None
        if plain.client_id is not None and not 1 <= len(plain.client_id) <= CLIENT_ID_MAX_LENGTH:
            return None
        since = {topic: cursor or "" for topic, cursor in plain.since.items()} if plain.since else None
        topics = list(dict.fromkeys(topics))
        return self._poll_request(topics, since, plain.timeout, plain.limit, plain.client_id)

    def _poll_request(
        self,
        topics: Sequence[str],
        since: Mapping[str, str] | None,
        timeout: float | None,
        limit: int | None,
        client_id: str | None,
    ) -> PollRequest:
        limits = self._limits
        return PollRequest(
            topics,
            _named(since or None, client_id),
            limits.default_timeout_seconds
            if timeout is None
            else min(max(timeout, POLL_MIN_TIMEOUT_SECONDS), limits.max_timeout_seconds),
            limits.default_limit_messages if limit is None else min(limit, limits.max_limit_messages),
            client_id,
        )


def _named(since: Mapping[str, str] | None, client_id: str | None) -> Mapping[str, str] | None:
    """`since`, if it is for somebody with a name or asks for no place that is kept by name."""
    if client_id is None and since and ACKED in since.values():
        raise RelayError("client_id_required")
    return since


@lru_cache(maxsize=256)
def media_type(content_type: str | None) -> str:
    """What a `Content-Type` announces, without its parameters."""
    return (content_type or "").partition(";")[0].strip().lower()


def check_content_type(value: str | None, taken: str = "application/json") -> None:
    """`unsupported_media_type`, with what is taken, unless the body is announced as JSON."""
    kind = media_type(value)
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        wrong = FieldError(("body",), f"must be sent as `Content-Type: {taken}`", "content_type")
        raise RelayError("unsupported_media_type", errors=[wrong])


def idempotency_key(value: str | None) -> str | None:
    """The header's value if it is a key; None if there is none, or an empty one."""
    if not value:
        return None
    if len(value) > IDEMPOTENCY_KEY_MAX_LENGTH:
        raise RelayError("idempotency_key_too_long")
    if not (value.isascii() and value.isprintable()):
        raise RelayError("idempotency_key_invalid")
    return value


def _terms(found: Mapping[str, Any]) -> TopicTerms:
    names = {"max_messages": "max_messages", "retention": "retention_ms"}
    limits = {name: found[field] for field, name in names.items() if field in found}
    return TopicTerms(found.get("description"), limits)


def _refuse_unless_whole(items: Sequence[PublishRequest | ItemError]) -> None:
    failed = [item.error for item in items if isinstance(item, ItemError)]
    if failed:
        raise RelayError("invalid_request", errors=[wrong for error in failed for wrong in error.errors])
    if len({item.topic for item in items}) > 1:
        raise RelayError("atomic_needs_one_topic")


def _spread(since: Mapping[str, str] | None, topics: Sequence[str]) -> Mapping[str, str] | None:
    """Cursors of a query, where the key "" stands for all topics that have none of their own."""
    if not since:
        return None
    for_all = since.get("")
    named = {topic: cursor for topic, cursor in since.items() if topic}
    return named if for_all is None else {**dict.fromkeys(topics, for_all), **named}
