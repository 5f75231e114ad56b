"""The shape of every answer, as marshmallow schemas: for the API document, and for tests that hold answers to
it.

The relay does not write its answers with them: those are put together from ready bytes (`wire.py`).
"""

from __future__ import annotations

from marshmallow import INCLUDE, Schema, fields, validate

from pulsar_relay.schemas import EXAMPLE_ID, HISTORY_DEFAULT_LIMIT, about

EXAMPLE_TIME = "2023-11-14T22:13:20.000000Z"


class Answer(Schema):
    class Meta:
        register = False


def _count(description: str, example: int = 0) -> fields.Integer:
    return fields.Integer(required=True, strict=True, metadata=about(description, example))


def _message_id(description: str, *, allow_none: bool = False) -> fields.String:
    return fields.String(required=True, allow_none=allow_none, metadata=about(description, EXAMPLE_ID))


def _time(description: str = "When the message was stored, UTC.") -> fields.String:
    return fields.String(required=True, metadata=about(description, EXAMPLE_TIME))


def _topic() -> fields.String:
    return fields.String(required=True, metadata=about("The topic's name.", "jobs"))


def _type(name: str) -> fields.String:
    return fields.String(
        required=True, validate=validate.Equal(name), metadata=about("The kind of frame.", name)
    )


# ------------------------------------------------------------------------------------------------ publishing


class PublishAnswer(Answer):
    message_id = _message_id("The message's id, which is also a cursor.")
    topic = _topic()
    timestamp = _time()


class BulkResult(Answer):
    message_id = _message_id("Null if it was rejected.", allow_none=True)
    topic = fields.String(
        required=True, allow_none=True, metadata=about("Null if what was sent is no topic's name.", "jobs")
    )
    status = fields.String(
        required=True,
        validate=validate.OneOf(["accepted", "rejected"]),
        metadata=about("`accepted`: the message is stored.", "accepted"),
    )
    error = fields.String(
        required=True, allow_none=True, metadata=about("Why it was rejected, for a person; else null.")
    )
    code = fields.String(required=True, allow_none=True, metadata=about("The same, for a program."))


class BulkSummary(Answer):
    total = _count("Messages in the request.", 1)
    accepted = _count("Those that were stored.", 1)
    rejected = _count("Those that were not.")


class BulkAnswer(Answer):
    results = fields.List(
        fields.Nested(BulkResult), required=True, metadata=about("One for each message, in the order sent.")
    )
    summary = fields.Nested(BulkSummary, required=True)


# --------------------------------------------------------------------------------------------------- reading


class MessageItem(Answer):
    """One message, the same on every transport."""

    type = _type("message")
    message_id = _message_id("The message's id, which is also a cursor.")
    topic = _topic()
    payload = fields.Raw(
        required=True,
        allow_none=True,
        metadata=about("The JSON value, as it was published.", {"job_id": 7, "status": "running"}),
    )
    timestamp = _time()
    metadata = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        allow_none=True,
        metadata=about("As published; null if there was none.", {"source": "galaxy"}),
    )
    redelivered = fields.Boolean(
        metadata=about(
            "Present, and true, if the relay gave it to this `client_id` before; it may not have arrived.",
            True,
        )
    )


class NoticeItem(Answer):
    """Says, before the next message, that reading could not go on where the cursor was."""

    type = fields.String(
        required=True,
        validate=validate.OneOf(["gap", "reset"]),
        metadata=about(
            "`gap`: messages after the cursor are gone. `reset`: the cursor is not of this topic's history."
        ),
    )
    topic = _topic()
    reason = fields.String(required=True, metadata=about("A word for why.", "trimmed"))
    lost = fields.Integer(
        required=True,
        strict=True,
        allow_none=True,
        metadata=about("How many messages; null if unknown.", 137),
    )
    first_available = _message_id("Where reading goes on; null if there is nothing yet.", allow_none=True)


class PollAnswer(Answer):
    messages = fields.List(
        fields.Nested(MessageItem),
        required=True,
        metadata=about("Ascending within each topic; empty if none came in time."),
    )
    has_more = fields.Boolean(
        required=True, metadata=about("More messages are there already: poll again at once.", False)
    )
    cursors = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        metadata=about("What to give as `since` next time.", {"jobs": EXAMPLE_ID}),
    )
    notices = fields.List(fields.Nested(NoticeItem), metadata=about("Present only if there is any."))


class PollStatsAnswer(Answer):
    active_waiters = _count("Polls that wait, in all workers.", 2)
    subscribed_topics = _count("Topics that polls wait for.", 1)
    topic_subscriber_counts = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(strict=True),
        required=True,
        metadata=about("Polls that wait for each topic.", {"jobs": 2}),
    )


# ---------------------------------------------------------------------------------------------------- topics


