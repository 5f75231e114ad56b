"""The addresses that are not actors: the system itself, and those outside it who tell, ask and listen."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from thespian.actors import ActorAddress, ValidatedSource
from thespian.system import isInternalActorSystemMessage

if TYPE_CHECKING:
    from actors.mailbox import Mailbox
    from actors.sources import Sources

NOTHING = object()
"""No message, where None may be one."""

UNHEARD_MESSAGES_KEPT = 10_000
"""A listener that never listens (every `tell` in a running loop has one) costs no more memory than this; the
oldest messages are forgotten first."""


class SystemAddress(ActorAddress):  # type: ignore[misc]  # thespian has no type hints
    """`/ActorSys`: parent of primary actors, sender of what the system itself sends."""

    def __init__(self, name: str, mailbox: Mailbox, sources: Sources) -> None:
        super().__init__(name)
        self.mailbox = mailbox
        self._sources = sources

    def receive(self, message: Any, _sender: Any) -> None:
        if isinstance(message, ValidatedSource):
            self._sources.validated(message.sourceHash, message.sourceZip)


class Listener(ActorAddress):  # type: ignore[misc]  # thespian has no type hints
    """Keeps what actors send to the outside until somebody listens. `take` and `wait`: on any thread."""

    def __init__(self, name: str, mailbox: Mailbox) -> None:
        super().__init__(name)
        self.mailbox = mailbox
        self._arrived: deque[Any] = deque(maxlen=UNHEARD_MESSAGES_KEPT)
        self._changed = threading.Condition()

    # Not __len__: an address is true, whether anything has arrived or not.
    def has_heard(self) -> bool:
        return bool(self._arrived)

    def receive(self, message: Any, _sender: Any) -> None:
        if not isInternalActorSystemMessage(message):
            with self._changed:
                self._arrived.append(message)
                self._changed.notify()

    def take(self) -> Any:
        """The oldest message, or NOTHING."""
        with self._changed:
            return self._arrived.popleft() if self._arrived else NOTHING

    def wait(self, seconds: float | None) -> Any:
        """The oldest message, or NOTHING after `seconds` (None: as long as it takes). Blocks this thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._arrived, seconds)
            return self._arrived.popleft() if self._arrived else NOTHING
