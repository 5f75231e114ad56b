"""Backup and restore: files that are whole or refused, topics as they were, cursors that tell the truth."""

from __future__ import annotations

import asyncio
import io
import random
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from actors.stream import MessageId
from pulsar_relay.backup import records
from pulsar_relay.backup.backup import Backup, Summary
from pulsar_relay.backup.backup_file import BackupFile
from pulsar_relay.backup.blocks import BackupFileError, BlockWriter
from pulsar_relay.backup.records import TopicEnd
from pulsar_relay.backup.restore import Restore, TopicsNotEmptyError
from pulsar_relay.store import schema
from pulsar_relay.store.copies import Copies
from pulsar_relay.store.entries import Entry, message_id
from pulsar_relay.store.identity import Identity
from pulsar_relay.store.restores import RESUMED_SECONDS, DisturbedError, Mode, Restores
from tests.stores import OpenStore, in_loop, open_store
from tests.valkeys import RealValkey
from tests.workers import RunningWorker

STORE_ID = "0123456789abcdef01234567"


class Steps:
    """A progress that remembers, and does something at each step."""

    def __init__(self, on_step: Callable[[int], None] = lambda done: None) -> None:
        self.expected = 0
        self.done = 0
        self._on_step = on_step

    def expect(self, messages: int) -> None:
        self.expected = messages

    def advance(self, messages: int, topic: str) -> None:
        self.done += messages
        self._on_step(self.done)


@asynccontextmanager
async def opened(server: RealValkey) -> AsyncIterator[OpenStore]:
    async with open_store(server.socket_path) as store:
        yield store


async def make_backup(
    store: OpenStore, file: Path, steps: Steps | None = None, known: str = STORE_ID
) -> Summary:
    identity = Identity({"id": known})
    return await Backup(Copies(store.client), identity, file, steps or Steps()).make()


async def put_back(
    store: OpenStore,
    file: Path,
    mode: Mode = Mode.NEW,
    *,
    is_complete: bool = False,
    steps: Steps | None = None,
) -> None:
    backup = BackupFile(_content(file))
    restores = Restores(store.client, backup.header.backup_id, mode, is_complete=is_complete)
    await Restore(restores, backup, steps or Steps()).run(mode)


async def one_by_one(entries: Iterable[Entry]) -> AsyncIterator[Entry]:
    for entry in entries:
        yield entry


def _content(file: Path) -> io.BytesIO:
    return io.BytesIO(file.read_bytes())


def dump(server: RealValkey, topic: str) -> tuple[Any, Any]:
    """All of a topic as Valkey holds it."""
    return (
        server.command("XRANGE", schema.stream(topic), "-", "+"),
        server.command("HGETALL", schema.meta(topic)),
    )


@pytest.fixture
def server(make_valkey: Callable[..., RealValkey]) -> RealValkey:
    return make_valkey().start()


@pytest.fixture(scope="module")
def server_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealValkey]:
    with RealValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def other(make_valkey: Callable[..., RealValkey]) -> RealValkey:
    return make_valkey().start()


# ------------------------------------------------------------------------------------------------ round trips


@in_loop
async def test_what_is_restored_is_what_was_backed_up(
    server: RealValkey, other: RealValkey, tmp_path: Path
) -> None:
    async with opened(server) as one, opened(other) as two:
        for number in range(30):
            await one.append("a", *[b"%d" % (100 * number + i) for i in range(100)])
        await one.append("owner/b", b'"\xc3\xa9"')
        await one.append("large", b'"%b"' % (b"x" * 3_000_000), b"2")
        server.command("HSET", schema.meta("a"), "description", b"d\xff", "max_messages", "5000")
        server.command(
            "XADD", schema.stream("foreign"), "5-5", "payload", "1", "timestamp", "x", "y", b"\xff"
        )
        server.command("HSET", schema.meta("empty"), "epoch", "e", "created", "1")
        server.command("ZADD", schema.TOPICS, 0, "empty")
        await one.store.acknowledge("c", None, {"a": MessageId.of(1, 1)}, proves=False)
        await one.store.claim("c", 1, ["a"], is_held=False)
        steps = Steps()
        made = await make_backup(one, tmp_path / "f", steps)
        assert made == Summary(5, 3004, 1)
        assert steps.done == steps.expected == 3004
        steps = Steps()
        await put_back(two, tmp_path / "f", is_complete=True, steps=steps)
        assert steps.done == steps.expected == 3004
        for topic in ("a", "owner/b", "foreign", "large"):
            entries, meta = dump(server, topic)
            found, meta_found = dump(other, topic)
            assert found == entries
            assert _fields(meta_found).items() >= _fields(meta).items()
            assert other.command("PTTL", schema.stream(topic)) == -1
        assert await two.store.topics("", 10) == ["a", "empty", "foreign", "large", "owner/b"]
        description = await two.store.describe("a")
        assert description is not None and description.own.max_messages == 5000
        record = await two.store.consumer("c")
        assert [(place.topic, str(place.cursor)) for place in record.places] == [("a", "1-1")]
        assert other.command("HGET", schema.offsets("c"), schema.CLAIM_FIELD) is None
        assert not other.command("KEYS", "*restore*")
    assert not (tmp_path / "f.part").exists()
    assert (tmp_path / "f").stat().st_mode & 0o077 == 0


