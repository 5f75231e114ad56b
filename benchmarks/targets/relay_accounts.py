"""This relay with accounts, where one user asks for everything: what it costs to know who asks.

Rates and seats are counted as ever, with limits that the load does not meet.
"""

from __future__ import annotations

import json
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from benchmarks.dialects import RelayDialect
from benchmarks.machine import Placement
from benchmarks.targets.relay import RelayTarget

USER = "bench"
START_SECONDS = 30.0


class RelayAccountsTarget(RelayTarget):
    def __init__(self, directory: Path, placement: Placement, level: str) -> None:
        password = secrets.token_urlsafe()
        variables = {
            "RELAY_AUTH_MODE": "accounts",
            "RELAY_AUTH_JWT_SECRET": secrets.token_urlsafe(48),
            "RELAY_AUTH_BOOTSTRAP_USERNAME": USER,
            "RELAY_AUTH_BOOTSTRAP_PASSWORD": password,
            "RELAY_AUTH_ACCESS_TOKEN_TTL": "2h",
            "RELAY_LIMITS_LOGIN": "off",
            "RELAY_LIMITS_PUBLISH": "10000000/1s",
            "RELAY_LIMITS_READ": "10000000/1s",
            "RELAY_LIMITS_CONNECTIONS_PER_USER": "1000000",
            "RELAY_LIMITS_POLLS_PER_USER": "1000000",
        }
        super().__init__(directory, placement, level, variables)
        token = self._log_in(urllib.parse.urlencode({"username": USER, "password": password}).encode())
        login = f"Authorization: Bearer {token}"
        self._owner = self._ask("/auth/me", None, login)["user_id"]
        self.dialect = RelayDialect(f"{login}\r\n".encode(), f"bearer, bearer.{token}")

    def stored(self, topic: str) -> int:
        return super().stored(f"{self._owner}/{topic}")

    def _log_in(self, form: bytes) -> str:
        """As soon as the relay has made its first user, which it does beside starting."""
        ends = time.monotonic() + START_SECONDS
        while True:
            try:
                return self._ask("/auth/login", form)["access_token"]
            except urllib.error.HTTPError:
                if time.monotonic() > ends:
                    raise
            time.sleep(0.3)

    def _ask(self, path: str, form: bytes | None, login: str = "") -> dict[str, str]:
        name, _, value = login.partition(": ")
        headers = {name: value} if login else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=form, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            told: dict[str, str] = json.load(answer)
            return told
