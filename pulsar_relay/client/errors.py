"""What can go wrong between a client and a relay, by what the client may do about it."""

from __future__ import annotations

import msgspec


class ClientError(Exception):
    """A request failed. `code` is a word for programs, `message` a sentence for people.

    `is_retryable`: the same request may succeed later, not before `retry_after_seconds`.
    """

    def __init__(
        self, code: str, message: str, *, is_retryable: bool = True, retry_after_seconds: float = 0.0
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.is_retryable = is_retryable
        self.retry_after_seconds = retry_after_seconds


class UnreachableError(ClientError):
    """Nobody answers at the address: the request was not even sent."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__("unreachable", f"no relay can be reached at {url} ({reason}).")


class LostError(ClientError):
    """The connection broke, or no answer came in time: the request may have been carried out or not."""

    def __init__(
        self, reason: str, *, code: str = "connection_lost", retry_after_seconds: float = 0.0
    ) -> None:
        super().__init__(code, reason, retry_after_seconds=retry_after_seconds)


class RefusedError(ClientError):
    """The relay, or a proxy before it, answered with an error."""

    def __init__(
        self, code: str, message: str, *, is_retryable: bool, retry_after_seconds: float = 0.0
    ) -> None:
        super().__init__(code, message, is_retryable=is_retryable, retry_after_seconds=retry_after_seconds)


class NotARelayError(ClientError):
    """Something answered, and not as a relay does."""

    def __init__(self, reason: str) -> None:
        super().__init__("not_a_relay", f"{reason} Is this a relay's address?", is_retryable=False)


class _WrongField(msgspec.Struct):
    loc: list[str | int]
    msg: str


def wrong_fields(details: msgspec.Raw) -> str:
    """`topic must be ...; ttl must be ...`, from the list of wrong fields that an error may have; else
    nothing.
    """
    try:
        fields = msgspec.json.decode(details, type=list[_WrongField])
    except msgspec.DecodeError:
        return ""
    return "; ".join(f"{'.'.join(map(str, field.loc[1:]))} {field.msg}".strip() for field in fields)
