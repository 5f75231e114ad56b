"""A real pulsar-relay 0.2.1 writes; what it wrote is read here with the ids, texts and rights it had."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.stream import BEGINNING, Message, MessageId
from pulsar_relay.accounts.users import Users
from pulsar_relay.predecessor.migration import NO_NAME, NO_OWNER, NO_RECORD, NO_USER, TopicMigration
from pulsar_relay.predecessor.source import Source
from pulsar_relay.settings import ValkeySettings
from pulsar_relay.store import schema
from pulsar_relay.store.client import make_client
from tests.accounts import cheap_passwords, nothing, now_ms
from tests.clusters import ValkeyCluster
from tests.commands import CommandLine
from tests.predecessors import ADMIN, PASSWORD, Predecessor
from tests.stores import OpenStore, in_loop, open_store
from tests.test_backup import Steps
from tests.test_sessions import is_good, open_sessions
from tests.valkeys import RealValkey

OWNER = "5b1c9a3e-0000-4000-8000-000000000001"
CREATED = "2026-01-02T03:04:05.678901+00:00"


@pytest.fixture
def source(make_valkey: Callable[..., RealValkey]) -> RealValkey:
    return make_valkey().start()


@pytest.fixture
def target(make_valkey: Callable[..., RealValkey]) -> RealValkey:
    return make_valkey().start()


def add_user(server: RealValkey, user_id: str = OWNER) -> None:
    record = {"user_id": user_id, "username": "galaxy", "is_active": "True", "created_at": CREATED}
    server.command("HSET", f"user:{user_id}", *(word for pair in record.items() for word in pair))


def add_topic(
    server: RealValkey, name: str, count: int, owner: str = OWNER, start_ms: int = 1_767_000_000_000
) -> None:
    key = f"{owner}/{name}"
    record = {"topic_name": name, "owner_id": owner, "description": "Jobs", "created_at": CREATED}
    server.command("HSET", f"topic:{key}", *(word for pair in record.items() for word in pair))
    with server.client() as client, client.pipeline() as pipeline:
        for number in range(count):
            fields = {"payload": json.dumps({"n": number}), "timestamp": CREATED}
            pipeline.xadd(f"stream:topic:{key}", fields, id=f"{start_ms + number}-0")
        pipeline.execute()


def whole(server: RealValkey) -> dict[bytes, object]:
    """Everything there, as it can be put back elsewhere."""
    with server.client() as client:
        return {key: client.dump(key) for key in client.scan_iter("*", count=1000)}


async def migrate(one: OpenStore, two: OpenStore, steps: Steps | None = None) -> int:
    migration = TopicMigration(Source(one.client), two.client)
    return await migration.run(await migration.plan(), steps or Steps())


def texts(messages: list[Message]) -> list[tuple[str, bytes]]:
    return [(message.id_text, message.payload) for message in messages]


@in_loop
async def test_topics_are_copied_with_their_ids_and_the_source_is_only_read(
    source: RealValkey, target: RealValkey
) -> None:
    add_user(source)
    add_topic(source, "jobs", 1500)
    add_topic(source, "empty", 0)
    before = whole(source)
    async with open_store(source.socket_path) as one, open_store(target.socket_path) as two:
        assert await migrate(one, two) == 1500
        messages = await two.all_messages(f"{OWNER}/jobs")
        assert [json.loads(message.payload)["n"] for message in messages] == list(range(1500))
        assert messages[0].id_text == "1767000000000-0" and messages[0].prev == BEGINNING
        assert all(later.prev == earlier.id for earlier, later in itertools.pairwise(messages))
        assert {message.timestamp for message in messages} == {CREATED}
        description = await two.store.describe(f"{OWNER}/empty")
        assert description is not None and description.text == "Jobs"
        assert description.created_ms == 1_767_323_045_679
    assert whole(source) == before
    assert target.command("ZRANGE", schema.TOPICS, 0, -1) == [
        f"{OWNER}/{name}".encode() for name in ("empty", "jobs")
    ]


@in_loop
async def test_a_user_that_may_only_read_is_enough_for_the_source(
    source: RealValkey, target: RealValkey
) -> None:
    add_user(source)
    add_topic(source, "jobs", 50)
    words = ("reset", "on", "nopass", "~*", "&*", "-@all", "+@read", "+@connection")
    source.command("ACL", "SETUSER", "default", *words)
    async with open_store(target.socket_path) as two:
        client = make_client(ValkeySettings(), source.socket_path)
        migration = TopicMigration(Source(client), two.client)
        assert await migration.run(await migration.plan(), Steps()) == 50
        await client.aclose()


@in_loop
async def test_source_and_target_may_be_one_valkey(source: RealValkey) -> None:
    add_user(source)
    add_topic(source, "jobs", 20)
    before = whole(source)
    async with open_store(source.socket_path) as both:
        assert await migrate(both, both) == 20
        assert await migrate(both, both) == 0
        assert len(await both.all_messages(f"{OWNER}/jobs")) == 20
    after = whole(source)
    assert before.items() <= after.items()


@in_loop
async def test_what_is_repeated_copies_what_is_new_and_nothing_twice(
    source: RealValkey, target: RealValkey
) -> None:
    add_user(source)
    add_topic(source, "jobs", 300)
    name = f"{OWNER}/jobs"
    async with open_store(source.socket_path) as one, open_store(target.socket_path) as two:
        assert await migrate(one, two) == 300
        epoch = target.command("HGET", schema.meta(name), "epoch")
        assert await migrate(one, two) == 0
        source.command("XADD", f"stream:topic:{name}", "1767000009999-0", "payload", "{}")
        assert await migrate(one, two) == 1
        messages = await two.all_messages(name)
        assert len(messages) == 301
        assert messages[-1].prev == messages[-2].id
        assert target.command("HGET", schema.meta(name), "epoch") == epoch


@in_loop
async def test_into_a_cluster_too(source: RealValkey, valkey_cluster: ValkeyCluster) -> None:
    add_user(source)
    for name in ("a", "b", "c", "d"):
        add_topic(source, name, 30)
    async with open_store(source.socket_path) as one, open_store(valkey_cluster) as two:
        assert await migrate(one, two) == 120
        assert await migrate(one, two) == 0
        for name in ("a", "b", "c", "d"):
            assert len(await two.all_messages(f"{OWNER}/{name}")) == 30


@in_loop
async def test_what_was_broken_off_goes_on(source: RealValkey, target: RealValkey) -> None:
    add_user(source)
    for name in ("a", "b", "c"):
        add_topic(source, name, 1200)

    class TornError(Exception):
        pass

    def tear(done: int) -> None:
        if done >= 2000:
            raise TornError

    async with open_store(source.socket_path) as one, open_store(target.socket_path) as two:
        with pytest.raises(TornError):
            await migrate(one, two, Steps(tear))
        # Nobody sees half a topic.
        lengths = [len(await two.all_messages(f"{OWNER}/{name}")) for name in ("a", "b", "c")]
        assert lengths == [1200, 0, 0]
        assert await migrate(one, two) == 2400
        for name in ("a", "b", "c"):
            assert len(await two.all_messages(f"{OWNER}/{name}")) == 1200


@in_loop
async def test_messages_that_were_published_here_stay_and_cursors_keep_their_meaning(
    source: RealValkey, target: RealValkey
) -> None:
    add_user(source)
    add_topic(source, "jobs", 10)
    name = f"{OWNER}/jobs"
    async with open_store(source.socket_path) as one, open_store(target.socket_path) as two:
        await migrate(one, two)
        await two.append(name, b'"new"')
        await migrate(one, two)
        cursor = MessageId.parse("1767000000006-0")
        page = await two.store.read(name, cursor, 100, 1 << 20)
        assert [message.payload for message in page.batch.messages] == [
            b'{"n": 7}',
            b'{"n": 8}',
            b'{"n": 9}',
            b'"new"',
        ]
        # Nothing is missing behind it, and the relay knows that.
        assert page.batch.messages[0].prev == cursor
        assert page.batch.messages[-1].prev == page.batch.messages[-2].id


@in_loop
async def test_what_cannot_be_copied_is_told_with_the_reason(source: RealValkey, target: RealValkey) -> None:
    add_user(source)
    add_topic(source, "jobs", 1)
    add_topic(source, "jöbs²", 1)
    add_topic(source, "orphan", 1, owner="5b1c9a3e-0000-4000-8000-00000000dead")
    source.command("XADD", f"stream:topic:{OWNER}/deleted", "*", "payload", "{}")
    source.command("XADD", "stream:topic:flat", "*", "payload", "{}")
    async with open_store(source.socket_path) as one, open_store(target.socket_path) as two:
        plan = await TopicMigration(Source(one.client), two.client).plan()
        assert [topic.name for topic in plan.topics] == [f"{OWNER}/jobs"]
        assert sorted((one.what.rpartition("/")[2], one.why) for one in plan.left_out) == sorted(
            [("jöbs²", NO_NAME), ("orphan", NO_USER), ("deleted", NO_RECORD), ("topic flat", NO_OWNER)]
        )
        assert whole(target).keys() <= {b"relay:retention"}


@in_loop
async def test_the_first_entry_of_a_stream_that_was_trimmed_does_not_claim_to_be_the_beginning(
    source: RealValkey, target: RealValkey
) -> None:
    add_user(source)
    add_topic(source, "jobs", 100)
    source.command("XTRIM", f"stream:topic:{OWNER}/jobs", "MAXLEN", 10)
    async with open_store(source.socket_path) as one, open_store(target.socket_path) as two:
        assert await migrate(one, two) == 10
        page = await two.store.read(f"{OWNER}/jobs", MessageId.parse("1767000000050-0"), 100, 1 << 20)
        assert len(page.batch.messages) == 10
        # Somebody who was there is told that something is missing.
        assert page.oldest_prev is not None and page.oldest_prev > MessageId.parse("1767000000089-0")


# With the real server


def publish_all(server: Predecessor, token: str) -> dict[str, list[dict[str, Any]]]:
    """What was published, by topic: id, payload and metadata."""
    published: dict[str, list[dict[str, Any]]] = {}
    for topic in ("job_setup", "job_status_update", "Pulsar-capabilities_2"):
        for number in range(40):
            payload = {
                "n": number,
                "text": "ünï \u2028 \U0001f600",
                "big": 2**70,
                "nested": [[[{}]]],
                "x": 1.5,
            }
            message = {"topic": topic, "payload": payload}
            if number % 3 == 0:
                message["metadata"] = {"source": "test", "ü": "é"}
            answer = server.ask("POST", "/api/v1/messages", token, json=message)
            published.setdefault(topic, []).append({**message, **answer})
    bulk = [{"topic": "job_kill", "payload": {"n": number}} for number in range(100)]
    answer = server.ask("POST", "/api/v1/messages/bulk", token, json={"messages": bulk})
    published["job_kill"] = [{**sent, **told} for sent, told in zip(bulk, answer["results"], strict=True)]
    return published


@pytest.mark.timeout(300)
@pytest.mark.system
def test_all_that_a_real_server_wrote_is_here(
    predecessor: tuple[Predecessor, RealValkey], target: RealValkey, tmp_path: Path
) -> None:
    server, valkey = predecessor
    with server:
        admin = server.login()
        owner = server.ask("GET", "/auth/me", admin["access_token"])["user_id"]
        published = publish_all(server, admin["access_token"])
        user = {"username": "galaxy", "password": "galaxy's password", "permissions": ["read", "write"]}
        galaxy = server.ask("POST", "/auth/register", admin["access_token"], json=user)
        other = server.login("galaxy", "galaxy's password")
        server.ask(
            "POST", "/api/v1/messages", other["access_token"], json={"topic": "job_setup", "payload": {}}
        )
        tokens = [server.login("galaxy", "galaxy's password")["refresh_token"]]
        for _ in range(3):
            refreshed = server.ask("POST", "/auth/token/refresh", json={"refresh_token": tokens[-1]})
            tokens.append(refreshed["refresh_token"])
        polled = server.ask(
            "POST",
            "/messages/poll",
            admin["access_token"],
            json={"topics": ["job_setup"], "since": {"job_setup": published["job_setup"][20]["message_id"]}},
        )["messages"]
    before = whole(valkey)
    line = CommandLine("http://127.0.0.1:1", tmp_path)
    at = ("--set", f"valkey.unix_socket={target.socket_path}", "--from", valkey.url)
    dry = line.run("migrate", "--dry-run", *at)
    assert dry.code == 0, dry.errors
    assert "topics to copy: 5 with 221 messages" in dry.text and "nothing was written" in dry.text
    assert whole(target) == {}
    done = line.run("migrate", *at)
    assert done.code == 0, done.errors
    assert "topics copied: 5 with 221 messages" in done.text and "users taken over: 2" in done.text
    again = line.run("migrate", *at)
    assert again.code == 0, again.errors
    assert "topics copied: 0 with 0 messages" in again.text and "users taken over: 0" in again.text
    assert whole(valkey).keys() == before.keys()
    assert {key: value for key, value in whole(valkey).items() if key.startswith(b"stream")} == {
        key: value for key, value in before.items() if key.startswith(b"stream")
    }

    async def compare() -> None:
        async with open_store(target.socket_path) as opened:
            for topic, sent in published.items():
                messages = await opened.all_messages(f"{owner}/{topic}")
                assert [message.id_text for message in messages] == [one["message_id"] for one in sent]
                assert [json.loads(message.payload) for message in messages] == [
                    one["payload"] for one in sent
                ]
                told = [json.loads(message.metadata) if message.metadata else None for message in messages]
                assert told == [one.get("metadata") for one in sent]
            assert len(await opened.all_messages(f"{galaxy['user_id']}/job_setup")) == 1
            # A cursor means what it meant.
            cursor = MessageId.parse(published["job_setup"][20]["message_id"])
            page = await opened.store.read(f"{owner}/job_setup", cursor, 100, 1 << 22)
            ours = [(message.id_text, message.timestamp) for message in page.batch.messages]
            assert ours == [(one["message_id"], one["timestamp"]) for one in polled]
            passwords = cheap_passwords()
            users = Users(opened.client, passwords, now_ms, nothing)
            assert (await users.check_password(ADMIN, PASSWORD)).user_id == owner
            found = await users.check_password("galaxy", "galaxy's password")
            assert found.user_id == galaxy["user_id"] and found.permissions == ("read", "write")
            passwords.close()

    asyncio.run(compare())


@pytest.mark.timeout(300)
@pytest.mark.system
def test_refresh_tokens_of_a_real_server_stay_good_or_a_sign_of_theft(
    predecessor: tuple[Predecessor, RealValkey], target: RealValkey, tmp_path: Path
) -> None:
    server, valkey = predecessor
    with server:
        chain = [server.login()["refresh_token"]]
        for _ in range(2):
            chain.append(
                server.ask("POST", "/auth/token/refresh", json={"refresh_token": chain[-1]})["refresh_token"]
            )
        other, ended = server.login()["refresh_token"], server.login()["refresh_token"]
        server.ask("POST", "/auth/token/revoke", json={"refresh_token": ended, "revoke_chain": True})
    line = CommandLine("http://127.0.0.1:1", tmp_path)
    done = line.run("migrate", "--set", f"valkey.unix_socket={target.socket_path}", "--from", valkey.url)
    assert done.code == 0, done.errors

    async def use() -> None:
        async with open_sessions(target.socket_path) as opened:
            assert not await is_good(opened, ended)
            assert await is_good(opened, other)
            _, successor = await opened.sessions.refresh(chain[-1])
            assert not await is_good(opened, chain[0])
            # It was spent long ago: whoever shows it has stolen it, or was stolen from.
            assert not await is_good(opened, successor)

    asyncio.run(use())
