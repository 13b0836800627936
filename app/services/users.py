"""Accounts, as owners and admins manage them: roles, disabling, resets and invitations.

`app.domain.roles` says who may do what to whom; the role of the actor is read again in the unit of work of the act.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from app.domain.audit import Action
from app.domain.errors import AlreadyExists, Forbidden, NotFound, UniqueViolation
from app.domain.identity import Actor, Permission, Role, User, UserFilter, name_key, new_username
from app.domain.keys import KeyName
from app.domain.links import ACCOUNT_PURPOSES, Invitation
from app.domain.roles import require_may_give, require_may_manage
from app.domain.scopes import Scope
from app.domain.secrets import SecretText
from app.domain.text import opaque
from app.services.alive import require_alive
from app.services.audit import AuditTrail
from app.services.idempotency import Idempotency, RepeatableRequest
from app.services.identity import IdentityService
from app.services.invitations import Invitations, Invited
from app.services.joining import discord_name
from app.services.keys import KeyManagementService
from app.services.links import AccountClaims, Claimable
from app.services.owners import require_another_owner
from app.services.paging import Page, page_size, paged, read_cursor
from app.services.ports import Clock, Storage, UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownUser:
    """A user, and when they were last seen in a session; None where none of their sessions is stored any more."""

    user: User
    last_seen_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A new account and the token of its claim link, which is None where the request was repeated: it is shown once."""

    user: User
    token: SecretText | None


