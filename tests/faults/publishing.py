"""A publisher that looks closely at how it is answered; for scenarios that need no load."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import requests

from tests.valkeys import TIMEOUT_SCALE

ANSWER_SECONDS = 20 * TIMEOUT_SCALE


@dataclass(frozen=True)
class Answer:
    """`status` is 0 where no answer came; `code` is the error's word."""

    status: int
    code: str | None
    retry_after: str | None
    message_id: str
    seconds: float


class Publisher:
    """Publishes to one topic over one connection that is kept."""

    def __init__(self, url: str, topic: str) -> None:
        self._address = f"{url}/api/v1/messages"
        self._topic = topic
        self._session = requests.Session()
        self.acknowledged: dict[str, Any] = {}
        """The payload of each message id that was given out, in the order of the answers."""
        self.refusals: list[Answer] = []

    def post(self, payload: Any, *, key: str | None = None, ttl: int | None = None) -> Answer:
        """Send one message once; never raises for what the relay or the network does."""
        began = time.monotonic()
        headers = {} if key is None else {"Idempotency-Key": key}
        body = {"topic": self._topic, "payload": payload, "ttl": ttl}
        try:
            response = self._session.post(self._address, json=body, headers=headers, timeout=ANSWER_SECONDS)
        except requests.RequestException as error:
            answer = Answer(0, type(error).__name__, None, "", time.monotonic() - began)
        else:
            told = response.json()
            answer = Answer(
                response.status_code,
                told.get("error"),
                response.headers.get("Retry-After"),
                told.get("message_id", ""),
                time.monotonic() - began,
            )
        if answer.status == 201:
            self.acknowledged[answer.message_id] = payload
        else:
            self.refusals.append(answer)
        return answer

    def post_until_refused(self, payload: Any, *, most: int = 10_000) -> Answer:
        """Publish until something else than 201 is the answer; returns that."""
        for _ in range(most):
            answer = self.post(payload)
            if answer.status != 201:
                return answer
        raise AssertionError(f"{most} messages were taken, and none refused")

    def post_until_taken(self, payload: Any, *, key: str, seconds: float) -> float:
        """Repeat one message until it is acknowledged; returns how long that took. Fails after `seconds`."""
        began = time.monotonic()
        while self.post(payload, key=key).status != 201:
            assert time.monotonic() - began < seconds, f"not taken: {self.refusals[-1]}"
            time.sleep(0.02)
        return time.monotonic() - began

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_back(url: str, topic: str) -> dict[str, Any]:
    """All messages of the topic by id, in order, through the relay."""
    messages: dict[str, Any] = {}
    cursor: str | None = None
    while True:
        query = {"order": "asc", "limit": "1000"} | ({"cursor": cursor} if cursor else {})
        answer = requests.get(f"{url}/api/v1/topics/{topic}/messages", params=query, timeout=ANSWER_SECONDS)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        messages |= {message["message_id"]: message["payload"] for message in page["messages"]}
        if not page["has_more"]:
            return messages
        cursor = page["next_cursor"]


def readiness(url: str) -> tuple[bool, dict[str, Any]]:
    """Whether `/ready` says so, and its checks."""
    answer = requests.get(f"{url}/ready", timeout=ANSWER_SECONDS)
    told = answer.json()
    assert (answer.status_code == 200) is told["ready"]
    return told["ready"], told["checks"]
