"""The ways in to an account."""

from __future__ import annotations

from app.domain.identity import User
from app.services.ports import UnitOfWork


async def has_another_way_in(uow: UnitOfWork, user: User) -> bool:
    """Whether somebody can sign in to an account without Discord."""
    return user.password_hash is not None or bool(await uow.passkeys.of(user.id))
