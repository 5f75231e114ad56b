"""Ask: the address an answer is sent to when code outside the actors awaits it.

Every ask has an address of its own, so any number can be pending at once and no answer can be taken for
another's. Everybody gets an answer: when nobody holds the address any more, nobody can answer, and the ask
fails at that moment instead of at its timeout.
"""

from __future__ import annotations

import asyncio
from typing import Any

from thespian.actors import ActorAddress, PoisonMessage

from actors.mailbox import Mailbox, running_loop


class AskTimeout(TimeoutError):  # noqa: N818  # says what happened, as TimeoutError does
    """No answer came within the ask's timeout. The message may still be handled; a late answer is dropped."""


class AskFailed(Exception):  # noqa: N818  # its `error` is the error
    """The ask will never be answered; `error` says why: the handler's error, or one of this module's."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error
        self.__cause__ = error


class DeadActorError(LookupError):
    """The actor asked was dead, or died before the message was handled."""


class UnansweredError(RuntimeError):
    """The message was handled, and the last one who could have answered let the ask's address go."""


class PoisonError(RuntimeError):
    """A plain Thespian actor failed on the message each time it was tried; the text is its traceback."""


class Refusal:
    """The answer to an ask that cannot be answered otherwise."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Ask(ActorAddress):  # type: ignore[misc]  # thespian has no type hints
    """The address of one pending answer: the first message delivered here resolves the future."""

    __slots__ = ("_aaddr", "_future", "_timer", "mailbox")

    def __init__(
        self, mailbox: Mailbox, future: asyncio.Future[Any], timer: asyncio.TimerHandle | None
    ) -> None:
        self._aaddr = "/Ask"
        self.mailbox = mailbox
        self._future = future
        self._timer = timer

    # The text is the same for all asks.
    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None  # type: ignore[assignment]  # as in Thespian: an address is not a key

    def receive(self, message: Any, _sender: Any) -> None:
        """Called by a burst with the answer. A late one (timed out, cancelled, answered) is dropped."""
        future = self._future
        if future.done():
            return
        if self._timer is not None:
            self._timer.cancel()
        if type(message) is Refusal:
            future.set_exception(AskFailed(message.error))
        elif isinstance(message, PoisonMessage):
            future.set_exception(AskFailed(PoisonError(message.details)))
        else:
            future.set_result(message)

    def __del__(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._future.done():
            return
        loop = self._future.get_loop()
        if loop.is_closed():
            return
        # The last reference may go on any thread, even in a garbage collection.
        if running_loop() is loop:
            give_up(self._future)
        else:
            loop.call_soon_threadsafe(give_up, self._future)


def give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(AskFailed(UnansweredError("nobody is left who could answer")))


def expire(future: asyncio.Future[Any], address: Any, seconds: float) -> None:
    """The timeout of an ask. It knows the future only: holding the Ask would keep its address alive."""
    if not future.done():
        future.set_exception(AskTimeout(f"no answer from {address} within {seconds} s"))
