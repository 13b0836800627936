"""Storing a new credential within a unit of work, for everything that adds one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from app.domain.audit import Action, Result
from app.domain.credentials import QUOTA, CredentialRecord, Owner
from app.domain.errors import Forbidden, QuotaExceeded
from app.domain.identity import Actor, Client, Permission, User
from app.domain.keys import KeyName
from app.services.audit import AuditTrail
from app.services.credentials.cipher import CredentialCipher
from app.services.keys import KeyRing
from app.services.ports import Clock, UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCredential:
    """A credential to be stored; its texts are as the domain accepts them."""

    id: str
    owner: Owner
    created_by: str
    provider: str
    label: str
    expires_at: datetime | None = None


class CredentialStoring:
    """Encrypts, stores and records new credentials."""

    def __init__(self, *, cipher: CredentialCipher, clock: Clock) -> None:
        self._cipher = cipher
        self._clock = clock
        self._trail = AuditTrail(clock)

    async def make_room(self, uow: UnitOfWork, owner: Owner) -> int:
        """Exclude others that add for this owner; return how many credentials may be added in this unit of work.

        Raises Forbidden where the owner's account could not use one.
        """
        await uow.credentials.lock_owner(owner)
        count, account = await uow.credentials.count_and_account(owner)
        require_present(account)
        return max(0, QUOTA - count)

    async def add(
        self, uow: UnitOfWork, who: Actor | Client, new: NewCredential, secret: str, ring: KeyRing, **detail: str
    ) -> CredentialRecord:
        """Store a credential for which there is room. Raises UniqueViolation for a taken label, NotReady."""
        primary, now = ring.primary(KeyName.AES_KEY), self._clock.now()
        record = CredentialRecord(
            id=new.id,
            owner=new.owner,
            provider=new.provider,
            label=new.label,
            encrypted_value=self._cipher.encrypt(secret, new.id, new.owner, primary),
            key_version=primary.version,
            fingerprint=self._cipher.fingerprint(ring, secret),
            created_by=new.created_by,
            created_at=now,
            updated_at=now,
            expires_at=new.expires_at,
        )
        await uow.credentials.add(record)
        about, ok = ("credential", record.id), Result.OK
        added = Action.CREDENTIAL_ADDED
        await self._trail.record(uow, who, added, about=about, result=ok, provider=new.provider, **detail)
        return record


def quota_exceeded() -> QuotaExceeded:
    """The refusal of one credential too many."""
    return QuotaExceeded(f"At most {QUOTA} credentials, removed ones included for 7 days: delete one of those for good")


def require_present(user: User | None) -> None:
    """Refuse to store for an account that could not use it: disabled, joined to another, or an auditor's.

    It is judged by the owner's row and not by the actor, whom the operator may act for, or whose account may have
    changed since the request was authenticated.
    """
    if user is not None and user.disabled_at is not None:
        raise Forbidden("This account was disabled or joined to another: sign in again")
    if user is not None and not user.role.grants(Permission.USE_OWN_CREDENTIALS):
        raise Forbidden(f"The role {user.role.value} has no credentials of its own: choose another account or role")
