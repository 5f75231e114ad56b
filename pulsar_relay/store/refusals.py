"""What Valkey's errors, and the loss of a connection to it, mean to whoever asked: a row of the error table.

Definite refusals (nothing was stored, nothing will be) are told apart from unknown outcomes (the command was
sent, the answer never came). Texts of Valkey go no further than the log: they can carry keys and values.
"""

from __future__ import annotations

import logging

from libvalkey import ReplyError

from actors.ports import StoreError

logger = logging.getLogger(__name__)

_CODES = {
    "OOM": "store_full",
    "MISCONF": "store_disk_failed",
    "NOREPLICAS": "store_replicas_missing",
    "LOADING": "store_loading",
    "BUSY": "store_busy",
    "CLUSTERDOWN": "store_cluster_down",
    "TRYAGAIN": "store_moving",
    "NOAUTH": "store_denied",
    "WRONGPASS": "store_denied",
    "NOPERM": "store_denied",
    "WRONGTYPE": "store_damaged",
    "DAMAGED": "store_damaged",
}
_DEPOSED = {
    "READONLY": "store_read_only",
    "UNBLOCKED": "store_read_only",
    "MASTERDOWN": "store_primary_down",
}
LOGGED_CHARACTERS = 120
_DENIALS = ("ACL failure in script", "AUTH ", "Client sent AUTH", "invalid password")
"""How servers that have no word for it begin."""
WAIT_ON_REPLICA = "WAIT cannot be used with replica instances"
STORE_EMPTY = "store_empty"
STORE_FOREIGN = "store_foreign"
TOO_MANY_CLIENTS = "max number of clients reached"

CODES = frozenset(
    {
        *_CODES.values(),
        *_DEPOSED.values(),
        *(STORE_EMPTY, STORE_FOREIGN),
        *("store_crowded", "store_error", "store_not_replicated", "store_unavailable", "overloaded"),
    }
)
"""Every code a StoreError of this package can have."""


class ScriptUnknownError(StoreError):
    """Valkey does not know the script (any more); it has not run."""


class StaleBatchError(StoreError):
    """The worker has appended a later batch to the topic meanwhile; this one will not be appended now."""


class DeposedError(StoreError):
    """This server is a replica now, or always was: the one that takes writes is to be looked for again."""


class ElsewhereError(StoreError):
    """Another node of the cluster has the keys; nothing was carried out. With `asking`, it has them for this
    command only: the slot is on its way there.
    """

    def __init__(self, slot: int, place: tuple[str, int], *, asking: bool) -> None:
        super().__init__("store_moving")
        self.slot = slot
        self.place = place
        """Its host, empty for that of the node that says so, and its port."""
        self.asking = asking


def refusal(answer: ReplyError) -> StoreError:
    """What an error that Valkey answered with means: the command was not carried out."""
    text = str(answer).removeprefix("ERR ")
    word = text.split(" ", 1)[0]
    if word == "NOSCRIPT":
        return ScriptUnknownError("store_error")
    if word == "STALE":
        return StaleBatchError("store_unavailable")
    if word in ("MOVED", "ASK"):
        return _elsewhere(text)
    if word in _DEPOSED:
        return DeposedError(_DEPOSED[word])
    if text.startswith(WAIT_ON_REPLICA):
        return DeposedError("store_read_only")
    if TOO_MANY_CLIENTS in text:
        return crowded()
    code = "store_denied" if text.startswith(_DENIALS) else _CODES.get(word, "")
    if not code:
        # A bug of ours, or a setting nobody thought of. After `with args` Valkey quotes what it was sent.
        told = text.split(" with args", 1)[0][:LOGGED_CHARACTERS]
        logger.error("store: a command was refused: %s", told)
        code = "store_error"
    return StoreError(code)


def _elsewhere(text: str) -> ElsewhereError:
    word, slot, place = text.split(" ")[:3]
    host, _, port = place.rpartition(":")
    return ElsewhereError(int(slot), (host, int(port)), asking=word == "ASK")


def crowded() -> StoreError:
    """What it means that the server has as many clients as it may: nothing was sent."""
    return StoreError("store_crowded")


def lost() -> StoreError:
    """What the loss of a connection means to those whose commands were sent on it."""
    return StoreError("store_unavailable", is_outcome_unknown=True)
