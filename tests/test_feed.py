from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import valkey as valkey_client

from actors.ports import Draft, Publish, StoreError
from actors.protocol import Fed
from actors.stream import BEGINNING, Message, MessageId
from pulsar_relay.settings import ValkeySettings
from pulsar_relay.store import schema
from pulsar_relay.store.appends import INLINE_FEED_BYTES
from pulsar_relay.store.client import make_client
from pulsar_relay.store.feed import Feed
from pulsar_relay.store.shard import Shard
from tests.proxies import Proxy
from tests.stores import OpenStore, code_of, in_loop, open_store, publish, until
from tests.valkeys import TIMEOUT_SCALE, RealValkey

MakeValkey = Callable[..., RealValkey]


def ignore_claim(_client_id: str, _generation: int) -> None: ...


def _described(message: Message) -> tuple[object, ...]:
    return (
        message.topic,
        message.id,
        message.id_text,
        message.prev,
        message.payload,
        message.metadata,
        message.expires_at_ms,
    )


# What it tells


@in_loop
async def test_a_follower_is_told_of_another_workers_append_as_it_was_answered_there(valkey: str) -> None:
    drafts = (
        Draft(b'{"a":1}'),
        Draft(b"2", b'{"k":"\xc3\xa9"}'),
        Draft(b"\xff\x00 no text", None, 4102444800000),
        Draft(b"", b"{}", 4102444800001),
    )
    async with open_store(valkey, starts_feed=True) as follower, open_store(valkey) as publisher:
        await follower.store.follow("t")
        await publisher.append("t", b"before")
        appended = await publisher.store.append("t", [Publish("t", drafts), publish("t", b"5")], BEGINNING)
        await until(lambda: len(follower.fed) == 2)
        fed = follower.fed[1]
        assert fed.messages is not None
        assert [_described(m) for m in fed.messages] == [_described(m) for m in appended.messages]
        assert (fed.topic, fed.prev, fed.newest, fed.epoch) == (
            "t",
            appended.prev,
            appended.messages[-1].id,
            appended.epoch,
        )


@in_loop
async def test_a_large_batch_is_only_named(valkey: str) -> None:
    async with open_store(valkey, starts_feed=True) as follower, open_store(valkey) as publisher:
        await follower.store.follow("t")
        small = await publisher.append("t", b"x" * INLINE_FEED_BYTES)
        large = await publisher.append("t", b"x" * INLINE_FEED_BYTES, b"y")
        await until(lambda: len(follower.fed) == 2)
        assert follower.fed[0].messages is not None
        assert [m.payload for m in follower.fed[0].messages] == [m.payload for m in small.messages]
        assert follower.fed[1].messages is None
        assert follower.fed[1].prev == large.prev
        assert follower.fed[1].newest == large.messages[-1].id


@in_loop
async def test_a_worker_is_not_told_what_it_appended_itself(valkey: str) -> None:
    async with open_store(valkey, starts_feed=True) as opened, open_store(valkey) as other:
        await opened.store.follow("t")
        for _ in range(10):
            await opened.append("t", b"own")
        await other.append("t", b"other")
        await until(lambda: opened.fed)
        assert [[m.payload for m in fed.messages or ()] for fed in opened.fed] == [[b"other"]]


@in_loop
async def test_repeats_and_refusals_are_no_news(valkey: str) -> None:
    async with open_store(valkey, starts_feed=True) as follower, open_store(valkey) as publisher:
        await follower.store.follow("t")
        await publisher.append("t", b"1", key="k")
        await publisher.append("t", b"1", key="k")
        await publisher.store.append("t", [publish("t", b"2", key="k", digest="other")], BEGINNING)
        await publisher.append("t", b"3")
        await until(lambda: len(follower.fed) >= 2)
        assert [fed.newest.number for fed in follower.fed] == [1, 2]


@in_loop
async def test_what_is_not_followed_or_no_longer_is_told_to_nobody(valkey: str) -> None:
    async with open_store(valkey, starts_feed=True) as follower, open_store(valkey) as publisher:
        await follower.store.follow("t")
        await follower.store.follow("u")
        follower.store.unfollow("t")
        follower.store.unfollow("never followed")
        await follower.store.follow("last")  # answered after the unsubscribing before it
        await publisher.append("t", b"1")
        await publisher.append("v", b"1")
        await publisher.append("u", b"1")
        await until(lambda: follower.fed)
        assert [fed.topic for fed in follower.fed] == ["u"]


