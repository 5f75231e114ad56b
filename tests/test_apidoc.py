"""The API document: complete, consistent with itself, and true about what the relay reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from pulsar_relay import apidoc
from pulsar_relay.account_requests import AccountReader
from pulsar_relay.errors import ERRORS
from pulsar_relay.frames import FrameReader
from pulsar_relay.operations import operations
from pulsar_relay.requests import RequestReader
from pulsar_relay.settings import AuthSettings, PollSettings, PublishSettings, Settings, SubscriberSettings

SETTINGS = Settings(auth=AuthSettings(mode="accounts"))
"""With accounts there is all there can be."""
DOCUMENT = json.loads(apidoc.as_json(apidoc.document(SETTINGS)))
SCHEMAS = DOCUMENT["components"]["schemas"]
READER = RequestReader(SETTINGS.publish, SETTINGS.poll, SETTINGS.subscriber)


def described() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


OPERATIONS = [
    pytest.param(path, method, operation, id=f"{method} {path}") for path, method, operation in described()
]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def example(schema: dict[str, Any]) -> Any:
    if "$ref" in schema:
        return example(SCHEMAS[schema["$ref"].rpartition("/")[2]])
    if "example" in schema:
        return schema["example"]
    if "items" in schema:
        return [example(schema["items"])]
    return {name: example(field) for name, field in schema["properties"].items()}


def test_every_operation_is_in_the_document() -> None:
    declared = {
        (operation.path, method.lower()) for operation in operations(SETTINGS) for method in operation.methods
    }
    assert {(path, method) for path, method, _ in described()} == declared


def test_every_reference_leads_somewhere() -> None:
    for reference in set(references(DOCUMENT)):
        place: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


def test_every_schema_is_used() -> None:
    used = {reference.rpartition("/")[2] for reference in references(DOCUMENT)}
    assert set(SCHEMAS) <= used


def test_operation_ids_are_unique() -> None:
    identifiers = [operation["operationId"] for _, _, operation in described()]
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_an_operation_is_described(path: str, method: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"]
    assert operation["tags"][0] in [tag["name"] for tag in DOCUMENT["tags"]]
    assert re.findall(r"{(\w+)}", path) == [
        parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"
    ]
    for parameter in operation["parameters"]:
        assert parameter["description"], parameter["name"]


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_an_error_is_listed_under_its_status(path: str, method: str, operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        for content in response.get("content", {}).values():
            for code in content.get("examples", {}):
                assert ERRORS[code].status == int(status)


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_a_bug_is_a_documented_answer_everywhere(path: str, method: str, operation: dict[str, Any]) -> None:
    assert "500" in operation["responses"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_field_is_described(name: str) -> None:
    plain = {field for field, schema in SCHEMAS[name]["properties"].items() if "$ref" not in schema}
    described_fields = {field for field in plain if SCHEMAS[name]["properties"][field].get("description")}
    assert plain == described_fields


def test_the_examples_of_requests_are_accepted() -> None:
    body = "application/json"
    READER.publish(json.dumps(example(SCHEMAS["Publish"])).encode(), body)
    READER.bulk(json.dumps(example(SCHEMAS["Bulk"])).encode(), body, {})
    READER.poll(json.dumps(example(SCHEMAS["Poll"])).encode(), body)


def test_the_examples_of_requests_about_accounts_are_accepted() -> None:
    reader, body = AccountReader(), "application/json"

    def sent(name: str) -> bytes:
        return json.dumps(example(SCHEMAS[name])).encode()

    reader.login(example(SCHEMAS["LoginForm"]))
    reader.refresh(sent("Refresh"), body)
    reader.revoke(sent("Revoke"), body)
    reader.new_user(sent("Register"), body)
    reader.user_change(sent("UserChange"), body)
    reader.new_key(sent("NewKey"), body)
    grant = example(SCHEMAS["NewGrant"])
    for name in ("username", "user_id", "to"):
        only = {field: value for field, value in grant.items() if field in (name, "actions")}
        reader.new_grant(json.dumps(only).encode(), body)


def test_without_accounts_the_document_does_not_speak_of_them() -> None:
    without = json.loads(apidoc.as_json(apidoc.document(Settings())))
    assert not [path for path in without["paths"] if path.startswith("/auth") or "permissions" in path]
    assert "TokenAnswer" not in without["components"]["schemas"]


@pytest.mark.parametrize(
    "name", ["SubscribeFrame", "UnsubscribeFrame", "PublishFrame", "AckFrame", "PingFrame"]
)
def test_the_examples_of_frames_are_accepted(name: str) -> None:
    FrameReader(SETTINGS.publish, SETTINGS.subscriber).read(json.dumps(example(SCHEMAS[name])).encode())


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("/api/v1/poll", READER.poll_query),
        ("/api/v1/stream", lambda query: READER.stream_query(query, None)),
        ("/api/v1/topics", READER.topics_query),
        ("/api/v1/topics/{topic}/messages", READER.history_query),
    ],
)
def test_the_examples_of_queries_are_accepted(path: str, read: Any) -> None:
    parameters = [place for place in DOCUMENT["paths"][path]["get"]["parameters"] if place["in"] == "query"]
    assert parameters
    query = {}
    for place in parameters:
        value = place["schema"].get("example", "")
        query[place["name"]] = [",".join(value).encode() if isinstance(value, list) else str(value).encode()]
    read(query)


def test_the_document_tells_the_limits_in_force() -> None:
    settings = Settings(
        publish=PublishSettings(bulk_max_messages=7, max_payload_depth=9),
        poll=PollSettings(max_topics=3, max_timeout_seconds=20.0, default_limit_messages=5),
        subscriber=SubscriberSettings(max_topics=4),
    )
    document = apidoc.document(settings)
    schemas = document["components"]["schemas"]
    assert schemas["Bulk"]["properties"]["messages"]["maxItems"] == 7
    assert "9 levels" in schemas["Publish"]["properties"]["payload"]["description"]
    assert schemas["Poll"]["properties"]["topics"]["maxItems"] == 3
    assert schemas["Poll"]["properties"]["limit"]["default"] == 5
    assert "1 to 20" in schemas["Poll"]["properties"]["timeout"]["description"]
    assert schemas["SubscribeFrame"]["properties"]["topics"]["maxItems"] == 4


def test_the_document_names_no_python() -> None:
    assert "marshmallow" not in json.dumps(DOCUMENT)
    assert "__" not in "".join(SCHEMAS)
