"""The client library that Galaxy and Pulsar use, unchanged, at a relay with accounts: each of its public
methods, and what it does by itself when it is refused, cut off or too early.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from pulsar_relay_client import (
    CredentialsFile,
    HttpRelayClient,
    InMemoryCredentialsStore,
    RefreshTokenAuthenticator,
    RefreshTokenRejectedError,
    RelayAuthError,
    RelayAuthManager,
    RelayClientError,
    RelayDeviceFlowAuthenticator,
    RelayTransport,
    RelayTransportError,
    build_auth_manager,
    default_relay_client_factory,
)

from pulsar_relay.kinds import Rate
from tests.account_relays import ADMIN, AccountRelay
from tests.account_relays import PASSWORD as ADMIN_PASSWORD
from tests.account_relays import account_relay as account_relay
from tests.account_relays import make_account_relay as make_account_relay
from tests.accounts import SECRET
from tests.conditions import WAIT_SECONDS, until
from tests.people import accounts_of
from tests.relays import RelayProcess
from tests.sign_ins import Browser
from tests.valkeys import RealValkey

MakeRelay = Callable[..., AccountRelay]


class User:
    """Of a relay's, with all the ways of the client's to be this user."""

    def __init__(self, relay: AccountRelay, folder: Path) -> None:
        made = relay.new_user("read", "write")
        self.relay, self.id, self.name, self.password = (
            relay,
            made["user_id"],
            made["username"],
            made["password"],
        )
        # The client wants its credentials where nobody else can write.
        self.folder = folder / f"of-{self.name}"
        self.folder.mkdir(mode=0o700)
        self.credentials = CredentialsFile(str(self.folder / "credentials.json"))

    def manager(self, **arguments: Any) -> RelayAuthManager:
        return RelayAuthManager(self.relay.url, self.name, self.password, **arguments)

    def sign_in(self) -> str:
        """The refresh token of a session of its own."""
        token: str = self.relay.login(self.name, self.password).json()["refresh_token"]
        return token

    def transport(self, **arguments: Any) -> RelayTransport:
        """With a refresh token in a file, as daemons are set up."""
        if not self.credentials.exists():
            self.credentials.save({"relay_url": self.relay.url, "refresh_token": self.sign_in()})
        return RelayTransport(self.relay.url, credentials_file=self.credentials.path, **arguments)

    def history(self, topic: str) -> list[Any]:
        """What is in a topic, oldest first."""
        client, token = HttpRelayClient(self.relay.url), self.manager().get_token()
        page = client.fetch_messages(token, topic, limit=100, order="asc")
        return [message["payload"] for message in page["messages"]]


@pytest.fixture
def user(account_relay: AccountRelay, tmp_path: Path) -> User:
    return User(account_relay, tmp_path)


def payloads(messages: list[dict[str, Any]]) -> list[Any]:
    return [message["payload"] for message in messages]


def polling(
    pool: ThreadPoolExecutor, relay: AccountRelay, transport: RelayTransport, topic: str
) -> Future[list[dict[str, Any]]]:
    """A long poll that waits at the relay."""
    waiters = relay.worker.worker.waiters
    before = waiters.active
    answer = pool.submit(transport.long_poll, [topic], 30)
    until(lambda: waiters.active > before, "the poll waits")
    return answer


def end_session(relay: AccountRelay, refresh_token: str) -> None:
    asked = {"refresh_token": refresh_token, "revoke_chain": True}
    assert relay.ask("POST", "/auth/token/revoke", json=asked).status_code == 204


def end_access(relay: AccountRelay, token: str) -> None:
    """As if somebody had logged this token out."""
    assert relay.ask("POST", "/auth/logout", token).status_code == 204


# ------------------------------------------------------------------------------------------ RelayAuthManager


def test_a_password_gives_a_token_that_is_kept_until_it_is_invalidated(user: User) -> None:
    manager = user.manager()
    assert manager.strategy_name == "password"
    token = manager.get_token()
    assert manager.get_token() == token
    manager.invalidate()
    assert manager.get_token() != token
    assert jwt.decode(token, options={"verify_signature": False})["sub"] == user.id


def test_a_password_login_leaves_a_refresh_token_that_takes_its_place(user: User) -> None:
    user.manager(credentials_file=user.credentials.path).get_token()
    first = user.credentials.load()["refresh_token"]
    later = build_auth_manager(user.relay.url, credentials_file=user.credentials.path)
    assert later.strategy_name == "refresh_token"
    assert later.get_token()
    assert user.credentials.load()["refresh_token"] != first


def test_a_token_in_memory_is_rotated_and_its_owner_is_told(user: User) -> None:
    told: list[dict[str, Any]] = []
    store = InMemoryCredentialsStore(user.relay.url, user.sign_in(), on_save=told.append)
    manager = RelayAuthManager(user.relay.url, credentials_store=store)
    for _ in range(3):
        assert manager.get_token()
        manager.invalidate()
    assert len({saved["refresh_token"] for saved in told}) == 3
    assert store.load()["refresh_token"] == told[-1]["refresh_token"]


def test_a_wrong_password_and_a_refresh_token_that_was_revoked_are_auth_errors(user: User) -> None:
    with pytest.raises(RelayAuthError):
        RelayAuthManager(user.relay.url, user.name, "wrong").get_token()
    token = user.sign_in()
    user.credentials.save({"refresh_token": token})
    revoked = user.relay.ask(
        "POST", "/auth/token/revoke", json={"refresh_token": token, "revoke_chain": True}
    )
    assert revoked.status_code == 204
    manager = RelayAuthManager(
        user.relay.url, authenticator=RefreshTokenAuthenticator(user.relay.url, user.credentials)
    )
    with pytest.raises(RelayAuthError, match="rejected"):
        manager.get_token()


_SHARES = """
import sys
from pulsar_relay_client import RelayAuthManager
manager = RelayAuthManager(sys.argv[1], credentials_file=sys.argv[2])
print("ready", flush=True)
for _ in sys.stdin:
    manager.invalidate()
    manager.get_token()
    print("has one", flush=True)