def _fields(flat: Any) -> dict[bytes, bytes]:
    return flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))


@in_loop
async def test_a_topic_that_is_published_to_is_backed_up_as_a_prefix(
    server: RealValkey, other: RealValkey, tmp_path: Path
) -> None:
    is_over = False

    async def publish() -> None:
        async with opened(server) as writer:
            number = 20_000
            while not is_over:
                await writer.append("t", *[b"%d" % (number + i) for i in range(50)])
                number += 50

    async with opened(server) as one, opened(other) as two:
        for number in range(0, 20_000, 500):
            await one.append("t", *[b"%d" % (number + i) for i in range(500)])
        publishing = asyncio.create_task(publish())
        made = await make_backup(one, tmp_path / "f")
        is_over = True
        await publishing
        await put_back(two, tmp_path / "f")
        messages = await two.all_messages("t")
        assert len(messages) == made.messages >= 20_000
        assert [int(message.payload) for message in messages] == list(range(len(messages)))
        assert _entries(server, "t")[: len(messages)] == _entries(other, "t")


@in_loop
async def test_a_topic_that_is_trimmed_faster_than_it_is_read_is_begun_anew(
    server: RealValkey, other: RealValkey, tmp_path: Path
) -> None:
    async with opened(server) as one, opened(other) as two:
        for number in range(0, 10_000, 500):
            await one.append("t", *[b"%d" % (number + i) for i in range(500)])
        trims = iter([5_000])

        def trim(done: int) -> None:
            for most in trims:
                server.command("XTRIM", schema.stream("t"), "MAXLEN", most)

        steps = Steps(trim)
        made = await make_backup(one, tmp_path / "f", steps)
        assert made == Summary(1, 5_000, 0)
        assert steps.done == 5_000
        await put_back(two, tmp_path / "f")
        assert [int(message.payload) for message in await two.all_messages("t")] == list(range(5_000, 10_000))


@in_loop
async def test_a_topic_that_is_deleted_meanwhile_is_left_out(server: RealValkey, tmp_path: Path) -> None:
    async with opened(server) as one:
        for topic in ("gone", "other"):
            for _ in range(6):
                await one.append(topic, *[b"1"] * 500)

        def delete(done: int) -> None:
            server.command("DEL", *schema.stream_keys("gone"))

        assert await make_backup(one, tmp_path / "f", Steps(delete)) == Summary(1, 3_000, 0)


@in_loop
async def test_of_a_topic_that_becomes_another_history_meanwhile_one_is_backed_up(
    server: RealValkey, tmp_path: Path
) -> None:
    async with opened(server) as one:
        for _ in range(6):
            await one.append("t", *[b"1"] * 500)

        def rewrite(done: int) -> None:
            server.command("HSET", schema.meta("t"), "epoch", "another")

        assert await make_backup(one, tmp_path / "f", Steps(rewrite)) == Summary(1, 3_000, 0)
    assert BackupFile(_content(tmp_path / "f")).state("t").epoch == "another"


# ------------------------------------------------------------------------------------------------- broken off


