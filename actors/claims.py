"""ClaimsActor: which subscribers of this worker speak for named clients. They are told of later claims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from thespian.actors import ActorExitRequest

from actors.consumer_protocol import Claimed, CompareClaims, Hold, LetGo, StartClaims
from actors.runtime import LoopActor, Performed, PerformFailed

COMPARED_AT_ONCE = 1000
RETRY_SECONDS = 1.0


class ClaimsActor(LoopActor):
    """One per worker. It judges nothing: a subscriber knows the generation of its own claim, and compares.

    A subscriber says `Hold` before it claims, so what is announced after its own claim cannot miss it.
    """

    def __init__(self) -> None:
        # A name has two holders while the older one is being deposed.
        self._holders: dict[str, dict[int, Any]] = {}

    def receiveMessage(self, message: Any, sender: Any) -> None:
        self._handlers[type(message)](self, message, sender)

    def on_start(self, start: StartClaims, _sender: Any) -> None:
        self._store = start.store

    def on_hold(self, hold: Hold, subscriber: Any) -> None:
        self._holders.setdefault(hold.client_id, {})[hold.subscriber_id] = subscriber

    def on_let_go(self, let_go: LetGo, _sender: Any) -> None:
        holders = self._holders.get(let_go.client_id, {})
        holders.pop(let_go.subscriber_id, None)
        if not holders:
            self._holders.pop(let_go.client_id, None)

    def on_claimed(self, claimed: Claimed, _sender: Any) -> None:
        for subscriber in self._holders.get(claimed.client_id, {}).values():
            self.send(subscriber, claimed)

    def on_compare(self, _compare: CompareClaims, _sender: Any) -> None:
        names = list(self._holders)
        for start in range(0, len(names), COMPARED_AT_ONCE):
            self.perform(self._store.claims(names[start : start + COMPARED_AT_ONCE]))

    def on_performed(self, performed: Performed, sender: Any) -> None:
        for client_id, generation in performed.result.items():
            self.on_claimed(Claimed(client_id, generation), sender)

    def on_perform_failed(self, _failed: PerformFailed, _sender: Any) -> None:
        self.call_after(RETRY_SECONDS, CompareClaims())

    def on_exit(self, _exit: ActorExitRequest, _sender: Any) -> None:
        """The worker stops, and all its subscribers with it."""

    _handlers: ClassVar[dict[type, Callable[[ClaimsActor, Any, Any], None]]] = {
        StartClaims: on_start,
        Hold: on_hold,
        LetGo: on_let_go,
        Claimed: on_claimed,
        CompareClaims: on_compare,
        Performed: on_performed,
        PerformFailed: on_perform_failed,
        ActorExitRequest: on_exit,
    }