class HistoryAnswer(Answer):
    messages = fields.List(
        fields.Nested(MessageItem), required=True, metadata=about("In the order asked for.")
    )
    total = _count("Messages in this answer.", 1)
    limit = _count("The limit that counted.", HISTORY_DEFAULT_LIMIT)
    order = fields.String(
        required=True,
        validate=validate.OneOf(["asc", "desc"]),
        metadata=about("The order that counted.", "desc"),
    )
    cursor = fields.String(required=True, allow_none=True, metadata=about("As it was asked for."))
    next_cursor = _message_id("The last message's id; null if there is none.", allow_none=True)
    has_more = fields.Boolean(required=True, metadata=about("Whether there is more, in that order.", False))


class TopicEntry(Answer):
    topic_name = _topic()
    topic_id = fields.String(
        required=True,
        metadata=about("A UUID that goes with owner and name.", "0a1f0a3e-9d57-5a0e-8b0c-3f5d1b2c4e6f"),
    )


class KeptAnswer(Answer):
    max_messages = _count("Most messages kept.", 10_000)
    retention = fields.Float(required=True, metadata=about("Seconds a message is kept.", 86_400))


class TopicAnswer(TopicEntry):
    owner_id = fields.String(required=True, metadata=about("Whose it is; `-` without accounts.", "-"))
    created_at = fields.String(
        required=True,
        allow_none=True,
        metadata=about("When it was made, UTC; null if another server filled it.", EXAMPLE_TIME),
    )
    description = fields.String(
        required=True, allow_none=True, metadata=about("As it was given.", "Jobs of the cluster.")
    )
    max_messages = fields.Integer(
        required=True,
        strict=True,
        allow_none=True,
        metadata=about("Its own limit; null: the relay's counts.", 10_000),
    )
    retention = fields.Float(
        required=True,
        allow_none=True,
        metadata=about("Its own, in seconds; null: the relay's counts.", 86_400),
    )
    effective = fields.Nested(KeptAnswer, required=True, metadata=about("The limits that hold."))
    length = _count("Messages kept.", 12)
    first_id = _message_id("The oldest message kept.", allow_none=True)
    last_id = _message_id("The newest message kept.", allow_none=True)
    epoch = fields.String(
        required=True,
        metadata=about("Another one, if the topic's history was rewritten.", "9f86d081884c7d65"),
    )
    subscribers = _count("Subscribers, in all workers of the host that answers.", 3)


class TopicsStatsAnswer(Answer):
    total_topics = _count("Topics in the store.", 12)
    open_topics = _count("Topics in memory; one that is in two workers' counts twice.", 5)
    following_topics = _count("Those of them that have subscribers.", 2)
    subscribers = _count("Subscribers, in all workers of the host that answers.", 3)
    hot_bytes = _count("Memory that hot buffers take.", 65536)


# ------------------------------------------------------------------------------------------------- consumers


class AcknowledgeAnswer(Answer):
    client_id = fields.String(required=True, metadata=about("As in the address.", "galaxy-handler-1"))
    cursors = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        metadata=about(
            "The stored cursors: an older id than the stored one changes nothing.", {"jobs": EXAMPLE_ID}
        ),
    )


class ConsumerEntry(Answer):
    client_id = fields.String(required=True, metadata=about("The client's name.", "galaxy-handler-1"))
    connected = fields.Boolean(
        required=True, metadata=about("Whether a connection presents the name now, on any worker.", True)
    )
    idle_seconds = fields.Float(
        required=True,
        metadata=about("Since it last connected, acknowledged or was given anything.", 12.5),
    )


class ConsumerTopic(Answer):
    cursor = _message_id("What it acknowledged; null if nothing yet.", allow_none=True)
    delivered = _message_id(
        "The last message it was given, known with a short delay; null if none.", allow_none=True
    )
    lag_messages = fields.Integer(
        required=True,
        strict=True,
        allow_none=True,
        metadata=about(
            "Messages after the cursor, exactly; also those that have expired or are not kept any more. "
            "Without a cursor those that are kept. Null if the ids do not tell.",
            3,
        ),
    )
    lag_seconds = fields.Float(
        required=True,
        allow_none=True,
        metadata=about(
            "Age of the oldest message kept after the cursor; 0 if it has all, null if none of them is kept.",
            1.5,
        ),
    )
    lost_messages = fields.Integer(
        required=True,
        strict=True,
        allow_none=True,
        metadata=about("Messages after the cursor that are not kept any more; null if unknown.", 0),
    )
    messages_to_loss = fields.Integer(
        required=True,
        strict=True,
        allow_none=True,
        metadata=about("So many more messages before the next one may be lost; null if none can be.", 99997),
    )
    seconds_to_loss = fields.Float(
        required=True,
        allow_none=True,
        metadata=about("So long before the next one may be too old to keep; null if none can be.", 86398.5),
    )


class ConsumerAnswer(ConsumerEntry):
    topics = fields.Dict(
        keys=fields.String(),
        values=fields.Nested(ConsumerTopic),
        required=True,
        metadata=about("By topic, where it acknowledged or was given anything."),
    )


# ----------------------------------------------------------------------------------------- health and errors


class HealthAnswer(Answer):
    status = fields.String(
        required=True, metadata=about("`healthy`, if there is an answer at all.", "healthy")
    )
    timestamp = fields.String(required=True, metadata=about("This worker's clock.", EXAMPLE_TIME))
    version = fields.String(required=True, metadata=about("The relay's version.", "1.0.0"))