"""


def test_two_processes_whose_tokens_end_at_the_same_time_share_one_file(user: User) -> None:
    user.credentials.save({"refresh_token": user.sign_in()})
    command = [sys.executable, "-c", _SHARES, user.relay.url, user.credentials.path]
    pipe = subprocess.PIPE
    with ExitStack() as running:
        processes = [
            running.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
            for _ in range(2)
        ]
        assert [_line_of(process) for process in processes] == ["ready\n"] * 2
        for _ in range(10):
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("now\n")
                process.stdin.flush()
            assert [_line_of(process) for process in processes] == ["has one\n"] * 2
    assert RelayAuthManager(user.relay.url, credentials_file=user.credentials.path).get_token()


def _line_of(process: subprocess.Popen[str]) -> str:
    """The next; what it said on the way out, if it has ended."""
    assert process.stdout is not None and process.stderr is not None
    return process.stdout.readline() or process.stderr.read()


# --------------------------------------------------------------------------------------------- RelayTransport


def test_what_one_publishes_each_poll_of_the_same_user_gets_and_of_another_none(
    user: User, tmp_path: Path
) -> None:
    consumers = [RelayTransport(user.relay.url, user.name, user.password) for _ in range(2)]
    stranger = User(user.relay, tmp_path).transport()
    with ThreadPoolExecutor(2) as pool:
        answers = [polling(pool, user.relay, consumer, "job_setup") for consumer in consumers]
        told = user.transport().post_message("job_setup", {"n": 1}, ttl=60, metadata={"from": "galaxy"})
        for answer in answers:
            (message,) = answer.result(WAIT_SECONDS)
            assert (message["message_id"], message["payload"]) == (told["message_id"], {"n": 1})
            assert message["metadata"] == {"from": "galaxy"}
    assert set(told) == {"message_id", "topic", "timestamp"} and told["topic"] == "job_setup"
    stranger.set_last_message_id("job_setup", "0-0")
    assert stranger.long_poll(["job_setup"], 1) == []


def test_in_bulk_each_message_has_a_result(user: User) -> None:
    transport = user.transport()
    told = transport.post_bulk_messages([{"topic": "a", "payload": {"n": n}} for n in range(3)])
    assert told["summary"] == {"total": 3, "accepted": 3, "rejected": 0}
    assert [one["status"] for one in told["results"]] == ["accepted"] * 3
    transport.close()


def test_its_cursors_are_kept_set_and_forgotten(user: User) -> None:
    path = user.folder / "cursors.json"
    transport = user.transport(cursor_path=str(path))
    ids = [transport.post_message("jobs", {"n": n})["message_id"] for n in range(4)]
    transport.set_last_message_id("jobs", ids[0])
    assert payloads(transport.long_poll(["jobs"], 1)) == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert transport.get_last_message_id("jobs") == ids[3]
    assert transport.get_all_tracked_message_ids() == {"jobs": ids[3]} == json.loads(path.read_text())
    transport.set_last_message_id("jobs", ids[2])
    assert payloads(user.transport(cursor_path=str(path)).long_poll(["jobs"], 1)) == [{"n": 3}]
    transport.clear_tracked_message_ids("jobs")
    assert transport.get_last_message_id("jobs") is None and json.loads(path.read_text()) == {}
    transport.clear_tracked_message_ids()


@pytest.mark.parametrize("timeout", [30.0, 2.5, 0.5, 100])
def test_each_timeout_it_can_send_is_accepted(user: User, timeout: float) -> None:
    transport = user.transport()
    message_id = transport.post_message("jobs", {})["message_id"]
    transport.set_last_message_id("jobs", "0-0")
    assert [one["message_id"] for one in transport.long_poll(["jobs"], timeout)] == [message_id]  # type: ignore[arg-type]


def test_a_permission_that_is_missing_is_not_asked_for_again(account_relay: AccountRelay) -> None:
    made = account_relay.new_user("read")
    reader = RelayTransport(account_relay.url, made["username"], made["password"], sleep=_never)
    with pytest.raises(RelayTransportError, match="403"):
        reader.post_message("jobs", {})
    assert reader.long_poll(["jobs"], 1) == []


def _never(seconds: float) -> None:
    raise AssertionError(f"it waits {seconds} s to try again")


CALLS: dict[str, Callable[[RelayTransport], object]] = {
    "post_message": lambda transport: transport.post_message("jobs", {"n": 1}),
    "post_bulk_messages": lambda transport: transport.post_bulk_messages(
        [{"topic": "jobs", "payload": {"n": 1}}]
    ),
    "long_poll": lambda transport: transport.long_poll(["jobs"], 1),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("how", ["logged out", "expired"])
def test_a_token_that_ended_is_replaced_once_and_unseen(
    make_account_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, how: str
) -> None:
    user = User(make_account_relay(), tmp_path)
    statuses: list[int] = []
    session = requests.Session()
    session.hooks["response"].append(lambda response, *_, **__: statuses.append(response.status_code))
    transport = user.transport(session=session, sleep=_never)
    token = transport.auth_manager.get_token()
    if how == "logged out":
        end_access(user.relay, token)
    else:
        tokens = accounts_of(user.relay.worker).tokens
        monkeypatch.setattr(tokens, "_now", lambda: time.time() + 601)
    CALLS[name](transport)
    assert statuses[0] == 401 and len(statuses) == 2 and statuses[1] < 300
    assert transport.auth_manager.get_token() != token
    if name != "long_poll":
        assert user.history("jobs") == [{"n": 1}]


def test_a_poll_that_waits_while_its_token_ends_goes_on_with_another(user: User) -> None:
    transport, publisher = user.transport(), user.transport()
    first = publisher.post_message("jobs", {"n": 0})["message_id"]
    transport.set_last_message_id("jobs", first)
    token = transport.auth_manager.get_token()
    waiters = user.relay.worker.worker.waiters
    with ThreadPoolExecutor(1) as pool:
        answer = polling(pool, user.relay, transport, "jobs")
        end_access(user.relay, token)
        until(lambda: answer.done() or transport.auth_manager.get_token() != token, "another token")
        until(lambda: answer.done() or waiters.active, "the poll waits again")
        publisher.post_message("jobs", {"n": 1})
        messages = answer.result(WAIT_SECONDS) or transport.long_poll(["jobs"], 10)
    assert payloads(messages) == [{"n": 1}]


# ----------------------------------------------------------------------------- the relay is away, or too busy


@pytest.fixture
def answers() -> tuple[requests.Session, list[requests.Response]]:
    """A session for the client, and what it is answered."""
    seen: list[requests.Response] = []
    session = requests.Session()
    session.hooks["response"].append(lambda response, *_, **__: seen.append(response))
    return session, seen


@pytest.fixture
def hurt(make_valkey: Callable[..., RealValkey], tmp_path: Path) -> Iterator[tuple[User, RealValkey]]:
    """A user of a relay over a Valkey of the test's own."""
    valkey = make_valkey().start()
    relay = AccountRelay(valkey.socket_path)
    yield User(relay, tmp_path), valkey
    relay.stop()


