"""Every key the relay uses in Valkey, on one screen.

| key                                 | type    | holds                                                      |
| ----------------------------------- | ------- | ---------------------------------------------------------- |
| `topic:<topic>:stream`              | stream  | entries `<ms>-<n>`: payload, prev; metadata, expires_at    |
| `{<stream key>}:meta`               | hash    | epoch: names this history of the stream                    |
|                                     |         | last: the last id ever given                               |
|                                     |         | largest: bytes of the largest entry; none if others wrote  |
|                                     |         | created: when it was made, Unix milliseconds               |
|                                     |         | description, max_messages, retention_ms: what was said     |
|                                     |         | expired_from, expired_to: what expired before the oldest   |
|                                     |         | broken: the next message begins a new history, above it    |
|                                     |         | restored: by which backup, while that restore goes on      |
|                                     |         | migrated: up to which id of its predecessor's stream       |
| `{<stream key>}:idem:<scope>:<key>` | string  | `<digest> <first id> <count>` of an idempotent publish     |
| `{<stream key>}:batch:<life>`       | string  | a worker's last batch and its reply, should that get lost  |
| `{<stream key>}:restore`            | stream  | what will take the place of the stream; expires            |
| `{<stream key>}:feed`               | channel | announces appends to other workers                         |
| `relay:feed:<worker>`               | channel | a worker's feed speaks to itself, to know that it hears    |
| `client:<client id>:offset`         | hash    | topic -> acknowledged cursor of a named client             |
|                                     |         | `delivered:<topic>` -> the last id it was given            |
|                                     |         | `:claim` -> `<generation> <worker>.<n>`: who speaks for it |
| `relay:consumers`                   | zset    | ids of all named clients, with score 0; some are forgotten |
| `relay:clients`                     | channel | announces claims: `<generation> <client id>`               |
| `user-data:identity`                | hash    | id: which store this is                                    |
|                                     |         | succeeds:<id>: whose place it has taken, and since when    |
|                                     |         | marks: how many of them a cluster was given                |
| `user-data:identity:{<n>}`          | string  | of a cluster, the same id in some slots of each shard      |
| `user-data:cookie-key`              | string  | key that signs the cursor cookies, shared by all workers   |
| `relay:topics`                      | zset    | names of all topics, with score 0: in alphabetical order   |
| `relay:retention`                   | string  | which worker trims the topics nobody has open              |
| `relay:probe:<worker>`              | string  | what the readiness probe wrote last                        |

A worker's canaries have topics of their own, `~canary-<worker>` and `~canary-<worker>-<n>`, whose keys expire
soon after the worker.
Strings other than the cookie key expire, and so do the hash of a named client and the meta hash of a deleted
topic. A name that is not spoken for has a claim without a worker.
Two names begin with `user` because test harnesses of today's clients delete every key that does not, under a
live relay: topics are then to be made anew, the store is still the same, and cookies still tell a place.
The keys of accounts stand in `accounts/schema.py`.
The braces make a topic's keys share the slot of its stream in a cluster; its name has no brace and no colon.
An entry whose `prev` is `0-0` begins a topic, or a new history of it after a loss.
An entry without `prev` was written by another server, or by hand; such entries may carry a `timestamp`.
"""

from __future__ import annotations

import re

TOPICS = "relay:topics"
IDENTITY = "user-data:identity"
IDENTITY_ID = "id"
IDENTITY_MARKED = "marks"
IDENTITY_SUCCEEDS = "succeeds:"
CANARY = "~canary-"
COOKIE_KEY = "user-data:cookie-key"
RETENTION_LEASE = "relay:retention"
CONSUMERS = "relay:consumers"
CLAIMS = "relay:clients"
CLAIM_FIELD = ":claim"
RESTORED_FIELD = "restored"
MIGRATED_FIELD = "migrated"

_NAME = rb"[A-Za-z0-9_-]{1,255}(?:/[A-Za-z0-9_-]{1,255})?"
_TOPIC = re.compile(_NAME)
_STREAM = re.compile(rb"topic:(%b):stream" % _NAME)
_CLAIM = re.compile(rb"([0-9]{1,19})(?: ([0-9A-Za-z]+)\.[0-9]+)?")


def stream(topic: str) -> str:
    return f"topic:{topic}:stream"


def topic_of(stream_key: bytes) -> str | None:
    """The topic whose stream has this key; None if no topic can have it."""
    match = _STREAM.fullmatch(stream_key)
    return match[1].decode("ascii") if match else None


def topic_named(name: bytes) -> str | None:
    """The topic of this name; None if no topic can have it."""
    return name.decode("ascii") if _TOPIC.fullmatch(name) else None


def stream_keys(topic: str) -> list[str]:
    """What most scripts need: the stream and its meta hash."""
    return [stream(topic), meta(topic)]


def meta(topic: str) -> str:
    return f"{{topic:{topic}:stream}}:meta"


def idempotency(topic: str, key: str) -> str:
    """`key` is `<scope>:<the client's key>`; the scope keeps users apart."""
    return f"{{topic:{topic}:stream}}:idem:{key}"


def batch(topic: str, life: str) -> str:
    return f"{{topic:{topic}:stream}}:batch:{life}"


def staging(topic: str) -> str:
    return f"{{topic:{topic}:stream}}:restore"


def feed(topic: str) -> str:
    return f"{{topic:{topic}:stream}}:feed"


def heartbeat(worker: str) -> str:
    return f"relay:feed:{worker}"


def mark(tag: str) -> str:
    return f"{IDENTITY}:{{{tag}}}"


def offsets(client_id: str) -> str:
    return f"client:{client_id}:offset"


def canary_topic(worker: str, number: int = 0) -> str:
    """Some topics no client can name."""
    return f"{CANARY}{worker}-{number}" if number else f"{CANARY}{worker}"


def delivered_field(topic: str) -> str:
    """Beside the topics in a client's hash; no topic's name has a colon."""
    return f"delivered:{topic}"


def claim_of(text: bytes) -> tuple[int, str | None]:
    """Generation and worker of the claim in a client's hash; no worker if nobody speaks for it, and 0 if
    nobody ever did.
    """
    match = _CLAIM.fullmatch(text)
    if match is None:
        return 0, None
    return int(match[1]), match[2].decode("ascii") if match[2] else None


def probe(worker: str, tag: str | None = None) -> str:
    """`tag` takes it to a shard."""
    return f"relay:probe:{worker}" if tag is None else f"relay:probe:{worker}:{{{tag}}}"
