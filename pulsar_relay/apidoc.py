"""The API document, OpenAPI 3.1: made from the operations and the schemas that requests are read with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import fields

from pulsar_relay import (
    __version__,
    account_answers,
    account_schemas,
    answers,
    frames,
    schemas,
    sign_in_answers,
    sign_in_schemas,
)
from pulsar_relay.api_page import PAGE_POLICY as PAGE_POLICY
from pulsar_relay.api_page import page as page
from pulsar_relay.errors import ERRORS, ErrorKind, RelayError, body
from pulsar_relay.fields import REACHED_NAME
from pulsar_relay.operation import KEY, TOKEN, Header, Operation, Reply
from pulsar_relay.operations import operations
from pulsar_relay.settings import Settings
from pulsar_relay.wire import CLIENT_ID_MAX_LENGTH

OPENAPI_VERSION = "3.1.0"
_JSON = "application/json"
_NDJSON = "application/x-ndjson"
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")

_ABOUT = (
    "A durable message relay. Publishers POST JSON messages to topics; subscribers read them over "
    "WebSocket, server-sent events "
    "or long-poll, each topic in one order, from any message on that is still kept. A message is "
    "acknowledged once it is stored."
)
_TAGS = {
    "publish": "Send messages in.",
    "read": "Receive messages, as they come and from a cursor on.",
    "topics": "What there is, and what it holds.",
    "consumers": "Clients with a name, how far they are behind, and their acknowledgements.",
    "accounts": "Who may use the relay, and how one signs in.",
    "sign in": "With a browser: devices that are let in, and people whom OpenID providers know.",
    "operate": "For those who run the relay.",
}


def document(settings: Settings) -> dict[str, Any]:
    """The document of a relay with these settings, as a JSON value."""
    plugin = MarshmallowPlugin()
    spec = APISpec(
        title="Pulsar Relay",
        version=__version__,
        openapi_version=OPENAPI_VERSION,
        info={"description": _ABOUT, "license": {"name": "MIT"}},
        servers=[{"url": "/"}],
        tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        plugins=[plugin],
    )
    converter = plugin.converter
    assert converter is not None
    for name, schema in _components(settings).items():
        spec.components.schema(name, schema=schema, **_described(schema))
    for kind in ERRORS.values():
        if kind.status is not None:
            spec.components.example(kind.code, _example(kind))
    if settings.auth.mode == "accounts":
        for name, text in _SHOWN.items():
            spec.components.security_scheme(name, {"type": "http", "scheme": "bearer", "description": text})
    for operation in operations(settings):
        _add(spec, converter, operation)
    made: dict[str, Any] = spec.to_dict()
    made["paths"]["/ws"]["get"]["x-frames"] = {
        "client": [_reference(name) for name in _client_frames(settings)],
        "server": [_reference(name) for name in _SERVER_FRAMES],
    }
    return made


def as_json(made: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(made)


_ANSWERS = (
    *(answers.PublishAnswer, answers.BulkResult, answers.BulkSummary, answers.BulkAnswer),
    *(answers.MessageItem, answers.NoticeItem, answers.PollAnswer, answers.PollStatsAnswer),
    *(answers.HistoryAnswer, answers.TopicEntry, answers.TopicAnswer, answers.TopicsStatsAnswer),
    *(answers.AcknowledgeAnswer, answers.ConsumerEntry, answers.ConsumerTopic, answers.ConsumerAnswer),
    *(answers.HealthAnswer, answers.ReadyCheck, answers.ReadyAnswer, answers.WrongField, answers.ErrorAnswer),
)
_OF_ACCOUNTS: tuple[type[answers.Answer | schemas.Request], ...] = (
    *(account_schemas.LoginForm, account_schemas.Refresh, account_schemas.Revoke, account_schemas.Register),
    *(account_schemas.UserChange, account_schemas.NewKey, account_schemas.NewGrant),
    *(account_answers.TokenAnswer, account_answers.UserAnswer, account_answers.UsersStatsAnswer),
    *(account_answers.SessionEntry, account_answers.KeyEntry, account_answers.KeyAnswer),
    *(account_answers.GrantEntry, account_answers.GrantsAnswer),
)
_OF_SIGN_IN: tuple[type[answers.Answer | schemas.Request], ...] = (
    *(sign_in_schemas.DeviceCodeForm, sign_in_schemas.DeviceTokenForm, sign_in_schemas.UserCodeForm),
    *(sign_in_schemas.DeviceSignInForm, sign_in_schemas.DecisionForm),
    *(sign_in_answers.DeviceCodeAnswer, sign_in_answers.DeviceTokenAnswer, sign_in_answers.DeviceErrorAnswer),
    *(sign_in_answers.DeniedAnswer, sign_in_answers.ProviderEntry, sign_in_answers.ProviderTokenAnswer),
)
_SERVER_FRAMES: dict[str, type[answers.Answer]] = {
    "SubscribedFrame": answers.SubscribedFrame,
    "UnsubscribedFrame": answers.UnsubscribedFrame,
    "MessageItem": answers.MessageItem,
    "NoticeItem": answers.NoticeItem,
    "PublishedFrame": answers.PublishedFrame,
    "AcknowledgedFrame": answers.AcknowledgedFrame,
    "PongFrame": answers.PongFrame,
    "ErrorFrame": answers.ErrorFrame,
}


def _client_frames(settings: Settings) -> dict[str, type[schemas.Request]]:
    return {
        "SubscribeFrame": frames.subscribe_schema(settings.subscriber),
        "UnsubscribeFrame": frames.Unsubscribe,
        "PublishFrame": frames.publish_frame_schema(settings.publish),
        "AckFrame": frames.Ack,
        "PingFrame": frames.Ping,
    }


def _components(settings: Settings) -> dict[str, Any]:
    requests: dict[str, Any] = {
        "Publish": schemas.publish_schema(settings.publish),
        "Bulk": schemas.bulk_schema(settings.publish),
        "Poll": schemas.poll_schema(settings.poll),
        "Acknowledge": schemas.acknowledge_schema(settings.subscriber.max_topics),
    }
    made: dict[str, Any] = {schema.__name__: schema for schema in _ANSWERS}
    if settings.auth.mode == "accounts":
        made |= {schema.__name__: schema for schema in (*_OF_ACCOUNTS, *_OF_SIGN_IN)}
    return {**requests, **made, **_client_frames(settings), **_SERVER_FRAMES}


def _described(schema: Any) -> dict[str, Any]:
    """What the class itself says, not what it inherits."""
    text = schema.__dict__.get("__doc__")
    return {"component": {"description": " ".join(text.split())}} if text else {}


def _example(kind: ErrorKind) -> dict[str, Any]:
    return {"summary": kind.message, "value": msgspec.json.decode(body(RelayError(kind.code)))}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _add(spec: APISpec, converter: Any, operation: Operation) -> None:
    described: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "parameters": list(_parameters(converter, operation)),
        "responses": _responses(operation),
    }
    if operation.shows:
        described["security"] = [{name: []} for name in operation.shows]
    if operation.body is not None:
        content = {_JSON: {"schema": operation.body}}
        if operation.line is not None:
            content[_NDJSON] = {"schema": operation.line}
        described["requestBody"] = {"required": True, "content": content}
    if operation.form is not None:
        content = {media_type: {"schema": operation.form} for media_type in _FORMS}
        described["requestBody"] = {"required": True, "content": content}
    for method in operation.methods:
        name = f"{method.lower()}{operation.path.title()}"
        identifier = "".join(letter for letter in name if letter.isalnum())
        spec.path(operation.path, operations={method.lower(): {**described, "operationId": identifier}})


_SHOWN = {
    TOKEN: "An access token, a JWT: what a sign-in gives. What is granted to everybody needs none. Where a "
    "browser lets a page set no header, a WebSocket offers the subprotocols `bearer` and `bearer.<token>`, "
    "an event stream has the parameter `access_token`.",
    KEY: "An API key, `prk_…`: shown in the same places, by programs that cannot sign in.",
}
_OTHER_PARTS = {
    "file": ("The file's name.", "page.js"),
    "user_id": ("The user's id.", account_answers.EXAMPLE_USER),
    "jti": ("The session's id.", account_answers.EXAMPLE_SESSION),
    "key_id": ("The key's id.", account_answers.EXAMPLE_KEY),
    "provider": ("The provider's name in the relay's configuration.", "campus"),
    "grantee": ("A user's id, `users` or `public`.", account_answers.EXAMPLE_USER),
}


def _parameters(converter: Any, operation: Operation) -> Iterable[dict[str, Any]]:
    if "{client_id}" in operation.path:
        yield {
            "name": "client_id",
            "in": "path",
            "required": True,
            "description": "The client's name, percent-encoded.",
            "schema": {
                "type": "string",
                "minLength": 1,
                "maxLength": CLIENT_ID_MAX_LENGTH,
                "example": "galaxy-handler-1",
            },
        }
    if "{topic}" in operation.path:
        yield {
            "name": "topic",
            "in": "path",
            "required": True,
            "description": "The topic's name.",
            "schema": {"type": "string", "pattern": f"^{REACHED_NAME}$", "example": "jobs"},
        }
    for name, (description, example) in _OTHER_PARTS.items():
        if f"{{{name}}}" in operation.path:
            yield {
                "name": name,
                "in": "path",
                "required": True,
                "description": description,
                "schema": {"type": "string", "example": example},
            }
    for name, field in (operation.query() if operation.query else schemas.Request()).fields.items():
        schema = _without_null(converter.field2property(field))
        about = {"description": schema.pop("description", ""), "schema": schema}
        # Lists are written with commas, not as a parameter for each element.
        style = {"style": "form", "explode": False} if isinstance(field, fields.List) else {}
        yield {"name": name, "in": "query", "required": field.required, **about, **style}
    for header in operation.headers:
        yield _header(header)


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query has no null; a field that is None where the parameter is absent is described as if it had."""
    if isinstance(schema.get("type"), list):
        schema["type"] = schema["type"][0]
    return {name: value for name, value in schema.items() if value is not None}


