"""The rule that an account keeps a way in."""

from __future__ import annotations

from app.domain.errors import InvalidToken, NoOtherWayIn
from app.services.ports import UnitOfWork


async def require_way_in(uow: UnitOfWork, user_id: str) -> None:
    """Raise NoOtherWayIn where nobody could sign in to the account any more: no password, no passkey, no Discord.

    Call it after the change that takes a way in, in its unit of work, with the user locked before the change: of two
    who take one each at the same time, the later one sees what is left.
    """
    user = await uow.users.get(user_id)
    if user is None:
        raise InvalidToken
    if user.password_hash is None and user.discord_id is None and not await uow.passkeys.of(user_id):
        raise NoOtherWayIn
