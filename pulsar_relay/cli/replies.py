"""Replies of Valkey as lines, as `valkey-cli` has them: with their types for people, bare for programs."""

from __future__ import annotations

from collections.abc import Iterator

from pulsar_relay.store.console import Reply

_ESCAPES = {ord("\\"): "\\\\", ord('"'): '\\"', 7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 13: "\\r"}
_PRINTABLE = range(0x20, 0x7F)


def bare(reply: Reply) -> Iterator[bytes]:
    """A line for each value, lists laid flat; nothing is an empty line."""
    if isinstance(reply, list):
        for value in reply:
            yield from bare(value)
    elif isinstance(reply, bytes):
        yield reply.removesuffix(b"\n").removesuffix(b"\r")
    else:
        yield b"" if reply is None else b"%d" % reply


def typed(reply: Reply) -> Iterator[str]:
    """Lists numbered, strings in them quoted. A string that is the whole reply is a text, and stays so."""
    if isinstance(reply, bytes):
        yield reply.decode("utf-8", "replace").rstrip("\r\n")
    else:
        yield from _typed(reply)


def _typed(reply: Reply) -> Iterator[str]:
    if isinstance(reply, bytes):
        yield f'"{"".join(map(_escaped, reply))}"'
    elif isinstance(reply, int):
        yield f"(integer) {reply}"
    elif reply is None:
        yield "(nil)"
    elif not reply:
        yield "(empty array)"
    else:
        width = len(str(len(reply)))
        for number, value in enumerate(reply, 1):
            head = f"{number:{width}}) "
            for line in _typed(value):
                yield head + line
                head = " " * len(head)


def _escaped(byte: int) -> str:
    return _ESCAPES.get(byte) or (chr(byte) if byte in _PRINTABLE else f"\\x{byte:02x}")
