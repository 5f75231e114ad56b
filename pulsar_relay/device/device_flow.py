"""DeviceFlow: a device asks, somebody who has signed in decides, the device signs in as that user.

Signing in and deciding are two steps: who follows a link that somebody else has sent sees first which device
wants to be let in, and as whom. Between the two stands a ticket, for one user, one device and one browser.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

import msgspec

from pulsar_relay.accounts.access_tokens import AccessToken
from pulsar_relay.accounts.accounts import Accounts
from pulsar_relay.accounts.audit import Actor, AuditRecord, Deed, Kind
from pulsar_relay.accounts.tickets import Tickets
from pulsar_relay.accounts.user import User
from pulsar_relay.device.device_codes import Approval, DeviceCodes, NewDevice, Outcome, PendingDevice
from pulsar_relay.errors import RelayError

_LOST = frozenset({"token_revoked", "user_inactive", "user_unknown"})


class Question(msgspec.Struct, frozen=True):
    """What somebody is asked who has signed in: whether this device may act for them. `browser` is the digest
    of what the browser has to show that brings the answer.
    """

    user_id: str
    generation: int
    user_code: str
    digest: str
    hint: str
    browser: str

    @property
    def device(self) -> PendingDevice:
        return PendingDevice(self.user_code, self.digest, self.hint)


@dataclass(frozen=True, slots=True)
class DeviceTokens:
    """What a device gets. `secondary` is a refresh token of a session of its own, for those that asked."""

    access: AccessToken
    refresh: str
    secondary: str | None


class DeviceFlow:
    """Raises StoreError, and RelayError where the docstring says so. An `address` is a client's."""

    def __init__(self, accounts: Accounts, codes: DeviceCodes, questions: Tickets[Question]) -> None:
        self._accounts = accounts
        self.codes = codes
        self._questions = questions

    async def begin(self, hint: str, *, is_pair: bool) -> NewDevice:
        """RelayError as `DeviceCodes.make`."""
        return await self.codes.make(hint, is_pair=is_pair)

    async def poll(self, device_code: str, address: str) -> Outcome | DeviceTokens:
        """Tokens once, after an approval; DENIED where the account has changed since, so that it would not
        have been let in.
        """
        outcome, approval = await self.codes.poll(device_code)
        if approval is None:
            return outcome
        try:
            tokens = await self._sign_in(approval)
        except RelayError as error:
            if error.code not in _LOST:
                raise
            self._write(Deed.SIGN_IN, approval.user_id, address, error.code)
            return Outcome.DENIED
        self._write(Deed.SIGN_IN, approval.user_id, address)
        return tokens

    async def _sign_in(self, approval: Approval) -> DeviceTokens:
        accounts = self._accounts
        user = await accounts.users.find(approval.user_id)
        if user is None:
            raise RelayError("user_unknown")
        if user.generation != approval.generation:
            raise RelayError("token_revoked")
        secondary = None
        if approval.is_pair:
            refresh, secondary = await accounts.sessions.open_pair(user, approval.hint)
        else:
            refresh = await accounts.sessions.open(user, approval.hint)
        return DeviceTokens(accounts.tokens.issue(user), refresh, secondary)

    async def ask(self, user: User, device: PendingDevice, browser: str) -> str:
        """A ticket for who has just proved to be this user: with it `decide` is the user's decision."""
        question = Question(
            user.user_id, user.generation, device.user_code, device.digest, device.hint, browser
        )
        return await self._questions.issue(question)

    async def decide(self, ticket: str, browser: str | None, address: str, *, approves: bool) -> None:
        """RelayError `device_gone` if there is nothing to decide any more, `sign_in_expired` if the ticket is
        not good (any more), or not this browser's, `user_inactive` and `user_unknown`.
        """
        question = await self._questions.redeem(ticket)
        if question is None or browser is None or not hmac.compare_digest(question.browser, browser):
            raise RelayError("sign_in_expired")
        deed = Deed.APPROVE_DEVICE if approves else Deed.DENY_DEVICE
        try:
            user = await self._still(question)
            codes, device = self.codes, question.device
            if not (await codes.approve(device, user) if approves else await codes.deny(device)):
                raise RelayError("device_gone")
        except RelayError as error:
            self._write(deed, question.user_id, address, error.code)
            raise
        self._write(deed, question.user_id, address)

    async def _still(self, question: Question) -> User:
        user = await self._accounts.users.find(question.user_id)
        if user is None:
            raise RelayError("user_unknown")
        if not user.is_active:
            raise RelayError("user_inactive")
        if user.generation != question.generation:
            raise RelayError("sign_in_expired")
        return user

    async def deny(self, typed: str, address: str) -> None:
        """For whoever has the user code, which is all that is needed to be rid of a device. RelayError
        `user_code_unknown`.
        """
        device = await self.codes.find(typed)
        if device is None or not await self.codes.deny(device):
            raise RelayError("user_code_unknown")
        self._accounts.audit.write(AuditRecord(deed=Deed.DENY_DEVICE, actor=Actor(address=address)))

    def _write(self, deed: Deed, user_id: str, address: str, error: str | None = None) -> None:
        actor = Actor(user_id=user_id, address=address)
        record = AuditRecord(deed=deed, actor=actor, kind=Kind.USER, target=user_id, error=error)
        self._accounts.audit.write(record)
