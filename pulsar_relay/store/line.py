"""Line: a connection to Valkey that many callers share, replaced when it is lost.

    call ──▶ queued ──next loop turn──▶ sent ──reply──▶ answered
               │ no connection            │ connection lost, or silent for too long
               ▼                          ▼
         not carried out           outcome unknown

Valkey answers a connection's commands in their order, so nobody waits for another's answer before asking, and
what is asked within one turn of the loop leaves in one write. Nothing is repeated here: only the caller knows
what may be.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

from actors.ports import StoreError
from pulsar_relay.store.link import Endpoint, Link, Word, pack
from pulsar_relay.store.refusals import DeposedError, lost

logger = logging.getLogger(__name__)

REDIAL_SECONDS = 0.05
"""Least time from one attempt to connect to the next."""
LOOKS = 4
"""A connection is given up after so many looks without a sign of life, spread over the timeout."""

Answer = asyncio.Future[Any]


class Line:
    """Connects on first use. All methods belong to one loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._timeout_seconds = endpoint.command_timeout_seconds
        self._link: Link | None = None
        self._dialing: asyncio.Task[None] | None = None
        self._queued: list[tuple[bytes, Answer]] = []
        self._sent: deque[Answer] = deque()
        self._is_flush_due = False
        self._is_closed = False
        self._watch: asyncio.TimerHandle | None = None
        self._has_moved = False
        self._quiet_looks = 0
        self._untaken_bytes = 0
        self._redial_at = 0.0
        self._must_redial = False

    @property
    def waiting(self) -> int:
        """Commands not answered yet."""
        return len(self._queued) + len(self._sent)

    def call(self, *words: Word) -> Answer:
        """Send one command. The future gets the reply, or a StoreError that knows about the outcome.

        Cancelling the future harms nobody else: a command not yet sent is not sent, and the reply to one that
        was is dropped. Commands are carried out in the order of the calls, as long as the connection lasts.
        """
        answer: Answer = asyncio.get_running_loop().create_future()
        self.send(words, answer)
        return answer

    def send(self, words: tuple[Word, ...], answer: Answer) -> None:
        """As `call`, for a future that the caller has made."""
        self._queued.append((pack(words), answer))
        if not self._is_flush_due:
            self._is_flush_due = True
            answer.get_loop().call_soon(self._flush)

    async def aclose(self) -> None:
        """Give up everything under way and never connect again; returns when the connection is closed."""
        self._is_closed = True
        link, dialing = self._link, self._dialing
        self._drop_link()
        self._fail_queued(StoreError("store_unavailable"))
        if dialing is not None:
            dialing.cancel()
            await asyncio.wait([dialing])
        if link is not None:
            await link.wait_closed()

    def _flush(self) -> None:
        self._is_flush_due = False
        if self._is_closed:
            self._fail_queued(StoreError("store_unavailable"))
            self._drop_link()
            return
        if self._must_redial and self._sent:
            return  # until the answers that are still to come have come
        if self._must_redial:
            self._drop_link()
        link = self._link
        if link is None:
            if self._dialing is None:
                self._dialing = asyncio.get_running_loop().create_task(self._dial(), name="valkey dial")
            return
        queued, self._queued = self._queued, []
        commands = []
        for command, answer in queued:
            if not answer.done():
                commands.append(command)
                self._sent.append(answer)
        self._send(link, commands)
        if self._watch is None:
            self._start_watch()

    def _send(self, link: Link, commands: list[bytes]) -> None:
        link.write(commands)

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        failure = None
        try:
            await asyncio.sleep(max(0.0, self._redial_at - loop.time()))
            self._link = await Link.open(self._endpoint, self._on_reply, self._on_lost)
        except StoreError as error:
            failure = error
        except Exception:  # a bug; who waits here would wait for ever
            logger.exception("line: cannot connect")
            failure = StoreError("store_error")
        self._redial_at = loop.time() + REDIAL_SECONDS
        self._dialing = None
        if failure is not None:
            self._fail_queued(failure)
        else:
            self._flush()

    def _on_reply(self, reply: Any) -> None:
        if not self._sent:
            # Nobody asked for this; were it taken for the next answer, all that follow would be wrong.
            logger.warning("line: an unexpected answer, connecting anew")
            self._drop_link()
            return
        answer = self._sent.popleft()
        self._has_moved = True
        if isinstance(reply, DeposedError):
            self._must_redial = True
        self._settle(answer, reply)
        if self._must_redial and not self._sent:
            self._flush()

    def _settle(self, answer: Answer, reply: Any) -> None:
        if answer.done():
            return
        if isinstance(reply, StoreError):
            answer.set_exception(reply)
        else:
            answer.set_result(reply)

    def _on_lost(self) -> None:
        self._link = None
        self._must_redial = False
        self._quiet_looks = 0
        sent, self._sent = self._sent, deque()
        for answer in sent:
            if not answer.done():
                answer.set_exception(lost())
        if self._queued:
            self._flush()

    def _drop_link(self) -> None:
        link = self._link
        if link is not None:
            link.close()
        self._on_lost()

    def _fail_queued(self, error: StoreError) -> None:
        queued, self._queued = self._queued, []
        for _, answer in queued:
            if not answer.done():
                answer.set_exception(StoreError(error.code, error.detail))

    # A black-holed connection stays open and silent. One timer watches all commands of the line. It counts
    # looks and not seconds: while this process itself had no time, the server may well have answered.

    def _start_watch(self) -> None:
        self._quiet_looks = self._untaken_bytes = 0
        self._has_moved = False
        self._look_later()

    def _look_later(self) -> None:
        self._watch = asyncio.get_running_loop().call_later(self._timeout_seconds / LOOKS, self._look)

    def _look(self) -> None:
        self._watch = None
        link = self._link
        if link is None or not self._sent:
            return
        untaken_bytes = link.untaken_bytes
        # A large command on a slow network is on its way as long as what is left of it changes.
        if self._has_moved or untaken_bytes != self._untaken_bytes:
            self._quiet_looks = 0
        else:
            self._quiet_looks += 1
        self._has_moved = False
        self._untaken_bytes = untaken_bytes
        if self._quiet_looks < LOOKS:
            self._look_later()
        else:
            logger.warning("line: no answer within %.1f s, connecting anew", self._timeout_seconds)
            self._drop_link()