@in_loop
async def test_a_backup_that_was_broken_off_goes_on_behind_its_last_whole_topic(
    server: RealValkey, other: RealValkey, tmp_path: Path
) -> None:
    async with opened(server) as one, opened(other) as two:
        for topic in ("a", "b", "c"):
            await one.append(topic, *[b"1"] * 300)
        await one.store.acknowledge("who", None, {"a": MessageId.of(1, 1)}, proves=False)

        def die(done: int) -> None:
            if done > 300:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            await make_backup(one, tmp_path / "f", Steps(die))
        part = tmp_path / "f.part"
        assert not (tmp_path / "f").exists() and part.exists()
        with pytest.raises(BackupFileError, match="another store"):
            await make_backup(one, tmp_path / "f", known="f" * 24)
        part.write_bytes(part.read_bytes() + b"half a block")
        told: list[int] = []
        made = await make_backup(one, tmp_path / "f", Steps(told.append))
        assert made == Summary(3, 900, 1)
        assert told[0] == 300
        await put_back(two, tmp_path / "f")
        assert [len(await two.all_messages(topic)) for topic in ("a", "b", "c")] == [300] * 3
        assert (await two.store.consumer("who")).places


@in_loop
async def test_a_part_that_says_what_no_backup_of_this_version_says_is_begun_anew(
    server: RealValkey, tmp_path: Path
) -> None:
    async with opened(server) as one:
        await one.append("t", b"1")
        for name, said in (("f", b"\xc0"), ("g", records.encode(TopicEnd(1)))):
            part = io.BytesIO()
            BlockWriter(part).write(said)
            (tmp_path / f"{name}.part").write_bytes(part.getvalue())
            assert (await make_backup(one, tmp_path / name)).messages == 1


@in_loop
async def test_a_backup_overwrites_nothing(server: RealValkey, tmp_path: Path) -> None:
    async with opened(server) as one:
        (tmp_path / "f").write_text("mine")
        with pytest.raises(BackupFileError, match="there already"):
            await make_backup(one, tmp_path / "f")
        (tmp_path / "g.part").write_text("mine too")
        with pytest.raises(BackupFileError, match="remove it"):
            await make_backup(one, tmp_path / "g")
    assert (tmp_path / "f").read_text() == "mine"
    assert (tmp_path / "g.part").read_text() == "mine too"


@in_loop
async def test_a_backup_follows_no_link(server: RealValkey, tmp_path: Path) -> None:
    async with opened(server) as one:
        (tmp_path / "f").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(BackupFileError, match="there already"):
            await make_backup(one, tmp_path / "f")
        (tmp_path / "g.part").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="symbolic links"):
            await make_backup(one, tmp_path / "g")
    assert not (tmp_path / "elsewhere").exists()


@in_loop
async def test_two_backups_into_one_file_do_not_mix(server: RealValkey, tmp_path: Path) -> None:
    async with opened(server) as one:
        for topic in ("a", "b"):
            await one.append(topic, b"1")
        second: list[asyncio.Task[Summary]] = []

        def begin_another(done: int) -> None:
            if not second:
                second.append(asyncio.create_task(make_backup(one, tmp_path / "f")))

        assert (await make_backup(one, tmp_path / "f", Steps(begin_another))).topics == 2
        with pytest.raises(BackupFileError, match=r"another backup|there already"):
            await second[0]


@in_loop
async def test_a_restore_that_was_broken_off_goes_on_where_it_was(
    server: RealValkey, other: RealValkey, tmp_path: Path
) -> None:
    async with opened(server) as one, opened(other) as two:
        for topic in ("a", "b", "c"):
            await one.append(topic, *[b"1"] * 600)
        await make_backup(one, tmp_path / "f")

        def die(done: int) -> None:
            if done > 1_000:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            await put_back(two, tmp_path / "f", steps=Steps(die))
        assert await two.all_messages("a") and not await two.all_messages("b")
        told: list[int] = []
        await put_back(two, tmp_path / "f", steps=Steps(told.append))
        assert told[0] == 600
        for topic in ("a", "b", "c"):
            assert dump(other, topic)[0] == dump(server, topic)[0]
        with pytest.raises(TopicsNotEmptyError):
            await put_back(two, tmp_path / "f")


@in_loop
async def test_a_restore_that_ends_right_behind_a_topic_knows_that_it_is_done(
    server: RealValkey, other: RealValkey, tmp_path: Path
) -> None:
    async with opened(server) as one, opened(other) as two:
        for topic in ("a", "b"):
            await one.append(topic, b"1")
        await make_backup(one, tmp_path / "f")
        backup = BackupFile(_content(tmp_path / "f"))
        restores = Restores(two.client, backup.header.backup_id, Mode.NEW, is_complete=False)
        await restores.topic(backup.state("a"), "a", one_by_one(backup.entries("a")))
        await two.append("a", b"2")
        await put_back(two, tmp_path / "f")
        assert [message.payload for message in await two.all_messages("a")] == [b"1", b"2"]
        for topic in ("a", "b"):
            assert other.command("HGET", schema.meta(topic), schema.RESTORED_FIELD) is None


