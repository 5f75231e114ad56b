"""Processes that make the load, and how the harness leads them through a scenario."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import traceback
from collections.abc import Callable, Coroutine
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from benchmarks.machine import pin
from benchmarks.processes import HarnessError

Part = Callable[..., Coroutine[Any, Any, Any]]
"""What a player plays: an async function whose first argument is the Stage."""


class Stage:
    """A part's side of the talk with the harness."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def say(self, word: str) -> None:
        """Tell the harness that a point is reached."""
        self._connection.send(("said", word))

    async def hear(self) -> Any:
        """Wait for what the harness tells next."""
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._connection.fileno(), heard.set_result, None)
        try:
            await heard
        finally:
            loop.remove_reader(self._connection.fileno())
            # uvloop leaves it as it needs it itself.
            os.set_blocking(self._connection.fileno(), True)
        return self._connection.recv()


class Player:
    """A process that plays one part after the other."""

    def __init__(self, name: str, cores: frozenset[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_play_parts, args=(theirs, cores), name=name, daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, part: Part, *arguments: Any) -> None:
        self._connection.send((part, arguments))

    def wait_for(self, word: str, seconds: float = 60.0) -> None:
        """Return when the part says `word`. Raises HarnessError if it fails, or says nothing for so long."""
        told = self._receive(seconds)
        if told != ("said", word):
            raise HarnessError(f"{self._process.name} should say {word!r} and told {told}")

    def tell(self, value: Any) -> None:
        """What its `hear` returns."""
        self._connection.send(value)

    def result(self, seconds: float = 60.0) -> Any:
        """What the part returned. Raises HarnessError."""
        kind, value = self._receive(seconds)
        if kind != "returned":
            raise HarnessError(f"{self._process.name} should return and told {(kind, value)}")
        return value

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()

    def _receive(self, seconds: float) -> tuple[str, Any]:
        if not self._connection.poll(seconds):
            raise HarnessError(f"{self._process.name} says nothing for {seconds:g} s")
        kind, value = self._connection.recv()
        if kind == "failed":
            raise HarnessError(f"{self._process.name}: {value}")
        return kind, value


def _play_parts(connection: Connection, cores: frozenset[int]) -> None:
    pin(cores)
    # Nothing here makes cycles worth a pause in the middle of a measurement.
    gc.disable()
    while True:
        try:
            part, arguments = connection.recv()
        except EOFError:
            return
        try:
            told = ("returned", uvloop.run(part(Stage(connection), *arguments)))
        except Exception:  # noqa: BLE001
            told = ("failed", traceback.format_exc())
        connection.send(told)
        gc.collect()
