"""Slot: the place of one worker. It outlives those who hold it: their sockets are its own."""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import socket
from collections.abc import Callable

import msgspec

from pulsar_relay.supervision.listening import SharedPort, close
from pulsar_relay.supervision.notes import (
    Asked,
    Begin,
    Collect,
    Contributed,
    Ready,
    Refused,
    ToWorker,
    decode_from_worker,
    encode,
)
from pulsar_relay.supervision.parts import Metered, Part, Question, What
from pulsar_relay.supervision.worker_process import WorkerProcess

logger = logging.getLogger(__name__)

PART_SECONDS = 1.0
"""Time a worker has to contribute; one that is silent is represented by what it said last."""
MOST_OUTSTANDING = 100
LAST_WORDS_SECONDS = 1.0
METRICS = Question(What.METRICS)


class Slot:
    """`port` and `metrics_port` are shared with the other slots. `on_ready` and `on_refused` are called with
    the slot, `on_asked` with the slot and what its worker asks.
    """

    def __init__(
        self,
        number: int,
        port: SharedPort,
        metrics_port: SharedPort | None,
        *,
        on_ready: Callable[[Slot], None],
        on_refused: Callable[[Slot, list[str]], None],
        on_asked: Callable[[Slot, Asked], None],
    ) -> None:
        self.number = number
        self.known_store: str | None = None
        self.is_ready = False
        """Its worker runs and answers requests."""
        self._port = port
        self._metrics_port = metrics_port
        self._on_ready = on_ready
        self._on_refused = on_refused
        self._on_asked = on_asked
        self._api_sockets: list[socket.socket] = []
        self._metrics_sockets: list[socket.socket] = []
        self._process: WorkerProcess | None = None
        self._is_ending = False
        self._last: dict[Question, Part] = {}
        self._outstanding: dict[Question, asyncio.Future[Part]] = {}
        self._questions: dict[int, Question] = {}
        self._numbers = itertools.count(1)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    # Its sockets

    @property
    def api_descriptors(self) -> list[int]:
        return [one.fileno() for one in self._api_sockets]

    @property
    def metrics_descriptors(self) -> list[int]:
        return [one.fileno() for one in self._metrics_sockets]

    def bind(self) -> None:
        """Does nothing if it is. Raises OSError."""
        if not self._api_sockets:
            self._api_sockets = self._port.bind()
        if not self._metrics_sockets and self._metrics_port is not None:
            self._metrics_sockets = self._metrics_port.bind()

    def unbind(self) -> None:
        """What waits in the sockets is cut off, and the kernel chooses another worker for what comes."""
        close([*self._api_sockets, *self._metrics_sockets])
        self._api_sockets, self._metrics_sockets = [], []

    # Its worker

    async def live(self, begin: Callable[[], Begin]) -> str:
        """One worker's life, from its start to its end, which is told in words. Raises OSError if it cannot
        be started.

        `begin` is asked for when there is somebody to be told.
        """
        self.bind()
        process = self._process = await WorkerProcess.spawn(
            [*self.api_descriptors, *self.metrics_descriptors]
        )
        listening = asyncio.create_task(self._listen(process), name=f"worker {self.number}")
        try:
            if self._is_ending:
                process.send(signal.SIGTERM)
            process.channel.send(encode(begin()))
            ended = await process.wait()
            # What it said last is still in the channel.
            await asyncio.wait((listening,), timeout=LAST_WORDS_SECONDS)
            return ended
        finally:
            self.is_ready = False
            self._process = None
            listening.cancel()
            process.channel.close()
            for future in self._outstanding.values():
                future.cancel()
            self._outstanding.clear()
            self._questions.clear()

    def send(self, note: ToWorker) -> None:
        """Nothing happens without a worker."""
        if self._process is not None:
            self._process.channel.send(encode(note))

    def end(self) -> None:
        """Have its worker, or the one that is being started, leave in order."""
        self._is_ending = True
        if self._process is not None:
            self._process.send(signal.SIGTERM)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send(signal.SIGKILL)

    # Its parts

    async def ask(self, question: Question) -> Part | None:
        """Its worker's part; None if it does not answer in time. May be asked only while it is ready."""
        future = self._outstanding.get(question)
        if future is None:
            if len(self._outstanding) >= MOST_OUTSTANDING:
                return None
            future = self._outstanding[question] = asyncio.get_running_loop().create_future()
            number = next(self._numbers)
            self._questions[number] = question
            self.send(Collect(number, question))
        await asyncio.wait((future,), timeout=PART_SECONDS)
        # Cancelled if the worker has ended meanwhile.
        return future.result() if future.done() and not future.cancelled() else None

    def last(self, question: Question) -> Part | None:
        """What its worker said last, if it ever did."""
        return self._last.get(question)

    def forget(self) -> Metered:
        """What its worker had counted, as far as it told. Its successor begins anew."""
        counted = self._last.pop(METRICS, None)
        self._last.clear()
        return counted if isinstance(counted, Metered) else Metered()

    async def _listen(self, process: WorkerProcess) -> None:
        async for data in process.channel.notes():
            try:
                note = decode_from_worker(data)
            except msgspec.DecodeError as error:
                # Where it comes from tells nothing that the text does not.
                logger.error("worker %d: cannot be understood: %s", self.number, error)  # noqa: TRY400
                process.send(signal.SIGKILL)
                return
            match note:
                case Ready():
                    self.is_ready = True
                    self._on_ready(self)
                case Refused(problems):
                    self._on_refused(self, problems)
                case Asked():
                    self._on_asked(self, note)
                case Contributed():
                    self._take(note)

    def _take(self, contributed: Contributed) -> None:
        self.known_store = contributed.known_store or self.known_store
        question = self._questions.pop(contributed.number, METRICS)
        if not question.topic:
            self._last[question] = contributed.part
        future = self._outstanding.pop(question, None) if contributed.number else None
        if future is not None and not future.done():
            future.set_result(contributed.part)