class ReadyCheck(Answer):
    class Meta:
        unknown = INCLUDE
        register = False

    ok = fields.Boolean(required=True, metadata=about("Whether this part works.", True))
    code = fields.String(
        required=True,
        allow_none=True,
        metadata=about("What is wrong: an error's code.", None),
    )
    message = fields.String(required=True, allow_none=True, metadata=about("The same in words.", None))


class ReadyWorker(Answer):
    class Meta:
        register = False

    worker = _count("Its number.", 0)
    ready = fields.Boolean(required=True, metadata=about("Whether it is ready.", True))
    failing = fields.List(
        fields.String(), required=True, metadata=about("The checks that fail in it.", ["feed"])
    )


class ReadyShard(Answer):
    class Meta:
        register = False

    ok = fields.Boolean(required=True, metadata=about("Whether its topics can be worked on.", True))
    code = fields.String(
        required=True,
        allow_none=True,
        metadata=about("What is wrong: an error's code.", None),
    )


class ReadyAnswer(Answer):
    class Meta:
        unknown = INCLUDE
        register = False

    ready = fields.Boolean(required=True, metadata=about("Whether a publish would succeed now.", True))
    durability = fields.String(
        required=True,
        metadata=about("What an acknowledgement is worth: `storage.durability`.", "memory"),
    )
    checks = fields.Dict(
        keys=fields.String(),
        values=fields.Nested(ReadyCheck),
        required=True,
        metadata=about("Each part that must work, and what is wrong with it.", {"store": {"ok": True}}),
    )
    workers = fields.List(
        fields.Nested(ReadyWorker),
        required=True,
        metadata=about("Each worker that runs."),
    )
    shards = fields.Dict(
        keys=fields.String(),
        values=fields.Nested(ReadyShard),
        metadata=about("Of a Valkey Cluster, each primary by its address.", {"10.0.0.1:6379": {"ok": True}}),
    )


class WrongField(Answer):
    loc = fields.List(
        fields.Raw(),
        required=True,
        metadata=about("Where: `body` or `query`, then names and indexes.", ["body", "topic"]),
    )
    msg = fields.String(required=True, metadata=about("What is wrong, for a person.", "is missing"))
    type = fields.String(required=True, metadata=about("The same, for a program.", "missing"))


class ErrorAnswer(Answer):
    error = fields.String(required=True, metadata=about("The error's code.", "store_unavailable"))
    message = fields.String(
        required=True,
        metadata=about("What to do, for a person.", "The store cannot be reached at the moment. Try again."),
    )
    detail = fields.Raw(
        required=True,
        metadata=about(
            "The wrong fields of a request that is not valid; else the message again.",
            "The store cannot be reached at the moment. Try again.",
            oneOf=[
                {"type": "string"},
                {"type": "array", "items": {"$ref": "#/components/schemas/WrongField"}},
            ],
        ),
    )
    retry = fields.Boolean(required=True, metadata=about("Whether the same request may succeed later.", True))


# ---------------------------------------------------------------------------------------------------- frames


class ReplyFrame(Answer):
    """The answer to a client's frame, with its `ref` if it had one."""

    ref = fields.Raw(metadata=about("As it was in the frame that this answers.", 1))


class SubscribedFrame(ReplyFrame):
    """Comes before any message of these topics."""

    type = _type("subscribed")
    topics = fields.List(fields.String(), required=True, metadata=about("As subscribed.", ["jobs"]))
    cursors = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        metadata=about("Where each topic begins: the first cursor to come back with.", {"jobs": EXAMPLE_ID}),
    )
    epochs = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        metadata=about("To be given back with the cursors.", {"jobs": "9f86d081884c7d65"}),
    )
    timestamp = _time("The relay's clock, UTC.")


class UnsubscribedFrame(ReplyFrame):
    """No message of these topics comes after it."""

    type = _type("unsubscribed")
    topics = fields.List(fields.String(), required=True, metadata=about("No longer subscribed.", ["jobs"]))
    timestamp = _time("The relay's clock, UTC.")


class PublishedFrame(PublishAnswer, ReplyFrame):
    """The message is stored."""

    type = _type("published")


class AcknowledgedFrame(ReplyFrame):
    """The acknowledgement is stored."""

    type = _type("acknowledged")
    topic = _topic()
    message_id = _message_id("Everything up to it is dealt with.")


class PongFrame(ReplyFrame):
    type = _type("pong")
    timestamp = _time("The relay's clock, UTC.")


class ErrorFrame(ReplyFrame):
    """A frame was not carried out; the connection stays."""

    type = _type("error")
    code = fields.String(required=True, metadata=about("The error's code.", "unknown_frame"))
    message = fields.String(required=True, metadata=about("What to do, for a person.", "Name the topic."))
    details = fields.List(
        fields.Nested(WrongField), required=True, allow_none=True, metadata=about("The wrong fields, if any.")
    )
    retry = fields.Boolean(required=True, metadata=about("Whether the same frame may succeed later.", False))
    retry_after = fields.Integer(metadata=about("If so: after so many seconds.", 1))
