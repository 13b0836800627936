"""Invitations: links by which somebody without an account makes one, with the role that the link says."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from app.domain.audit import Action
from app.domain.errors import AlreadyExists, Forbidden, UniqueViolation
from app.domain.identity import Actor, Client, Permission, Role, User
from app.domain.links import Invitation, LinkPurpose, invitation_lifetime
from app.domain.roles import require_may_give
from app.domain.secrets import SecretText
from app.services.audit import AuditTrail
from app.services.authentication import token_digest
from app.services.ports import Clock, Randomness, UnitOfWork

INVITATION_PREFIX: Final = "khi_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Invited:
    """An invitation and its token, which is None where the request was repeated: it is shown once."""

    invitation: Invitation
    token: SecretText | None


class Invitations:
    """Issues invitations and accepts them, each within a unit of work of its caller."""

    def __init__(self, *, clock: Clock, randomness: Randomness) -> None:
        self._clock = clock
        self._randomness = randomness
        self._trail = AuditTrail(clock)

    async def issue(self, uow: UnitOfWork, actor: Actor, role: Role, lasts: timedelta | None) -> Invited:
        """Store an invitation: 256 random bits, of which the database holds the SHA-256.

        Raises Forbidden for a role that the actor cannot give, and for owner: anybody may use a link.
        InvalidInput for a lifetime that is not 1 second to 30 days.
        """
        require_may_give(actor, role)
        if role is Role.OWNER:
            raise Forbidden("Nobody is invited as an owner: invite them with another role, then give them that one")
        now = self._clock.now()
        token = INVITATION_PREFIX + urlsafe_b64encode(self._randomness.token_bytes(32)).decode().rstrip("=")
        invitation = Invitation(
            id=self._randomness.new_id(),
            role=role,
            issued_by=None if actor.subject_id is None else actor.user_id,
            created_at=now,
            expires_at=now + invitation_lifetime(lasts),
        )
        await uow.links.add_invitation(invitation, token_digest(token))
        about = ("invitation", invitation.id)
        await self._trail.record(uow, actor, Action.INVITATION_ISSUED, about=about, role=role.value)
        return Invited(invitation=invitation, token=SecretText(token))

    async def usable(self, uow: UnitOfWork, digest: bytes) -> Invitation | None:
        """Return the invitation of that token, if its issuer may still give that role."""
        invitation = await uow.links.invitation(digest, self._clock.now())
        if invitation is None or invitation.issued_by is None:
            return invitation
        issuer = await uow.users.get(invitation.issued_by)
        if issuer is None or issuer.disabled_at is not None:
            return None
        may = issuer.role.grants(Permission.MANAGE_USERS) and issuer.role.covers(invitation.role)
        return invitation if may else None

    async def accept(
        self, uow: UnitOfWork, digest: bytes, username: str, password_hash: str, client: Client
    ) -> User | None:
        """Use an invitation up and store the account; None where it cannot be used any more. Of many at once one can.

        ``username`` is one that `new_username` accepts. Raises AlreadyExists for a name that is taken: then the
        invitation stays usable.
        """
        now = self._clock.now()
        invitation = await self.usable(uow, digest)
        if invitation is None or not await uow.links.use(digest, LinkPurpose.INVITE, now):
            return None
        user = User(
            id=self._randomness.new_id(),
            subject_id=self._randomness.new_id(),
            username=username,
            role=invitation.role,
            password_hash=password_hash,
            created_at=now,
        )
        try:
            await uow.users.add(user)
        except UniqueViolation:
            raise AlreadyExists("A user of that name, or of one that looks like it, exists") from None
        actor = Actor(user_id=user.id, subject_id=user.subject_id, username=username, role=user.role, client=client)
        about = ("user", user.id)
        await self._trail.record(
            uow, actor, Action.USER_CREATED, about=about, role=user.role.value, invitation=invitation.id
        )
        return user
