"""BackupProgress: how far a backup or a restore has come, as a bar on a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class BackupProgress:
    """A bar on standard error while the block runs, nothing at all if that is no terminal."""

    def __init__(self, noun: str = "messages") -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} " + noun),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            disable=not console.is_terminal,
            # What was done is told in a line of its own; a bar that ended between two looks would belie it.
            transient=True,
        )
        self._task = self._progress.add_task("", total=0)

    def expect(self, messages: int) -> None:
        self._progress.update(self._task, total=messages)

    def advance(self, messages: int, topic: str) -> None:
        self._progress.update(self._task, advance=messages, description=topic)

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)
