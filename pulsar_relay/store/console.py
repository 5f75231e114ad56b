"""Console: commands as an operator types them, answered in the server's own words.

Everything else of the relay asks through a `Client`, which tells what an error means and keeps its text out
of sight; whoever types a command wants to see that text.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

from valkey.exceptions import ValkeyError

from pulsar_relay.store.link import Endpoint
from pulsar_relay.store.refusals import ANSWERS, lost, unreachable

Reply = bytes | int | None | list["Reply"]

ENDLESS = frozenset({"MONITOR", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"})
"""Commands that are answered again and again."""


class AnswerError(Exception):
    """The server refused the command; the text is its own."""


class Console:
    """One connection for each command. Raises StoreError where the server cannot be talked to."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def replies(self, words: Sequence[str]) -> AsyncGenerator[Reply, None]:
        """Send a command and yield its reply; of an endless one all replies, until the caller stops or the
        connection ends. However long it takes: there is no deadline. Raises AnswerError.
        """
        connection = self._endpoint.connection_class(**self._endpoint.arguments)
        try:
            try:
                async with asyncio.timeout(self._endpoint.connect_timeout_seconds):
                    await connection.connect()
            except (ValkeyError, OSError) as error:
                raise unreachable(error) from error
            await connection.send_command(*words)
            yield await connection.read_response(disconnect_on_error=False)
            while words[0].upper() in ENDLESS:
                yield await connection.read_response(disconnect_on_error=False)
        except ANSWERS as error:
            raise AnswerError(str(error)) from error
        except (ValkeyError, OSError) as error:
            raise lost() from error
        finally:
            with contextlib.suppress(ValkeyError, OSError):
                await connection.disconnect(nowait=True)
