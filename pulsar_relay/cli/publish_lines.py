"""LinesPublisher: each line of standard input becomes a message, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import click
import msgspec

from pulsar_relay.cli.connection import FailedError
from pulsar_relay.cli.lines import Batches, Line
from pulsar_relay.cli.payload import why_not_json
from pulsar_relay.cli.publish_progress import PublishProgress
from pulsar_relay.client.errors import ClientError
from pulsar_relay.client.publisher import Publisher, PublishResult


class _LineResult(msgspec.Struct, omit_defaults=True):
    line: int
    status: str
    topic: str | None
    message_id: str | None = None
    code: str | None = None
    error: str | None = None


class LinesPublisher:
    """Publishes batches under keys made of `key` and each line's number; prints a result for each line.

    With `quiet`, only the totals at the end.
    """

    def __init__(
        self, publisher: Publisher, topic: str, key: str, progress: PublishProgress, *, quiet: bool
    ) -> None:
        self._publisher = publisher
        self._topic = topic
        self._key = key
        self._progress = progress
        self._is_quiet = quiet
        self._accepted = 0
        self._rejected = 0
        self._last_line = 0

    def run(self, runner: asyncio.Runner, batches: Batches) -> bool:
        """Publish everything; True if no line was rejected. Reading blocks, and so Ctrl-C ends it at once.

        Raises FailedError if the relay could not be brought to take a batch: it says where to go on.
        """
        with self._progress:
            try:
                for batch in batches:
                    results = runner.run(self._publish(batch))
                    self._note(results, batches.bytes_read)
            except ClientError as error:
                raise FailedError(error, self._standing()) from error
            except KeyboardInterrupt:
                click.echo(f"interrupted: {self._standing()}", err=True)
                raise
        if self._is_quiet:
            totals = {"total": self._accepted + self._rejected}
            totals |= {"accepted": self._accepted, "rejected": self._rejected}
            click.echo(msgspec.json.encode(totals))
        return not self._rejected

    async def _publish(self, batch: Sequence[Line]) -> list[_LineResult]:
        """One line that is no JSON would make no JSON of the whole request, so it never gets into it."""
        refused = {line.number: reason for line in batch if (reason := why_not_json(line.text))}
        sent = [line for line in batch if line.number not in refused]
        results = {
            number: _LineResult(number, "rejected", self._topic, code="invalid_json", error=reason)
            for number, reason in refused.items()
        }
        if sent:
            keys = [f"{self._key}-{line.number}" for line in sent]
            answers = await self._publisher.publish_all([line.text for line in sent], keys)
            for line, answer in zip(sent, answers, strict=True):
                results[line.number] = self._result(line.number, answer)
        return [results[line.number] for line in batch]

    def _result(self, number: int, answer: PublishResult) -> _LineResult:
        return _LineResult(number, answer.status, self._topic, answer.message_id, answer.code, answer.error)

    def _note(self, results: Sequence[_LineResult], bytes_read: int) -> None:
        accepted = sum(result.status == "accepted" for result in results)
        self._accepted += accepted
        self._rejected += len(results) - accepted
        self._last_line = results[-1].line
        if not self._is_quiet:
            self._progress.print(b"".join(_encode(result) + b"\n" for result in results))
        self._progress.advance(len(results), bytes_read)

    def _standing(self) -> str:
        if not self._last_line:
            return "nothing is known to be stored."
        return f"done up to line {self._last_line}: {self._accepted} stored, {self._rejected} rejected."


_encode = msgspec.json.Encoder().encode
