"""ReplicatedLine: a line whose answers count once enough replicas have what was written.

    call ──▶ queued ──▶ sent, WAIT behind ──replies──▶ held ──reply to WAIT──▶ answered

WAIT speaks of what its own connection wrote last, so it goes on the same connection, in the same write and
behind all that it is to cover: one for them all. A connection that wrote nothing is answered at once with any
number; what is called here must therefore write, also where it only repeats.

WAIT holds up what comes behind it on its connection. So nothing is sent before the last WAIT is answered, and
what is called meanwhile shares the next one: otherwise a replica that is stuck would leave a tail of WAITs
behind that outlasts it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from actors.ports import StoreError
from pulsar_relay.store.line import Answer, Line
from pulsar_relay.store.link import Endpoint, Link, pack
from pulsar_relay.store.refusals import lost

WAITS = 4
"""One WAIT takes this part of the command timeout at most: a line that is silent that long counts as dead."""


class _Confirmation(asyncio.Future[Any]):
    """Stands for a WAIT among the answers that are to come."""


class ReplicatedLine(Line):
    """What `replicas` have not confirmed in time fails with `store_not_replicated` and an unknown outcome.
    What Valkey refuses fails at once, as on any line.
    """

    def __init__(self, endpoint: Endpoint, replicas: int) -> None:
        super().__init__(endpoint)
        self._replicas = replicas
        wait_ms = max(1, int(endpoint.command_timeout_seconds * 1000 / WAITS))
        self._wait = pack(("WAIT", replicas, wait_ms))
        self._held: list[tuple[Answer, Any]] = []

    def _flush(self) -> None:
        if self._sent and not self._is_closed:
            self._is_flush_due = False
            return  # until what was sent is confirmed
        super()._flush()

    def _send(self, link: Link, commands: list[bytes]) -> None:
        if commands:
            self._sent.append(_Confirmation())
            super()._send(link, [*commands, self._wait])

    def _settle(self, answer: Answer, reply: Any) -> None:
        if isinstance(answer, _Confirmation):
            self._confirm(reply)
            if self._queued:
                self._flush()
        elif isinstance(reply, StoreError):
            super()._settle(answer, reply)
        else:
            self._held.append((answer, reply))

    def _confirm(self, reply: Any) -> None:
        """`reply` is how many replicas have what was held."""
        held, self._held = self._held, []
        is_confirmed = isinstance(reply, int) and reply >= self._replicas
        code = reply.code if isinstance(reply, StoreError) else "store_not_replicated"
        for answer, kept in held:
            super()._settle(answer, kept if is_confirmed else StoreError(code, is_outcome_unknown=True))

    def _on_lost(self) -> None:
        held, self._held = self._held, []
        for answer, _ in held:
            super()._settle(answer, lost())
        for answer in [*self._sent]:
            if isinstance(answer, _Confirmation):
                self._sent.remove(answer)
        super()._on_lost()