class Lines:
    """Up to `max_lines` lines for one command at a time each: nobody waits behind another's large answer."""

    def __init__(self, endpoint: Endpoint, max_lines: int) -> None:
        self._endpoint = endpoint
        self._max_lines = max_lines
        self._wait_seconds = endpoint.command_timeout_seconds
        self._lines: list[Line] = []
        self._idle: list[Line] = []
        self._turns: deque[asyncio.Future[Line]] = deque()

    async def call(self, *words: Word) -> Any:
        """As `Line.call`; raises StoreError "overloaded" if no line gets free within the command timeout."""
        line = await self._free_line()
        answer = line.call(*words)
        answer.add_done_callback(lambda _: self._release(line))
        return await answer

    async def call_all(self, *commands: tuple[Word, ...]) -> list[Any]:
        """Several commands, sent together with nothing in between; raises the first of their errors."""
        line = await self._free_line()
        answers = asyncio.gather(*[line.call(*words) for words in commands])
        answers.add_done_callback(lambda _: self._release(line))
        return await answers

    async def aclose(self) -> None:
        for turn in self._turns:
            if not turn.done():
                turn.set_exception(StoreError("store_unavailable"))
        for line in self._lines:
            await line.aclose()

    async def _free_line(self) -> Line:
        if self._idle:
            return self._idle.pop()  # the last one used: the others can rest
        if len(self._lines) < self._max_lines:
            line = Line(self._endpoint)
            self._lines.append(line)
            return line
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Line] = loop.create_future()
        self._turns.append(turn)
        timer = loop.call_later(self._wait_seconds, _refuse_turn, turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._release(turn.result())  # it was given a line and has no use for it any more
            raise
        finally:
            timer.cancel()

    def _release(self, line: Line) -> None:
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(line)
                return
        self._idle.append(line)


def _refuse_turn(turn: asyncio.Future[Line]) -> None:
    if not turn.done():
        turn.set_exception(StoreError("overloaded", "all connections to the store are in use"))