class UserService:
    """Lists and changes accounts. Every method may raise StorageError; those that change, ReauthenticationRequired."""

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        identity: IdentityService,
        claims: AccountClaims,
        invitations: Invitations,
        idempotency: Idempotency,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._identity = identity
        self._claims = claims
        self._invitations = invitations
        self._idempotency = idempotency
        self._clock = clock
        self._trail = AuditTrail(clock)

    # -- looking -------------------------------------------------------------------------------------------------------

    async def page(
        self, actor: Actor, *, wanted: UserFilter | None = None, after: str | None = None, limit: int = 50
    ) -> Page[User]:
        """Return users in the order in which they were created. Raises Forbidden, InvalidInput."""
        actor.require(Permission.MANAGE_USERS)
        size, begin = page_size(limit), read_cursor(after)
        if wanted is not None and wanted.name is not None:
            opaque(wanted.name, "name", longest=256)
        async with self._storage.lookup() as uow:
            rows = await uow.users.page(after=begin, limit=size + 1, wanted=wanted)
        return paged(rows, size, lambda user: user.id)

    async def get(self, actor: Actor, user_id: str) -> User:
        """Return one user. Raises Forbidden, NotFound."""
        actor.require(Permission.MANAGE_USERS)
        async with self._storage.lookup() as uow:
            return await _present(uow, user_id)

    async def directory(
        self, actor: Actor, *, wanted: UserFilter | None = None, after: str | None = None, limit: int = 50
    ) -> Page[KnownUser]:
        """Return what `page` does, with when each was last seen. Raises Forbidden, InvalidInput."""
        found = await self.page(actor, wanted=wanted, after=after, limit=limit)
        async with self._storage.lookup() as uow:
            seen = await uow.sessions.last_seen([each.id for each in found.items])
        known = [KnownUser(user=each, last_seen_at=seen.get(each.id)) for each in found.items]
        return Page(known, found.next_cursor)

    async def profile(self, actor: Actor, user_id: str) -> KnownUser:
        """Return one user, with when they were last seen. Raises Forbidden, NotFound."""
        user = await self.get(actor, user_id)
        async with self._storage.lookup() as uow:
            return KnownUser(user=user, last_seen_at=(await uow.sessions.last_seen([user_id])).get(user_id))

    async def named(self, actor: Actor, username: str) -> User:
        """Return the user of a name. Raises Forbidden, NotFound."""
        actor.require(Permission.MANAGE_USERS)
        async with self._storage.lookup() as uow:
            user = await uow.users.by_name(name_key(opaque(username, "username", longest=256).strip()))
        if user is None:
            raise NotFound("There is no user of that name")
        return user

    # -- accounts ------------------------------------------------------------------------------------------------------

    async def create(self, actor: Actor, username: str, role: Role, *, idempotency_key: str | None = None) -> Created:
        """Create an account without a password: its link must be used before anybody signs in.

        A request repeated under the same ``idempotency_key`` creates nothing and returns the first one's account,
        without the link. Raises Forbidden, InvalidInput, AlreadyExists, IdempotencyConflict.
        """
        require_may_give(actor, role)
        actor.require_fresh(self._clock.now(), scope=Scope.USERS_MANAGE)
        name = new_username(username)
        request = _repeatable(actor, idempotency_key, "users.create", name, role.value)
        try:
            async with self._storage.write() as uow:
                await uow.users.hold_roles()
                acting = await require_alive(uow, actor, self._clock.now())
                if request and (known := await self._idempotency.earlier(uow, request)):
                    return Created(user=await _present(uow, known), token=None)
                require_may_give(acting, role)
                made = await self._identity.add_claimable(uow, actor, name, role)
                await self._remember(uow, request, made.user.id)
        except (UniqueViolation, AlreadyExists):
            user = await self._known(request)
            if user is None:
                raise
            return Created(user=user, token=None)  # the same request arrived twice at once, and the other was faster
        return Created(user=made.user, token=made.token)

    async def change(
        self, actor: Actor, user_id: str, *, role: Role | None = None, disabled: bool | None = None
    ) -> User:
        """Give a user another role, or disable or enable the account; None leaves it as it is.

        The sessions and API tokens of a user who is disabled, or loses a right, end. Invitations that the user could
        not issue any more are withdrawn, and with another role the unused links for the password of the account: who
        has one, such as an admin, must not get into an account that has been raised. Raises Forbidden, NotFound,
        LastOwner.
        """
        actor.require(Permission.MANAGE_USERS)
        actor.require_fresh(self._clock.now(), scope=Scope.USERS_MANAGE)
        async with self._storage.write() as uow:
            await uow.users.hold_roles()
            acting = await require_alive(uow, actor, self._clock.now())
            user = await _present(uow, user_id)
            require_may_manage(acting, user)
            if role is not None:
                require_may_give(acting, role)
            if user.role is Role.OWNER and (disabled or role not in {None, Role.OWNER}):
                await require_another_owner(uow, user.id)
            if role is not None and role is not user.role:
                await self._set_role(uow, actor, user, role)
            if disabled is not None and disabled is not (user.disabled_at is not None):
                await (self._disable if disabled else self._enable)(uow, actor, user)
            return await _present(uow, user_id)

    async def _set_role(self, uow: UnitOfWork, actor: Actor, user: User, role: Role) -> None:
        now = self._clock.now()
        await uow.users.set_role(user.id, role, now)
        if not role.covers(user.role):
            await uow.sessions.end_all_of(user.id, now)
            await uow.api_tokens.end_all_of(user.id)
        await _withdraw_account_links(uow, user)
        await _withdraw_invitations(uow, user, role)
        await self._trail.record(
            uow,
            actor,
            Action.USER_ROLE_CHANGED,
            about=("user", user.id),
            former=user.role.value,
            role=role.value,
        )

    async def _disable(self, uow: UnitOfWork, actor: Actor, user: User) -> None:
        now = self._clock.now()
        await uow.users.disable(user.id, now)
        await uow.sessions.end_all_of(user.id, now)
        await uow.api_tokens.end_all_of(user.id)
        await _withdraw_account_links(uow, user)  # or an old one would be good again once the account is enabled
        await _withdraw_invitations(uow, user, None)
        await self._trail.record(uow, actor, Action.USER_DISABLED, about=("user", user.id))

    async def _enable(self, uow: UnitOfWork, actor: Actor, user: User) -> None:
        await uow.users.enable(user.id, self._clock.now())
        await self._trail.record(uow, actor, Action.USER_ENABLED, about=("user", user.id))

    async def reset(self, actor: Actor, user_id: str) -> Claimable:
        """Return a link by which the user chooses another password; the present one stops working at once.

        Every session and API token ends, and second factors are removed: somebody who stole the password must not
        profit from that, so nothing but the link leads into the account. Discord is unlinked too: a thief may have
        linked theirs, and it would lead around the factor that stood before it. An account that came from Discord
        alone keeps it. No API token can do this. Raises Forbidden, NotFound.
        """
        now = self._clock.now()
        actor.require(Permission.MANAGE_USERS)
        actor.require_person()
        actor.require_fresh(now)
        async with self._storage.write() as uow:
            await uow.users.hold_roles()
            acting = await require_alive(uow, actor, self._clock.now())
            user = await _present(uow, user_id)
            require_may_manage(acting, user)
            if user.disabled_at is not None:
                raise Forbidden("This account is disabled: enable it first")
            await uow.users.forget_password(user.id, now)
            # Sessions before factors, as a proof in a session locks them: else two would wait for each other.
            await uow.sessions.end_all_of(user.id, now)
            await uow.factors.clear(user.id)
            await uow.passkeys.clear(user.id)
            await uow.api_tokens.end_all_of(user.id)
            await self._trail.record(uow, actor, Action.USER_RESET, about=("user", user.id))
            await self._unlink(uow, actor, user)
            return await self._claims.issue_reset(uow, acting, await _present(uow, user.id))

    async def _unlink(self, uow: UnitOfWork, actor: Actor, user: User) -> None:
        if user.discord_id is None or user.username == discord_name(user.discord_id):
            return
        await uow.users.set_discord(user.id, None, self._clock.now())
        await self._trail.record(uow, actor, Action.USER_UNLINKED, about=("user", user.id))

    # -- invitations ---------------------------------------------------------------------------------------------------

    async def invite(
        self, actor: Actor, role: Role, *, lasts: timedelta | None = None, idempotency_key: str | None = None
    ) -> Invited:
        """Return a link by which somebody makes an account with that role; it lasts seven days unless ``lasts`` says.

        A request repeated under the same ``idempotency_key`` returns the first one's invitation, without the link.
        Raises Forbidden, InvalidInput, IdempotencyConflict, and NotFound where that invitation was used or withdrawn.
        """
        require_may_give(actor, role)
        actor.require_fresh(self._clock.now(), scope=Scope.USERS_MANAGE)
        request = _repeatable(actor, idempotency_key, "users.invite", role.value, str(lasts))
        try:
            async with self._storage.write() as uow:
                await uow.users.hold_roles()
                acting = await require_alive(uow, actor, self._clock.now())
                if request and (known := await self._idempotency.earlier(uow, request)):
                    return Invited(invitation=await self._open(uow, known), token=None)
                invited = await self._invitations.issue(uow, acting, role, lasts)
                await self._remember(uow, request, invited.invitation.id)
        except UniqueViolation:  # the same request arrived twice at once, and the other one was faster
            async with self._storage.lookup() as uow:
                known = await self._idempotency.earlier(uow, request) if request else None
                return Invited(invitation=await self._open(uow, known or ""), token=None)
        return invited

    async def invitations(self, actor: Actor, *, after: str | None = None, limit: int = 50) -> Page[Invitation]:
        """Return invitations that can still be used, in the order in which they were issued. Raises Forbidden."""
        actor.require(Permission.MANAGE_USERS)
        size, begin = page_size(limit), read_cursor(after)
        async with self._storage.lookup() as uow:
            rows = await uow.links.invitations(self._clock.now(), after=begin, limit=size + 1)
        return paged(rows, size, lambda invitation: invitation.id)

    async def withdraw(self, actor: Actor, invitation_id: str) -> None:
        """Make an invitation useless. Raises Forbidden, and NotFound where it was used, withdrawn or never was."""
        actor.require(Permission.MANAGE_USERS)
        actor.require_fresh(self._clock.now(), scope=Scope.USERS_MANAGE)
        async with self._storage.write() as uow:
            await uow.users.hold_roles()
            acting = await require_alive(uow, actor, self._clock.now())
            invitation = await self._open(uow, invitation_id)
            require_may_give(acting, invitation.role)
            if not await uow.links.withdraw_invitation(invitation.id):
                raise NotFound
            await self._trail.record(uow, actor, Action.INVITATION_WITHDRAWN, about=("invitation", invitation.id))

    async def _open(self, uow: UnitOfWork, invitation_id: str) -> Invitation:
        invitation = await uow.links.invitation_of_id(invitation_id, self._clock.now())
        if invitation is None:
            raise NotFound("This invitation was used, withdrawn or has expired")
        return invitation

    # -- repeated requests ---------------------------------------------------------------------------------------------

    async def _remember(self, uow: UnitOfWork, request: RepeatableRequest | None, resource_id: str) -> None:
        if request is not None:
            ring = await self._keys.ring_under_lock(uow)
            await self._idempotency.remember(uow, request, ring.primary(KeyName.API_SECRET_KEY), resource_id)

    async def _known(self, request: RepeatableRequest | None) -> User | None:
        """The user whom an earlier delivery of the request made, if one did."""
        async with self._storage.lookup() as uow:
            known = await self._idempotency.earlier(uow, request) if request else None
            return None if known is None else await _present(uow, known)


def _repeatable(actor: Actor, key: str | None, *texts: str) -> RepeatableRequest | None:
    return None if key is None else RepeatableRequest(user_id=actor.user_id, key=key, texts=texts)


async def _present(uow: UnitOfWork, user_id: str) -> User:
    user = await uow.users.get(user_id)
    if user is None:
        raise NotFound("There is no such user")
    return user


async def _withdraw_account_links(uow: UnitOfWork, user: User) -> None:
    """Delete the unused links by which somebody could choose the password of the account."""
    for purpose in ACCOUNT_PURPOSES:
        await uow.links.withdraw(user.id, purpose)


async def _withdraw_invitations(uow: UnitOfWork, user: User, role: Role | None) -> None:
    """Delete the user's invitations for roles that somebody with that role cannot give."""
    may = role is not None and role.grants(Permission.MANAGE_USERS)
    lost = [each.value for each in Role if role is None or not may or not role.covers(each)]
    await uow.links.withdraw_issued_by(user.id, lost)
