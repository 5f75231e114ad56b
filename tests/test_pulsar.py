"""Pulsar 0.16 from PyPI, unchanged: its daemon runs what its own client manager submits, over this relay."""

from __future__ import annotations

import fcntl
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from pulsar_relay_client import CredentialsFile, HttpRelayClient, RelayAuthManager

from benchmarks.python_environment import python_with
from benchmarks.targets.target import CannotError
from tests.accounts import SECRET
from tests.conditions import WAIT_SECONDS, until
from tests.programs import running
from tests.relays import REPOSITORY, RelayProcess, environment
from tests.valkeys import RealValkey

REQUIREMENTS = "pulsar-app==0.16.0 pulsar-relay-client==0.2.2"
ENVIRONMENT = REPOSITORY / ".bench" / "pulsar-app-0.16.0"
USER, PASSWORD = "galaxy", "the password of Galaxy"
VALKEY_PASSWORD = "not-to-be-guessed"
OURS = {
    "RELAY_AUTH_MODE": "accounts",
    "RELAY_AUTH_JWT_SECRET": SECRET,
    "RELAY_AUTH_BOOTSTRAP_USERNAME": USER,
    "RELAY_AUTH_BOOTSTRAP_PASSWORD": PASSWORD,
}
FORMER = {
    "PULSAR_STORAGE_BACKEND": "valkey",
    "PULSAR_JWT_SECRET_KEY": SECRET,
    "PULSAR_BOOTSTRAP_ADMIN_USERNAME": USER,
    "PULSAR_BOOTSTRAP_ADMIN_PASSWORD": PASSWORD,
    "PULSAR_ALLOWED_ORIGINS": '["https://galaxy.example.org"]',
    "PULSAR_TRUSTED_HOSTS": '["127.0.0.1"]',
    "PULSAR_ACCESS_TOKEN_EXPIRE_MINUTES": "10",
    "PULSAR_MAX_BODY_BYTES": "33554432",
    "PULSAR_LOG_LEVEL": "INFO",
}
"""What a deployment of pulsar-relay 0.2 sets, as it may stay."""
UPDATES = "job_status_update"

pytestmark = [pytest.mark.system, pytest.mark.nodes]


@pytest.fixture(scope="session")
def pulsar_python() -> Path:
    """Pulsar's Python; made on first use, which takes minutes, and kept."""
    ENVIRONMENT.parent.mkdir(exist_ok=True)
    with (ENVIRONMENT.parent / "pulsar-app.lock").open("w") as lock:
        # Tests run in several processes, and one makes it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return python_with(REQUIREMENTS, ENVIRONMENT)
        except CannotError as error:
            pytest.skip(f"pulsar-app {error}")


