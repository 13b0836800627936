"""Joining the account of a Discord user with another account: the plan, and the move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.domain.credentials import Owner, OwnerKind
from app.domain.errors import LinkConflict, UniqueViolation
from app.domain.identity import User, name_key
from app.services.credentials import CredentialTransfer, Moved, Planned
from app.services.owners import require_another_owner
from app.services.ports import Clock, UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """The plan: ``other`` is the account that the Discord user has now, None without one.

    ``shares`` counts the credentials that it shared, by server.
    """

    other: User | None
    planned: Planned
    shares: Mapping[str, int]


class AccountJoining:
    """Works inside the unit of work of a service that may join them: everything moves, or nothing."""

    def __init__(self, *, transfer: CredentialTransfer, clock: Clock) -> None:
        self._transfer = transfer
        self._clock = clock

    async def look(self, uow: UnitOfWork, user: User, number: str) -> Joining:
        """Return the plan for this user. Raises LinkConflict where nothing may."""
        other = await self._other(uow, user, number)
        if other is None:
            return Joining(other=None, planned=Planned(), shares={})
        planned = await self._transfer.plan(uow, _owner(other), _owner(user))
        return Joining(other=other, planned=planned, shares=await uow.credentials.shares_of(other.id))

    async def join(self, uow: UnitOfWork, user: User, number: str) -> Moved:
        """Link the Discord account to this user, whose row was read in this unit of work after ``lock``.

        The account that the Discord user had ends. Raises LinkConflict, LastOwner, VersionConflict, NotReady.
        """
        other, now, moved = await self._other(uow, user, number), self._clock.now(), Moved()
        try:
            if other is not None:
                await require_another_owner(uow, other.id)
                await uow.users.set_discord(other.id, None, now)
                await uow.users.disable(other.id, now)
                await uow.credentials.reassign_sharer(other.id, user.id)
                moved = await self._transfer.move(uow, _owner(other), _owner(user))
            await uow.users.set_discord(user.id, number, now)
        except UniqueViolation:
            raise LinkConflict from None
        return moved

    async def lock(self, uow: UnitOfWork, number: str) -> None:
        """Of two who link one Discord account at once, the later one waits here and then sees what the other did.

        Call it before a user is locked: joining may end another user's account.
        """
        await uow.users.hold_roles()
        await uow.credentials.lock_owner(Owner(OwnerKind.USER, discord_name(number)))

    @staticmethod
    async def _other(uow: UnitOfWork, user: User, number: str) -> User | None:
        """The account that the Discord user has, if it is another one that may end. Raises LinkConflict."""
        if user.discord_id not in {None, number}:
            raise LinkConflict("This user is linked to another Discord account: unlink it first")
        other = await uow.users.by_discord(number)
        if other is None or other.id == user.id:
            return None
        if other.password_hash is not None or other.username != discord_name(number):
            raise LinkConflict
        factor = await uow.factors.get(other.id)
        if factor is not None and factor.confirmed_at is not None:  # Discord alone must not lead around it
            raise LinkConflict("This Discord account has a second factor of its own here: switch it off there first")
        return other


async def former_account(uow: UnitOfWork, user: User) -> User | None:
    """The account that the linked Discord user of this one had before, which ended when they were joined."""
    if user.discord_id is None:
        return None
    former = await uow.users.by_name(name_key(discord_name(user.discord_id)))
    return former if former is not None and former.id != user.id and former.discord_id is None else None


def discord_name(number: str) -> str:
    """The name of an account that came from Discord; no account that is created has a colon in its name."""
    return f"discord:{number}"


def _owner(user: User) -> Owner:
    return Owner(OwnerKind.USER, user.id)
