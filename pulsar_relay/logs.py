"""How log records look: a line for people on a terminal, a JSON object a line elsewhere.

The only module that touches `logging`'s set-up, and only what a process begins with calls it; everything else
just has a `logger`. A record is one line whatever its arguments hold, so nobody can forge a line by the name
of a topic. (For people, an exception's traceback follows, indented; in JSON it is a field.)
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Collection
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

from pulsar_relay.settings import LogSettings

logger = logging.getLogger(__name__)

_OUR_LOGGERS = ("pulsar_relay", "actors")
_AUDIT_LOGGER = "pulsar_relay.accounts.audit"
_MASK = "********"
# What every record has; anything else on one was put there by `extra=`.
_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def set_up(
    settings: LogSettings, *, stream: TextIO, secrets: Collection[str] = (), worker: int | None = None
) -> None:
    """Send every record of this process to `stream`, in place of all handlers there were. Each names the
    `worker`, if this process is one of several.

    `settings.level` is for the relay's own records, but for those of the audit, which are always shown; of
    libraries only warnings and worse are. Python's warnings and exceptions that nobody caught become records
    too. `secrets` are masked wherever they appear.
    """
    handler = logging.StreamHandler(stream)
    is_text = settings.format == "text" or (settings.format == "auto" and stream.isatty())
    handler.setFormatter((TextFormatter if is_text else JsonFormatter)(secrets, worker))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    root.setLevel(max(level, logging.WARNING))
    for name in _OUR_LOGGERS:
        logging.getLogger(name).setLevel(level)
    # A record of who did what is no chatter that a level could be too high for.
    logging.getLogger(_AUDIT_LOGGER).setLevel(logging.INFO)
    # One line a request, and a warning for each 404: what requests do is in the metrics.
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL + 1)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


class _Formatter(logging.Formatter):
    """What both formats share: a message that is always there, and no secret in any text."""

    def __init__(self, secrets: Collection[str], worker: int | None) -> None:
        super().__init__()
        self.worker = worker
        # Longest first: one secret may be part of another.
        self._secrets = sorted((secret for secret in secrets if secret), key=len, reverse=True)

    def _mask(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        return text

    def _message(self, record: logging.LogRecord) -> str:
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            # Arguments that do not fit the format are a bug, and no reason to lose what was to be said.
            message = f"{record.msg} {record.args!r}"
        return self._mask(message)

    def _extras(self, record: logging.LogRecord) -> dict[str, object]:
        return {
            name: value if isinstance(value, int | float | None) else self._mask(str(value))
            for name, value in vars(record).items()
            if name not in _STANDARD_ATTRIBUTES
        }

    def _exception(self, record: logging.LogRecord) -> str:
        """The traceback, or nothing; with the stack, if the record asks for it."""
        parts = []
        if record.exc_info and record.exc_info[0] is not None:
            parts.append(self.formatException(record.exc_info))
        if record.stack_info:
            parts.append(self.formatStack(record.stack_info))
        return self._mask("\n".join(parts))


class TextFormatter(_Formatter):
    """`2026-01-31 12:00:00.123 info    topic a: trimmed 7 messages`, in local time."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).astimezone()
        extras = "".join(f" {name}={value}" for name, value in self._extras(record).items())
        extras += "" if self.worker is None else f" worker={self.worker}"
        line = _one_line(self._message(record) + extras)
        text = f"{time:%Y-%m-%d %H:%M:%S}.{time.microsecond // 1000:03} {record.levelname.lower():7} {line}"
        traceback = "".join(
            f"\n    {_one_line(line)}" for line in self._exception(record).split("\n") if line
        )
        return text + traceback


class JsonFormatter(_Formatter):
    """One object a line: timestamp (UTC), level, logger, message, what `extra=` holds, and any exception."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        fields: dict[str, object] = {
            "timestamp": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._message(record),
        }
        if self.worker is not None:
            fields["worker"] = self.worker
        exception = self._exception(record)
        if exception:
            fields["exception"] = exception
        for name, value in self._extras(record).items():
            fields.setdefault(name, value)
        try:
            return json.dumps(fields, allow_nan=False)
        except ValueError:
            # JSON has no NaN and no Infinity; as text they are at least to be seen.
            return json.dumps({name: str(value) for name, value in fields.items()})


def _one_line(text: str) -> str:
    """`text` with what is not printable (line ends, terminal escapes, lone surrogates) written out."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        logger.critical("relay: uncaught exception", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(uncaught: threading.ExceptHookArgs) -> None:
    error = uncaught.exc_value
    if error is not None:
        name = uncaught.thread.name if uncaught.thread else "that has ended"
        logger.critical("thread %s: uncaught exception", name, exc_info=error)
