"""Every setting of the relay: its name, type, default, bounds and what it trades.

This is the one table. `keys.py` makes it searchable, `config.py` reads values for it, and `config.yaml` and
`docs/configuration.md` are written from it. A setting is one field: the attribute's name carries the unit
(`idle_timeout_seconds`), the key's does not, because a value in a file carries its own (`idle_timeout: 75s`).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from pulsar_relay.identity_providers import IdentityProvider, IdentityProviders
from pulsar_relay.kinds import (
    Addresses,
    Choice,
    Duration,
    FilePath,
    Rate,
    Rates,
    Secret,
    Secrets,
    Size,
    Switch,
    Text,
    Whole,
    WholeOrAuto,
    Words,
    setting,
)
from pulsar_relay.network_kinds import HostNames, Networks, Origins, WebAddress

_MIB = 1024 * 1024

EVICTION_POLICIES = (
    *("allkeys-lru", "allkeys-lfu", "allkeys-random"),
    *("volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Where the relay listens, and what one connection may ask of it."""

    host: str = setting(
        Text("a host name or address"),
        "127.0.0.1",
        "Address the API listens on. Without accounts (`auth.mode: none`) whoever reaches it can read and "
        "write every topic, so anything wider than loopback also needs `server.allow_open` then.",
        flag="--host",
    )
    port: int = setting(
        Whole(0, 65535), 8080, "Port of the API; 0 takes any free port and logs which one.", flag="--port"
    )
    metrics_host: str = setting(
        Text("a host name or address"),
        "127.0.0.1",
        "Address the metrics port listens on. The same rule as for `server.host` holds.",
    )
    metrics_port: int | None = setting(
        Whole(0, 65535),
        9090,
        "Port that serves `/metrics` and nothing else, so that a scraper needs no access to the API; 0 "
        "takes any free port. `/metrics` on the API's own port stays either way.",
        null="no metrics port",
    )
    allow_open: bool = setting(
        Switch(),
        False,
        "Lets the relay listen beyond loopback without accounts. Set it only where the network itself keeps "
        "strangers out; the relay warns at every start. With accounts it is not needed.",
        flag="--allow-open",
    )
    workers: int = setting(
        WholeOrAuto(1024),
        1,
        "Processes that share the port. One uses one core. With more, `serve` supervises them: it starts "
        "again those that end and answers for all of them at `/metrics`, `/ready` and the statistics; each "
        "costs memory of its own. `auto` is one for each core the relay may use, by its CPU affinity and its "
        "control group's quota; leave some for Valkey.",
        flag="--workers",
    )
    allowed_origins: tuple[str, ...] | None = setting(
        Origins(),
        None,
        "Origins of the web pages that may call the API and open WebSockets from a browser, besides the "
        "relay's own.",
        null="no others",
        reloads=True,
    )
    allowed_hosts: tuple[str, ...] | None = setting(
        HostNames(),
        None,
        "Names under which the relay may be asked, as the `Host` header has them; requests for others are "
        "answered 400. It protects browsers from pages that give their own name the relay's address.",
        null="any",
        reloads=True,
    )
    trusted_proxies: tuple[str, ...] | None = setting(
        Networks(),
        None,
        "Addresses of the reverse proxies in front of the relay. From these, and from nobody else, it takes "
        "`server.forwarded_header` for the client's address; limits by address depend on it.",
        null="there are none: the client is who connects",
        reloads=True,
    )
    forwarded_header: str = setting(
        Choice(("x-forwarded-for", "forwarded")),
        "x-forwarded-for",
        "The header in which these proxies say for whom they ask. The other one is not looked at: a client "
        "could send it through them.",
        reloads=True,
    )
    max_body_bytes: int = setting(
        Size("1KiB", "512MiB"),
        32 * _MIB,
        "Largest request body; a larger one is answered 413. One body is held in memory while it is read "
        "and parsed, so this times the number of busy connections is what bad days cost.",
        name="max_body",
        reloads=True,
    )
    max_header_bytes: int = setting(
        Size("4KiB", "1MiB"),
        64 * 1024,
        "Largest request line with headers; a larger one is refused.",
        name="max_header",
        reloads=True,
    )
    header_timeout_seconds: float = setting(
        Duration("100ms", "10m"),
        10.0,
        "Time a client has to send a request's headers. Short times free connections that slow or hostile "
        "clients hold.",
        reloads=True,
    )
    body_timeout_seconds: float = setting(
        Duration("100ms", "1h"),
        60.0,
        "Time a client has to send a request's body. Slow links with large bodies need more; each waiting "
        "body holds memory.",
        reloads=True,
    )
    idle_timeout_seconds: float = setting(
        Duration("1s", "24h"),
        75.0,
        "How long a connection with no request on it is kept for the next one. Longer than a proxy's own "
        "time in front of the relay, or the proxy will now and then send a request into a closing "
        "connection.",
        reloads=True,
    )
    max_connections: int = setting(
        Whole(0, 10_000_000),
        0,
        "Most connections at the same time, in each worker; further ones are refused. 0 derives it from the "
        "limit on open files, with room left for Valkey, logs and the embedded server.",
        reloads=True,
    )
    shutdown_notice_seconds: float = setting(
        Duration("0s", "10m"),
        0.0,
        "How long a relay that was told to stop still serves everybody while `/ready` already answers 503. "
        "Set it to the time a load balancer needs to notice that, and no client meets a closed port.",
        reloads=True,
    )
    shutdown_deadline_seconds: float = setting(
        Duration("0s", "1h"),
        15.0,
        "Time an orderly stop may take after `server.shutdown_notice`: polls are answered, WebSockets "
        "closed, appends finished. What is not done by then is cut off; nothing acknowledged is lost by "
        "that. Keep both together below the service manager's own kill time.",
        reloads=True,
    )

    @property
    def beyond_loopback(self) -> tuple[str, ...]:
        """The keys of this section that make the relay reachable from other machines, in order."""
        hosts = {"server.host": self.host}
        if self.metrics_port is not None:
            hosts["server.metrics_host"] = self.metrics_host
        return tuple(key for key, host in hosts.items() if not _is_loopback(host))