def _wait_until_ready(url: str) -> None:
    until(lambda: requests.get(f"{url}/ready", timeout=WAIT_SECONDS).ok, "the relay is ready")


@pytest.mark.parametrize("name", ["post_message", "post_bulk_messages"])
def test_a_publish_that_is_answered_503_is_repeated_and_stored_once(
    hurt: tuple[User, RealValkey],
    answers: tuple[requests.Session, list[requests.Response]],
    name: str,
) -> None:
    user, valkey = hurt
    session, seen = answers
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if not valkey.is_running:
            valkey.start()
        _wait_until_ready(user.relay.url)

    transport = user.transport(session=session, sleep=sleep)
    transport.auth_manager.get_token()
    valkey.kill()
    CALLS[name](transport)
    assert [answer.status_code for answer in seen][:-1] == [503] * len(waits) and waits[0] == 1.0
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in seen[:-1])
    assert len({answer.request.headers["Idempotency-Key"] for answer in seen}) == 1
    assert user.history("jobs") == [{"n": 1}]


def test_a_poll_without_valkey_is_an_error_and_then_loses_nothing(
    hurt: tuple[User, RealValkey],
) -> None:
    user, valkey = hurt
    transport = user.transport()
    first = transport.post_message("jobs", {"n": 0})["message_id"]
    transport.post_message("jobs", {"n": 1})
    valkey.kill()
    # One that nobody in the relay has in memory.
    transport.set_last_message_id("untouched", first)
    with pytest.raises(RelayTransportError, match="503"):
        transport.long_poll(["untouched"], 1)
    valkey.start()
    _wait_until_ready(user.relay.url)
    transport.set_last_message_id("jobs", first)
    assert payloads(transport.long_poll(["jobs"], 10)) == [{"n": 1}]


