"""Member: a worker's process, as its supervisor starts it: `python -m pulsar_relay.supervision.member FD`.

Not for people: what it needs comes over the descriptor FD. When that ends, so does the worker, in order: its
supervisor is gone.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys

from pulsar_relay import __version__, logs
from pulsar_relay.config import ConfigError
from pulsar_relay.keys import secrets_in
from pulsar_relay.loops import loop_factory
from pulsar_relay.server import Worker
from pulsar_relay.settings import Settings
from pulsar_relay.supervision.channel import Channel
from pulsar_relay.supervision.crew import Supervised
from pulsar_relay.supervision.listening import listen
from pulsar_relay.supervision.notes import (
    Answered,
    Begin,
    Collect,
    Contributed,
    Ready,
    Refused,
    Reload,
    decode_to_worker,
    encode,
)
from pulsar_relay.supervision.parts import Question, What

logger = logging.getLogger(__name__)

UNUSABLE = 2
"""Exit code of a worker that refuses its settings."""


class Member:
    """A worker under a supervisor, which it hears and speaks to over `channel`."""

    def __init__(self, channel: Channel, begin: Begin) -> None:
        """Raises ConfigError."""
        self._channel = channel
        self._begin = begin
        self._crew = Supervised(lambda asked: channel.send(encode(asked)))
        self._worker = Worker(
            begin.settings,
            begin.unix_socket,
            begin.identity_file,
            known_store=begin.known_store,
            make_crew=lambda _: self._crew,
        )
        self._parts: set[asyncio.Task[None]] = set()
        self._is_orphan = False

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until told to stop. Raises ConfigError if it cannot begin."""
        loop = asyncio.get_running_loop()
        hearing: asyncio.Task[None] | None = None
        stop = loop.create_task(stopping.wait())
        try:
            starting = loop.create_task(
                self._worker.start(
                    lambda: (listen(self._begin.api_sockets), listen(self._begin.metrics_sockets))
                )
            )
            await asyncio.wait((starting, stop), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                hearing = loop.create_task(self._hear(stopping), name="supervisor")
                self._channel.send(encode(Ready()))
                await stop
            elif starting.cancel():
                await asyncio.wait((starting,))
        finally:
            stop.cancel()
            # Without a supervisor nobody can be told for all, and a relay that is started now needs the port.
            await self._worker.stop(gives_notice=not self._is_orphan)
            await self._contribute(0, Question(What.METRICS))
            await self._channel.flush()
            if hearing is not None:
                hearing.cancel()

    async def _hear(self, stopping: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        async for data in self._channel.notes():
            match decode_to_worker(data):
                case Collect(number, question):
                    task = loop.create_task(self._contribute(number, question))
                    self._parts.add(task)
                    task.add_done_callback(self._parts.discard)
                case Answered() as answered:
                    self._crew.take(answered)
                case Reload(settings):
                    _set_up_logs(settings, self._begin.worker)
                    self._worker.reload(settings)
        if not stopping.is_set():
            logger.warning("relay: the supervisor is gone, stopping")
            self._is_orphan = True
            stopping.set()

    async def _contribute(self, number: int, question: Question) -> None:
        part = await self._worker.part(question)
        self._channel.send(encode(Contributed(number, part, self._worker.known_store)))


async def _serve(connection: socket.socket) -> int:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    channel = await Channel.over(connection)
    data = await channel.receive()
    if data is None:
        return 0
    begin = decode_to_worker(data)
    assert isinstance(begin, Begin)
    _set_up_logs(begin.settings, begin.worker)
    if begin.version != __version__:
        # Installed over while the relay runs. Whether the two would understand each other nobody has tried.
        logger.error(
            "worker: is of version %s, and its supervisor of %s: restart the relay",
            __version__,
            begin.version,
        )
        return 1
    try:
        await Member(channel, begin).run(stopping)
    except ConfigError as error:
        channel.send(encode(Refused(list(error.problems))))
        await channel.flush()
        channel.close()
        return UNUSABLE
    return 0


def _set_up_logs(settings: Settings, worker: int) -> None:
    logs.set_up(settings.log, stream=sys.stderr, secrets=list(secrets_in(settings)), worker=worker)


def main() -> None:
    """Ends the process with the worker's exit code."""
    # Those are for the supervisor, which tells its workers in its own way.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    # What is loaded by now lives as long as the process: no garbage collection has to look at it again.
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        code = runner.run(_serve(connection))
    sys.exit(code)


if __name__ == "__main__":
    main()