@in_loop
async def test_what_an_old_attempt_has_restored_is_restored_again(server: RealValkey, tmp_path: Path) -> None:
    async with opened(server) as one:
        await one.append("a", b"1")
        await make_backup(one, tmp_path / "f")
        await one.append("a", b"2")
        backup_id = BackupFile(_content(tmp_path / "f")).header.backup_id
        long_ago = int(time.time()) - RESUMED_SECONDS - 1
        server.command("HSET", schema.meta("a"), schema.RESTORED_FIELD, f"{backup_id} {long_ago}")
        await put_back(one, tmp_path / "f", Mode.REPLACE)
        assert [message.payload for message in await one.all_messages("a")] == [b"1"]


@in_loop
async def test_a_topic_that_two_restores_fill_at_once_is_not_put_in_its_place(
    server: RealValkey, other: RealValkey, tmp_path: Path
) -> None:
    async with opened(server) as one, opened(other) as two:
        for _ in range(4):
            await one.append("t", *[b"1"] * 500)
        await make_backup(one, tmp_path / "f")

        def begin_another(done: int) -> None:
            if done == 1_000:
                other.command("UNLINK", schema.staging("t"))

        with pytest.raises(DisturbedError):
            await put_back(two, tmp_path / "f", steps=Steps(begin_another))
        assert other.command("EXISTS", schema.stream("t")) == 0


@in_loop
async def test_large_messages_are_restored_a_few_at_a_time(
    server: RealValkey, other: RealValkey, tmp_path: Path
) -> None:
    async with opened(server) as one, opened(other) as two:
        for _ in range(60):
            await one.append("t", b'"%b"' % (b"x" * 1_000_000))
        await make_backup(one, tmp_path / "f")
        for mode in (Mode.NEW, Mode.MERGE):
            tracemalloc.start()
            await put_back(two, tmp_path / "f", mode)
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert most < 20_000_000
        assert len(_entries(other, "t")) == 60


# --------------------------------------------------------------------------------------- topics with messages


@in_loop
async def test_a_topic_with_messages_is_left_alone_and_so_are_all_others(
    server: RealValkey, other: RealValkey, tmp_path: Path
) -> None:
    async with opened(server) as one, opened(other) as two:
        for topic in ("a", "z"):
            await one.append(topic, b"1")
        await make_backup(one, tmp_path / "f")
        await two.append("z", b"2")
        before = other.command("DBSIZE")
        with pytest.raises(TopicsNotEmptyError) as refused:
            await put_back(two, tmp_path / "f")
        assert refused.value.topics == ["z"]
        assert other.command("DBSIZE") == before
        assert [message.payload for message in await two.all_messages("z")] == [b"2"]


@in_loop
async def test_replace_goes_back_to_the_backup_and_gives_no_id_twice(
    server: RealValkey, tmp_path: Path
) -> None:
    async with opened(server) as one:
        await one.append("t", b"1", b"2")
        await make_backup(one, tmp_path / "f")
        before = dump(server, "t")[0]
        await one.append("t", b"3", b"4", b"5")
        highest = (await one.all_messages("t"))[-1].id
        await put_back(one, tmp_path / "f", Mode.REPLACE, is_complete=True)
        assert dump(server, "t")[0] == before
    async with opened(server) as fresh:
        await fresh.append("t", b"6")
        *_, two, six = await fresh.all_messages("t")
        assert (two.payload, six.payload) == (b"2", b"6")
        assert six.id > highest and six.id.number == 6
        page = await fresh.store.read("t", two.id, 10, 1000)
        assert page.knows_cursor and page.first_prev == MessageId.of(0, 0)


@in_loop
async def test_merge_keeps_both_and_brings_back_what_was_trimmed(
    server: RealValkey, other: RealValkey, tmp_path: Path
) -> None:
    async with opened(server) as one:
        await one.append("t", *[b"%d" % number for number in range(100)])
        await make_backup(one, tmp_path / "f")
        await one.append("t", *[b"%d" % number for number in range(100, 150)])
        server.command("XTRIM", schema.stream("t"), "MAXLEN", 70)
        epoch = server.command("HGET", schema.meta("t"), "epoch")
        await put_back(one, tmp_path / "f", Mode.MERGE)
        messages = await one.all_messages("t")
        assert [int(message.payload) for message in messages] == list(range(150))
        assert [message.prev for message in messages[1:]] == [message.id for message in messages[:-1]]
        assert server.command("HGET", schema.meta("t"), "epoch") == epoch
        await one.append("t", b"150")
        assert [int(message.payload) for message in await one.all_messages("t")] == list(range(151))
        # Again, with nothing to add.
        await put_back(one, tmp_path / "f", Mode.MERGE)
        assert len(await one.all_messages("t")) == 151