def test_an_outage_of_valkey_is_not_told_as_a_bad_refresh_token(
    hurt: tuple[User, RealValkey],
) -> None:
    user, valkey = hurt
    manager = user.transport().auth_manager
    valkey.kill()
    with pytest.raises(RelayAuthError, match="HTTP 503"):
        manager.get_token()
    valkey.start()
    _wait_until_ready(user.relay.url)
    assert manager.get_token()


def test_more_than_a_limit_is_429_with_the_time_to_wait_and_the_next_call_is_answered(
    make_account_relay: MakeRelay,
    answers: tuple[requests.Session, list[requests.Response]],
    tmp_path: Path,
) -> None:
    user = User(make_account_relay(limits={"polls_per_user": 1, "publish": Rate(2, 1.0)}), tmp_path)
    session, seen = answers
    transport = user.transport(session=session, sleep=_never)
    until(lambda: not _is_published(transport, "jobs"), "the rate is used up")
    assert seen[-1].status_code == 429 and int(seen[-1].headers["Retry-After"]) >= 1
    until(lambda: _is_published(transport, "jobs"), "the rate lets it publish again")
    with ThreadPoolExecutor(1) as pool:
        waiting = polling(pool, user.relay, user.transport(), "other")
        with pytest.raises(RelayTransportError, match="429"):
            transport.long_poll(["other"], 1)
        until(lambda: _is_published(transport, "other"), "the rate lets it publish once more")
        assert payloads(waiting.result(WAIT_SECONDS)) == [{}]
    assert transport.long_poll(["other"], 1) == []


def _is_published(transport: RelayTransport, topic: str) -> bool:
    try:
        transport.post_message(topic, {})
    except RelayTransportError:
        return False
    return True


def test_too_many_refreshes_are_an_auth_error(make_valkey: Callable[..., RealValkey], tmp_path: Path) -> None:
    # A Valkey of its own: what one address has used up it has for all relays of a Valkey.
    relay = AccountRelay(make_valkey().start().socket_path, limits={"refresh": Rate(1, 3600.0)})
    manager = User(relay, tmp_path).transport().auth_manager
    assert manager.get_token()
    manager.invalidate()
    with pytest.raises(RelayAuthError, match="HTTP 429"):
        manager.get_token()
    relay.stop()


