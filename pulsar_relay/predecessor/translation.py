"""What a deployment of the predecessor says, in the relay's own settings.

Each name becomes the setting that takes its value, with a notice where the relay does otherwise; a value that
cannot be meant is a problem with the name under which it stands. Nothing is read here.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from pulsar_relay.given import Given, nearest
from pulsar_relay.predecessor.names import NAMES, PROVIDERS, Name
from pulsar_relay.predecessor.told import Leaf, Told

_BACKEND = "storage_backend"
_OF_EXTERNAL_VALKEY = "valkey_"
_NOTHING = frozenset({"", "false", "f", "no", "n", "off", "0"})
_USUAL_PENDING_BYTES = 64 * 1024 * 1024
_UNITS = {"s": "of seconds", "m": "of minutes", "d": "of days"}
_SWITCHES = frozenset({"valkey.tls", "oidc.enabled"})
_SWITCH_WORDS = {"t": "true", "y": "yes", "f": "false", "n": "no"}


class Translation:
    """Of what the file, `.env` and the environment told, each going before those named earlier.

    `implied` is what follows from it without having been said, and gives way to whatever was; `of_file` and
    `of_environment` are what was said.
    """

    def __init__(
        self, of_file: Iterable[Told], of_environment: Iterable[Told], said: Collection[str]
    ) -> None:
        """`said` are the relay's own keys of which somebody says something."""
        self.implied: list[Given] = []
        self.of_file: list[Given] = []
        self.of_environment: list[Given] = []
        self.notices: list[str] = []
        self.problems: list[str] = []
        told: dict[tuple[str, ...], tuple[Told, list[Given]]] = {}
        for target, values in ((self.of_file, of_file), (self.of_environment, of_environment)):
            for one in values:
                told[one.path] = (one, target)
        self._told = told
        if told:
            self._translate(said)

    def _translate(self, said: Collection[str]) -> None:
        is_external = self._is_external()
        for one, target in self._told.values():
            name = NAMES.get(one.name)
            if one.path[: len(PROVIDERS)] == PROVIDERS:
                continue
            if name is None:
                self.notices.append(f"{one.origin}: means nothing to the relay{nearest(one.name, NAMES)}")
            elif one.name.startswith(_OF_EXTERNAL_VALKEY) and not is_external:
                self.notices.append(
                    f"{one.origin}: has no effect, as {_BACKEND} is memory; the relay's embedded server "
                    "keeps the messages"
                )
            elif name.needs is not None and one.value and not self._says(name.needs):
                self.notices.append(f"{one.origin}: has no effect without {name.needs}")
            else:
                self._translate_one(one, name, target)
        self._translate_providers()
        self._imply(is_external, said)

    def _says(self, name: str) -> bool:
        """Whether it is given, and is neither off nor empty."""
        one, _ = self._told.get((name,), (None, None))
        return one is not None and str(one.value or "").lower() not in _NOTHING

    def _translate_one(self, one: Told, name: Name, target: list[Given]) -> None:
        if name.key is None:
            if name.note is not None:
                self.notices.append(f"{one.origin}: has no effect: {name.note}")
            return
        text = self._text(one, name)
        if text is None:
            return
        target.append(Given(name.key, text, one.origin))
        notes = (name.note, name.judge(str(one.value)) if name.judge else None)
        self.notices.extend(f"{one.origin}: sets {name.key}; {note}" for note in notes if note)

    def _text(self, one: Told, name: Name) -> str | None:
        """As the relay's own setting would be written; None if it cannot be, which is a problem then."""
        value = one.value
        is_none = value is None or (value == "" and name.may_be_empty) or (name.is_list and value == [])
        if is_none and (name.may_be_empty or name.is_list):
            return "null"
        reason = _why_not(value, name)
        if reason is not None:
            self._refuse(one, reason)
            return None
        if isinstance(value, list):
            return json.dumps(value)
        text = str(value)
        return _SWITCH_WORDS.get(text.lower(), text) if name.key in _SWITCHES else text + name.unit

    def _refuse(self, one: Told, reason: str) -> None:
        self.problems.append(f"{one.origin}: {reason}")

    def _is_external(self) -> bool:
        if (_BACKEND,) not in self._told:
            return False
        one, _ = self._told[(_BACKEND,)]
        if one.value not in ("memory", "valkey"):
            self._refuse(one, f"{one.value!r} is neither memory nor valkey")
        if one.value == "memory":
            self.notices.append(
                f"{one.origin}: has no effect: the relay keeps messages in a Valkey in any case, here in one "
                "that it runs itself (embedded.data_dir); they outlive it"
            )
        return one.value == "valkey"

    def _translate_providers(self) -> None:
        providers: dict[str, dict[str, Any]] = {}
        pieces = []
        for path, (one, target) in self._told.items():
            if path[: len(PROVIDERS)] != PROVIDERS:
                continue
            if len(path) != len(PROVIDERS) + 2:
                self._refuse(one, "is no field of a provider")
                continue
            providers.setdefault(path[2], {})[path[3]] = one.value
            pieces.append((one, target))
        if providers:
            (first, target), *others = sorted(pieces, key=lambda piece: piece[1] is self.of_file)
            origin = f"{first.origin}{' and others' if others else ''}"
            target.append(Given(".".join(PROVIDERS), json.dumps(providers), origin))

    def _imply(self, is_external: bool, said: Collection[str]) -> None:
        first, _ = next(iter(self._told.values()))
        self.implied.append(Given("auth.mode", "accounts", first.origin))
        body, _ = self._told.get(("max_body_bytes",), (None, None))
        size = "" if body is None else str(body.value)
        if body is not None and size.isascii() and size.isdigit() and int(size) > _USUAL_PENDING_BYTES:
            # Bodies that large were taken: there must be room for them.
            self.implied.append(Given("topic.pending_max_bytes", size, body.origin))
        is_elsewhere = ("valkey_host",) in self._told or {"valkey.mode", "valkey.unix_socket"} & set(said)
        if is_external and not is_elsewhere:
            backend, _ = self._told[(_BACKEND,)]
            self.implied.append(Given("valkey.host", "localhost", backend.origin))


def _why_not(value: Leaf, name: Name) -> str | None:
    """Why there cannot be such a value, before the relay's own setting is asked."""
    if value is None:
        return "has no value; leave it out for the default"
    if name.is_list != isinstance(value, list):
        return "must be a list" if name.is_list else "must be a single value"
    if name.unit and not (isinstance(value, str) and value.isascii() and value.isdigit()):
        return f"is not a whole number ({_UNITS[name.unit]})"
    return None


def overridden(givens: Iterable[Given], origins: dict[str, str]) -> Iterator[str]:
    """Notices of those that another source goes before."""
    for given in givens:
        if origins[given.key] != given.origin:
            yield f"{given.origin}: has no effect: {given.key} is set by {origins[given.key]}"
