"""PublishProgress: how far `publish -` has come, as a bar on a terminal."""

from __future__ import annotations

import os
import stat
import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text


class PublishProgress:
    """A bar on standard error while the block runs, nothing at all if that is no terminal.

    Its end is known only where standard input is a file; elsewhere it shows that something moves, and how
    fast.
    """

    def __init__(self, topic: str) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn(topic, markup=False),
            BarColumn(),
            TaskProgressColumn(text_format_no_percentage=""),
            TextColumn("{task.fields[messages]:,} messages"),
            _RateColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=_input_bytes(), messages=0)
        self._messages = 0

    def advance(self, messages: int, bytes_read: int) -> None:
        """`messages` more are done; `bytes_read` of the input were read altogether."""
        self._messages += messages
        self._progress.update(self._task, completed=bytes_read, messages=self._messages)

    def print(self, lines: bytes) -> None:
        """Write result lines to standard output, not into the bar if both are on one terminal."""
        if self._progress.disable or not sys.stdout.isatty():
            sys.stdout.buffer.write(lines)
            sys.stdout.buffer.flush()
        else:
            text = lines.decode("utf-8", "replace").rstrip("\n")
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        elapsed = task.finished_time if task.finished else task.elapsed
        return Text(f"{task.fields['messages'] / elapsed:,.0f}/s" if elapsed else "-/s")


def _input_bytes() -> int | None:
    """Size of what is still to be read, if standard input is a file."""
    status = os.fstat(sys.stdin.fileno())
    if not stat.S_ISREG(status.st_mode):
        return None
    return max(0, status.st_size - os.lseek(sys.stdin.fileno(), 0, os.SEEK_CUR))
