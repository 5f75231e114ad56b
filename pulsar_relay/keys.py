"""The table of settings as a mapping: each key by its full name, with its place in `Settings`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pulsar_relay.kinds import Declaration, Guarded
from pulsar_relay.settings import Settings


@dataclass(frozen=True, slots=True)
class Key:
    """One row of the table: a setting under its full name, `section.key`."""

    name: str
    section: str
    attribute: str
    default: object
    declaration: Declaration

    @property
    def environment(self) -> tuple[str, ...]:
        """The variables that set it, the systematic name first."""
        systematic = "RELAY_" + self.name.replace(".", "_").upper()
        plain = self.declaration.plain_environment
        return (systematic,) if plain is None else (systematic, plain)

    @property
    def allowed(self) -> str:
        """What may be written for it, as a phrase."""
        null = self.declaration.null
        words = " or ".join(["null", *sorted(self.declaration.kind.null_words)])
        return self.declaration.kind.form + (f", or {words} ({null})" if null else "")

    def parse(self, text: str) -> object:
        """The value that `text` stands for; ValueError, without the text in it, when it stands for none."""
        declaration = self.declaration
        if declaration.null and text.lower() in {"null", "~", *declaration.kind.null_words}:
            return None
        if not text:
            raise ValueError("is empty")
        return declaration.kind.parse(text)

    def show(self, value: object) -> str:
        """The value as one would write it, secrets too: mask before printing."""
        return "null" if value is None else self.declaration.kind.show(value)

    def masked(self, value: object) -> str:
        """The value as it may be shown to anybody."""
        kind = self.declaration.kind
        if value is None or not self.declaration.secret:
            return self.show(value)
        return kind.masked(value) if isinstance(kind, Guarded) else "********"

    def secrets(self, value: object) -> Iterator[str]:
        """What of the value must not be shown to anybody, as one would write it."""
        kind = self.declaration.kind
        if value is None or not self.declaration.secret:
            return
        if isinstance(kind, Guarded):
            yield from kind.secrets(value)
        else:
            yield self.show(value)

    def value_in(self, settings: Settings) -> object:
        return getattr(getattr(settings, self.section), self.attribute)


def make_settings(values: Mapping[str, object]) -> Settings:
    """Settings with `values` (full key name → parsed value) in place of the defaults."""
    changes: dict[str, dict[str, object]] = {}
    for name, value in values.items():
        changes.setdefault(KEYS[name].section, {})[KEYS[name].attribute] = value
    defaults = Settings()
    sections: dict[str, Any] = {
        section: dataclasses.replace(getattr(defaults, section), **attributes)
        for section, attributes in changes.items()
    }
    return dataclasses.replace(defaults, **sections)


def secrets_in(settings: Settings) -> Iterator[str]:
    """What must not be shown to anybody, as one would write it."""
    for key in KEYS.values():
        yield from key.secrets(key.value_in(settings))


def _rows() -> Mapping[str, Key]:
    rows = {}
    defaults = Settings()
    for section in dataclasses.fields(Settings):
        for field in dataclasses.fields(getattr(defaults, section.name)):
            declaration = field.metadata[Declaration]
            key = declaration.name or field.name.removesuffix("_seconds")
            name = f"{section.name}.{key}"
            rows[name] = Key(name, section.name, field.name, field.default, declaration)
    return MappingProxyType(rows)


KEYS: Mapping[str, Key] = _rows()
SECTIONS: Mapping[str, str] = MappingProxyType(
    {
        section.name: getattr(Settings(), section.name).__doc__ or ""
        for section in dataclasses.fields(Settings)
    }
)
