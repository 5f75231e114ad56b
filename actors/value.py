"""value: what messages, and all that is handed around and never changed, are made with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """A dataclass with slots, compared and hashed by its fields, that is not to be changed.

    The type checker sees to that, and nothing when it runs: a frozen dataclass takes three times as long to
    make, and each publish and each poll makes a dozen.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
