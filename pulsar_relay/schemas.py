"""The shape of every HTTP request, as marshmallow schemas: `requests.py` reads with them, and the API
document is made of them.

What depends on a setting is made by a function of the settings, once for each; the rest are classes.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validates_schema

from pulsar_relay.errors import RelayError
from pulsar_relay.fields import (
    METADATA_MAX_BYTES,
    TTL_MAX_SECONDS,
    CappedNumber,
    CursorMap,
    Flag,
    Lifetime,
    Metadata,
    Payload,
    QueryCursors,
    Seconds,
    Text,
    Texts,
    TopicName,
    TopicNames,
    WholeNumber,
    is_topic_name,
)
from pulsar_relay.json_text import Items
from pulsar_relay.keys import KEYS
from pulsar_relay.kinds import Duration, Whole
from pulsar_relay.settings import PollSettings, PublishSettings
from pulsar_relay.wire import CLIENT_ID_MAX_LENGTH

EXAMPLE_ID = "1700000000000-1"
POLL_MIN_TIMEOUT_SECONDS = 1.0
HISTORY_DEFAULT_LIMIT = 10
DESCRIPTION_MAX_LENGTH = 500
TOPICS_DEFAULT_LIMIT = 100
TOPICS_MAX_LIMIT = 1000


def about(description: str, example: Any = None, **more: Any) -> dict[str, Any]:
    """What the API document says of a field."""
    return {"description": description, **({} if example is None else {"example": example}), **more}


class Request(Schema):
    """Fields that a request does not know are ignored."""

    class Meta:
        unknown = EXCLUDE
        register = False


# ------------------------------------------------------------------------------------------------ publishing


@cache
def publish_schema(settings: PublishSettings) -> type[Request]:
    class Publish(Request):
        topic = TopicName(
            required=True,
            metadata=about(
                "1 to 255 of `A-Z a-z 0-9 _ -`, at least one of them a letter or a digit. A topic is made "
                "by its first message.",
                "jobs",
            ),
        )
        payload = Payload(
            settings.max_payload_depth,
            required=True,
            metadata=about(
                f"Any JSON value, null included, nested up to {settings.max_payload_depth} levels deep. It "
                "is passed on byte for byte: 2**70, `1.10`, the order of keys and repeated keys come out as"
                " sent.",
                {"job_id": 7, "status": "running"},
            ),
        )
        ttl = WholeNumber(
            1,
            TTL_MAX_SECONDS,
            allow_none=True,
            load_default=None,
            metadata=about(
                "Seconds after which the message is given to nobody any more. Without it the message lives "
                "as long as the relay's retention.",
                3600,
            ),
        )
        metadata = Metadata(
            keys=fields.String(),
            values=fields.String(),
            allow_none=True,
            load_default=None,
            metadata=about(
                f"Annotations: strings by name, at most {METADATA_MAX_BYTES} bytes of JSON.",
                {"source": "galaxy"},
            ),
        )

    return Publish


def bulk_too_large(max_messages: int) -> RelayError:
    return RelayError("bulk_too_large", f"The limit is {max_messages}.")


@cache
def bulk_schema(settings: PublishSettings) -> type[Request]:
    class Bulk(Request):
        messages = Texts(
            fields.Nested(publish_schema(settings)),
            Items(settings.bulk_max_messages),
            partial(bulk_too_large, settings.bulk_max_messages),
            required=True,
            metadata=about("Stored in this order within each topic."),
        )

    return Bulk


class BulkQuery(Request):
    atomic = Flag(
        load_default=False,
        metadata=about(
            "All or nothing: one message that is not valid refuses the whole request. All must be for one "
            "topic."
        ),
    )


# --------------------------------------------------------------------------------------------------- reading

_SINCE = (
    "What follows this cursor is returned, for each topic. An unknown cursor, also one of another relay, "
    "reads from the oldest message kept, and a notice says so."
)
_NO_SINCE = (
    "Without cursors the client's cookie tells where its last poll ended; without a cookie reading begins"
    " with the next message."
)
_IN_QUERY = (
    "One cursor for all topics, or `topic:cursor` pairs with commas between them; also `earliest` and "
    "`latest`, and with a `client_id` `acked`."
)


@cache
def poll_schema(settings: PollSettings) -> type[Request]:
    class Poll(Request):
        topics = TopicNames(
            settings.max_topics,
            required=True,
            metadata=about("Topics to read; they need not exist yet.", ["jobs"]),
        )
        since = CursorMap(
            keys=fields.String(),
            values=fields.String(allow_none=True),
            allow_none=True,
            load_default=None,
            metadata=about(
                f"{_SINCE} `acked` is the last message that this `client_id` acknowledged. {_NO_SINCE} A"
                " topic without a cursor, while others have one, begins where the oldest of these was given"
                " out.",
                {"jobs": EXAMPLE_ID},
            ),
        )
        timeout = _timeout(settings)
        limit = _limit(settings)
        client_id = client_id_field()

    return Poll


@cache
def poll_query_schema(settings: PollSettings) -> type[Request]:
    class PollQuery(Request):
        topics = _query_topics(settings.max_topics)
        since = QueryCursors(
            load_default=None, metadata=about(f"{_SINCE} {_NO_SINCE} {_IN_QUERY}", EXAMPLE_ID)
        )
        timeout = _timeout(settings)
        limit = _limit(settings)
        client_id = client_id_field()

    return PollQuery


def stream_query_schema(max_topics: int) -> type[Request]:
    class StreamQuery(Request):
        topics = _query_topics(max_topics)
        since = QueryCursors(
            load_default=None,
            metadata=about(
                f"{_SINCE} {_IN_QUERY} Without it reading begins with the next message. A `Last-Event-ID` "
                "header goes before it.",
                "earliest",
            ),
        )
        client_id = client_id_field()

    return StreamQuery


def client_id_field() -> Text:
    """Who reads. Of all connections that say the same, the last one reads."""
    return Text(
        CLIENT_ID_MAX_LENGTH,
        1,
        allow_none=True,
        load_default=None,
        metadata=about(
            "A name of your own: under it the relay keeps what you acknowledged. A connection that presents "
            "it takes over from the one that did before, which is ended with `taken_over`.",
            "galaxy-handler-1",
        ),
    )


def _query_topics(max_topics: int) -> TopicNames:
    return TopicNames(
        max_topics,
        is_query=True,
        required=True,
        metadata=about("Topics to read, with commas between them; they need not exist yet.", ["jobs"]),
    )


def _timeout(settings: PollSettings) -> Seconds:
    longest = settings.max_timeout_seconds
    return Seconds(
        POLL_MIN_TIMEOUT_SECONDS,
        longest,
        allow_none=True,
        load_default=None,
        metadata=about(
            f"Seconds to wait for a message. Any number; it is clamped to 1 to {longest:g}.",
            30,
            default=settings.default_timeout_seconds,
        ),
    )


def _limit(settings: PollSettings) -> CappedNumber:
    return CappedNumber(
        settings.max_limit_messages,
        allow_none=True,
        load_default=None,
        metadata=about(
            f"Most messages of a topic; more than {settings.max_limit_messages} counts as that.",
            100,
            default=settings.default_limit_messages,
        ),
    )


# ---------------------------------------------------------------------------------------------------- topics


def _most_messages() -> WholeNumber:
    kind = KEYS["storage.max_messages_per_topic"].declaration.kind
    assert isinstance(kind, Whole)
    return WholeNumber(
        kind.least,
        kind.most,
        allow_none=True,
        metadata=about(
            "Most messages kept; the oldest are trimmed first. Null: as many as the relay's setting "
            "`storage.max_messages_per_topic` says.",
            10_000,
        ),
    )


def _retention() -> Lifetime:
    kind = KEYS["storage.persistent_tier_retention"].declaration.kind
    assert isinstance(kind, Duration)
    return Lifetime(
        kind,
        allow_none=True,
        metadata=about(
            "How long a message is kept: seconds, or a text such as `24h`. Null: as long as the relay's "
            "setting `storage.persistent_tier_retention` says.",
            "24h",
        ),
    )


class TopicChange(Request):
    """What is absent stays as it is."""

    description = Text(
        DESCRIPTION_MAX_LENGTH,
        allow_none=True,
        metadata=about("For people. Null: as it is.", "Jobs of the cluster."),
    )
    max_messages = _most_messages()
    retention = _retention()


class NewTopic(TopicChange):
    topic_name = TopicName(
        required=True,
        metadata=about(
            "1 to 255 of `A-Z a-z 0-9 _ -`, at least one of them a letter or a digit.",
            "jobs",
        ),
    )


@cache
def history_query_schema(settings: PollSettings) -> type[Request]:
    class HistoryQuery(Request):
        limit = WholeNumber(
            load_default=HISTORY_DEFAULT_LIMIT,
            metadata=about(
                f"Most messages in the answer; more than {settings.max_limit_messages} counts as that.",
                HISTORY_DEFAULT_LIMIT,
                minimum=1,
            ),
        )
        order = fields.String(
            load_default="desc",
            metadata=about("`desc`: newest first. `asc`: oldest first.", "desc", enum=["asc", "desc"]),
        )
        cursor = fields.String(
            load_default="",
            metadata=about("Go on after this message, in that order: the last answer's `next_cursor`."),
        )

    return HistoryQuery


class TopicsQuery(Request):
    limit = CappedNumber(
        TOPICS_MAX_LIMIT,
        load_default=TOPICS_DEFAULT_LIMIT,
        metadata=about(f"Most topics in the answer; more than {TOPICS_MAX_LIMIT} counts as that.", 100),
    )
    after = fields.String(
        load_default="",
        metadata=about("Go on after this name. The answer's `Link` header leads to the next page."),
    )


# ------------------------------------------------------------------------------------------------- consumers


@cache
def acknowledge_schema(max_topics: int) -> type[Request]:
    class Acknowledge(Request):
        """One message with its topic, or `cursors`."""

        topic = TopicName(
            allow_none=True, load_default=None, metadata=about("Goes with `message_id`.", "jobs")
        )
        message_id = fields.String(
            allow_none=True,
            load_default=None,
            metadata=about("Everything up to this message of the topic is dealt with.", EXAMPLE_ID),
        )
        cursors = CursorMap(
            keys=fields.String(),
            values=fields.String(),
            allow_none=True,
            load_default=None,
            metadata=about(
                f"The same for several topics, at most {max_topics}, in place of the other two fields; a"
                " poll's `cursors` may be sent as they are. All of them or none is stored.",
            ),
        )

        @validates_schema
        def _check(self, data: dict[str, Any], **kwargs: Any) -> None:
            cursors = data["cursors"]
            if cursors is None:
                missing = [name for name in ("topic", "message_id") if data[name] is None]
                if missing:
                    raise ValidationError({name: ["is missing"] for name in missing})
            elif data["topic"] is not None or data["message_id"] is not None:
                raise ValidationError("cannot be together with `topic` and `message_id`", "cursors")
            elif not 1 <= len(cursors) <= max_topics or not all(map(is_topic_name, cursors)):
                raise ValidationError(f"must be an object of 1 to {max_topics} topics to cursor", "cursors")

    return Acknowledge


class ConsumersQuery(Request):
    limit = CappedNumber(
        TOPICS_MAX_LIMIT,
        load_default=TOPICS_DEFAULT_LIMIT,
        metadata=about(f"Most clients in the answer; more than {TOPICS_MAX_LIMIT} counts as that.", 100),
    )
    after = fields.String(
        load_default="",
        metadata=about("Go on after this name. The answer's `Link` header leads to the next page."),
    )
