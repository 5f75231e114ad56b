"""`subscribe`: messages as lines of JSON on standard output."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import click

from pulsar_relay.cli.connection import FailedError, interrupted, topic_names, url_option
from pulsar_relay.client.acknowledger import Acknowledger
from pulsar_relay.client.address import Address
from pulsar_relay.client.backoff import Backoff
from pulsar_relay.client.catching_up import CatchingUp
from pulsar_relay.client.errors import ClientError
from pulsar_relay.client.event_stream import EventTransport
from pulsar_relay.client.frames import MessageFrame, NoticeFrame, one_line
from pulsar_relay.client.http import HttpClient
from pulsar_relay.client.reader import ACKED, EARLIEST, LATEST, Reader
from pulsar_relay.client.transports import PollTransport, Transport, WebSocketTransport
from pulsar_relay.wire import CLIENT_ID_MAX_LENGTH


@click.command()
@click.argument("topics", nargs=-1, required=True, callback=topic_names, metavar="TOPIC...")
@click.option(
    "--since",
    multiple=True,
    metavar="earliest|latest|ID",
    help="Where to begin: with the oldest message kept, with the next one, or after the message ID. "
    "TOPIC=... says it for one topic. May be repeated.  [default: latest; with --no-follow earliest; with "
    "--client-id after the last message acknowledged]",
)
@click.option(
    "--client-id",
    metavar="NAME",
    help="Read under this name: acknowledge what is printed, and begin where it was acknowledged last. Who "
    "reads under the same name is ended.",
)
@click.option(
    "--transport",
    type=click.Choice(["ws", "sse", "poll"]),
    default="ws",
    show_default=True,
    help="WebSocket, Server-Sent Events, or long-poll. All give the same messages.",
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N messages.")
@click.option(
    "--follow/--no-follow",
    default=True,
    show_default=True,
    help="Go on with new messages, or end with what is there.",
)
@click.option("--payload-only", is_flag=True, help="Print the payloads alone.")
@url_option
def subscribe(
    topics: Sequence[str],
    since: Sequence[str],
    client_id: str | None,
    transport: str,
    count: int | None,
    address: Address,
    *,
    follow: bool,
    payload_only: bool,
) -> None:
    """Print the messages of one or more TOPICs, a JSON object a line, until Ctrl-C.

    When the connection breaks, it is made again and goes on where it was: no message is lost or printed
    twice. Where messages are gone before they could be read, a notice says so on standard error, also as
    JSON.

    \b
    Examples:
      pulsar-relay subscribe jobs
      pulsar-relay subscribe jobs results --since earliest --since results=1700000000000-0
      pulsar-relay subscribe jobs --since earliest --no-follow --payload-only > jobs.ndjson
      pulsar-relay subscribe jobs --client-id nightly --no-follow >> jobs.ndjson
    """
    if client_id is not None and not 1 <= len(client_id) <= CLIENT_ID_MAX_LENGTH:
        raise click.UsageError(f"--client-id must be 1 to {CLIENT_ID_MAX_LENGTH} characters")
    default = ACKED if client_id is not None else LATEST if follow else EARLIEST
    since_of = _places(topics, since, default)
    subscription = Subscription(address, transport, since_of, client_id, count, payload_only=payload_only)
    try:
        asyncio.run(subscription.run(follows=follow))
    except ClientError as error:
        raise FailedError(error) from error


def _places(topics: Sequence[str], since: Sequence[str], default: str) -> Mapping[str, str]:
    """Where to begin, for each topic once, in the order given."""
    named: dict[str, str] = {}
    for word in since:
        topic, equals, cursor = word.rpartition("=")
        if equals and topic not in topics:
            raise click.UsageError(f"--since {word}: {topic!r} is not among the topics")
        if not (cursor.isascii() and cursor.isprintable()) or "," in cursor:
            raise click.UsageError(f"--since {word!r} cannot be a message id")
        named[topic] = cursor
    return {topic: named.get(topic, named.get("", default)) for topic in dict.fromkeys(topics)}


class Subscription:
    """Prints until it is told to end, nobody reads any more, or everything wanted is printed."""

    def __init__(
        self,
        address: Address,
        transport: str,
        since: Mapping[str, str],
        client_id: str | None,
        count: int | None,
        *,
        payload_only: bool,
    ) -> None:
        self._address = address
        self._transport = transport
        self._since = since
        self._client_id = client_id
        self._acknowledger: Acknowledger | None = None
        self._left = count
        self._payload_only = payload_only
        self._catching_up: CatchingUp | None = None

    async def run(self, *, follows: bool) -> None:
        """Raises ClientError."""
        http = HttpClient(self._address)
        try:
            await self._read_until_enough(http, follows=follows)
        except BrokenPipeError:
            pass
        finally:
            http.close()
            _flush_standard_output()

    async def _read_until_enough(self, http: HttpClient, *, follows: bool) -> None:
        if self._client_id is None:
            await _first_of(self._read(http, follows=follows), _end_of_interest())
            return
        acknowledger = self._acknowledger = Acknowledger(
            http, self._client_id, backoff=Backoff(), on_interruption=interrupted
        )
        try:
            await _first_of(self._read(http, follows=follows), _end_of_interest(), acknowledger.run())
        finally:
            # Also what was printed before something failed.
            await acknowledger.finish()

    async def _read(self, http: HttpClient, *, follows: bool) -> None:
        reader = Reader(
            self._make_transport(http), self._since, backoff=Backoff(), on_interruption=interrupted
        )
        if follows:
            await self._print_all(reader)
        else:
            self._catching_up = CatchingUp(http, self._since)
            await self._catching_up.begin(Backoff(), interrupted)
            await _first_of(self._print_all(reader), self._catching_up.wait(reader))

    def _make_transport(self, http: HttpClient) -> Transport:
        if self._transport == "ws":
            return WebSocketTransport(self._address, self._client_id)
        if self._transport == "sse":
            return EventTransport(self._address, self._client_id)
        return PollTransport(http, self._client_id)

    async def _print_all(self, reader: Reader) -> None:
        async with aclosing(reader.frames()) as frames:
            async for frame in frames:
                if isinstance(frame, NoticeFrame):
                    click.echo(one_line(frame.text), err=True)
                    continue
                self._print(frame)
                if self._left == 0:
                    return

    def _print(self, message: MessageFrame) -> None:
        text = message.payload if self._payload_only else message.text
        sys.stdout.buffer.write(one_line(text) + b"\n")
        sys.stdout.buffer.flush()
        if self._left is not None:
            self._left -= 1
        if self._acknowledger is not None:
            self._acknowledger.note(message.topic, message.message_id)
        if self._catching_up is not None:
            self._catching_up.note(message)


async def _first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run them until the first has ended, or failed; the others are cancelled."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _end_of_interest() -> None:
    """Return on SIGINT or SIGTERM, or when whoever reads a pipe of our output has closed it."""
    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    output = sys.stdout.fileno()
    is_pipe = stat.S_ISFIFO(os.fstat(output).st_mode)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end.set)
    if is_pipe:
        # The writing end of a pipe becomes readable only when it breaks. Without this, `| head` would end
        # with the next message, which may be tomorrow's.
        loop.add_reader(output, end.set)
    try:
        await end.wait()
    finally:
        if is_pipe:
            loop.remove_reader(output)


def _flush_standard_output() -> None:
    """Also when a write failed half-way: where nobody reads, what Python writes at its end must not fail."""
    try:
        sys.stdout.flush()
        return
    except BrokenPipeError:
        pass
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
