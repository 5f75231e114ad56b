"""The API document and its page, as they are served."""

from __future__ import annotations

import pytest
import requests

from pulsar_relay import apidoc
from pulsar_relay.settings import Settings
from tests.conditions import WAIT_SECONDS
from tests.quiet_logs import quiet_logs as quiet_logs
from tests.workers import RunningWorker


def test_the_document_is_the_one_that_is_made_of_the_settings(relay: RunningWorker) -> None:
    answer = requests.get(f"{relay.url}/openapi.json", timeout=WAIT_SECONDS)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == apidoc.document(Settings())


def test_the_page_shows_the_document_and_may_load_nothing_else(relay: RunningWorker) -> None:
    answer = requests.get(f"{relay.url}/docs", timeout=WAIT_SECONDS)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"] == apidoc.PAGE_POLICY
    assert answer.content == apidoc.page(apidoc.document(Settings()))


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_both_answer_head(relay: RunningWorker, path: str) -> None:
    got = requests.get(relay.url + path, timeout=WAIT_SECONDS)
    head = requests.head(relay.url + path, timeout=WAIT_SECONDS)
    assert head.content == b""
    assert int(head.headers["Content-Length"]) == len(got.content)
