"""Every operation of the HTTP API, declared: what it takes, what it answers, which errors it can end in.

The API document is made from this list, and the routes are held to it by a test.
"""

from __future__ import annotations

from dataclasses import replace

from pulsar_relay import answers, schemas
from pulsar_relay.account_operations import account_operations
from pulsar_relay.operation import KEY, READ_BODY, SIGNED_IN, STORE, TOKEN, Header, Operation, Reply
from pulsar_relay.settings import Settings
from pulsar_relay.sign_in_operations import sign_in_operations

_POLL_LIMITS = ("rate_limited", "too_many_polls")
_PUBLISH = (
    *READ_BODY,
    "idempotency_key_invalid",
    "idempotency_key_too_long",
    "idempotency_conflict",
    "rate_limited",
    "overloaded",
    *STORE,
)

_IDEMPOTENCY_KEY = Header(
    "Idempotency-Key",
    "Names this publish, 1 to 255 printable ASCII characters. Sent again with the same key within the "
    "relay's window (10 minutes "
    "or more), also while the first attempt is still running, it is answered with the first one's ids and "
    "stores nothing.",
    "5f0c0a4e9b7d4c1e8a2b3c4d5e6f7081",
)
_LAST_EVENT_ID = Header(
    "Last-Event-ID",
    "The id of the last event the client has; `EventSource` sends it by itself.",
    schemas.EXAMPLE_ID,
)

_POLL_DESCRIPTION = (
    "Answers as soon as there is a message, or at the timeout with none. Nothing is consumed: every poller "
    "gets every message. "
    "A client that sends no cursors and keeps cookies goes on where its last poll ended."
)

_STREAM_DESCRIPTION = (
    "An endless response of events. `message` events have a message as their data; `gap` and `reset` "
    "events, sent as `notice`, say "
    "that reading could not go on where the cursor was; a `subscribed` event comes first, with the cursors."
    " Each event's id is the "
    "position to come back with. Comments keep a quiet stream open."
)

_WEBSOCKET_DESCRIPTION = (
    "An upgrade to WebSocket; `x-frames` lists the frames of both sides, all of them JSON texts. One "
    "connection subscribes, "
    "publishes and acknowledges. A client that only listens is never closed for being quiet. The close code"
    " tells why the "
    "relay closed a connection, and the reason is an error's code: come back with your cursors."
)


def operations(settings: Settings) -> tuple[Operation, ...]:
    """Every operation, as these settings bound it."""
    of_topics = (
        *_publishing(settings),
        *_reading(settings),
        *_topics(settings),
        *_consumers(settings),
    )
    if settings.auth.mode == "none":
        return (*of_topics, *_operating())
    return (*map(_guarded, of_topics), *account_operations(), *sign_in_operations(), *_operating())


def _guarded(operation: Operation) -> Operation:
    """The operation, for those who show who they are."""
    errors = dict.fromkeys((*operation.errors, *SIGNED_IN, "key_out_of_scope"))
    return replace(operation, shows=(TOKEN, KEY), errors=tuple(errors))


def _publishing(settings: Settings) -> tuple[Operation, ...]:
    return (
        Operation(
            "/api/v1/messages",
            ("POST",),
            "publish",
            "Publish a message",
            "Answered when the message is stored, and not before. The topic is made if there is none.",
            {201: Reply("The message is stored.", answers.PublishAnswer)},
            body=schemas.publish_schema(settings.publish),
            headers=(_IDEMPOTENCY_KEY,),
            errors=_PUBLISH,
        ),
        Operation(
            "/api/v1/messages/bulk",
            ("POST",),
            "publish",
            "Publish many messages",
            "Messages of one topic are stored in one step, in the order sent. A message that is not valid "
            "is rejected, with its "
            "error, and the others are stored. As `application/x-ndjson` the body has one message on each "
            "line.",
            {207: Reply("What became of each message.", answers.BulkAnswer)},
            body=schemas.bulk_schema(settings.publish),
            line=schemas.publish_schema(settings.publish),
            query=schemas.BulkQuery,
            headers=(_IDEMPOTENCY_KEY,),
            errors=("bulk_too_large", "atomic_needs_one_topic", *_PUBLISH),
        ),
    )


