"""Every message about named clients. They are told apart by the `client_id` they present."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from actors.ports import Store
from actors.stream import MessageId

# Between the subscribers of a worker and its `ClaimsActor`


@dataclass(frozen=True, slots=True)
class StartClaims:
    """First message of the `ClaimsActor`."""

    store: Store


@dataclass(frozen=True, slots=True)
class Hold:
    """The sender is about to claim this client's name: tell it of all claims from now on."""

    client_id: str
    subscriber_id: int


@dataclass(frozen=True, slots=True)
class LetGo:
    """The sender does not speak for this client any more."""

    client_id: str
    subscriber_id: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """Some connection, of any worker, claimed a client's name. Whoever claimed it with a lower generation is
    deposed."""

    client_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class CompareClaims:
    """Announcements may have been missed: ask the store for the latest claims."""


# Asked of the `ArchiveActor`. Each is answered by what the store answers, or by `Refused`


@dataclass(frozen=True, slots=True)
class AcknowledgeFor:
    """Acknowledge for a client without a connection that speaks for it."""

    client_id: str
    cursors: Mapping[str, MessageId]


@dataclass(frozen=True, slots=True)
class DescribeConsumer:
    client_id: str


@dataclass(frozen=True, slots=True)
class ListConsumers:
    """Ask for the names after `after`, in order, at most `limit`."""

    after: str
    limit: int


@dataclass(frozen=True, slots=True)
class ForgetConsumer:
    client_id: str
