"""`migrate`: what a server of pulsar-relay 0.2 keeps in Valkey, copied to this relay's store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click

from pulsar_relay.accounts.audit import Actor, AuditRecord, Deed, Kind
from pulsar_relay.accounts.imports import Imports
from pulsar_relay.accounts.passwords import Passwords, default_hasher
from pulsar_relay.accounts.refresh_secrets import RefreshSecrets
from pulsar_relay.accounts.sessions import Sessions
from pulsar_relay.accounts.user import User
from pulsar_relay.accounts.users import Users
from pulsar_relay.cli.audited import tell_audit
from pulsar_relay.cli.backup_progress import BackupProgress
from pulsar_relay.cli.opened_store import with_store
from pulsar_relay.cli.settings import load_settings, settings_options
from pulsar_relay.predecessor.migration import LeftOut, Plan, TopicMigration
from pulsar_relay.predecessor.people import People, PeopleMigration, Taken
from pulsar_relay.predecessor.source import Source
from pulsar_relay.settings import AuthSettings, Settings, ValkeySettings
from pulsar_relay.store.client import Client, make_client
from pulsar_relay.store.restores import DisturbedError, NotEmptyError

COMMAND_SECONDS = 60.0
"""A page of large messages takes its time; nobody waits for it but the operator."""
SHOWN = 20
_SCHEMES = {"valkey": False, "redis": False, "valkeys": True, "rediss": True}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What there was to do, and what was done; `copied` and `taken` are None for a dry run."""

    topics: Plan
    people: People
    copied: int | None = None
    taken: Taken | None = None


@click.command()
@click.option(
    "--from",
    "address",
    metavar="URL",
    help="Valkey of the server, such as valkey://host:6379/0 or unix:///path. Without it, the relay's own.",
)
@click.option(
    "--from-password-file",
    "password_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="File with its password, where the URL should not have it.",
)
@click.option(
    "--from-ca",
    "ca_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="File with the certificates that may sign its.",
)
@click.option(
    "--dry-run", "is_dry", is_flag=True, help="Say what would be copied and what cannot; write nothing."
)
@settings_options
def migrate(
    file: Path | None,
    assignments: Sequence[str],
    address: str | None,
    password_file: Path | None,
    ca_file: Path | None,
    *,
    is_dry: bool,
    **flags: str | bool | None,
) -> None:
    """Copy topics with their messages, users, sessions and logged-out tokens of a pulsar-relay 0.2 server to
    this relay's store, with the ids they have. The server's data is only read.

    Takes the options of `serve`. Stop the old server first, start the relay afterwards: clients go on
    with the cursors, passwords and refresh tokens they have. It may be repeated: what is there is left as
    it is, and what was broken off goes on.

    \b
    Examples:
      pulsar-relay migrate --dry-run
      pulsar-relay migrate --from valkey://old.internal:6379 --from-password-file password
    """
    settings = load_settings(file, assignments, flags).settings
    source = _source_settings(settings, address, password_file, ca_file)

    async def work(target: Client) -> Outcome:
        client = make_client(replace(source, command_timeout_seconds=COMMAND_SECONDS))
        passwords = Passwords(default_hasher())
        try:
            topics = TopicMigration(Source(client), target)
            people = PeopleMigration(Source(client), _imports(target, passwords, settings.auth), target)
            plan, persons = await topics.plan(), await people.plan()
            if is_dry:
                persons.left_out += await people.conflicts(persons)
                return Outcome(plan, persons)
            # Users first: nobody else's sessions can be taken over.
            taken = await people.run(persons, time.time())
            await tell_audit(target, settings, map(_taken_over, taken.made))
            with BackupProgress() as progress:
                copied = await topics.run(plan, progress)
            return Outcome(plan, persons, copied, taken)
        finally:
            passwords.close()
            await client.aclose()

    try:
        outcome = with_store(settings, work, makes_directory=True)
    except (NotEmptyError, DisturbedError) as error:
        raise click.ClickException(f"{error}; repeat it, to go on") from error
    for line in _told(outcome):
        click.echo(line)
    for line in (*_hints(outcome.topics, settings), *_of_left_out(outcome)):
        click.echo(line, err=True)


