"""Audit records of what commands do to the store themselves, past all relays."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable

import click
import msgspec

from actors.ports import Draft, Publish, StoreError
from actors.stream import BEGINNING
from pulsar_relay.accounts.audit import AuditRecord
from pulsar_relay.audit_topic import AT_ONCE, AUDIT_TOPIC
from pulsar_relay.settings import Settings
from pulsar_relay.store.appends import Appends
from pulsar_relay.store.client import Client


async def tell_audit(client: Client, settings: Settings, records: Iterable[AuditRecord]) -> None:
    """Append them to the audit topic. What was done is done: that it cannot be recorded fails nothing, and
    standard error says so.
    """
    now_ms = time.time_ns() // 1_000_000
    drafts = [Draft(msgspec.json.encode(record.as_fields(now_ms))) for record in records]
    storage = settings.storage
    appends = Appends(
        client,
        f"command-{secrets.token_hex(6)}",
        max_messages_per_topic=settings.auth.audit_max_messages,
        idempotency_window_seconds=storage.idempotency_window_seconds,
        publish_deadline_seconds=storage.publish_deadline_seconds,
    )
    try:
        for start in range(0, len(drafts), AT_ONCE):
            publish = Publish(AUDIT_TOPIC, tuple(drafts[start : start + AT_ONCE]))
            await appends.append(AUDIT_TOPIC, [publish], BEGINNING)
    except StoreError as error:
        click.echo(f"audit: not recorded ({error.code})", err=True)
