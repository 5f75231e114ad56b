"""Every setting of the predecessor (0.2.1): what becomes of it here. This is the one table.

A name stands as it does in its files; the variable is `PULSAR_` and the name, with `__` for each dot.
`docs/migrating.md` shows the table, and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

PREFIX = "PULSAR_"
PROVIDERS = ("oidc", "providers")
MAPPINGS = frozenset({("oidc",), PROVIDERS})
FIELDS_WITH_LISTS = frozenset({("scopes",)})
"""Of a provider."""
_LARGEST_STATUS_BYTES = 32 * 1024 * 1024
_LONG_TOKEN_MINUTES = 5


@dataclass(frozen=True, slots=True)
class Name:
    """`key` is the relay's setting that takes its value; None if none does, and then `note` says why.

    `unit`: what its whole numbers count. `may_be_empty`: nothing means none, as it did. `is_list`: its values
    are JSON lists. `needs` is another name without which it means nothing, as it did. `note` is told whenever
    it is given, `judge` tells it of certain values only.
    """

    key: str | None
    note: str | None = None
    unit: str = ""
    may_be_empty: bool = False
    is_list: bool = False
    needs: str | None = None
    judge: Callable[[str], str | None] | None = None


def _body_note(text: str) -> str | None:
    if not text.isdigit() or int(text) >= _LARGEST_STATUS_BYTES:
        return None
    return (
        "smaller than the largest status a Pulsar sends, which then never arrives; "
        "unset it, and requests of 32 MiB are taken"
    )


def _token_note(text: str) -> str | None:
    if not text.isdigit() or int(text) > _LONG_TOKEN_MINUTES:
        return None
    return "clients log in anew for each request where a token lives 5 minutes or less; 10 is usual"


NAMES: Mapping[str, Name] = MappingProxyType(
    {
        "app_name": Name(None, "the API document has a title of its own"),
        "storage_backend": Name(None),
        "valkey_host": Name("valkey.host"),
        "valkey_port": Name("valkey.port"),
        "valkey_use_tls": Name("valkey.tls"),
        "valkey_username": Name("valkey.username", may_be_empty=True),
        "valkey_password": Name("valkey.password", may_be_empty=True),
        "valkey_ca_path": Name(
            "valkey.tls_ca",
            "had no effect before; now Valkey's certificate must be signed by one of these",
            may_be_empty=True,
            needs="valkey_use_tls",
        ),
        "persistent_tier_retention": Name(
            "storage.persistent_tier_retention",
            "had no effect before; now older messages are trimmed, all but a topic's newest",
            unit="s",
        ),
        "max_messages_per_topic": Name("storage.max_messages_per_topic"),
        "log_level": Name("log.level", "had no effect before: everything was logged"),
        "jwt_secret_key": Name("auth.jwt_secret"),
        "allow_insecure_defaults": Name(
            None,
            "the relay has no switch that turns all its checks off; what it refuses, it refuses by name and "
            "with the setting that allows it",
        ),
        "allowed_origins": Name("server.allowed_origins", is_list=True),
        "trusted_hosts": Name("server.allowed_hosts", is_list=True),
        "ws_max_per_user": Name(
            "limits.connections_per_user",
            "counted over all workers of a machine now, event streams too",
        ),
        "ws_idle_seconds": Name(
            None,
            "it cut off listeners that had nothing to say; now a WebSocket is closed when its pings stay "
            "unanswered (subscriber.ping_interval, subscriber.ping_timeout)",
        ),
        "max_body_bytes": Name("server.max_body", judge=_body_note),
        "access_token_expire_minutes": Name("auth.access_token_ttl", unit="m", judge=_token_note),
        "refresh_token_ttl_days": Name("auth.refresh_token_ttl", unit="d"),
        "device_code_ttl_seconds": Name("device.code_ttl", unit="s"),
        "device_code_poll_interval": Name("device.poll_interval", unit="s"),
        "oidc.enabled": Name("oidc.enabled"),
        "oidc.base_url": Name("oidc.base_url", may_be_empty=True),
        "oidc.default_permissions": Name("oidc.default_permissions", is_list=True),
        "oidc.state_ttl_seconds": Name("oidc.state_ttl", unit="s"),
        "bootstrap_admin_username": Name(
            "auth.bootstrap_username", may_be_empty=True, needs="bootstrap_admin_password"
        ),
        "bootstrap_admin_password": Name(
            "auth.bootstrap_password", may_be_empty=True, needs="bootstrap_admin_username"
        ),
        "bootstrap_admin_email": Name("auth.bootstrap_email", may_be_empty=True),
        "rate_limit_storage_uri": Name(
            None, "limits are kept in the relay's own Valkey, and all workers share them"
        ),
        "config_file": Name(None),
    }
)
"""All but the fields of an OIDC provider, which are those of `oidc.providers`."""

FLAT_NAMES = frozenset(name.partition(".")[0] for name in NAMES) - {"config_file", "rate_limit_storage_uri"}
"""What may stand at the top of one of its files."""
