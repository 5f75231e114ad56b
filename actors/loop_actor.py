"""LoopActor: what an actor can do here beyond Thespian, and how it fails."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from thespian.actors import Actor

from actors.work import Timer


class LoopActor(Actor):  # type: ignore[misc]  # thespian has no type hints
    """An actor that fails fast, and can forward, perform asynchronous work, set timers and stop itself.

    A handler that raises is a bug and is not run again, as Thespian would: the runtime logs the error, calls
    `on_failure`, answers the failing message if it was an ask, ends the actor and its children, and tells the
    parent `ChildActorExited`. All methods may be called on the loop's thread only.
    """

    def send(self, address: Any, message: Any) -> None:
        """Queue `message` for `address`. Messages arrive in the order of sending, whoever sent them."""
        self._myRef.actor_send(address, message)

    def forward(self, address: Any, message: Any, sender: Any) -> None:
        """Send `message` on as if `sender` had sent it: the answer goes straight back to `sender`."""
        self._myRef.forward(address, message, sender)

    def perform(self, awaitable: Awaitable[Any], tag: Any = None, *, cancel_on_exit: bool = False) -> None:
        """Start a coroutine, or follow a future; exactly one `Performed` or `PerformFailed` with `tag` will
        come.

        Cancelled work has failed, with `asyncio.CancelledError`. Work goes on when the actor ends before it
        (an append that was begun is not half undone), its outcome unheard, unless `cancel_on_exit`.
        """
        self._myRef.perform(awaitable, tag, cancel_on_exit=cancel_on_exit)

    def call_after(self, seconds: float, message: Any) -> Timer:
        """Deliver `message` to this actor, from itself, in `seconds`; `cancel()` the result to prevent it."""
        timer: Timer = self._myRef.call_after(seconds, message)
        return timer

    def stop(self) -> None:
        """End this actor after the current handler, before any other message; its children end with it.

        What waits in the mailbox for it goes to the dead letters; asks among it are answered with
        `AskFailed`.
        """
        self._myRef.stop()

    def on_failure(self, error: BaseException, message: Any, sender: Any) -> None:
        """Called once after a handler of this actor raised, while it can still send: to answer what it holds.

        It is the actor's last act. What this method raises is logged and goes no further.
        """
