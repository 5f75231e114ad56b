"""Every key that accounts use in Valkey, on one screen. Each begins with `user-data:{accounts}:`.

| key                    | type   | holds                                                                   |
| ---------------------- | ------ | ----------------------------------------------------------------------- |
| `users`                | hash   | user id -> the user as JSON, without a password                         |
| `passwords`            | hash   | user id -> argon2 text; none of those who sign in elsewhere             |
| `names`                | hash   | username -> user id                                                     |
| `name-order`           | zset   | usernames, with score 0: in the order of their bytes                    |
| `federated`            | hash   | `<issuer>|<subject>` -> user id                                         |
| `session:<jti>`        | hash   | a chain of refresh tokens; expires with it. Or, of a token that was     |
|                        |        | rotated before it was imported: which chain it was of                   |
| `sessions:<user id>`   | zset   | jti -> when it expires. A chain that is not in here is revoked          |
| `spare:<user id>`      | zset   | jti -> when it was made: password logins whose token was never used     |
| `denied`               | zset   | jti of an access token that was logged out -> its expiry, Unix seconds  |
| `api-keys`             | hash   | key id -> the key as JSON, with the SHA-256 of its secret               |
| `api-key-uses`         | hash   | key id -> when it was last used, Unix milliseconds                      |
| `api-keys-of:<user id>` | set   | key ids                                                                 |
| `grants`               | hash   | `<owner id>/<topic>` -> who may read and write it, as JSON              |
| `grants-of:<owner id>` | set    | topics                                                                  |
| `imported`             | set    | `user:<id>` and `session:<jti>`: taken over from another server, once   |
| `device:<digest>`      | hash   | a device code, by its SHA-256: what the device says of itself, and what |
|                        |        | was decided; expires twice as late as the code, so that it is known     |
| `user-code:<code>`     | string | digest of the device code, while somebody can decide about it; expires  |
| `ticket:<kind>:<digest>` | string | what a ticket stands for, as JSON, by the ticket's SHA-256; expires   |
| `changes`              | stream | what changed of users, denied, api-keys and grants: kind, name, token   |
| `changed`              | channel| a hint that there is something new in `changes`                         |

The tag in braces puts all of them into one slot, so that a script is atomic over them in a cluster, too. The
prefix is `user` for the reason given in `store/schema.py`. What expires by itself is a session's hash, the
two indexes of a user's sessions, when the last of them has, and what of a sign-in is under way: the rest is
there until it is deleted, and is never evicted, since the relay refuses a Valkey that does.
"""

from __future__ import annotations

PREFIX = "user-data:{accounts}:"

USERS = f"{PREFIX}users"
PASSWORDS = f"{PREFIX}passwords"
NAMES = f"{PREFIX}names"
NAME_ORDER = f"{PREFIX}name-order"
FEDERATED = f"{PREFIX}federated"
DENIED = f"{PREFIX}denied"
API_KEYS = f"{PREFIX}api-keys"
API_KEY_USES = f"{PREFIX}api-key-uses"
GRANTS = f"{PREFIX}grants"
IMPORTED = f"{PREFIX}imported"
CHANGES = f"{PREFIX}changes"
CHANGED = f"{PREFIX}changed"


def session(jti: str) -> str:
    return f"{PREFIX}session:{jti}"


def sessions(user_id: str) -> str:
    return f"{PREFIX}sessions:{user_id}"


def spare(user_id: str) -> str:
    return f"{PREFIX}spare:{user_id}"


def api_keys_of(user_id: str) -> str:
    return f"{PREFIX}api-keys-of:{user_id}"


def grants_of(owner_id: str) -> str:
    return f"{PREFIX}grants-of:{owner_id}"


def device(digest: str) -> str:
    return f"{PREFIX}device:{digest}"


def user_code(code: str) -> str:
    return f"{PREFIX}user-code:{code}"


def ticket(kind: str, digest: str) -> str:
    return f"{PREFIX}ticket:{kind}:{digest}"
