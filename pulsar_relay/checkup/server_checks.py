"""What a Valkey server's vitals say. Pure: from vitals to findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pulsar_relay.checkup.finding import Finding, advice, ok, problem, unseen
from pulsar_relay.checkup.vitals import Vitals

OLDEST_MAJOR = 8
FULL_PERCENT, FILLING_PERCENT = 90, 75
CROWDED_PERCENT = 80
SLOW_CLOCK_SECONDS, WRONG_CLOCK_SECONDS = 1.0, 30.0
SLOW_ANSWER_SECONDS = 0.02
OLD_SNAPSHOT_SECONDS = 24 * 3600
LARGE_BUFFER_BYTES = 32 * 1024 * 1024
_MIB = 1024 * 1024


def version(vitals: Vitals) -> Iterator[Finding]:
    found = vitals.text("valkey_version")
    if not found:
        other = vitals.text("redis_version") or "that does not tell"
        text = f"the server is no Valkey, but says it is compatible with version {other}"
        yield advice("version", text, "the relay is tested with Valkey 9; run that")
    elif not found.split(".")[0].isdigit() or int(found.split(".")[0]) < OLDEST_MAJOR:
        yield advice("version", f"Valkey {found} is old", "the relay is tested with Valkey 9; upgrade")
    else:
        yield ok("version", f"Valkey {found}")


def role(vitals: Vitals) -> Iterator[Finding]:
    if vitals.text("role") == "slave":
        cure = "name the primary in `valkey.host`, or promote this one: REPLICAOF NO ONE"
        yield problem("role", "the server is a replica and takes no writes", cure)
        if vitals.text("master_link_status") != "up":
            yield problem("role", "it has lost its primary", "look at the network and at the primary")
    else:
        yield ok("role", f"primary with {vitals.number('connected_slaves')} replicas")


def memory(vitals: Vitals) -> Iterator[Finding]:
    used, limit = vitals.number("used_memory"), vitals.number("maxmemory")
    machine = vitals.number("total_system_memory")
    if limit == 0:
        cure = "set `maxmemory` (`embedded.maxmemory`) to about half of the machine's memory"
        text = f"{_mib(used)} used, without a limit: when memory ends, the kernel kills a process"
        yield advice("memory", text, cure)
    else:
        yield _fullness(used, limit)
        if machine and limit > machine // 2:
            text = (
                f"maxmemory is {_mib(limit)} of the machine's {_mib(machine)}: a snapshot may need it twice"
            )
            yield advice("memory", text, "set `maxmemory` to about half of the machine's memory")
    if machine and used > machine * FULL_PERCENT // 100:
        text = f"Valkey uses {_mib(used)} of the machine's {_mib(machine)}"
        yield problem("memory", text, "shorten retention, or move to a larger machine")


def _fullness(used: int, limit: int) -> Finding:
    percent = used * 100 // limit
    text = f"{_mib(used)} used, {percent}% of maxmemory"
    cure = "shorten retention (`storage`, or a topic's own), `pulsar-relay trim`, or raise `maxmemory`"
    if percent >= FULL_PERCENT:
        return problem("memory", f"{text}: at 100% every publish is refused", cure)
    return advice("memory", text, cure) if percent >= FILLING_PERCENT else ok("memory", text)


def append_only_file(vitals: Vitals) -> Iterator[Finding]:
    about = "aof"
    if vitals.text("aof_enabled") != "1":
        return  # what that means depends on the durability level
    if vitals.text("aof_last_write_status") != "ok":
        cure = "look at the disk's space and health; where it does not go on by itself: BGREWRITEAOF"
        yield problem(about, "the last write to the append-only file failed: publishes are refused", cure)
    if vitals.text("aof_last_bgrewrite_status") != "ok":
        cure = "make room: a rewrite needs as much again as the data takes; then BGREWRITEAOF"
        yield problem(about, "the last rewrite of the append-only file failed: it only grows", cure)
    if delayed := vitals.number("aof_delayed_fsync"):
        cure = "give Valkey a quicker disk, or one of its own"
        text = f"{delayed} writes since its start waited for a sync that took more than a second"
        yield advice(about, text, cure)
    size = vitals.number("aof_current_size")
    yield ok(about, f"{_mib(size)}, {'rewriting' if vitals.number('aof_rewrite_in_progress') else 'at rest'}")


def snapshot(vitals: Vitals) -> Iterator[Finding]:
    about, cure = "snapshot", "look into Valkey's log, at its directory's space and rights; then BGSAVE"
    if vitals.text("rdb_last_bgsave_status") != "ok":
        yield problem(about, "the last snapshot failed", cure)
    if vitals.setting("stop-writes-on-bgsave-error") == "yes" and vitals.setting("save"):
        text = "a snapshot that fails would stop all publishes (stop-writes-on-bgsave-error)"
        cure = "set `stop-writes-on-bgsave-error no`, and watch rdb_last_bgsave_status"
        yield advice(about, text, cure)
    age = max(0.0, vitals.now + vitals.clock.ahead_seconds - vitals.number("rdb_last_save_time"))
    changes = vitals.number("rdb_changes_since_last_save")
    text = f"last one, or start, {_age(age)} ago, {changes} changes since"
    if age > OLD_SNAPSHOT_SECONDS and changes:
        yield advice(about, text, "`pulsar-relay backup` and `backup --rdb` make copies to keep elsewhere")
    else:
        yield ok(about, text)


def clock(vitals: Vitals) -> Iterator[Finding]:
    reading = vitals.clock
    off = abs(reading.ahead_seconds) - reading.uncertain_seconds
    direction = "ahead of" if reading.ahead_seconds > 0 else "behind"
    text = f"Valkey's is {abs(reading.ahead_seconds):.3f} s {direction} this machine's"
    cure = "run a time service (chrony) on both machines: a message's ttl and age depend on the two"
    if off >= WRONG_CLOCK_SECONDS:
        yield problem("clock", text, cure)
    elif off >= SLOW_CLOCK_SECONDS:
        yield advice("clock", text, cure)
    else:
        yield ok("clock", text)
    milliseconds = reading.answer_seconds * 1000
    if reading.answer_seconds > SLOW_ANSWER_SECONDS:
        text = f"Valkey's best of some answers took {milliseconds:.0f} ms: each publish takes that longer"
        yield advice("latency", text, "run Valkey near the relay, and look at SLOWLOG GET and at its disk")
    else:
        yield ok("latency", f"an answer takes {milliseconds:.1f} ms")


def connections(vitals: Vitals) -> Iterator[Finding]:
    there, most = vitals.number("connected_clients"), vitals.number("maxclients")
    text = f"{there} of at most {most}" if most else str(there)
    if most and there * 100 >= most * CROWDED_PERCENT:
        cure = "raise `maxclients`, or lower `valkey.pool_size`"
        yield problem("connections", f"{text}: further ones are refused", cure)
    else:
        yield ok("connections", text)


def buffers(vitals: Vitals) -> Iterator[Finding]:
    about = "client buffers"
    if vitals.clients is None:
        yield unseen(about, "CLIENT LIST is denied to this user", "ACL: +client|list")
    else:
        waiting = [int(client.get("omem", 0)) for client in vitals.clients]
        large = [size for size in waiting if size >= LARGE_BUFFER_BYTES]
        if large:
            text = f"{len(large)} clients do not read: {_mib(sum(large))} wait for them in Valkey's memory"
            yield problem(about, text, "CLIENT LIST shows who (omem); end them, or set a limit")
        else:
            yield ok(about, f"the largest holds {_mib(max(waiting, default=0))}")
    limits = vitals.setting("client-output-buffer-limit")
    if limits is None:
        yield unseen(about, "CONFIG GET is denied to this user", "ACL: +config|get")
    elif "pubsub 0 0 0" in limits:
        text = "there is no limit for one that follows the feed and does not read"
        yield advice(about, text, "set `client-output-buffer-limit pubsub 32mb 8mb 60`")


CHECKS: Sequence[Callable[[Vitals], Iterator[Finding]]] = (
    *(version, role, memory, append_only_file, snapshot, clock, connections, buffers),
)


def _mib(size: int) -> str:
    return f"{size / _MIB:,.1f} MiB"


def _age(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
