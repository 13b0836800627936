"""The rule that an owner who can sign in always remains."""

from __future__ import annotations

from app.domain.errors import LastOwner
from app.domain.identity import Role
from app.services.ports import UnitOfWork


async def require_another_owner(uow: UnitOfWork, user_id: str) -> None:
    """Raise LastOwner for an owner, not disabled, beside whom no other owner can sign in; everybody else passes.

    That holds also where this owner cannot sign in at the moment, after a reset: else nobody would be left.

    Call it in the unit of work that demotes, disables or erases the user. Two owners who do that to each other at once
    are judged one after the other: the later caller waits until the unit of work of the earlier one has ended.
    """
    await uow.users.hold_roles()
    if await is_last_owner(uow, user_id):
        raise LastOwner


async def is_last_owner(uow: UnitOfWork, user_id: str) -> bool:
    """Whether ``require_another_owner`` would refuse, as things are at this moment."""
    user = await uow.users.get(user_id)
    if user is None or user.role is not Role.OWNER or user.disabled_at is not None:
        return False
    return not set(await uow.users.active_owners()) - {user_id}
