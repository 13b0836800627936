"""The check, in the unit of work of an act, that its actor may still act.

A request is authenticated when it arrives. Until it changes something, its session may have been ended, its API token
revoked, or its user disabled: in this process or in another one.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from app.domain.errors import InvalidToken
from app.domain.identity import Actor, Source, User
from app.services.ports import UnitOfWork


async def require_alive(uow: UnitOfWork, actor: Actor, now: datetime) -> Actor:
    """Return the actor with the role that they have now. Raises InvalidToken for one who may not act any more.

    The user's row is locked, and then that of the session or API token, until the unit of work ends: an end of them
    comes before this or after the act. So everything that changes an account locks in this order; who locks rows of
    several users calls ``hold_roles`` before. The operator at the command line has neither session nor token.
    """
    if actor.client.source is Source.CLI:
        return actor
    user = await _user(uow, actor, now)
    if user is None or user.id != actor.user_id or user.disabled_at is not None:
        raise InvalidToken
    return replace(actor, role=user.role)


async def as_now(uow: UnitOfWork, actor: Actor, now: datetime) -> Actor:
    """The same where a session or an API token admitted the actor; any other actor as it is."""
    return actor if actor.session_id is None and actor.token_id is None else await require_alive(uow, actor, now)


async def require_seen_alive(uow: UnitOfWork, actor: Actor, now: datetime) -> None:
    """The same for an act that changes nothing: one read, without a lock, since an end at that moment comes after it.

    Raises InvalidToken.
    """
    if actor.session_id is None or actor.token_id is not None:
        await as_now(uow, actor, now)
        return
    found = await uow.sessions.get(actor.session_id)
    if found is None or found.user.id != actor.user_id or not found.session.alive(found.user, now):
        raise InvalidToken


async def _user(uow: UnitOfWork, actor: Actor, now: datetime) -> User | None:
    """The user for whom the session, API token or Discord account of the actor stands at this moment."""
    if actor.token_id is not None:
        by_token = await uow.api_tokens.locked(actor.token_id)
        return by_token.user if by_token is not None and by_token.token.alive(by_token.user, now) else None
    if actor.session_id is not None:
        by_session = await uow.sessions.locked(actor.session_id)
        return by_session.user if by_session is not None and by_session.session.alive(by_session.user, now) else None
    user = await uow.users.locked(actor.user_id)
    linked = user is not None and (actor.client.source is not Source.DISCORD or user.discord_id == actor.discord_id)
    return user if linked else None