WITH_ACCOUNTS = {
    "RELAY_AUTH_MODE": "accounts",
    "RELAY_AUTH_JWT_SECRET": SECRET,
    "RELAY_AUTH_BOOTSTRAP_USERNAME": ADMIN,
    "RELAY_AUTH_BOOTSTRAP_PASSWORD": ADMIN_PASSWORD,
}


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_relay_that_is_restarted_while_a_poll_waits_keeps_tokens_and_loses_nothing(
    make_relay_process: Callable[..., RelayProcess], tmp_path: Path, end: str
) -> None:
    relay = make_relay_process(variables=WITH_ACCOUNTS).start()
    _wait_until_ready(relay.url)
    manager = RelayAuthManager(relay.url, ADMIN, ADMIN_PASSWORD)
    transport = RelayTransport(relay.url, auth_manager=manager, cursor_path=str(tmp_path / "cursors"))
    transport.set_last_message_id("jobs", transport.post_message("jobs", {"n": 0})["message_id"])
    token = manager.get_token()

    def waits() -> bool:
        bearer = {"Authorization": f"Bearer {token}"}
        stats = requests.get(f"{relay.url}/messages/poll/stats", headers=bearer, timeout=WAIT_SECONDS)
        return any(name.endswith("/jobs") for name in stats.json()["topic_subscriber_counts"])

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(transport.long_poll, ["jobs"], 30)
        until(waits, "the poll waits")
        getattr(relay, end)()
        if end == "stop":
            assert answer.result(WAIT_SECONDS) == []
        else:
            with pytest.raises(RelayTransportError):
                answer.result(WAIT_SECONDS)
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if not relay.is_running:
            relay.start()

    publisher = RelayTransport(relay.url, auth_manager=manager, sleep=sleep)
    publisher.post_message("jobs", {"n": 1})
    assert waited
    assert payloads(transport.long_poll(["jobs"], 10)) == [{"n": 1}]
    assert manager.get_token() == token


# -------------------------------------------------------------------------------------------- HttpRelayClient


def test_galaxys_client_exchanges_a_token_and_is_told_who_it_is(user: User) -> None:
    client = default_relay_client_factory(user.relay.url)
    token = user.sign_in()
    body = client.exchange_refresh_token(token)
    assert body["refresh_token"] != token and body["expires_in"] == 600
    me = client.whoami(body["access_token"])
    assert (me["user_id"], me["username"]) == (user.id, user.name)
    with pytest.raises(RefreshTokenRejectedError):
        client.exchange_refresh_token("no.token")
    with pytest.raises(RelayClientError):
        client.whoami("no-token")


def test_a_topic_is_made_or_verified_and_names_of_users_do_not_meet(user: User, tmp_path: Path) -> None:
    client = HttpRelayClient(user.relay.url)
    for somebody in (user, User(user.relay, tmp_path)):
        token = somebody.manager().get_token()
        for _ in range(2):
            client.create_or_verify_topic(token, "job_setup")
        with pytest.raises(RelayClientError, match="422"):
            client.create_or_verify_topic(token, "not a name")
    with pytest.raises(RelayClientError, match="401"):
        client.create_or_verify_topic("no-token", "job_setup")


def test_messages_are_fetched_in_both_orders_page_by_page(user: User) -> None:
    client, token = HttpRelayClient(user.relay.url), user.manager().get_token()
    transport = user.transport()
    for number in range(5):
        transport.post_message("pulsar_capabilities", {"n": number})
    page = client.fetch_messages(token, "pulsar_capabilities", limit=1, order="desc")
    assert payloads(page["messages"]) == [{"n": 4}]
    found: list[Any] = []
    cursor = None
    while page := client.fetch_messages(token, "pulsar_capabilities", limit=2, order="asc", cursor=cursor):
        if not page["messages"]:
            break
        found += payloads(page["messages"])
        cursor = page["next_cursor"]
    assert found == [{"n": number} for number in range(5)]
    with pytest.raises(RelayClientError, match="404"):
        client.fetch_messages(token, "nothing-here")
    end_access(user.relay, token)
    with pytest.raises(RefreshTokenRejectedError):
        client.fetch_messages(token, "pulsar_capabilities")


# ---------------------------------------------------------------------------- the device flow's authenticator


def test_a_device_that_is_let_in_publishes_and_its_pair_outlives_it(
    make_account_relay: MakeRelay, tmp_path: Path
) -> None:
    unlimited = dict.fromkeys(("device_code", "device_token", "device_page"))
    relay = make_account_relay(device={"poll_interval_seconds": 1.0}, limits=unlimited)
    user = User(relay, tmp_path)

    def approve(uri: str, code: str) -> None:
        assert uri == f"{relay.url}/auth/device?user_code={code}"
        browser = Browser(relay.url)
        page = browser.decide(browser.sign_in(code, user.name, user.password))
        assert page.status_code == 200, page.text

    flow = RelayDeviceFlowAuthenticator(relay.url, user.credentials, on_user_code=approve, pair=True)
    given = flow.run()
    assert "refresh_token_secondary" not in user.credentials.load()
    assert user.transport().post_message("jobs", {"n": 1})["message_id"]
    end_session(relay, given["refresh_token"])
    body = HttpRelayClient(relay.url).exchange_refresh_token(given["refresh_token_secondary"])
    assert HttpRelayClient(relay.url).whoami(body["access_token"])["user_id"] == user.id