@in_loop
async def test_the_position_is_read_after_following_took_effect(valkey: str) -> None:
    async with open_store(valkey, starts_feed=True) as follower, open_store(valkey) as publisher:
        stopping = asyncio.Event()

        async def publish_all() -> int:
            count = 0
            while not stopping.is_set():
                await publisher.append("t", b"x")
                count += 1
            return count

        publishing = asyncio.create_task(publish_all())
        for _ in range(100):
            follower.fed.clear()
            position = await follower.store.follow("t")
            await until(lambda: follower.fed)
            assert follower.fed[0].prev <= position.newest, "something between was not told"
            follower.store.unfollow("t")
        stopping.set()
        assert await publishing > 100


@pytest.mark.parametrize(
    "spoken",
    [b"", b"\n", b"x", b"w 1-1 1-2", b"w 1-1 1-2 e 5\n1", b"w a b c\n", b"w 1-1 1-2 e x.y\n", b"\xff\xfe\n"],
)
@in_loop
async def test_what_somebody_else_says_on_a_topics_channel_is_ignored(
    valkey: str, admin: valkey_client.Valkey, spoken: bytes
) -> None:
    async with open_store(valkey, starts_feed=True) as follower, open_store(valkey) as publisher:
        await follower.store.follow("t")
        admin.publish(schema.feed("t"), spoken)
        await publisher.append("t", b"1")
        await until(lambda: follower.fed)
        assert [fed.newest.number for fed in follower.fed] == [1]
        assert follower.feed.connections == 1


# Following and unfollowing, in any order, on any connection


@in_loop
async def test_following_again_at_once_after_unfollowing_is_told_everything(valkey: str) -> None:
    async with open_store(valkey, starts_feed=True) as follower, open_store(valkey) as publisher:
        for turn in range(50):
            first = asyncio.create_task(follower.feed.follow("t"))
            await asyncio.sleep(0)
            follower.store.unfollow("t")
            second = asyncio.create_task(follower.feed.follow("t"))
            assert await code_of(first) == "store_unavailable"
            await second
            follower.fed.clear()
            await publisher.append("t", b"%d" % turn)
            await until(lambda: follower.fed)
            assert follower.fed[0].newest.number == turn + 1
            follower.store.unfollow("t")


@in_loop
async def test_a_follow_that_is_given_up_does_not_undo_the_next_one(valkey: str) -> None:
    async with open_store(valkey, starts_feed=True) as follower, open_store(valkey) as publisher:
        for turn in range(50):
            first = asyncio.create_task(follower.feed.follow("t"))
            for _ in range(turn % 4):
                await asyncio.sleep(0)
            second = asyncio.create_task(follower.feed.follow("t"))
            await asyncio.sleep(0)
            first.cancel()
            await second
            follower.fed.clear()
            await publisher.append("t", b"x")
            await until(lambda: follower.fed)
            follower.store.unfollow("t")
            await asyncio.gather(first, return_exceptions=True)


