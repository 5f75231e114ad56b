"""The guide for who comes from pulsar-relay 0.2, step by step, with a real one and clients that live on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from pulsar_relay_client import CredentialsFile, HttpRelayClient, RelayTransport

from tests.commands import CommandLine
from tests.conditions import WAIT_SECONDS, until
from tests.predecessors import ADMIN, PASSWORD, Predecessor
from tests.relays import REPOSITORY, RelayProcess
from tests.valkeys import RealValkey

GUIDE = (REPOSITORY / "docs" / "migrating.md").read_text()


def payloads(messages: list[dict[str, Any]]) -> list[Any]:
    return [message["payload"]["n"] for message in messages]


@pytest.mark.timeout(300)
@pytest.mark.system
def test_clients_go_on_where_they_were_with_what_they_have(
    predecessor: tuple[Predecessor, RealValkey],
    make_relay_process: Callable[..., RelayProcess],
    tmp_path: Path,
) -> None:
    server, _ = predecessor
    line = CommandLine("http://127.0.0.1:1", tmp_path)

    def type_in(command: str) -> str:
        assert f"{command}`" in GUIDE or f"{command}\n" in GUIDE or f"{command} " in GUIDE
        done = line.run(*command.split()[1:], variables=server.variables)
        assert done.code == 0, done.errors
        return done.text

    folder = tmp_path / "pulsar"
    folder.mkdir(mode=0o700)
    credentials = CredentialsFile(str(folder / "relay_credentials.json"))
    with server:
        url = server.url
        credentials.save({"refresh_token": server.login()["refresh_token"]})
        user = HttpRelayClient(url).whoami(server.login()["access_token"])["user_id"]
        daemon = RelayTransport(
            url, credentials_file=credentials.path, cursor_path=str(folder / "cursors.json")
        )
        galaxy = RelayTransport(url, ADMIN, PASSWORD)
        first = galaxy.post_message("job_setup", {"n": 0})["message_id"]
        daemon.set_last_message_id("job_setup", first)
        galaxy.post_message("job_setup", {"n": 1})
        assert payloads(daemon.long_poll(["job_setup"], 10)) == [1]
        for number in (2, 3):
            galaxy.post_message("job_setup", {"n": number})
        assert "secret" not in type_in("pulsar-relay config check").lower()
        assert server.secret not in type_in("pulsar-relay config show")
        assert "nothing was written" in type_in("pulsar-relay migrate --dry-run")
    assert "topics copied: 1 with 4 messages" in type_in("pulsar-relay migrate")
    assert "topics copied: 0 with 0 messages" in type_in("pulsar-relay migrate")
    former = credentials.load()["refresh_token"]
    port = urlsplit(url).port or 0
    relay = make_relay_process(variables=server.variables, port=port).start()
    assert relay.url == url
    until(lambda: requests.get(f"{url}/ready", timeout=WAIT_SECONDS).ok, "the relay is ready")
    # The same clients, and a daemon that is started anew: old cursors, old refresh token, old password.
    assert payloads(daemon.long_poll(["job_setup"], 10)) == [2, 3]
    again = RelayTransport(url, credentials_file=credentials.path, cursor_path=str(folder / "cursors.json"))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(again.long_poll, ["job_setup"], 30)
        galaxy.post_message("job_setup", {"n": 4})
        assert payloads(waiting.result(WAIT_SECONDS)) == [4]
    assert credentials.load()["refresh_token"] != former
    client = HttpRelayClient(url)
    token = galaxy.auth_manager.get_token()
    assert client.whoami(token)["user_id"] == user
    history = client.fetch_messages(token, "job_setup", limit=100, order="asc")["messages"]
    assert payloads(history) == [0, 1, 2, 3, 4] and history[0]["message_id"] == first
    assert relay.stop() == 0
    # And back: there nobody has seen any of it.
    with server:
        body = HttpRelayClient(server.url).exchange_refresh_token(former)
        page = HttpRelayClient(server.url).fetch_messages(body["access_token"], "job_setup", order="asc")
        assert payloads(page["messages"]) == [0, 1, 2, 3]