def _reading(settings: Settings) -> tuple[Operation, ...]:
    polled = {200: Reply("The messages; none, if none came in time.", answers.PollAnswer)}
    return (
        Operation(
            "/messages/poll",
            ("POST",),
            "read",
            "Wait for messages (long-poll)",
            _POLL_DESCRIPTION,
            polled,
            body=schemas.poll_schema(settings.poll),
            errors=(*READ_BODY, "client_id_required", "taken_over", *_POLL_LIMITS, *STORE),
        ),
        Operation(
            "/api/v1/poll",
            ("GET",),
            "read",
            "Wait for messages (long-poll), all in the address",
            _POLL_DESCRIPTION,
            polled,
            query=schemas.poll_query_schema(settings.poll),
            errors=("invalid_request", "client_id_required", "taken_over", *_POLL_LIMITS, *STORE),
        ),
        Operation(
            "/messages/poll/stats",
            ("GET",),
            "read",
            "Count the waiting polls",
            "Those of all workers of the host that answers.",
            {200: Reply("The counts.", answers.PollStatsAnswer)},
        ),
        Operation(
            "/api/v1/stream",
            ("GET",),
            "read",
            "Receive messages as server-sent events",
            _STREAM_DESCRIPTION,
            {200: Reply("The events.", media_type="text/event-stream")},
            query=schemas.stream_query_schema(settings.subscriber.max_topics),
            headers=(_LAST_EVENT_ID,),
            errors=(
                *("invalid_request", "client_id_required", "shutting_down"),
                *("rate_limited", "too_many_user_connections"),
            ),
        ),
        Operation(
            "/ws",
            ("GET",),
            "read",
            "Receive, publish and acknowledge over WebSocket",
            _WEBSOCKET_DESCRIPTION,
            {101: Reply("The connection speaks WebSocket from here.")},
            errors=("upgrade_required", "shutting_down"),
        ),
    )


def _topics(settings: Settings) -> tuple[Operation, ...]:
    return (
        Operation(
            "/api/v1/topics",
            ("GET",),
            "topics",
            "List the topics",
            'In alphabetical order. A `Link` header with `rel="next"` leads to the next page, if there is'
            " one.",
            {200: Reply("One page of topics.", answers.TopicEntry, is_list=True)},
            query=schemas.TopicsQuery,
            errors=("invalid_request", *STORE),
        ),
        Operation(
            "/api/v1/topics",
            ("POST",),
            "topics",
            "Make a topic",
            "Only to say something of it before its first message, which would make it too.",
            {201: Reply("The topic.", answers.TopicAnswer)},
            body=schemas.NewTopic,
            errors=("topic_exists", *READ_BODY, *STORE),
        ),
        Operation(
            "/api/v1/topics/{topic}",
            ("GET",),
            "topics",
            "Describe a topic",
            "What is stored of it, and who reads it here. The name `stats` is taken: it gives the "
            "statistics, and with them what is "
            "stored of a topic of that name.",
            {200: Reply("The topic.", answers.TopicAnswer)},
            errors=("topic_not_found", *STORE),
        ),
        Operation(
            "/api/v1/topics/{topic}",
            ("PUT",),
            "topics",
            "Change a topic's description and limits",
            "A new limit on messages holds with the next append, a new retention within "
            "`storage.trim_interval`, on every worker.",
            {200: Reply("The topic.", answers.TopicAnswer)},
            body=schemas.TopicChange,
            errors=("topic_not_found", *READ_BODY, *STORE),
        ),
        Operation(
            "/api/v1/topics/{topic}",
            ("DELETE",),
            "topics",
            "Delete a topic with its messages",
            "Its ids are never given again, so old cursors stay harmless if the topic is made anew.",
            {204: Reply("The topic and its messages are gone.")},
            errors=("topic_not_found", *STORE),
        ),
        Operation(
            "/api/v1/topics/{topic}/messages",
            ("GET",),
            "topics",
            "Read a topic's messages",
            "From the newest down, or from the oldest up, page by page. A cursor that is no message id "
            "begins where the order begins.",
            {200: Reply("One page of messages.", answers.HistoryAnswer)},
            query=schemas.history_query_schema(settings.poll),
            errors=("topic_not_found", "invalid_request", *STORE),
        ),
        Operation(
            "/stats",
            ("GET",),
            "topics",
            "Count topics and subscribers",
            "In the store, and in all workers of the host that answers.",
            {200: Reply("The counts.", answers.TopicsStatsAnswer)},
            errors=STORE,
        ),
    )


