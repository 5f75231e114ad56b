"""Notes: what a supervisor and its workers tell each other, and their bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from pulsar_relay.settings import Settings
from pulsar_relay.supervision.parts import CrewReadiness, Holdings, Part, Question, Waiting


class Begin(msgspec.Struct, frozen=True, tag=True):
    """To a worker, first of all: who it is, its settings as they are resolved, and its sockets, which it
    inherits. `known_store` is the identity of the store that its predecessor knew.
    """

    version: str
    worker: int
    settings: Settings
    unix_socket: str | None
    identity_file: Path | None
    known_store: str | None
    api_sockets: list[int]
    metrics_sockets: list[int]


class Ready(msgspec.Struct, frozen=True, tag=True):
    """From a worker: it answers requests."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """From a worker, last of all: it cannot work with these settings, for these reasons."""

    problems: list[str]


class Reload(msgspec.Struct, frozen=True, tag=True):
    """To a worker: these are the settings from now on."""

    settings: Settings


class Collect(msgspec.Struct, frozen=True, tag=True):
    """To a worker: what is your part of this? It is answered by a `Contributed` with the same number."""

    number: int
    question: Question


class Contributed(msgspec.Struct, frozen=True, tag=True):
    """From a worker: its part; and the store it knows, for its successor. Number 0: nobody asked."""

    number: int
    part: Part
    known_store: str | None


class Asked(msgspec.Struct, frozen=True, tag=True):
    """From a worker, for one of its clients: what do all together answer? It gets an `Answered`."""

    number: int
    question: Question


class MetricsText(msgspec.Struct, frozen=True, tag=True):
    """The metrics of all workers, as Prometheus reads them."""

    text: bytes


class CrewStanding(msgspec.Struct, frozen=True, tag=True):
    readiness: CrewReadiness


Answer = MetricsText | CrewStanding | Waiting | Holdings


class Answered(msgspec.Struct, frozen=True, tag=True):
    """To a worker: the answer of all."""

    number: int
    answer: Answer


ToWorker = Begin | Reload | Collect | Answered
FromWorker = Ready | Refused | Contributed | Asked


def _encode_path(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(type(value))


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_path)
_to_worker = msgspec.msgpack.Decoder(ToWorker, dec_hook=_decode_path)
_from_worker = msgspec.msgpack.Decoder(FromWorker, dec_hook=_decode_path)


def encode(note: ToWorker | FromWorker) -> bytes:
    return _encoder.encode(note)


def decode_to_worker(data: bytes) -> ToWorker:
    """Raises msgspec.DecodeError, as for anything that another version has sent."""
    note: ToWorker = _to_worker.decode(data)
    return note


def decode_from_worker(data: bytes) -> FromWorker:
    """As `decode_to_worker`."""
    note: FromWorker = _from_worker.decode(data)
    return note
