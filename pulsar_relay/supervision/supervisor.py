"""Supervisor: starts the workers, starts those again that end, and stops them.

    start ──> worker runs ──> ends ──> rests ──> start        rests grow while lives are short
                                │
                                └──> the relay stops: that was all

It serves no request itself, and has no connection to Valkey: whatever goes wrong with a request goes wrong in
a worker, and costs that worker's connections only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from pulsar_relay import __version__
from pulsar_relay.config import ConfigError
from pulsar_relay.settings import Settings
from pulsar_relay.supervision.collection import Collection
from pulsar_relay.supervision.listening import Ports, SharedPort
from pulsar_relay.supervision.notes import Answer, Answered, Asked, Begin, Reload
from pulsar_relay.supervision.parts import Question
from pulsar_relay.supervision.slot import Slot

logger = logging.getLogger(__name__)

RESTS_SECONDS = (0.0, 0.5, 1.0, 2.0, 4.0, 5.0)
"""Before a worker is started again: at once the first time, then growing, while each lives only shortly."""
LONG_LIFE_SECONDS = 60.0
"""After a life of this length nothing is held against a worker."""
LONG_REST_SECONDS = 0.5
"""A worker that rests this long, and then takes as long to start, gets no connections: the others do."""
LOOK_SECONDS = 5.0
"""How often the workers are asked what they have counted: so much is lost with one that is killed."""
MARGIN_SECONDS = 5.0
"""What a worker may need beyond its deadline to stop, before it is killed."""


class Supervisor:
    """The workers of one `serve`. `unix_socket` and `identity_file` are the embedded server's."""

    def __init__(
        self, workers: int, settings: Settings, unix_socket: str | None, identity_file: Path | None
    ) -> None:
        self._settings = settings
        self._unix_socket = unix_socket
        self._identity_file = identity_file
        self._workers = workers
        self.slots: list[Slot] = []
        """Each worker's place, by its number."""
        self._restarts = 0
        self._stopping = asyncio.Event()
        self._begun: set[int] = set()
        self._has_begun = asyncio.Event()
        self._refusal: list[str] = []
        self._lives: list[asyncio.Task[None]] = []
        self._looking: asyncio.Task[None] | None = None
        self._answers: set[asyncio.Task[None]] = set()
        self._collection = Collection(self.slots, lambda: self._restarts)

    async def start(self) -> Ports:
        """Return when each worker answers requests, or has failed to once.

        Raises OSError if a port cannot be had, and ConfigError if a worker refuses its settings.
        """
        server = self._settings.server
        port = SharedPort.find(server.host, server.port)
        metrics_port = None
        if server.metrics_port is not None:
            metrics_port = SharedPort.find(server.metrics_host, server.metrics_port)
        for number in range(self._workers):
            self.slots.append(
                Slot(
                    number,
                    port,
                    metrics_port,
                    on_ready=self._on_ready,
                    on_refused=self._on_refused,
                    on_asked=self._on_asked,
                )
            )
        # All of them before anybody listens: nobody else can get in between.
        for slot in self.slots:
            slot.bind()
        loop = asyncio.get_running_loop()
        self._lives += [loop.create_task(self._keep(slot), name=f"slot {slot.number}") for slot in self.slots]
        self._looking = loop.create_task(self._look(), name="counted by workers")
        await self._has_begun.wait()
        if self._refusal:
            raise ConfigError(self._refusal)
        return Ports(port.number, None if metrics_port is None else metrics_port.number)

    async def stop(self) -> None:
        """All workers leave in order; who does not in time is killed. Nothing is left running."""
        self._stopping.set()
        for slot in self.slots:
            slot.end()
        if self._lives:
            await self._all_end()
        if self._looking is not None:
            self._looking.cancel()
        self._collection.stop()
        for slot in self.slots:
            slot.unbind()
        for life in self._lives:
            life.result()

    async def _all_end(self) -> None:
        server = self._settings.server
        patience = server.shutdown_notice_seconds + server.shutdown_deadline_seconds + MARGIN_SECONDS
        _, alive = await asyncio.wait(self._lives, timeout=patience)
        if alive:
            logger.warning("relay: some workers do not stop in %g s, killing them", patience)
            self.abandon()
            await asyncio.wait(alive)

    def abandon(self) -> None:
        """All workers end now. Returns at once."""
        self._stopping.set()
        for slot in self.slots:
            slot.kill()

    def reload(self, settings: Settings) -> None:
        """Workers go on with these, and those that come after them begin with them. What cannot change must
        be what it was.
        """
        self._settings = settings
        for slot in self.slots:
            slot.send(Reload(settings))

    # A worker's lives

    async def _keep(self, slot: Slot) -> None:
        short_lives = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                ended = await slot.live(lambda: self._begin(slot))
            except OSError as error:
                ended = f"cannot be started: {os.strerror(error.errno or 0)}"
            self._collection.bury(slot)
            self._note_begun(slot)
            if self._stopping.is_set():
                return
            short_lives = 0 if time.monotonic() - began > LONG_LIFE_SECONDS else short_lives
            rest = RESTS_SECONDS[min(short_lives, len(RESTS_SECONDS) - 1)]
            short_lives += 1
            logger.warning("worker %d: ended (%s), starting another in %g s", slot.number, ended, rest)
            if rest >= LONG_REST_SECONDS:
                slot.unbind()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), rest)
            self._restarts += not self._stopping.is_set()

    def _begin(self, slot: Slot) -> Begin:
        return Begin(
            version=__version__,
            worker=slot.number,
            settings=self._settings,
            unix_socket=self._unix_socket,
            identity_file=self._identity_file,
            known_store=slot.known_store or next((s.known_store for s in self.slots if s.known_store), None),
            api_sockets=slot.api_descriptors,
            metrics_sockets=slot.metrics_descriptors,
        )

    def _on_ready(self, slot: Slot) -> None:
        logger.info("worker %d: pid %d is ready", slot.number, slot.pid)
        self._note_begun(slot)

    def _on_refused(self, slot: Slot, problems: list[str]) -> None:
        if self._has_begun.is_set():
            for problem in problems:
                logger.error("worker %d: %s", slot.number, problem)
        else:
            self._refusal = problems
            self._stopping.set()
            self._has_begun.set()

    def _note_begun(self, slot: Slot) -> None:
        self._begun.add(slot.number)
        if len(self._begun) == len(self.slots):
            self._has_begun.set()

    # What workers ask

    def _on_asked(self, slot: Slot, asked: Asked) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(slot, asked))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def answer(self, question: Question) -> Answer:
        """What all workers that run say together."""
        return await self._collection.answer(question)

    async def _answer(self, slot: Slot, asked: Asked) -> None:
        slot.send(Answered(asked.number, await self.answer(asked.question)))

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._collection.look()
