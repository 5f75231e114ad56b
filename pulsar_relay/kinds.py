"""The kinds of value a setting can have: how its text is read, what is allowed, how it is shown.

Every source of settings (file, environment, flags) hands over text, so `8080` means the same wherever it
stands. `parse` raises ValueError with a phrase that completes "server.port: '80a' ...", without the text
itself, which may be a secret; `form` completes "allowed: ...".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pulsar_relay.network_kinds import listed
from pulsar_relay.quantities import (
    DURATION_FORM,
    SIZE_FORM,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


class Kind(Protocol):
    """How one setting's value is read from text and shown as text; `parse(show(value)) == value`."""

    @property
    def form(self) -> str: ...

    @property
    def null_words(self) -> frozenset[str]:
        """What, besides `null`, says "no value" where the setting allows that."""
        ...

    def parse(self, text: str) -> object: ...

    def show(self, value: object) -> str: ...


@runtime_checkable
class Structured(Protocol):
    """A kind whose value may also stand in a file as a list or a mapping; `parse` gets it as JSON."""

    takes_structure: bool


@runtime_checkable
class Guarded(Protocol):
    """A kind of secret setting of whose value a part may be shown."""

    def masked(self, value: object) -> str: ...

    def secrets(self, value: object) -> Iterator[str]: ...


_OFF = frozenset({"off", "none"})
_NO_WORDS: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Text:
    """Any text, as it stands."""

    form: str = "text"
    # `off` could be a host's name or somebody's password.
    null_words: frozenset[str] = _NO_WORDS

    def parse(self, text: str) -> str:
        if not text.isprintable():
            raise ValueError("contains a control character")
        return text

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that nobody can guess, as far as its length tells; and none of those that everybody knows."""

    least_characters: int
    known: frozenset[str] = frozenset()
    null_words: frozenset[str] = _NO_WORDS

    @property
    def form(self) -> str:
        return f"{self.least_characters} characters or more that nobody can guess: openssl rand -base64 48"

    def parse(self, text: str) -> str:
        if text in self.known:
            raise ValueError("is a placeholder that everybody knows")
        if len(text) < self.least_characters:
            raise ValueError("is too short")
        return Text().parse(text)

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Secrets:
    """Several of the same sort: a tuple of texts, none of them with a comma."""

    each: Secret
    most: int
    null_words: frozenset[str] = _NO_WORDS

    @property
    def form(self) -> str:
        return f"up to {self.most} texts of {self.each.least_characters} characters or more, with commas"

    def parse(self, text: str) -> tuple[str, ...]:
        parts = tuple(self.each.parse(part.strip()) for part in text.split(","))
        if len(parts) > self.most:
            raise ValueError("are too many")
        return parts

    def show(self, value: object) -> str:
        return ",".join(self.secrets(value))

    def masked(self, value: object) -> str:
        return "********"

    def secrets(self, value: object) -> Iterator[str]:
        assert isinstance(value, tuple)
        yield from value


@dataclass(frozen=True, slots=True)
class Addresses:
    """Hosts and ports, one or several: a tuple of pairs."""

    form: str = "host:port, or several with commas between them"
    null_words: frozenset[str] = _NO_WORDS

    def parse(self, text: str) -> tuple[tuple[str, int], ...]:
        return tuple(self._address(word.strip()) for word in text.split(","))

    def show(self, value: object) -> str:
        assert isinstance(value, tuple)
        return ", ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in value)

    def _address(self, word: str) -> tuple[str, int]:
        match = _ADDRESS.fullmatch(word)
        if match is None:
            raise ValueError("is not host:port")
        port = int(match["port"])
        _check_bounds(port, 1, 65535)
        return match["bracketed"] or match["host"], port


_ADDRESS = re.compile(
    r"(?:\[(?P<bracketed>[0-9A-Fa-f:.%]+)\]|(?P<host>[A-Za-z0-9_.-]+)):(?P<port>[0-9]{1,5})"
)


@dataclass(frozen=True, slots=True)
class FilePath:
    """The path of a file or directory; a relative one starts at the directory the relay was started in."""

    form: str = "a path"
    null_words: frozenset[str] = _NO_WORDS

    def parse(self, text: str) -> Path:
        if "\0" in text:
            raise ValueError("contains a NUL character")
        return Path(text).expanduser()

    def show(self, value: object) -> str:
        text = str(value)
        return text if text.startswith(("/", ".", "~")) else f"./{text}"


@dataclass(frozen=True, slots=True)
class Switch:
    """true or false."""

    form: str = "true or false"
    null_words: frozenset[str] = _NO_WORDS

    def parse(self, text: str) -> bool:
        word = text.lower()
        if word in {"true", "yes", "on", "1"}:
            return True
        if word in {"false", "no", "off", "0"}:
            return False
        raise ValueError("is neither true nor false")

    def show(self, value: object) -> str:
        return "true" if value else "false"


@dataclass(frozen=True, slots=True)
class Choice:
    """One word of a few."""

    words: tuple[str, ...]
    null_words: frozenset[str] = _NO_WORDS

    @property
    def form(self) -> str:
        return " | ".join(self.words)

    def parse(self, text: str) -> str:
        word = text.lower()
        if word not in self.words:
            raise ValueError("is not one of the words allowed")
        return word

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number, bounds included."""

    least: int
    most: int
    null_words: frozenset[str] = _OFF

    @property
    def form(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def parse(self, text: str) -> int:
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()):
            raise ValueError("is not a whole number")
        number = int(text)
        _check_bounds(number, self.least, self.most)
        return number

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class WholeOrAuto:
    """A whole number from 1, or the word `auto`, whose value is 0."""

    most: int
    null_words: frozenset[str] = _NO_WORDS

    @property
    def form(self) -> str:
        return f"auto, or a whole number from 1 to {self.most}"

    def parse(self, text: str) -> int:
        return 0 if text.lower() == "auto" else Whole(1, self.most).parse(text)

    def show(self, value: object) -> str:
        return str(value) if value else "auto"


