"""The first admin: made, or given its password again, from the settings, by every worker that starts."""

from __future__ import annotations

import logging

from pulsar_relay.accounts.user import PERMISSIONS, NewUser, User, UserPatch
from pulsar_relay.accounts.users import Users
from pulsar_relay.errors import RelayError

logger = logging.getLogger(__name__)


async def ensure_admin(users: Users, username: str, password: str, email: str | None) -> User:
    """The user of this name, with this password.

    Whom it finds it leaves as they are but for the password, also without permissions or closed: an operator
    may have wanted that. Of workers that start together one makes the user, and the others find it. Raises
    StoreError, and RelayError `invalid_request` if there can be no such user.
    """
    found = await users.find_by_name(username) or await _make(
        users, NewUser(username, email, PERMISSIONS), password
    )
    if found is None:
        found = await users.find_by_name(username)
    if found is None:
        raise RelayError("user_not_found", "The admin was deleted while the relay started.")
    try:
        await users.check_password(username, password)
    except RelayError as error:
        if error.code == "wrong_password":
            logger.info("accounts: the admin %s has the password of the settings now", username)
            return await users.patch(found.user_id, UserPatch(password=password))
        if error.code != "user_inactive":
            raise
        logger.warning("accounts: the admin %s is not active", username)
    return found


async def _make(users: Users, new: NewUser, password: str) -> User | None:
    """None where another worker was quicker."""
    try:
        user = await users.create(new, password)
    except RelayError as error:
        if error.code == "user_exists":
            return None
        raise
    logger.info("accounts: made the admin %s", new.username)
    return user
