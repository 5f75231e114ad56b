"""Messages in and out over plain HTTP, for tests of what shows them."""

from __future__ import annotations

import json

import requests

from tests.conditions import WAIT_SECONDS

NASTY = (
    '{"a": "<script>window.hurt = 1</script></script><img src=x onerror=\'window.hurt = 2\'>",'
    ' "b": "it\'s \\"quoted\\" `id` $HOME \\\\ !! &amp;",'
    ' "c": "\u2028\u2029\u202eabc\u0085", "d": 12345678901234567890,'
    ' "d": 1.50, "e" :[ {} , []]}'
)
"""What could become markup, code or another number on its way to the reader's eye."""


def publish(url: str, topic: str, payload: object, **headers: str) -> None:
    send(url, topic, json.dumps(payload), **headers)


def send(url: str, topic: str, payload: str, **headers: str) -> None:
    """The payload as it stands."""
    body = f'{{"topic": "{topic}", "payload": {payload}}}'.encode()
    headers = {"Content-Type": "application/json"} | headers
    requests.post(f"{url}/api/v1/messages", body, headers=headers, timeout=WAIT_SECONDS).raise_for_status()


def stored(url: str, topic: str) -> list[object]:
    query = {"order": "asc", "limit": 1000}
    answer = requests.get(f"{url}/api/v1/topics/{topic}/messages", query, timeout=WAIT_SECONDS)
    return [message["payload"] for message in answer.json().get("messages", ())]
