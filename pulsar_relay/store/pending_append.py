"""PendingAppend: one append under way, from its first attempt to its outcome."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import islice, repeat
from typing import Any

from actors.ports import Appended, Publish, StoreError
from actors.stream import Message, MessageId
from pulsar_relay.store.entries import message_id
from pulsar_relay.store.link import Word
from pulsar_relay.store.refusals import lost

logger = logging.getLogger(__name__)

NEVER = float("inf")


class PendingAppend(asyncio.Future[Any]):
    """The future of an `Appended`, and the answer to its first attempt at once: a line settles it with the
    script's reply, and `on_appended` is told the topic's epoch; or with a StoreError, which `on_refused` is
    given to decide about.

    So an append that succeeds needs no task, and nothing wakes up between the reply and who waits.
    """

    def __init__(
        self,
        topic: str,
        publishes: Sequence[Publish],
        words: tuple[Word, ...],
        new_epoch: str,
        on_appended: Callable[[PendingAppend, str], None],
        on_refused: Callable[[PendingAppend, StoreError], None],
    ) -> None:
        super().__init__()
        self.topic = topic
        self.words = words
        self.new_epoch = new_epoch
        """What the script calls the topic's history if it begins one."""
        self.deadline = 0.0
        """On the loop's clock."""
        self._publishes = publishes
        self._on_appended = on_appended
        self._on_refused = on_refused

    def set_result(self, reply: Sequence[bytes]) -> None:
        """The script's reply has come."""
        try:
            appended = appended_by(self.topic, self._publishes, reply)
        except Exception:  # a bug; who waits here would wait for ever
            logger.exception("append: an answer that cannot be read")
            super().set_exception(StoreError("store_error", is_outcome_unknown=True))
        else:
            super().set_result(appended)
            self._on_appended(self, appended.epoch)

    def set_exception(self, error: Any) -> None:
        """The first attempt has failed."""
        self._on_refused(self, error)

    def fail(self, error: BaseException) -> None:
        """There will be no other attempt."""
        super().set_exception(error)


class Deadlines:
    """Ends appends whose first attempt is not answered in time. One timer serves them all."""

    def __init__(self) -> None:
        self._waiting: dict[PendingAppend, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = NEVER

    def add(self, append: PendingAppend, seconds: float) -> None:
        loop = append.get_loop()
        append.deadline = loop.time() + seconds
        self._waiting[append] = None
        if append.deadline < self._looks_at:
            self._look_at(append.deadline)

    def discard(self, append: PendingAppend) -> None:
        self._waiting.pop(append, None)

    def _look_at(self, when: float) -> None:
        """Not put off when what it is for is answered: it looks once in a deadline's time."""
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = when
        self._timer = asyncio.get_running_loop().call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        self._looks_at = NEVER
        now = asyncio.get_running_loop().time()
        for append in list(self._waiting):
            if append.done() or append.deadline <= now:
                del self._waiting[append]
                if not append.done():
                    append.fail(lost())
        if self._waiting:
            self._look_at(min(append.deadline for append in self._waiting))


def appended_by(topic: str, publishes: Sequence[Publish], reply: Sequence[bytes]) -> Appended:
    """The script's reply with the messages it made; see append.lua."""
    prev = message_id(reply[0])
    milliseconds, first = reply[2].decode("ascii"), int(reply[3])
    told = reply[4:]
    if told:
        new = [publish for publish, outcome in zip(publishes, told, strict=True) if not outcome]
    else:
        new = list(publishes)
    drafts = [draft for publish in new for draft in publish.drafts]
    id_texts = [f"{milliseconds}-{number}" for number in range(first, first + len(drafts))]
    first_id = MessageId.of(int(milliseconds), first)
    ids = list(map(MessageId, range(first_id, first_id + len(drafts))))
    messages = [
        Message(topic, this, id_text, before, draft.payload, draft.metadata, draft.expires_at_ms)
        for this, id_text, before, draft in zip(ids, id_texts, [prev, *ids], drafts, strict=False)
    ]
    if len(drafts) == len(publishes) == len(new):
        outcomes: list[tuple[tuple[str, ...], bool] | None] = [((id_text,), False) for id_text in id_texts]
    else:
        outcomes = _outcomes(publishes, told, id_texts)
    return Appended(prev, reply[1].decode("ascii"), messages, outcomes)


def _outcomes(
    publishes: Sequence[Publish], told: Sequence[bytes], id_texts: Sequence[str]
) -> list[tuple[tuple[str, ...], bool] | None]:
    """`id_texts` are those of the messages that are new."""
    given = iter(id_texts)
    outcomes: list[tuple[tuple[str, ...], bool] | None] = []
    for publish, outcome in zip(publishes, told or repeat(b""), strict=False):
        if outcome == b"!":
            outcomes.append(None)
        elif outcome:
            outcomes.append((_ids(outcome), True))
        else:
            outcomes.append((tuple(islice(given, len(publish.drafts))), False))
    return outcomes


def _ids(told: bytes) -> tuple[str, ...]:
    """The ids of `<first id> <count>`; those of one publish follow each other."""
    first, _, count = told.decode("ascii").partition(" ")
    milliseconds, _, number = first.partition("-")
    return tuple([f"{milliseconds}-{n}" for n in range(int(number), int(number) + int(count))])