@in_loop
async def test_merge_while_it_is_published_to_loses_nothing(server: RealValkey, tmp_path: Path) -> None:
    is_over = False
    acknowledged = 3_000

    async def publish() -> None:
        nonlocal acknowledged
        async with opened(server) as writer:
            while not is_over:
                await writer.append("t", b"%d" % acknowledged)
                acknowledged += 1

    async with opened(server) as one:
        await one.append("t", *[b"%d" % number for number in range(3_000)])
        await make_backup(one, tmp_path / "f")
        server.command("XTRIM", schema.stream("t"), "MAXLEN", 1_000)
        publishing = asyncio.create_task(publish())
        await put_back(one, tmp_path / "f", Mode.MERGE)
        is_over = True
        await publishing
        messages = await one.all_messages("t")
        assert [int(message.payload) for message in messages] == list(range(acknowledged))
        assert acknowledged > 3_000


@in_loop
async def test_merge_adds_the_tail_that_a_store_has_lost(server: RealValkey, tmp_path: Path) -> None:
    async with opened(server) as one:
        await one.append("t", b"0", b"1", b"2", b"3")
        await make_backup(one, tmp_path / "f")
        ids = [name for name, _ in _entries(server, "t")]
        server.command("XDEL", schema.stream("t"), ids[2], ids[3])
        server.command("HSET", schema.meta("t"), "last", ids[1])
        await put_back(one, tmp_path / "f", Mode.MERGE)
        assert [message.payload for message in await one.all_messages("t")] == [b"0", b"1", b"2", b"3"]
        assert server.command("HGET", schema.meta("t"), "last") == ids[3]
        assert server.command("HGET", schema.meta("t"), "broken") == ids[3]


def _entries(server: RealValkey, topic: str) -> list[tuple[bytes, Any]]:
    with server.client() as client:
        return list(client.xrange(schema.stream(topic)))


@pytest.mark.parametrize("seed", range(20))
@in_loop
async def test_whatever_both_hold_a_merge_holds_both(
    server_of_all: RealValkey, tmp_path: Path, seed: int
) -> None:
    server = server_of_all
    server.command("FLUSHALL")
    chance = random.Random(seed)
    async with opened(server) as one:
        for _ in range(chance.randrange(1, 60)):
            await one.append("t", *[b"1"] * chance.choice((1, 40)))
        whole = _entries(server, "t")
        _thin(server, chance, whole)
        kept = {name for name, _ in _entries(server, "t")}
        await make_backup(one, tmp_path / "f")
        server.command("DEL", schema.stream("t"))
        with server.client() as client:
            for name, fields in whole:
                client.xadd(schema.stream("t"), fields, id=name)
        _thin(server, chance, whole)
        for _ in range(chance.randrange(4)):
            await one.append("t", b"2")
        kept |= {name for name, _ in _entries(server, "t")}
        await put_back(one, tmp_path / "f", Mode.MERGE, is_complete=True)
        assert [name for name, _ in _entries(server, "t")] == sorted(kept, key=message_id)
        last = server.command("HGET", schema.meta("t"), "last")
        assert last == whole[-1][0] or last == max(kept, key=message_id)
        await one.append("t", b"3")
        assert str((await one.all_messages("t"))[-1].prev).encode() == last


def _thin(server: RealValkey, chance: random.Random, whole: Sequence[tuple[bytes, Any]]) -> None:
    """Take some away, at either end or between; one stays."""
    names = [name for name, _ in whole]
    first, last = sorted(chance.choices(range(len(names)), k=2))
    gone = {*names[:first], *(names[last + 1 :] if chance.random() < 0.5 else [])}
    gone |= {name for name in names[first + 1 :] if chance.random() < 0.1}
    if gone:
        server.command("XDEL", schema.stream("t"), *gone)


