"""AccountCalls: what the commands about accounts ask of a relay."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from pulsar_relay.cli.connection import FailedError
from pulsar_relay.client.address import Address
from pulsar_relay.client.errors import ClientError, RefusedError
from pulsar_relay.client.http import Answer, HttpClient

T = TypeVar("T")
Fields = dict[str, Any]

REQUEST_SECONDS = 30.0
_USER_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class AccountCalls:
    """Everything raises ClientError."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    async def ask(
        self, method: str, path: str, body: Fields | None = None, query: Mapping[str, str] | None = None
    ) -> Answer:
        url = self._http.address.url(path, query)
        text = None if body is None else msgspec.json.encode(body)
        if text is None and method in ("POST", "PATCH"):
            text = b""
        return await self._http.request(method, url, timeout_seconds=REQUEST_SECONDS, body=text)

    async def list(self, path: str, query: Mapping[str, str] | None = None) -> list[Fields]:
        """All of them, page by page."""
        found: list[Fields] = []
        following: str | None = path + (f"?{urlencode(query)}" if query else "")
        while following is not None:
            answer = await self.ask("GET", following)
            found += answer.read(list[Fields])
            following = answer.next_path
        return found

    async def user_id(self, name: str) -> str:
        """Of the user of this name; an id is one already. For admins."""
        if _USER_ID.fullmatch(name):
            return name
        # Names come in the order of their bytes: what is before the last character is before the name.
        after: str | None = name[:-1]
        while after is not None:
            answer = await self.ask("GET", "/auth/users", query={"after": after} if after else None)
            page = answer.read(list[Fields])
            for user in page:
                if user["username"] == name:
                    return str(user["user_id"])
            is_last = answer.next_path is None or page[-1]["username"].encode() > name.encode()
            after = None if is_last else page[-1]["username"]
        raise RefusedError("user_not_found", f"there is no user {name!r}.", is_retryable=False)

    async def whose(self, name: str | None) -> Mapping[str, str] | None:
        """The query for another user's things, None for one's own."""
        return None if name is None else {"user_id": await self.user_id(name)}


def call(address: Address, work: Callable[[AccountCalls], Awaitable[T]]) -> T:
    """Do the work, and tell what failed. Raises FailedError."""

    async def run() -> T:
        http = HttpClient(address)
        try:
            return await work(AccountCalls(http))
        finally:
            http.close()

    try:
        return asyncio.run(run())
    except ClientError as error:
        raise FailedError(error) from error


def part(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")
