"""The rule that an owner who can sign in always remains."""

from __future__ import annotations

from app.domain.errors import LastOwner
from app.services.ports import UnitOfWork


async def require_another_owner(uow: UnitOfWork, user_id: str) -> None:
    """Raise LastOwner where that user is the only owner who can sign in; everybody else passes.

    Call it in the unit of work that demotes, disables or erases the user. Two owners who do that to each other at once
    are judged one after the other: the later caller waits until the unit of work of the earlier one has ended.
    """
    await uow.users.hold_roles()
    if list(await uow.users.active_owners()) == [user_id]:
        raise LastOwner