def _consumers(settings: Settings) -> tuple[Operation, ...]:
    return (
        Operation(
            "/api/v1/consumers",
            ("GET",),
            "consumers",
            "List the named clients",
            "In the order of their names. A name is forgotten a month after it was last used. A `Link` header"
            ' with `rel="next"` leads to the next page, if there is one.',
            {200: Reply("One page of clients.", answers.ConsumerEntry, is_list=True)},
            query=schemas.ConsumersQuery,
            errors=("invalid_request", *STORE),
        ),
        Operation(
            "/api/v1/consumers/{client_id}",
            ("GET",),
            "consumers",
            "Describe a named client",
            "What it acknowledged, how far it is behind, and what it has lost or is about to lose.",
            {200: Reply("The client.", answers.ConsumerAnswer)},
            errors=("consumer_not_found", *STORE),
        ),
        Operation(
            "/api/v1/consumers/{client_id}",
            ("DELETE",),
            "consumers",
            "Forget a named client",
            "Its cursors are gone: should it come back, `acked` begins with the oldest message kept.",
            {204: Reply("Nothing is kept of it any more.")},
            errors=("consumer_not_found", "consumer_connected", *STORE),
        ),
        Operation(
            "/api/v1/consumers/{client_id}/ack",
            ("POST",),
            "consumers",
            "Acknowledge",
            "For those who read without a WebSocket. Answered when it is stored. A cursor only moves forward;"
            " an id that the topic has not given is refused.",
            {200: Reply("The cursors are stored.", answers.AcknowledgeAnswer)},
            body=schemas.acknowledge_schema(settings.subscriber.max_topics),
            errors=(*READ_BODY, "invalid_cursor", "ahead_of_stream", *STORE),
        ),
    )


def _operating() -> tuple[Operation, ...]:
    methods = ("GET", "HEAD")
    return (
        Operation(
            "/health",
            methods,
            "operate",
            "Is the relay alive?",
            "Says nothing about the store.",
            {200: Reply("The relay runs.", answers.HealthAnswer)},
        ),
        Operation(
            "/ready",
            methods,
            "operate",
            "Can the relay do its work?",
            "Whether a write to the store succeeded in the last seconds, and the relay is not stopping.",
            {
                200: Reply("It can.", answers.ReadyAnswer),
                503: Reply("It cannot; `checks` says why.", answers.ReadyAnswer),
            },
        ),
        Operation(
            "/metrics",
            methods,
            "operate",
            "Metrics for Prometheus",
            "Also on a port of their own.",
            {200: Reply("The metrics.", media_type="text/plain")},
        ),
        Operation(
            "/openapi.json",
            methods,
            "operate",
            "This document",
            "Made from the schemas that requests are read with.",
            {200: Reply("The document.")},
        ),
        Operation(
            "/docs",
            methods,
            "operate",
            "This document, for people",
            "One page that needs nothing else.",
            {200: Reply("The page.", media_type="text/html")},
        ),
        Operation(
            "/",
            methods,
            "operate",
            "The relay's page",
            "For people with a browser: readiness, topics and their rates, a topic as it grows, and a form to"
            " publish with.",
            {200: Reply("The page.", media_type="text/html")},
        ),
        Operation(
            "/page/{file}",
            methods,
            "operate",
            "What the page is made of",
            "Its scripts and its style. They fit the page of the same relay, and are for nothing else.",
            {200: Reply("The file.", media_type="text/javascript")},
            errors=("not_found",),
        ),
    )