@dataclass(frozen=True, slots=True)
class Duration:
    """A time, in seconds; bounds included, given as text."""

    least: str
    most: str
    null_words: frozenset[str] = _OFF

    @property
    def form(self) -> str:
        return f"from {self.least} to {self.most}; {DURATION_FORM}"

    def parse(self, text: str) -> float:
        seconds = parse_duration(text)
        _check_bounds(seconds, parse_duration(self.least), parse_duration(self.most))
        return seconds

    def show(self, value: object) -> str:
        assert isinstance(value, float)
        return format_duration(value)


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes; bounds included, given as text. `zero` says what 0 means where it is allowed."""

    least: str
    most: str
    zero: str | None = None
    null_words: frozenset[str] = _OFF

    @property
    def form(self) -> str:
        zero = f"0 ({self.zero}) or " if self.zero else ""
        return f"{zero}from {self.least} to {self.most}; {SIZE_FORM}"

    def parse(self, text: str) -> int:
        size_bytes = parse_size(text)
        if size_bytes or self.zero is None:
            _check_bounds(size_bytes, parse_size(self.least), parse_size(self.most))
        return size_bytes

    def show(self, value: object) -> str:
        assert isinstance(value, int)
        return format_size(value)


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in so long: `count` at once, and as many again in `seconds`, evenly."""

    count: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.count / self.seconds


@dataclass(frozen=True, slots=True)
class Rates:
    """A rate, written `5/1m`."""

    form: str = "a number and a time, such as 5/1m or 1000/1s, up to 10000000 in a day"
    null_words: frozenset[str] = _OFF

    def parse(self, text: str) -> Rate:
        count, slash, time = text.partition("/")
        count = count.strip()
        if not (slash and count.isascii() and count.isdigit()):
            raise ValueError("is not a number, a slash and a time")
        number = int(count[:20])
        _check_bounds(number, 1, 10_000_000)
        time = time.strip()
        seconds = parse_duration(f"1{time}" if time[:1].isalpha() else time)
        _check_bounds(seconds, 1.0, 86_400.0)
        return Rate(number, seconds)

    def show(self, value: object) -> str:
        assert isinstance(value, Rate)
        return f"{value.count}/{format_duration(value.seconds)}"


@dataclass(frozen=True, slots=True)
class Words:
    """Some of a few words: a tuple, each once, in the order of the few."""

    words: tuple[str, ...]
    null_words: frozenset[str] = frozenset({"none"})
    takes_structure: bool = True

    @property
    def form(self) -> str:
        return f"any of {', '.join(self.words)}, with commas between them"

    def parse(self, text: str) -> tuple[str, ...]:
        given = {word.lower() for word in listed(text)}
        if not given <= set(self.words):
            raise ValueError("holds a word that is not allowed")
        return tuple(word for word in self.words if word in given)

    def show(self, value: object) -> str:
        assert isinstance(value, tuple)
        return ", ".join(value)


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the table says of one setting, beside the field's own name, type and default."""

    kind: Kind
    text: str
    name: str | None
    null: str | None
    secret: bool
    flag: str | None
    plain_environment: str | None
    reloads: bool


def setting(
    kind: Kind,
    default: object,
    text: str,
    *,
    name: str | None = None,
    null: str | None = None,
    secret: bool = False,
    flag: str | None = None,
    environment: str | None = None,
    reloads: bool = False,
) -> Any:
    """A field of a section.

    `null`, where null is allowed, says what it means; `environment` is a plain name beside the systematic.
    `reloads`: a relay that runs takes another value over.
    """
    declaration = Declaration(kind, text, name, null, secret, flag, environment, reloads)
    return dataclasses.field(default=default, repr=not secret, metadata={Declaration: declaration})


def _check_bounds(value: float, least: float, most: float) -> None:
    if value < least:
        raise ValueError("is too small")
    if value > most:
        raise ValueError("is too large")
