"""Lines of standard input, in batches: as they come, or filled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

READ_BYTES = 1024 * 1024


class Readable(Protocol):
    def read1(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank, without the blanks around it. The first line of the input has number 1."""

    number: int
    text: bytes


class Batches:
    """Cuts a stream into batches of at most `max_lines` lines and, beyond one line, `max_bytes` bytes.

    A batch is what has come so far, so that a line of a slow producer does not wait for the next. With
    `fills`, all batches but the last are full: the same input then always makes the same batches.
    `bytes_read` counts.
    """

    def __init__(self, stream: Readable, *, max_lines: int, max_bytes: int, fills: bool) -> None:
        self._stream = stream
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._fills = fills
        self.bytes_read = 0

    def __iter__(self) -> Iterator[list[Line]]:
        batch: list[Line] = []
        size_bytes = 0
        for line in self._lines():
            is_pause = line is None
            if line is not None:
                if batch and size_bytes + len(line.text) > self._max_bytes:
                    yield batch
                    batch, size_bytes = [], 0
                batch.append(line)
                size_bytes += len(line.text)
            if batch and (len(batch) >= self._max_lines or (is_pause and not self._fills)):
                yield batch
                batch, size_bytes = [], 0
        if batch:
            yield batch

    def _lines(self) -> Iterator[Line | None]:
        """The lines, with a None where reading on may have to wait."""
        number = 0
        rest = bytearray()
        while chunk := self._stream.read1(READ_BYTES):
            self.bytes_read += len(chunk)
            *complete, tail = chunk.split(b"\n")
            for end in complete:
                rest += end
                number += 1
                text = bytes(rest).strip()
                rest.clear()
                if text:
                    yield Line(number, text)
            rest += tail
            yield None
        text = bytes(rest).strip()
        if text:
            yield Line(number + 1, text)