def _header(header: Header) -> dict[str, Any]:
    return {
        "name": header.name,
        "in": "header",
        "required": False,
        "description": header.description,
        "schema": {"type": "string", "example": header.example},
    }


def _responses(operation: Operation) -> dict[str, Any]:
    made: dict[str, Any] = {str(status): _reply(reply) for status, reply in operation.replies.items()}
    for code in operation.all_errors:
        kind = ERRORS[code]
        status = str(kind.status)
        if kind.status in operation.replies:
            continue
        described = {"schema": answers.ErrorAnswer, "examples": {}}
        response = made.setdefault(
            status, {"description": HTTPStatus(int(status)).phrase, "content": {_JSON: described}}
        )
        response["content"][_JSON]["examples"][code] = {"$ref": f"#/components/examples/{code}"}
        if kind.retry_after_seconds is not None:
            response["headers"] = {
                "Retry-After": {
                    "description": "Seconds to wait before trying again.",
                    "schema": {"type": "integer"},
                }
            }
    return made


def _reply(reply: Reply) -> dict[str, Any]:
    if reply.schema is not None:
        schema: Any = {"type": "array", "items": reply.schema} if reply.is_list else reply.schema
        return {"description": reply.description, "content": {reply.media_type: {"schema": schema}}}
    return {"description": reply.description}
