"""Who may give which role to whom, and act on whose account.

Nobody gives a right that they do not have, and nobody acts on the account of somebody who has one that they lack: so
admins never touch an owner, and nobody raises themselves. An API token makes members alone, and touches no account that
manages users: else who holds it could sign in as somebody who may do more than the token.
"""

from __future__ import annotations

from app.domain.errors import Forbidden
from app.domain.identity import Actor, Permission, Role, User


def require_may_give(actor: Actor, role: Role) -> None:
    """Raise Forbidden unless the actor manages users and has every right of that role."""
    actor.require(Permission.MANAGE_USERS)
    if role is not Role.MEMBER:
        actor.require_person()
    if not actor.role.covers(role):
        raise Forbidden(f"Only an owner can give the role {role.value}: ask one")


def require_may_manage(actor: Actor, user: User) -> None:
    """Raise Forbidden unless the actor manages users and has every right that this user has."""
    actor.require(Permission.MANAGE_USERS)
    if user.role.grants(Permission.MANAGE_USERS):
        actor.require_person()
    if not actor.role.covers(user.role):
        raise Forbidden(f"Only an owner can change an account with the role {user.role.value}: ask one")
