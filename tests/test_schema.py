from __future__ import annotations

import re

import pytest
import valkey as valkey_client

from pulsar_relay.store import schema

TOPICS = ["t", "owner/name", "x" * 255, "a-b_c"]


@pytest.mark.parametrize("topic", TOPICS)
def test_all_keys_of_a_topic_share_the_slot_of_its_stream(valkey: str, topic: str) -> None:
    keys = [
        *schema.stream_keys(topic),
        schema.idempotency(topic, "scope:key with {braces} and :colons:"),
        schema.batch(topic, "life"),
        schema.feed(topic),
        schema.staging(topic),
    ]
    with valkey_client.Valkey(unix_socket_path=valkey) as client:
        slots = {client.execute_command("CLUSTER", "KEYSLOT", key) for key in keys}
    assert len(slots) == 1
    assert len(set(keys)) == len(keys)


def test_the_stream_is_where_operators_look_for_it() -> None:
    assert schema.stream("test") == "topic:test:stream"
    assert schema.offsets("c1") == "client:c1:offset"


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_is_found_again_by_its_streams_key_and_by_no_other(topic: str) -> None:
    assert schema.topic_of(schema.stream(topic).encode()) == topic
    for key in (
        schema.meta(topic),
        schema.feed(topic),
        schema.idempotency(topic, "k"),
        f"x{schema.stream(topic)}",
    ):
        assert schema.topic_of(key.encode()) is None


@pytest.mark.parametrize("name", ["", "a:b", "a{b}", "a/b/c", "a b", "\u0661", "x" * 256])
def test_a_key_no_topic_can_have_is_nobodys(name: str) -> None:
    assert schema.topic_of(f"topic:{name}:stream".encode()) is None


def test_every_key_is_in_the_table_of_the_module() -> None:
    table = schema.__doc__ or ""
    listed = set(re.findall(r"^\| `([^`]+)`", table, re.MULTILINE))
    made = {
        schema.stream("<topic>"),
        schema.meta("<topic>").replace(schema.stream("<topic>"), "<stream key>"),
        schema.idempotency("<topic>", "<scope>:<key>").replace(schema.stream("<topic>"), "<stream key>"),
        schema.batch("<topic>", "<life>").replace(schema.stream("<topic>"), "<stream key>"),
        schema.feed("<topic>").replace(schema.stream("<topic>"), "<stream key>"),
        schema.staging("<topic>").replace(schema.stream("<topic>"), "<stream key>"),
        schema.heartbeat("<worker>"),
        schema.offsets("<client id>"),
        schema.probe("<worker>"),
        schema.TOPICS,
        schema.IDENTITY,
        schema.mark("<n>"),
        schema.COOKIE_KEY,
        schema.RETENTION_LEASE,
        schema.CONSUMERS,
        schema.CLAIMS,
    }
    assert listed == made
