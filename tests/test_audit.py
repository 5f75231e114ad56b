"""Audit records: what one holds, what one cannot hold, and that none is lost to a level."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from pulsar_relay import logs
from pulsar_relay.accounts.audit import Actor, AuditLog, AuditRecord, Deed, Kind
from pulsar_relay.settings import LogSettings
from tests.test_access import signed_in, with_key
from tests.test_logs import _logging_as_it_was  # noqa: F401 - a fixture for all tests here

USER_ID = "0b0c5b5e-7d3c-4d8e-9b36-5a8b1f1f8f6e"
DONE = AuditRecord(
    deed=Deed.CHANGE_USER,
    actor=Actor(USER_ID, jti="0" * 32, address="192.0.2.7"),
    kind=Kind.USER,
    target=USER_ID,
    fields=("password", "permissions"),
    permissions=("read",),
)


class Collected:
    def __init__(self) -> None:
        self.payloads: list[dict[str, Any]] = []

    def add(self, payload: bytes) -> None:
        self.payloads.append(json.loads(payload))


@pytest.mark.parametrize("level", ["debug", "info", "critical"])
def test_a_record_is_one_object_in_the_log_at_every_level(level: str) -> None:
    stream = io.StringIO()
    logs.set_up(LogSettings(format="json", level=level), stream=stream)
    AuditLog(lambda: 5).write(DONE)
    (line,) = stream.getvalue().splitlines()
    told = json.loads(line)
    assert told["logger"] == "pulsar_relay.accounts.audit"
    assert told["message"] == "audit: change_user done"
    assert {name: told[name] for name in ("at_ms", "deed", "outcome", "user_id", "jti", "address")} == {
        "at_ms": 5,
        "deed": "change_user",
        "outcome": "done",
        "user_id": USER_ID,
        "jti": "0" * 32,
        "address": "192.0.2.7",
    }
    assert (told["kind"], told["target"]) == ("user", USER_ID)
    assert (told["fields"], told["permissions"]) == ("password,permissions", "read")
    assert "error" not in told


def test_a_topic_gets_the_same_and_a_refusal_says_why() -> None:
    collected = Collected()
    refused = AuditRecord(deed=Deed.SIGN_IN, actor=Actor(address="192.0.2.7"), error="wrong_password")
    log = AuditLog(lambda: 7, collected)
    logging.getLogger("pulsar_relay.accounts.audit").setLevel(logging.CRITICAL)
    log.write(refused)
    assert collected.payloads == [
        {
            "at_ms": 7,
            "deed": "sign_in",
            "outcome": "refused",
            "error": "wrong_password",
            "address": "192.0.2.7",
        }
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": Kind.USER, "target": "hunter2"},
        {"kind": Kind.USER, "target": USER_ID + "\n"},
        {"kind": Kind.USER, "target": ""},
        {"kind": Kind.USER},
        {"target": USER_ID},
        {"kind": Kind.SESSION, "target": f"{USER_ID}.{'A' * 43}"},
        {"kind": Kind.KEY, "target": f"prk_{'0' * 16}_{'A' * 43}"},
        {"kind": Kind.TOPIC, "target": "galaxy/jobs"},
        {"kind": Kind.TOPIC, "target": f"{USER_ID}/a b"},
        {"fields": ["hunter2"]},
        {"permissions": ["hunter2"]},
        {"error": "hunter2"},
        {"grantee": "A" * 43},
        {"actor": Actor("somebody's name")},
        {"actor": Actor(jti="a.b.c")},
    ],
)
def test_what_somebody_typed_cannot_get_into_a_record(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="an audit record holds") as refused:
        AuditRecord(**{"deed": Deed.SIGN_IN, "actor": Actor(), **wrong})
    assert "hunter2" not in str(refused.value)


def test_an_actor_is_known_by_token_or_key() -> None:
    principal = signed_in(USER_ID, "read")
    assert principal.token is not None
    assert Actor.of(principal, "192.0.2.7") == Actor(USER_ID, None, principal.token.jti, "192.0.2.7")
    key = with_key(USER_ID, frozenset({"read"}), ("read",), "*")
    assert key.key is not None
    assert Actor.of(key, None) == Actor(USER_ID, key.key.key_id)
    assert Actor.of(None, "192.0.2.7") == Actor(address="192.0.2.7")


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (Kind.USER, USER_ID),
        (Kind.SESSION, USER_ID),
        (Kind.KEY, "0123456789abcdef"),
        (Kind.TOPIC, f"{USER_ID}/job_status_update"),
    ],
)
def test_ids_of_all_kinds_can_be_told(kind: Kind, target: str) -> None:
    record = AuditRecord(deed=Deed.GRANT, actor=Actor(), kind=kind, target=target, grantee="public")
    told = record.as_fields(0)
    assert (told["kind"], told["target"], told["grantee"]) == (kind.value, target, "public")