class Deployment:
    """A Valkey, a relay over it, a Pulsar daemon that signs in with a refresh token, and the client manager
    of a Galaxy that does so with a password: both the same user, as they have to be.
    """

    def __init__(self, python: Path, valkey: RealValkey, relay: RelayProcess, folder: Path) -> None:
        self._python, self.valkey, self.relay, self._folder = python, valkey, relay, folder
        self._ending = ExitStack()

    def start(self) -> None:
        self.relay.start()
        self._wait_until_ready()
        self._manager = RelayAuthManager(self.relay.url, USER, PASSWORD)
        self.daemon = self._ending.enter_context(self._run_daemon())
        arguments = (self.relay.url, USER, PASSWORD, str(self._folder), str(self._folder / "staging"))
        self._updates = self._folder / "updates.log"
        self._errors = self._folder / "client_manager.log"
        with self._updates.open("wb") as output, self._errors.open("wb") as errors:
            self._galaxy = subprocess.Popen(
                [self._python, REPOSITORY / "tests" / "pulsar_client_manager.py", *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
                env=environment(),
            )
        self._ending.callback(self._end_galaxy)
        for topic in ("job_setup", UPDATES):
            until(lambda: topic in self._polled(), f"a poll of {topic} waits")  # noqa: B023
        # Who was never answered has no place that it could go on from.
        self.submit("job-0", "true")
        self.wait_for("complete", "job-0")

    def stop(self) -> None:
        """The daemon and the Galaxy; whatever of them there is."""
        self._ending.close()

    def _end_galaxy(self) -> None:
        assert self._galaxy.stdin is not None
        self._galaxy.stdin.close()
        self._galaxy.kill()
        self._galaxy.wait()

    def _run_daemon(self) -> Any:
        # The client wants its credentials where nobody else can write.
        folder = self._folder / "pulsar"
        folder.mkdir(mode=0o700)
        credentials = CredentialsFile(str(folder / "relay_credentials.json"))
        form = {"username": USER, "password": PASSWORD}
        answer = requests.post(f"{self.relay.url}/auth/login", data=form, timeout=WAIT_SECONDS)
        credentials.save({"refresh_token": answer.json()["refresh_token"]})
        settings = {
            "message_queue_url": self.relay.url,
            "message_queue_credentials_file": credentials.path,
            "staging_directory": str(self._folder / "staging"),
            "persistence_directory": str(folder / "persisted"),
            "conda_auto_init": False,
        }
        (folder / "app.yml").write_text(json.dumps(settings))
        arguments = ["-m", "pulsar.main", "-c", folder, "--app_conf_path", folder / "app.yml"]
        return running([self._python, *arguments], folder, environment())

    def _wait_until_ready(self) -> None:
        url = f"{self.relay.url}/ready"
        until(lambda: requests.get(url, timeout=WAIT_SECONDS).ok, "the relay is ready")

    def _ask(self, path: str) -> Any:
        bearer = {"Authorization": f"Bearer {self._manager.get_token()}"}
        return requests.get(self.relay.url + path, headers=bearer, timeout=WAIT_SECONDS).json()

    def _polled(self) -> set[str]:
        counts = self._ask("/messages/poll/stats")["topic_subscriber_counts"]
        return {name.rpartition("/")[2] for name in counts}

    def submit(self, job_id: str, command: str) -> None:
        assert self._galaxy.stdin is not None
        self._galaxy.stdin.write(json.dumps({"job_id": job_id, "command": command}).encode() + b"\n")
        self._galaxy.stdin.flush()

    def repeats(self) -> int:
        """How often a publish of either was to be repeated."""
        return (self._errors.read_text() + self.daemon.log).count("post_message ")

    def wait_for_repeat(self, since: int) -> None:
        until(lambda: self.repeats() > since, "a publish fails")

    def updates(self) -> list[dict[str, Any]]:
        """What Galaxy was told, in this order."""
        whole, _, _ = self._updates.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def updates_of(self, job_id: str) -> list[dict[str, Any]]:
        return [update for update in self.updates() if update["job_id"] == job_id]

    def wait_for(self, status: str, job_id: str) -> None:
        until(lambda: status in [one["status"] for one in self.updates_of(job_id)], f"{job_id} is {status}")

    def wait_until_all_is_told(self) -> None:
        """Galaxy has been told all that is in the topic now."""
        body = {"topic": UPDATES, "payload": {"status": "the last", "job_id": "none"}}
        bearer = {"Authorization": f"Bearer {self._manager.get_token()}"}
        url = f"{self.relay.url}/api/v1/messages"
        assert requests.post(url, json=body, headers=bearer, timeout=WAIT_SECONDS).ok
        self.wait_for("the last", "none")

    def stored(self) -> list[dict[str, Any]]:
        client = HttpRelayClient(self.relay.url)
        page = client.fetch_messages(self._manager.get_token(), UPDATES, limit=100, order="asc")
        return [message["payload"] for message in page["messages"]]


def kill_and_start(part: RealValkey | RelayProcess, meanwhile: Callable[[], None]) -> None:
    part.kill()
    meanwhile()
    part.start()


@pytest.fixture(params=["our settings", "those of pulsar-relay 0.2"])
def deployment(
    request: pytest.FixtureRequest,
    pulsar_python: Path,
    make_valkey: Callable[..., RealValkey],
    make_relay_process: Callable[..., RelayProcess],
    tmp_path: Path,
) -> Iterator[Deployment]:
    if request.param == "our settings":
        valkey = make_valkey().start()
        relay = make_relay_process("--set", f"valkey.unix_socket={valkey.socket_path}", variables=OURS)
    else:
        valkey = make_valkey(tcp=True, settings={"requirepass": VALKEY_PASSWORD}).start()
        where = {
            "PULSAR_VALKEY_HOST": valkey.host,
            "PULSAR_VALKEY_PORT": str(valkey.port),
            "PULSAR_VALKEY_PASSWORD": VALKEY_PASSWORD,
        }
        relay = make_relay_process(variables=FORMER | where)
    deployment = Deployment(pulsar_python, valkey, relay, tmp_path)
    try:
        deployment.start()
        yield deployment
    finally:
        deployment.stop()


@pytest.mark.timeout(90, func_only=True)
@pytest.mark.parametrize("first", ["valkey", "relay"])
def test_a_job_ends_in_one_terminal_status_though_valkey_and_relay_are_killed_on_the_way(
    deployment: Deployment, tmp_path: Path, first: str
) -> None:
    """One while the job is submitted, the other while its end is told."""
    parts: list[RealValkey | RelayProcess] = [deployment.valkey, deployment.relay]
    at_launch, at_end = parts if first == "valkey" else reversed(parts)
    gate = tmp_path / "may_end"
    # A minute at most, so that a test that fails leaves nothing behind.
    wait = f"for _ in $(seq 600); do [ -e {gate} ] && break; sleep 0.1; done"

    def launch() -> None:
        before = deployment.repeats()
        deployment.submit("job-1", f"{wait}; echo said; echo written > {{output}}")
        deployment.wait_for_repeat(before)

    def end() -> None:
        before = deployment.repeats()
        gate.touch()
        deployment.wait_for_repeat(before)

    kill_and_start(at_launch, launch)
    deployment.wait_for("running", "job-1")
    kill_and_start(at_end, end)
    deployment.wait_for("complete", "job-1")
    deployment.wait_until_all_is_told()
    told = deployment.updates_of("job-1")
    assert [one["status"] for one in told if one["complete"] == "true"] == ["complete"]
    assert told[-1]["returncode"] == 0 and told[-1]["job_stdout"] == "said\n"
    assert (tmp_path / "job-1" / "output.txt").read_text() == "written\n"
    assert [one for one in deployment.stored() if one["job_id"] == "job-1"] == told
