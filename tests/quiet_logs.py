"""Tests of the front end are quiet: a warning or an error in the log that no test asked for is a failure."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def quiet_logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """In effect for a module that imports it. A test that expects a record clears `caplog` once seen."""
    yield
    records = [record for when in ("setup", "call") for record in caplog.get_records(when)]
    unexpected = [record for record in records if record.levelno >= logging.WARNING]
    assert not unexpected, [
        f"{record.name}: {record.getMessage()} {record.exc_info or ''}" for record in unexpected
    ]
