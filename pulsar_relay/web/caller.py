"""Caller: who has sent a request, and what the names in it mean inside.

    on the wire                    inside, and in Valkey
    jobs                           <user id>/jobs            the caller's own
    <owner id>/jobs                <owner id>/jobs           another user's, if it is granted
    client_id worker-1             <user id>/worker-1        always the caller's own

Without accounts all topics are nobody's, and what is inside is what is on the wire. An owner is named by id
and not by username: a name can be taken by somebody else once its user is deleted.
"""

from __future__ import annotations

from typing import Protocol

from pulsar_relay.accounts.accounts import Accounts
from pulsar_relay.accounts.principal import Principal
from pulsar_relay.errors import FieldError, RelayError
from pulsar_relay.fields import is_topic_name
from pulsar_relay.limits import limiter
from pulsar_relay.web.guests import Guest, Guests

EVERYTHING = "*"


class Caller(Protocol):
    """Everything raises RelayError where the caller may not."""

    @property
    def principal(self) -> Principal | None:
        """None for who has not signed in, and without accounts."""

    @property
    def counted_as(self) -> str | None:
        """Whose rates, connections and polls its requests count for; None if nobody counts."""

    @property
    def scope(self) -> str:
        """Keeps apart what users leave: their idempotency keys, their waiting polls."""

    @property
    def prefix(self) -> str:
        """What the caller's own topics begin with inside, and no others."""

    def require(self, permission: str) -> None:
        """`permission_required` unless the account has it, and the key, if it is one, is for it."""

    def require_user(self) -> None:
        """`unauthenticated` for who has not signed in."""

    def require_all_topics(self) -> None:
        """`key_out_of_scope` for an API key that is for some of its user's topics only."""

    def reach(self, name: str, action: str) -> str:
        """The topic of this name, inside, to `read` or `write` it. It need not exist."""

    def own(self, name: str, permission: str | None) -> str:
        """The same of a topic of the caller's own; another's is refused as one that does not exist."""

    def inside(self, name: str) -> str:
        """The same, for names that give access to nothing."""

    def told(self, topic: str) -> str:
        """How the caller names a topic: own ones bare, however they were asked for."""

    def client(self, client_id: str) -> str:
        """A named client of the caller's, as it is kept."""

    def enter(self, guest: Guest) -> None:
        """Have the guest shut out when the caller may not stay any more, until it leaves."""

    def leave(self, guest: Guest) -> None:
        """May be called again."""


class Anybody:
    """Who calls without accounts: nobody is asked who they are."""

    principal = None
    counted_as: str | None = None
    scope = "-"
    prefix = ""

    def require(self, permission: str) -> None: ...

    def require_user(self) -> None: ...

    def require_all_topics(self) -> None: ...

    def reach(self, name: str, action: str) -> str:
        return self.inside(name)

    def own(self, name: str, permission: str | None) -> str:
        return self.inside(name)

    def inside(self, name: str) -> str:
        if "/" in name:
            wrong = FieldError(
                ("topic",), "must be a topic name without an owner: there are no accounts here"
            )
            raise RelayError("invalid_request", errors=[wrong])
        return name

    def told(self, topic: str) -> str:
        return topic

    def client(self, client_id: str) -> str:
        return client_id

    def enter(self, guest: Guest) -> None: ...

    def leave(self, guest: Guest) -> None: ...


ANYBODY = Anybody()


class AnybodyAt(Anybody):
    """The same where limits count addresses."""

    def __init__(self, address: str) -> None:
        self.counted_as = limiter.address(address)


class Stranger:
    """Who has not signed in, and so has no topics: there is only what is granted to everybody."""

    principal = None
    scope = "public"
    prefix = "/"

    def __init__(self, accounts: Accounts, guests: Guests, address: str) -> None:
        self.counted_as = limiter.address(address)
        self._accounts = accounts
        self._guests = guests

    def require(self, permission: str) -> None:
        raise RelayError("unauthenticated")

    def require_user(self) -> None:
        raise RelayError("unauthenticated")

    def require_all_topics(self) -> None:
        raise RelayError("unauthenticated")

    def reach(self, name: str, action: str) -> str:
        owner_id, _, topic = name.rpartition("/")
        if not owner_id:
            raise RelayError("unauthenticated")
        self._accounts.require_access(None, action, owner_id, topic)
        return name

    def own(self, name: str, permission: str | None) -> str:
        raise RelayError("unauthenticated")

    def inside(self, name: str) -> str:
        return name

    def told(self, topic: str) -> str:
        return topic

    def client(self, client_id: str) -> str:
        raise RelayError("unauthenticated")

    def enter(self, guest: Guest) -> None:
        self._guests.enter(guest, None)

    def leave(self, guest: Guest) -> None:
        self._guests.leave(guest, None)


class UserCaller:
    """A user, by an access token or an API key."""

    __slots__ = ("_accounts", "_guests", "counted_as", "prefix", "principal", "scope")

    def __init__(self, principal: Principal, accounts: Accounts, guests: Guests) -> None:
        self.principal = principal
        self.scope = principal.user.user_id
        self.prefix = f"{self.scope}/"
        self.counted_as = limiter.user(self.scope)
        self._accounts = accounts
        self._guests = guests

    def require(self, permission: str) -> None:
        self.principal.require(permission)

    def require_user(self) -> None: ...

    def require_all_topics(self) -> None:
        key = self.principal.key
        if key is not None and EVERYTHING not in key.topics:
            raise RelayError("key_out_of_scope", "This is about all topics.")

    def reach(self, name: str, action: str) -> str:
        if "/" not in name:
            return self._own(name, action)
        if name.startswith(self.prefix):
            return self._own(name[len(self.prefix) :], action)
        owner_id, _, topic = name.partition("/")
        self._accounts.require_access(self.principal, action, owner_id, topic)
        return name

    def _own(self, name: str, permission: str | None) -> str:
        principal = self.principal
        if permission is not None:
            principal.require(permission)
        if principal.key is not None and not principal.key.covers(self.scope, name):
            raise RelayError("key_out_of_scope")
        return self.prefix + name

    def own(self, name: str, permission: str | None) -> str:
        if "/" not in name:
            return self._own(name, permission)
        if not name.startswith(self.prefix):
            raise RelayError("topic_not_found")
        return self._own(name[len(self.prefix) :], permission)

    def inside(self, name: str) -> str:
        return name if "/" in name else self.prefix + name

    def told(self, topic: str) -> str:
        return topic.removeprefix(self.prefix)

    def client(self, client_id: str) -> str:
        return self.prefix + client_id

    def enter(self, guest: Guest) -> None:
        self._guests.enter(guest, self.principal)

    def leave(self, guest: Guest) -> None:
        self._guests.leave(guest, self.principal)


def existing(name: str) -> str:
    """A name from an address: one that no topic can have is simply not found, as any other that does not
    exist.
    """
    if not is_topic_name(name):
        raise RelayError("topic_not_found")
    return name


def may(caller: Caller, permission: str) -> bool:
    try:
        caller.require(permission)
    except RelayError:
        return False
    return True


def is_of_another(name: str, caller: Caller) -> bool:
    return "/" in name and not name.startswith(caller.prefix)
