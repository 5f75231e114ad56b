"""`pulsar-relay` 0.2.1 from PyPI, in a virtual environment of its own, logged in as its users are."""

from __future__ import annotations

import json
import secrets
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from benchmarks.dialects import RelayDialect
from benchmarks.machine import Placement
from benchmarks.processes import Program, free_port
from benchmarks.python_environment import python_with
from benchmarks.targets.target import CannotError
from benchmarks.valkeys import BenchValkey

REQUIREMENT = "pulsar-relay==0.2.1"
ENVIRONMENT = Path(__file__).parent.parent.parent / ".bench" / "pulsar-relay-0.2.1"
_LIVE_ONLY = "its WebSockets begin now, whatever offset they name"


class PredecessorTarget:
    def __init__(self, directory: Path, placement: Placement, level: str) -> None:
        if level == "replica":
            raise CannotError("has no durability levels; its Valkey may have any")
        python = environment()
        self.valkey: BenchValkey | None = BenchValkey(directory, placement.store, level)
        self._valkey = self.valkey
        self.port = free_port()
        password = secrets.token_urlsafe()
        variables = {
            "PULSAR_STORAGE_BACKEND": "valkey",
            "PULSAR_VALKEY_HOST": "127.0.0.1",
            "PULSAR_VALKEY_PORT": str(self._valkey.port),
            "PULSAR_JWT_SECRET_KEY": secrets.token_urlsafe(48),
            # Its guard wants a password at Valkey, origins, hosts; none of that is on the measured path.
            "PULSAR_ALLOW_INSECURE_DEFAULTS": "1",
            "PULSAR_BOOTSTRAP_ADMIN_USERNAME": "bench",
            "PULSAR_BOOTSTRAP_ADMIN_PASSWORD": password,
            "PULSAR_TRUSTED_HOSTS": '["*"]',
            "PULSAR_WS_MAX_PER_USER": "100000",
            "PULSAR_WS_IDLE_SECONDS": "3600",
            "PULSAR_ACCESS_TOKEN_EXPIRE_MINUTES": "120",
            "PULSAR_LOG_LEVEL": "WARNING",
            "RATELIMIT_ENABLED": "false",
        }
        command = [str(python), "-m", "uvicorn", "pulsar_relay.main:app", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1", "--no-access-log", "--log-level", "warning"]
        log = directory / "pulsar-relay.log"
        self._program = Program(command, placement.worker, log, variables)
        self._program.wait_for_port(self.port)
        self.pid = self._program.pid
        token = self._log_in(password)
        self.dialect = RelayDialect(
            login=f"Authorization: Bearer {token}\r\n".encode(),
            subprotocols=f"bearer, bearer.{token}",
            client_id="bench",
            page_messages=0,
        )
        self.versions: Mapping[str, str] = {"pulsar-relay": "0.2.1", "valkey": self._valkey.version}
        self.cannot: Mapping[str, str] = {
            "sse": "has no event streams",
            "websocket publishing": "its WebSockets only receive",
            "ndjson": "takes no NDJSON",
            "websocket resume": _LIVE_ONLY,
            "hot buffer": "keeps no messages in memory",
        }

    def stored(self, topic: str) -> int:
        return int(str(self._valkey.command("XLEN", f"stream:topic:{self._owner}/{topic}")))

    def stop(self) -> None:
        self._program.stop()
        self._valkey.stop()

    def _log_in(self, password: str) -> str:
        form = urllib.parse.urlencode({"username": "bench", "password": password}).encode()
        token = str(self._ask("/auth/login", form)["access_token"])
        self._owner = self._ask("/auth/me", None, {"Authorization": f"Bearer {token}"})["user_id"]
        return token

    def _ask(self, path: str, form: bytes | None, headers: Mapping[str, str] | None = None) -> dict[str, str]:
        address = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(address, data=form, headers=dict(headers or {}))
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            told: dict[str, str] = json.load(answer)
            return told


def environment() -> Path:
    """Its Python, made on first use. Raises CannotError."""
    return python_with(REQUIREMENT, ENVIRONMENT)