def _source_settings(
    settings: Settings, address: str | None, password_file: Path | None, ca_file: Path | None
) -> ValkeySettings:
    if address is None:
        if settings.uses_embedded_server or settings.valkey.mode != "standalone":
            raise click.UsageError("say with --from where the Valkey of the old server is")
        return settings.valkey
    password = None if password_file is None else password_file.read_text("utf-8").strip()
    try:
        found = valkey_at(address)
    except ValueError as error:
        # Without the address, which may have a password in it.
        raise click.UsageError(f"--from {error}") from None
    return replace(found, password=password or found.password, tls_ca=ca_file)


def valkey_at(address: str) -> ValkeySettings:
    """ValueError, without the address in it."""
    parts = urlsplit(address)
    if parts.scheme == "unix" and parts.path:
        return ValkeySettings(unix_socket=Path(unquote(parts.path)))
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError("is no address such as valkey://host:6379/0 or unix:///path")
    database = parts.path.strip("/") or "0"
    if not (database.isascii() and database.isdigit()):
        raise ValueError("names a database that is no number")
    return ValkeySettings(
        host=parts.hostname,
        port=parts.port or 6379,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        tls=_SCHEMES[parts.scheme],
        db=int(database),
    )


def _imports(target: Client, passwords: Passwords, auth: AuthSettings) -> Imports:
    def now_ms() -> int:
        return time.time_ns() // 1_000_000

    async def settle() -> None:
        """Relays hear of it by themselves."""

    users = Users(target, passwords, now_ms, settle)
    # No token is made here, and none of this relay's own is looked at.
    return Imports(users, Sessions(target, users, RefreshSecrets(()), auth, now_ms))


def _taken_over(user: User) -> AuditRecord:
    return AuditRecord(
        deed=Deed.IMPORT_USER,
        actor=Actor(),
        kind=Kind.USER,
        target=user.user_id,
        permissions=user.permissions,
    )


def _told(outcome: Outcome) -> Iterable[str]:
    plan, people = outcome.topics, outcome.people
    if outcome.taken is None or outcome.copied is None:
        yield f"topics to copy: {len(plan.topics):,} with {plan.messages:,} messages"
        yield f"topics that are here already: {len(plan.done):,}"
        yield f"users: {len(people.users):,}, with {len(people.sessions):,} sessions"
        yield f"logged-out tokens: {len(people.denied):,}"
        yield "nothing was written"
        return
    taken = outcome.taken
    yield f"topics copied: {len(plan.topics):,} with {outcome.copied:,} messages"
    yield f"topics that were here already: {len(plan.done):,}"
    yield f"users taken over: {taken.users:,}, with {taken.sessions:,} sessions"
    yield f"users and sessions that were taken over before: {taken.before:,}"
    yield f"logged-out tokens: {taken.denied:,}"


def _of_left_out(outcome: Outcome) -> Iterable[str]:
    left_out: list[LeftOut] = [*outcome.topics.left_out, *outcome.people.left_out]
    left_out += outcome.taken.left_out if outcome.taken else []
    shown = left_out if outcome.taken is None else left_out[:SHOWN]
    yield from (f"left out: {one.what} {one.why}" for one in shown)
    if len(shown) < len(left_out):
        yield f"left out: {len(left_out) - len(shown):,} more; --dry-run lists all"


def _hints(plan: Plan, settings: Settings) -> Iterable[str]:
    seconds = settings.storage.persistent_tier_retention_seconds
    bound_ms = (time.time() - seconds) * 1000
    old = sum(
        topic.stream is not None and topic.stream.oldest.milliseconds < bound_ms for topic in plan.topics
    )
    if old:
        yield (
            f"{old:,} topics have messages older than `storage.persistent_tier_retention`: a relay that runs "
            "trims them, all but a topic's newest. To keep them, give it a longer one first."
        )