@in_loop
async def test_a_place_that_is_further_on_stays_unless_topics_are_replaced(
    server: RealValkey, tmp_path: Path
) -> None:
    async with opened(server) as one:
        await one.append("t", b"1")
        await one.store.acknowledge("c", None, {"t": MessageId.of(5, 5)}, proves=False)
        await make_backup(one, tmp_path / "f")
        await one.store.acknowledge("c", None, {"t": MessageId.of(9, 9)}, proves=False)
        await put_back(one, tmp_path / "f", Mode.MERGE)
        assert server.command("HGET", schema.offsets("c"), "t") == b"9-9"
        await put_back(one, tmp_path / "f", Mode.REPLACE)
        assert server.command("HGET", schema.offsets("c"), "t") == b"5-5"
        assert int(str(server.command("PTTL", schema.offsets("c")))) > 0


# ---------------------------------------------------------------------------- what subscribers are told of it


def _history(relay: RunningWorker, topic: str) -> list[dict[str, Any]]:
    url = f"{relay.url}/api/v1/topics/{topic}/messages"
    found: list[dict[str, Any]] = requests.get(url, params={"order": "asc"}, timeout=10).json()["messages"]
    return found


def _publish(relay: RunningWorker, topic: str, *payloads: object) -> list[str]:
    ids = []
    for payload in payloads:
        body = {"topic": topic, "payload": payload}
        answer = requests.post(f"{relay.url}/api/v1/messages", json=body, timeout=10)
        assert answer.status_code == 201, answer.text
        ids.append(answer.json()["message_id"])
    return ids


def _poll(relay: RunningWorker, topic: str, since: str) -> tuple[list[object], list[str]]:
    """Payloads after a cursor, and the kinds of notices before them."""
    body = {"topics": [topic], "since": {topic: since}, "timeout": 1}
    answer = requests.post(f"{relay.url}/messages/poll", json=body, timeout=20).json()
    notices = [notice["type"] for notice in answer.get("notices", [])]
    return [message["payload"] for message in answer["messages"]], notices


@pytest.fixture
def relays(
    make_relay: Callable[..., RunningWorker], server: RealValkey, other: RealValkey
) -> tuple[RunningWorker, RunningWorker]:
    return make_relay(server.socket_path), make_relay(other.socket_path)


@pytest.mark.parametrize("is_complete", [True, False])
def test_cursors_go_on_within_the_backup_and_are_told_where_it_ends(
    relays: tuple[RunningWorker, RunningWorker],
    server: RealValkey,
    other: RealValkey,
    tmp_path: Path,
    is_complete: bool,
) -> None:
    before, after = relays
    ids = _publish(before, "t", 1, 2, 3)

    async def move() -> None:
        async with opened(server) as one, opened(other) as two:
            await make_backup(one, tmp_path / "f")
            lost.extend(_publish(before, "t", 4) if not is_complete else [])
            await put_back(two, tmp_path / "f", is_complete=is_complete)

    lost: list[str] = []
    asyncio.run(move())
    assert [message["message_id"] for message in _history(after, "t")] == ids
    assert _poll(after, "t", ids[0]) == ([2, 3], [])
    for cursor in lost:
        assert _poll(after, "t", cursor)[1] == ["reset"]
    (new,) = _publish(after, "t", 5)
    assert int(new.partition("-")[2]) == 4
    assert _poll(after, "t", ids[2]) == ([5], [] if is_complete else ["reset"])
    for cursor in lost:
        assert _poll(after, "t", cursor)[1] == ["reset"]
    assert _poll(after, "t", new) == ([], [])
    _publish(after, "t", 6)
    assert _poll(after, "t", new) == ([6], [])


def test_subscribers_of_a_running_relay_are_told_that_a_topic_was_replaced(
    relays: tuple[RunningWorker, RunningWorker], server: RealValkey, tmp_path: Path
) -> None:
    relay, _ = relays
    ids = _publish(relay, "t", 1, 2)

    async def go_back() -> None:
        async with opened(server) as one:
            await make_backup(one, tmp_path / "f")
            ids.extend(_publish(relay, "t", 3))
            await put_back(one, tmp_path / "f", Mode.REPLACE)

    asyncio.run(go_back())
    (new,) = _publish(relay, "t", 4)
    assert MessageId.parse(new) > MessageId.parse(ids[2])
    assert _poll(relay, "t", ids[2]) == ([4], ["reset"])
    assert _poll(relay, "t", ids[1])[1] == ["reset"]
    assert _poll(relay, "t", new) == ([], [])
