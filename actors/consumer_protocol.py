"""Every message about named clients. They are told apart by the `client_id` they present."""

from __future__ import annotations

from collections.abc import Mapping

from actors.ports import Store
from actors.stream import MessageId
from actors.value import value

# Between the subscribers of a worker and its `ClaimsActor`


@value
class StartClaims:
    """First message of the `ClaimsActor`."""

    store: Store


@value
class Hold:
    """The sender is about to claim this client's name: tell it of all claims from now on."""

    client_id: str
    subscriber_id: int


@value
class LetGo:
    """The sender does not speak for this client any more."""

    client_id: str
    subscriber_id: int


@value
class Claimed:
    """Some connection, of any worker, claimed a client's name. Whoever claimed it with a lower generation is
    deposed."""

    client_id: str
    generation: int


@value
class CompareClaims:
    """Announcements may have been missed: ask the store for the latest claims."""


# Asked of the `ArchiveActor`. Each is answered by what the store answers, or by `Refused`


@value
class AcknowledgeFor:
    """Acknowledge for a client without a connection that speaks for it."""

    client_id: str
    cursors: Mapping[str, MessageId]


@value
class DescribeConsumer:
    client_id: str


@value
class ListConsumers:
    """Ask for the names after `after`, in order, at most `limit`."""

    after: str
    limit: int


@value
class ForgetConsumer:
    client_id: str
