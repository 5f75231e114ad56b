"""A setting as a deployment of the predecessor has it, under the predecessor's name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Leaf = str | list[Any] | None
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """`path` is the name, in lower case and part by part (`oidc`, `base_url`); `origin` says where it stands,
    with the name as it stands there. A value is a text, a list, or None for null.
    """

    path: Path
    value: Leaf = dataclasses.field(repr=False)
    origin: str

    @property
    def name(self) -> str:
        return ".".join(self.path)


def leaves(path: Path, value: Leaf | Mapping[str, Any]) -> Iterator[tuple[Path, Leaf]]:
    """The values within a value that stands at `path`, each with its own; a mapping is none."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from leaves((*path, str(name).lower()), inner)
    else:
        yield path, value