@in_loop
async def test_a_follow_that_fails_follows_nothing(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    quick = {"command_timeout_seconds": 0.2}
    async with open_store(server.socket_path, valkey=quick, starts_feed=True) as follower:
        server.pause()
        with pytest.raises(StoreError) as caught:
            await follower.store.follow("t")
        assert caught.value.code == "store_unavailable"
        server.resume()
        await until(lambda: follower.feed.is_connected)
        await follower.store.follow("u")
        assert _followed(server) == {schema.feed("u")}


@in_loop
async def test_a_follow_while_the_connection_is_away_is_confirmed_when_it_is_back(
    make_valkey: MakeValkey,
) -> None:
    server = make_valkey().start()
    slow = {"command_timeout_seconds": 10.0 * TIMEOUT_SCALE}
    async with (
        open_store(server.socket_path, valkey=slow, starts_feed=True) as follower,
        open_store(server.socket_path) as publisher,
    ):
        server.kill()
        following = asyncio.create_task(follower.feed.follow("t"))
        await until(lambda: not follower.feed.is_connected)
        server.start()
        await following
        await publisher.append("t", b"1")
        await until(lambda: follower.fed)


# The connection


@in_loop
async def test_after_a_lost_connection_everything_is_followed_again_and_compared(valkey: str) -> None:
    async with (
        Proxy(valkey) as proxy,
        open_store(proxy, starts_feed=True) as follower,
        open_store(valkey) as publisher,
    ):
        topics = [f"t{n}" for n in range(20)]
        for topic in topics:
            await follower.store.follow(topic)
        assert follower.comparisons == 0
        for round_ in range(1, 6):
            proxy.reset()
            await until(lambda count=round_: follower.comparisons == count)
            follower.fed.clear()
            for topic in topics:
                await publisher.append(topic, b"x")
            await until(lambda: len(follower.fed) == len(topics))


@in_loop
async def test_nothing_is_lost_unnoticed_while_connections_are_killed_and_two_workers_publish(
    valkey: str, admin: valkey_client.Valkey
) -> None:
    async with (
        open_store(valkey, starts_feed=True) as follower,
        open_store(valkey) as one,
        open_store(valkey) as other,
    ):
        await follower.store.follow("t")
        newest = BEGINNING
        known: list[MessageId] = []

        async def publish_all(opened: OpenStore) -> None:
            nonlocal newest
            for _ in range(300):
                appended = await opened.append("t", b"x")
                newest = max(newest, appended.messages[-1].id)
                await asyncio.sleep(0.002)

        async def kill_all() -> None:
            while True:
                admin.client_kill_filter(_type="pubsub")
                await asyncio.sleep(0.3)

        async def check() -> None:
            # As a topic's actor does: what is told must follow what is known, or the stream is asked.
            position, comparisons, taken = BEGINNING, -1, 0
            while len(known) < 600:
                if follower.comparisons != comparisons or taken == len(follower.fed):
                    comparisons = follower.comparisons
                    page = await follower.store.read("t", position, 500, 1_000_000)
                    known.extend(m.id for m in page.batch.messages)
                    position = page.batch.last
                for fed in follower.fed[taken:]:
                    taken += 1
                    if fed.prev == position:
                        known.append(fed.newest)
                        position = fed.newest
                await asyncio.sleep(0.001)

        killing = asyncio.create_task(kill_all())
        await asyncio.gather(publish_all(one), publish_all(other), check())
        killing.cancel()
        assert [message_id.number for message_id in known] == list(range(1, 601))
        assert follower.comparisons >= 1
        assert follower.feed.connections == follower.comparisons + 1 or follower.feed.failure


@in_loop
async def test_a_feed_that_stays_connected_tells_everything_in_order(valkey: str) -> None:
    async with (
        open_store(valkey, starts_feed=True) as follower,
        open_store(valkey) as one,
        open_store(valkey) as other,
    ):
        await follower.store.follow("t")

        async def publish_all(opened: OpenStore) -> None:
            for _ in range(200):
                await opened.append("t", b"x", b"y")

        await asyncio.gather(publish_all(one), publish_all(other))
        await until(lambda: len(follower.fed) == 400)
        position = BEGINNING
        for fed in follower.fed:
            assert fed.prev == position
            position = fed.newest
        assert position.number == 800


@in_loop
async def test_a_deaf_connection_is_noticed_and_replaced(valkey: str) -> None:
    async with Proxy(valkey) as proxy:
        direct = make_client(_settings(), valkey)
        behind = make_client(_settings(proxy), None)
        told: list[Fed] = []
        # It hears through the proxy and speaks past it, as if its connection went to a deposed server.
        feed = Feed(_hearing_elsewhere(hears=behind, speaks=direct), "w", 0.3)
        comparisons: list[int] = []
        feed.start(told.append, lambda topics: comparisons.append(1), ignore_claim)
        try:
            await until(lambda: feed.heard_at)
            await feed.follow("t")
            proxy.swallows_replies = True
            await until(lambda: not feed.is_connected)
            proxy.swallows_replies = False
            await until(lambda: feed.is_connected)
            assert len(comparisons) == 1
            assert feed.connections >= 2
            async with open_store(valkey) as publisher:
                await publisher.append("t", b"1")
                await until(lambda: told)
        finally:
            await feed.stop()
            await direct.aclose()
            await behind.aclose()


@in_loop
async def test_silence_while_nothing_could_be_said_proves_nothing(valkey: str) -> None:
    async with Proxy(valkey) as proxy:
        direct = make_client(_settings(), valkey)
        behind = make_client(_settings(proxy), None)
        feed = Feed(_hearing_elsewhere(hears=direct, speaks=behind), "w", 0.2)
        feed.start(lambda fed: None, lambda topics: None, ignore_claim)
        try:
            await until(lambda: feed.heard_at)
            heard_at = feed.heard_at
            proxy.reset()
            proxy.is_black_hole = True
            await until(lambda: behind.line.waiting)
            await until(lambda: not behind.line.waiting)
            assert feed.is_connected
            proxy.is_black_hole = False
            await until(lambda: feed.heard_at != heard_at)
            assert feed.connections == 1
        finally:
            await feed.stop()
            await direct.aclose()
            await behind.aclose()


@in_loop
async def test_thousands_of_topics_are_followed_again_in_no_time(
    valkey: str, admin: valkey_client.Valkey
) -> None:
    async with open_store(valkey, starts_feed=True) as follower, open_store(valkey) as publisher:
        topics = [f"t{n}" for n in range(5000)]
        await asyncio.gather(*[follower.feed.follow(topic) for topic in topics])
        begun = time.monotonic()
        admin.client_kill_filter(_type="pubsub")
        await until(lambda: follower.comparisons)
        assert time.monotonic() - begun < 2.0 * TIMEOUT_SCALE
        await publisher.append("t4999", b"1")
        await publisher.append("t0", b"1")
        await until(lambda: len(follower.fed) == 2)


@in_loop
async def test_a_user_that_may_not_subscribe_is_told_so(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    server.command("ACL", "SETUSER", "relay", "on", ">secret", "~*", "+@all", "resetchannels")
    client = make_client(_settings(username="relay", password="secret"), server.socket_path)
    feed = Feed(client, "w", 0.3)
    feed.start(lambda fed: None, lambda topics: None, ignore_claim)
    try:
        await until(lambda: feed.failure == "store_denied")
        assert await code_of(feed.follow("t")) == "store_unavailable"
        server.command("ACL", "SETUSER", "relay", "&*")
        await until(lambda: feed.is_connected)
    finally:
        await feed.stop()
        await client.aclose()


@in_loop
async def test_an_append_is_stored_though_its_user_may_not_announce_it(make_valkey: MakeValkey) -> None:
    server = make_valkey().start()
    server.command("ACL", "SETUSER", "relay", "on", ">secret", "~*", "+@all", "resetchannels")
    login = {"username": "relay", "password": "secret"}
    async with open_store(server.socket_path, valkey=login) as opened:
        assert (await opened.append("t", b"1")).messages[0].id.number == 1
        assert (await opened.append("t", b"2")).messages[0].id.number == 2
        assert len(await opened.all_messages("t")) == 2


@in_loop
async def test_stopping_ends_the_connection_and_all_that_wait(
    valkey: str, admin: valkey_client.Valkey
) -> None:
    async with open_store(valkey, starts_feed=True) as follower:
        await follower.feed.stop()
        await follower.feed.stop()
        await until(lambda: not admin.client_list(_type="pubsub"))
    async with open_store(valkey) as never_started:
        await never_started.feed.stop()


@pytest.mark.parametrize("name", ["", "a b", "a:b", "\u0661"])
def test_a_workers_name_is_letters_and_digits(name: str) -> None:
    with pytest.raises(ValueError, match="letters and digits"):
        Feed(make_client(_settings(), "nowhere"), name, 1.0)


def _hearing_elsewhere(hears: Shard, speaks: Shard) -> Shard:
    """A client whose feed connects to another address than its commands."""
    mixed = Shard("mixed", hears.endpoint, 1)
    mixed.line = speaks.line
    return mixed


def _settings(proxy: Proxy | None = None, **changed: Any) -> ValkeySettings:
    settings = ValkeySettings(command_timeout_seconds=0.3)
    if proxy is not None:
        settings = replace(settings, host=proxy.host, port=proxy.port)
    return replace(settings, **changed)


def _followed(server: RealValkey) -> set[str]:
    found = server.command("PUBSUB", "CHANNELS", schema.feed("*"))
    assert isinstance(found, list)
    return {name.decode() for name in found}