@dataclass(frozen=True, slots=True, kw_only=True)
class ValkeySettings:
    """The Valkey that holds the streams. Where nothing is said of it the relay runs a server of its own."""

    mode: str = setting(
        Choice(("standalone", "sentinel", "cluster")),
        "standalone",
        "What Valkey is. `standalone`: one server, at `valkey.host` or `valkey.unix_socket`. `sentinel`: a "
        "primary with replicas, one of which takes its place when it fails; where it is, the sentinels at "
        "`valkey.addresses` tell. `cluster`: several primaries that share the topics among them, and whose "
        "nodes tell of each other; it begins with those at `valkey.addresses`.",
        environment="VALKEY_MODE",
    )
    addresses: tuple[tuple[str, int], ...] | None = setting(
        Addresses(),
        None,
        "Where to begin: the sentinels, or some nodes of the cluster, one of which must answer. Name "
        "several, so that a relay also starts while one of them is away.",
        null="a single server, without sentinels or cluster",
        environment="VALKEY_ADDRESSES",
    )
    sentinel_service: str | None = setting(
        Text(),
        None,
        "Name under which the sentinels watch over the primary (`sentinel monitor <name> ...`).",
        null="there are no sentinels",
        environment="VALKEY_SENTINEL_SERVICE",
    )
    sentinel_username: str | None = setting(
        Text(),
        None,
        "ACL user of the sentinels, which have users of their own.",
        null="their `default` user",
        environment="VALKEY_SENTINEL_USERNAME",
    )
    sentinel_password: str | None = setting(
        Text(),
        None,
        "Password of that user.",
        null="the sentinels ask for none",
        secret=True,
        environment="VALKEY_SENTINEL_PASSWORD",
    )
    host: str | None = setting(
        Text("a host name or address"),
        None,
        "Host of an external Valkey.",
        null="the relay starts the embedded server, see `embedded`",
        flag="--valkey-host",
        environment="VALKEY_HOST",
    )
    port: int = setting(
        Whole(1, 65535), 6379, "Port of the external Valkey.", flag="--valkey-port", environment="VALKEY_PORT"
    )
    unix_socket: Path | None = setting(
        FilePath(),
        None,
        "Socket of an external Valkey on this machine, instead of host and port.",
        null="use host and port",
    )
    username: str | None = setting(
        Text(), None, "Valkey ACL user.", null="the `default` user", environment="VALKEY_USERNAME"
    )
    password: str | None = setting(
        Text(),
        None,
        "Password of that user. Better given in the environment than in a file that others can read.",
        null="no authentication",
        secret=True,
        environment="VALKEY_PASSWORD",
    )
    allow_open: bool = setting(
        Switch(),
        False,
        "Lets the relay use a Valkey on another machine without a password. Whoever reaches such a Valkey "
        "reads and changes everything, accounts too: set it only where the network keeps strangers out.",
    )
    tls: bool = setting(
        Switch(),
        False,
        "Speak TLS to Valkey, and to its sentinels; their certificates must be valid for `valkey.host`, or "
        "for the addresses that sentinels and nodes announce. Costs some processor time a round trip.",
        environment="VALKEY_TLS",
    )
    tls_ca: Path | None = setting(
        FilePath(),
        None,
        "File with the certificates that may sign Valkey's.",
        null="the system's certificate store",
    )
    db: int = setting(Whole(0, 100_000), 0, "Number of the Valkey database.")
    allowed_eviction_policy: str | None = setting(
        Choice(EVICTION_POLICIES),
        None,
        "The `maxmemory-policy` Valkey may have although it evicts: when full it forgets messages, whole "
        "topics and idempotency keys in silence, while every append says OK. The relay starts on no other "
        "policy than `noeviction` and the one named here.",
        null="none: Valkey must refuse writes when it is full",
    )
    pool_size: int = setting(
        Whole(1, 10_000),
        100,
        "Most connections a worker opens to Valkey, or to each primary of a cluster. Appends share few of "
        "them; reads of history by many slow subscribers at the same time use the rest, and wait for one "
        "when all are in use.",
    )
    connect_timeout_seconds: float = setting(
        Duration("50ms", "5m"), 2.0, "Time to open a connection to Valkey before it counts as away."
    )
    command_timeout_seconds: float = setting(
        Duration("50ms", "5m"),
        2.0,
        "Time Valkey has to answer a command. Shorter notices a dead server sooner; longer rides out a "
        "slow disk or a fork for a snapshot.",
    )

    @property
    def beyond_loopback(self) -> tuple[str, ...]:
        """The hosts named here that are on other machines, in order."""
        hosts = [host for host, _ in self.addresses or ()] if self.mode != "standalone" else [self.host]
        return tuple(host for host in hosts if host is not None and not _is_loopback(host))


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedSettings:
    """The Valkey server that `serve` runs itself when `valkey` names none."""

    data_dir: Path = setting(
        FilePath(),
        Path("data/valkey"),
        "Directory of the append-only file and the socket. All messages are in here: keep it, back it up.",
        flag="--data-dir",
    )
    maxmemory_bytes: int = setting(
        Size("16MiB", "16TiB", zero="no limit"),
        0,
        "Memory at which the embedded server refuses appends (publishers get 503; nothing is evicted). "
        "Without a limit the machine's own memory is the limit, and its way of saying so is ruder.",
        name="maxmemory",
    )
    start_timeout_seconds: float = setting(
        Duration("1s", "24h"),
        60.0,
        "Time the embedded server may be silent before its start counts as failed. Loading its data takes as "
        "long as it takes, while it makes progress.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """What an acknowledgement is worth, how long messages are kept, and how appends behave when Valkey is
    away."""

    durability: str = setting(
        Choice(("memory", "disk", "replica")),
        "memory",
        "What an acknowledged message survives. `memory`: the death of the relay and of Valkey; a power cut "
        "may lose about a second (Valkey: `appendonly yes`). `disk`: a power cut too; each group of appends "
        "waits for the disk (Valkey: `appendfsync always`). `replica`: the loss of Valkey's primary; each "
        "group of appends waits for replicas (Valkey: `min-replicas-to-write`). The relay starts on no "
        "external Valkey whose settings cannot back the level; its embedded server is given them.",
        flag="--durability",
    )
    replicas: int = setting(
        Whole(1, 100),
        1,
        "At `storage.durability: replica`, how many replicas must have a message before it is acknowledged.",
    )
    identity_file: Path | None = setting(
        FilePath(),
        None,
        "File in which the relay remembers which store it knows, over its own restarts: it then refuses an "
        "external Valkey that has come back empty, or another one, until an operator accepts that "
        "(`pulsar-relay store accept`). While it runs it remembers in any case, and for the embedded server "
        "always, in its data directory.",
        null="the first store met after a start is taken for the right one",
    )
    persistent_tier_retention_seconds: float = setting(
        Duration("1s", "3650d"),
        24 * 3600.0,
        "Age at which messages are trimmed from Valkey; a topic's newest message stays. Longer lets "
        "subscribers be away longer without a gap and costs memory in Valkey. A topic can have its own.",
        reloads=True,
    )
    max_messages_per_topic: int = setting(
        Whole(1, 1_000_000_000),
        1_000_000,
        "Most messages a topic keeps in Valkey; the oldest are trimmed first. Above 1,000 trimming is "
        "approximate: a topic may hold about a hundred more. A topic can have its own.",
        reloads=True,
    )
    trim_interval_seconds: float = setting(
        Duration("100ms", "24h"),
        30.0,
        "How often messages past their age or their time to live are trimmed. A message can stay in Valkey "
        "this much longer than its retention.",
        reloads=True,
    )
    idempotency_window_seconds: float = setting(
        Duration("10m", "30d"),
        600.0,
        "How long an `Idempotency-Key` is remembered: a repeated publish within it is answered with the "
        "first one's id and appends nothing. Each key costs memory in Valkey that long.",
        reloads=True,
    )
    publish_deadline_seconds: float = setting(
        Duration("100ms", "5m"),
        5.0,
        "How long a publish waits, and is retried, while Valkey is away, before it is answered 503. Longer "
        "hides restarts and failovers from publishers; shorter tells them sooner.",
        reloads=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HotBufferSettings:
    """A topic's newest messages, held in each worker's memory so that catching up needs no Valkey."""

    max_messages: int = setting(
        Whole(0, 10_000_000),
        1000,
        "Most messages of one topic in its hot buffer. 0 keeps none: every read goes to Valkey.",
        reloads=True,
    )
    max_bytes: int = setting(
        Size("0", "64GiB"),
        8 * _MIB,
        "Most bytes of one topic in its hot buffer. Large messages push small ones out.",
        reloads=True,
    )
    max_age_seconds: float = setting(
        Duration("0s", "3650d"),
        3600.0,
        "Age at which a message leaves the hot buffer. It stays in Valkey.",
        reloads=True,
    )
    total_bytes: int = setting(
        Size("0", "1TiB"),
        256 * _MIB,
        "Bytes of all hot buffers of one worker together; the topics used longest ago give theirs back "
        "first. The largest part of a busy worker's memory.",
        reloads=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSettings:
    """How a topic groups appends, what may wait in it, and when it leaves memory."""

    batch_max_messages: int = setting(
        Whole(1, 10_000),
        512,
        "Most messages in one append. Larger is faster for crowds of publishers; Valkey does nothing else "
        "while it carries one out.",
        reloads=True,
    )
    batch_max_bytes: int = setting(
        Size("1KiB", "512MiB"),
        4 * _MIB,
        "Most bytes in one append, for the same reason. One message that is larger is appended alone.",
        reloads=True,
    )
    pending_max_messages: int = setting(
        Whole(1, 10_000_000),
        20_000,
        "Most messages that wait for a topic's append in one worker; further publishes are answered 503 at "
        "once.",
        reloads=True,
    )
    pending_max_bytes: int = setting(
        Size("1KiB", "64GiB"),
        64 * _MIB,
        "Most bytes that wait for a topic's append in one worker; the same holds.",
        reloads=True,
    )
    idle_retire_seconds: float = setting(
        Duration("100ms", "24h"),
        60.0,
        "How long a topic that nobody uses stays in memory. Its stream in Valkey is not touched.",
        reloads=True,
    )
    compare_interval_seconds: float = setting(
        Duration("50ms", "10m"),
        5.0,
        "How often a topic with subscribers compares its newest message with the stream's: the longest a "
        "notice that was lost on its way from another worker can delay a message. One command for all "
        "topics of a worker.",
        reloads=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriberSettings:
    """What one connection that receives may hold in memory, and when it counts as gone."""

    max_topics: int = setting(
        Whole(1, 10_000), 50, "Most topics one connection may subscribe to.", reloads=True
    )
    outbox_high_bytes: int = setting(
        Size("1KiB", "1GiB"),
        256 * 1024,
        "Bytes that may wait for a slow subscriber. Beyond, it is served from its cursor instead and "
        "nothing more is held for it. Times the number of slow subscribers, this is memory.",
        name="outbox_high",
        reloads=True,
    )
    outbox_low_bytes: int = setting(
        Size("0", "1GiB"),
        64 * 1024,
        "Bytes left at which a slow subscriber is read for again. Nearer to `subscriber.outbox_high` means "
        "more and smaller reads.",
        name="outbox_low",
        reloads=True,
    )
    page_max_messages: int = setting(
        Whole(1, 100_000),
        500,
        "Most messages read at once for a subscriber that catches up.",
        reloads=True,
    )
    page_max_bytes: int = setting(
        Size("1KiB", "1GiB"),
        1 * _MIB,
        "Most bytes of them. One message that is larger is read alone.",
        reloads=True,
    )
    stall_limit_seconds: float = setting(
        Duration("1s", "24h"),
        60.0,
        "How long a subscriber that takes nothing at all stays connected. It can come back with its cursor "
        "and misses nothing.",
        reloads=True,
    )
    ping_interval_seconds: float = setting(
        Duration("1s", "1h"),
        25.0,
        "How often a WebSocket is pinged. Below the idle time of proxies on the way, which is often 60 s.",
        reloads=True,
    )
    ping_timeout_seconds: float = setting(
        Duration("1s", "1h"),
        20.0,
        "How long a WebSocket may leave a ping unanswered before it is closed.",
        reloads=True,
    )
    keepalive_interval_seconds: float = setting(
        Duration("1s", "1h"),
        15.0,
        "How often a quiet Server-Sent Events stream gets a comment, for the same proxies.",
        reloads=True,
    )
    max_frame_bytes: int = setting(
        Size("1KiB", "512MiB"),
        32 * _MIB,
        "Largest WebSocket frame a client may send; a larger one closes the connection.",
        name="max_frame",
        reloads=True,
    )
    max_inflight_publishes: int = setting(
        Whole(1, 100_000),
        256,
        "Most publishes of one WebSocket that wait for their answer. Beyond, no more is read from it until "
        "one is answered.",
        reloads=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PollSettings:
    """Long-polls, and reads of a topic's history."""

    max_timeout_seconds: float = setting(
        Duration("1s", "1h"),
        60.0,
        "Longest wait of a poll; a longer one that is asked for becomes this.",
        reloads=True,
    )
    default_timeout_seconds: float = setting(
        Duration("0s", "1h"), 30.0, "Wait of a poll that asks for none.", reloads=True
    )
    max_topics: int = setting(Whole(1, 10_000), 20, "Most topics in one poll.", reloads=True)
    max_limit_messages: int = setting(
        Whole(1, 100_000),
        1000,
        "Most messages in one answer; a client that asks for more gets these and `has_more`.",
        name="max_limit",
        reloads=True,
    )
    default_limit_messages: int = setting(
        Whole(1, 100_000),
        100,
        "Messages in an answer to a client that names no limit.",
        name="default_limit",
        reloads=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishSettings:
    """What a publisher may send."""

    bulk_max_messages: int = setting(
        Whole(1, 100_000), 1000, "Most messages in one bulk request.", reloads=True
    )
    max_payload_depth: int = setting(
        Whole(1, 300),
        100,
        "Deepest nesting of a payload's JSON. Subscribers parse it too, and parsers in other languages "
        "have limits of their own.",
        reloads=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """Who may use the relay."""

    mode: str = setting(
        Choice(("none", "accounts")),
        "none",
        "`none`: whoever reaches the relay may do everything. `accounts`: users log in, and each has topics "
        "of their own.",
    )
    jwt_secret: str | None = setting(
        Secret(32, frozenset({"your-secret-key-here-change-in-production"})),
        None,
        "Secret that signs access tokens. All relays of one store need the same; another one ends all access "
        "tokens at once. Better given in the environment than in a file that others can read.",
        null="not said; needed with accounts",
        secret=True,
    )
    jwt_former_secrets: tuple[str, ...] | None = setting(
        Secrets(Secret(32), 8),
        None,
        "Secrets that signed before: tokens they signed are still good. To change `auth.jwt_secret` and log "
        "nobody out, put the old one here, and take it away once the tokens of before have expired.",
        null="there were none",
        secret=True,
    )
    access_token_ttl_seconds: float = setting(
        Duration("1m", "2h"),
        600.0,
        "How long an access token is good. Today's clients log in anew 5 minutes before its end, so they do "
        "for each request where it is 5m or less.",
    )
    refresh_token_ttl_seconds: float = setting(
        Duration("1d", "365d"),
        90 * 86400.0,
        "How long a refresh token is good; each use gives a new one, with this time before it.",
    )
    refresh_grace_seconds: float = setting(
        Duration("0s", "10m"),
        30.0,
        "How long a refresh token that was used still gives its successor once more, because the answer may "
        "have been lost or two clients may share a file. After it a second use counts as theft and ends the "
        "session. Today's clients come back 15 seconds after a lost answer; a thief has as long, too.",
    )
    max_sessions_per_user: int = setting(
        Whole(1, 100_000),
        1000,
        "Most sessions of one user; beyond, the one used longest ago is ended. Each device or daemon that "
        "signed in by itself is one.",
    )
    max_spare_sessions_per_user: int = setting(
        Whole(1, 100_000),
        100,
        "How many of them may be password logins whose refresh token was never used; beyond, the oldest is "
        "ended. Today's clients log in each five minutes and leave one each time, 288 a day.",
    )
    bootstrap_username: str | None = setting(
        Text(),
        None,
        "Name of an admin who is made at the start, if there is none of this name yet.",
        null="no admin is made",
    )
    bootstrap_password: str | None = setting(
        Text(),
        None,
        "Password of that admin, set anew at each start.",
        null="none; needed with `auth.bootstrap_username`",
        secret=True,
    )
    bootstrap_email: str | None = setting(Text(), None, "Address of that admin.", null="none")
    audit_retention_seconds: float = setting(
        Duration("1h", "3650d"),
        90 * 86400.0,
        "How long the topic `system/audit` keeps a record of what was done to accounts, keys, grants and "
        "topics. The log has it in any case.",
    )
    audit_max_messages: int = setting(
        Whole(1000, 100_000_000),
        1_000_000,
        "Most records it keeps, about 400 bytes each in Valkey; beyond, the oldest go.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """How much one user, or one address, may ask for. All workers share the counts, which are in Valkey."""

    login: Rate | None = setting(
        Rates(), Rate(5, 60.0), "Logins from one address, right or wrong.", null="no limit", reloads=True
    )
    refresh: Rate | None = setting(
        Rates(), Rate(10, 60.0), "Refreshes of tokens from one address.", null="no limit", reloads=True
    )
    device_code: Rate | None = setting(
        Rates(), Rate(10, 60.0), "Device codes asked for from one address.", null="no limit", reloads=True
    )
    device_token: Rate | None = setting(
        Rates(), Rate(30, 60.0), "Polls of device codes from one address.", null="no limit", reloads=True
    )
    device_page: Rate | None = setting(
        Rates(),
        Rate(20, 60.0),
        "Visits of the device page from one address; what limits guessing at user codes.",
        null="no limit",
        reloads=True,
    )
    publish: Rate | None = setting(
        Rates(),
        Rate(10_000, 1.0),
        "Messages one user publishes. Today's clients give a message up when it is refused by this, so it is "
        "for abuse; against overload stands `topic.pending_max_messages`, and they retry.",
        null="no limit",
        reloads=True,
    )
    read: Rate | None = setting(
        Rates(),
        Rate(2_000, 1.0),
        "Requests of one user that read or change topics, history and places, polls among them.",
        null="no limit",
        reloads=True,
    )
    connections_per_user: int | None = setting(
        Whole(1, 10_000_000),
        1000,
        "WebSockets and event streams one user may have open at the same time, in all workers together.",
        null="no limit",
        reloads=True,
    )
    polls_per_user: int | None = setting(
        Whole(1, 10_000_000),
        1000,
        "Polls of one user that may wait at the same time, in all workers together. A Galaxy needs one for "
        "each of its handlers and Pulsars.",
        null="no limit",
        reloads=True,
    )
    counts_addresses: bool = setting(
        Switch(),
        False,
        "Whether the relay without accounts, where nobody is a user, counts each address as one user: for "
        "`limits.publish`, `limits.read`, `limits.connections_per_user` and `limits.polls_per_user`. Behind "
        "a proxy set `server.trusted_proxies` first. With accounts those who have not signed in are counted "
        "so in any case.",
        reloads=True,
    )
    login_backoff_after: int = setting(
        Whole(1, 1000),
        3,
        "Wrong passwords for one user from one address after which the next attempt has to wait.",
        reloads=True,
    )
    login_backoff_first_seconds: float = setting(
        Duration("100ms", "1h"),
        1.0,
        "The first such wait; each further wrong password doubles it.",
        reloads=True,
    )
    login_backoff_longest_seconds: float = setting(
        Duration("1s", "24h"),
        900.0,
        "The longest such wait. Once it has passed unused twice over, all is forgotten.",
        reloads=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSettings:
    """The device flow: a program without a browser is let in by somebody who has one."""

    code_ttl_seconds: float = setting(
        Duration("1m", "1h"), 600.0, "How long a device code can be approved and redeemed."
    )
    poll_interval_seconds: float = setting(
        Duration("1s", "1m"), 5.0, "How long a device is told to wait between two polls."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcSettings:
    """Sign-in with OpenID providers."""

    enabled: bool = setting(Switch(), False, "Whether people may sign in with the providers.")
    base_url: str | None = setting(
        WebAddress(),
        None,
        "Where browsers reach the relay. Providers send people back to "
        "`<base_url>/auth/oidc/<provider>/callback`.",
        null="not said; needed once OpenID is enabled",
    )
    default_permissions: tuple[str, ...] | None = setting(
        Words(("admin", "read", "write")),
        ("read", "write"),
        "What somebody may do who signs in for the first time.",
        null="nothing, until an admin allows it",
    )
    state_ttl_seconds: float = setting(
        Duration("1m", "1h"), 600.0, "How long a sign-in may take, from the relay to the provider and back."
    )
    providers: tuple[IdentityProvider, ...] | None = setting(
        IdentityProviders(),
        None,
        "The providers. Their addresses are taken from here and from their discovery documents, never from a "
        "request.",
        null="there are none",
        secret=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What the relay says about itself, on standard error. No level logs a line a message."""

    level: str = setting(
        Choice(("debug", "info", "warning", "error", "critical")),
        "info",
        "Least important level that is logged.",
        flag="--log-level",
        environment="LOG_LEVEL",
        reloads=True,
    )
    format: str = setting(
        Choice(("auto", "text", "json")),
        "auto",
        "`text` for people, `json` (one object a line) for machines; `auto` is text on a terminal and JSON "
        "elsewhere.",
        reloads=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The effective settings: one immutable value, made by `config.load`, handed to whoever needs a part."""

    server: ServerSettings = ServerSettings()
    valkey: ValkeySettings = ValkeySettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    storage: StorageSettings = StorageSettings()
    hot_buffer: HotBufferSettings = HotBufferSettings()
    topic: TopicSettings = TopicSettings()
    subscriber: SubscriberSettings = SubscriberSettings()
    poll: PollSettings = PollSettings()
    publish: PublishSettings = PublishSettings()
    auth: AuthSettings = AuthSettings()
    limits: LimitSettings = LimitSettings()
    device: DeviceSettings = DeviceSettings()
    oidc: OidcSettings = OidcSettings()
    log: LogSettings = LogSettings()

    @property
    def replicas_to_wait_for(self) -> int:
        """How many replicas must confirm an append; 0 unless that is the durability level."""
        return self.storage.replicas if self.storage.durability == "replica" else 0

    @property
    def is_open_beyond_loopback(self) -> bool:
        """Whether other machines reach the relay, and nobody there has to say who they are."""
        return self.auth.mode == "none" and bool(self.server.beyond_loopback)

    @property
    def uses_embedded_server(self) -> bool:
        """True when no external Valkey is configured."""
        valkey = self.valkey
        return valkey.mode == "standalone" and valkey.host is None and valkey.unix_socket is None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        # Any other name may mean loopback today and not tomorrow.
        return False
