"""Accounts and invitations over REST, for owners and admins."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from app.domain import errors
from app.domain.identity import USERNAME_LONGEST, Actor, Role, User, UserFilter
from app.domain.links import Invitation, invitation_span
from app.domain.scopes import Scope
from app.domain.secrets import SecretText
from app.services.paging import Page
from app.web.inputs import ID, Model, PageQuery
from app.web.limits import InvitationSeconds, NewUsername
from app.web.options import SERVICES
from app.web.origin import ORIGIN
from app.web.routing import Routes, json_response

routes = Routes("Users")
_ALL: Final = "/api/v1/admin/users"
_ONE: Final = f"{_ALL}/{{user_id:{ID}}}"
_INVITATIONS: Final = "/api/v1/admin/invitations"
_CHANGING: Final = (errors.Forbidden, errors.ReauthenticationRequired)
_REPLAYED: Final = {
    "Idempotent-Replayed": "`true` if an earlier delivery of this request did it; then there is no link"
}
_ROLES = Literal["owner", "admin", "member", "auditor"]


class NewUser(Model):
    """A new account; the holder of its link chooses the password."""

    username: NewUsername = Field(description="2 to 64 characters without spaces, ':', '/' and '@'")
    role: _ROLES = Field(description="Owners alone can give `owner`")


class UserChange(Model):
    """The changes of an account; left out, a member changes nothing."""

    role: _ROLES | None = Field(default=None, description="Owners alone can give `owner`, or take it away")
    disabled: bool | None = Field(default=None, description="`true` signs the user out everywhere and refuses them")


class NewInvitation(Model):
    """An invitation for somebody who has no account."""

    role: _ROLES = Field(default="member", description="Any but `owner`: anybody may use a link")
    expires_in: InvitationSeconds | None = Field(
        default=None, description="Seconds, at most 30 days; left out: seven days"
    )


class UserQuery(PageQuery):
    """The users that are wanted, and which page of them."""

    name: str | None = Field(default=None, min_length=1, max_length=USERNAME_LONGEST, description="A part of the name")
    role: _ROLES | None = None
    state: Literal["active", "disabled"] | None = None


class UserAccount(TypedDict):
    """A user. `claimed` is whether they have chosen a password; one who comes from Discord alone has not."""

    id: str
    username: str
    role: _ROLES
    discord_id: str | None
    disabled: bool
    claimed: bool
    created_at: datetime


class NewAccount(UserAccount):
    """A new user, and the link by which they choose their password: once, within 7 days. It is never shown again."""

    claim_link: str | None


class AccountPage(TypedDict):
    """A page of users, in the order in which they were created."""

    items: list[UserAccount]
    next_cursor: str | None


class ResetLink(TypedDict):
    """The link by which the user chooses another password: once, within 7 days. It is never shown again."""

    link: str


class Invite(TypedDict):
    """An invitation that can still be used."""

    id: str
    role: _ROLES
    issued_by: str | None
    created_at: datetime
    expires_at: datetime


class NewInvite(Invite):
    """A new invitation and its link, which is never shown again."""

    link: str | None


class InvitePage(TypedDict):
    """A page of invitations, in the order in which they were issued."""

    items: list[Invite]
    next_cursor: str | None


def _as_account(user: User) -> UserAccount:
    return {
        "id": user.id,
        "username": user.username,
        "role": user.role.value,
        "discord_id": user.discord_id,
        "disabled": user.disabled_at is not None,
        "claimed": user.password_hash is not None,
        "created_at": user.created_at,
    }


def _as_page(page: Page[User]) -> AccountPage:
    return {"items": [_as_account(each) for each in page.items], "next_cursor": page.next_cursor}


def _as_invite(invitation: Invitation) -> Invite:
    return {
        "id": invitation.id,
        "role": invitation.role.value,
        "issued_by": invitation.issued_by,
        "created_at": invitation.created_at,
        "expires_at": invitation.expires_at,
    }


def _as_invites(page: Page[Invitation]) -> InvitePage:
    return {"items": [_as_invite(each) for each in page.items], "next_cursor": page.next_cursor}


def _link(request: web.Request, token: SecretText | None) -> str | None:
    """The link of a token, which is in the fragment: browsers send that part to nobody."""
    return None if token is None else f"{request.app[ORIGIN].link(request, '/claim')}#{token.reveal()}"


def _replayed(token: SecretText | None) -> dict[str, str]:
    return {"Idempotent-Replayed": "true"} if token is None else {}


@routes("GET", _ALL, schema=AccountPage, errors=[errors.Forbidden], scope=Scope.USERS_MANAGE)
async def listing(request: web.Request, actor: Actor, query: UserQuery) -> web.Response:
    """All users, or those of a name, role or state; for owners and admins."""
    wanted = UserFilter(
        name=query.name,
        role=None if query.role is None else Role(query.role),
        disabled=None if query.state is None else query.state == "disabled",
    )
    page = await request.app[SERVICES].users.page(actor, wanted=wanted, after=query.cursor, limit=query.limit)
    return json_response(200, _as_page(page))


@routes(
    "POST",
    _ALL,
    status=201,
    schema=NewAccount,
    headers={"Location": "The new user", **_REPLAYED},
    errors=[*_CHANGING, errors.AlreadyExists],
    scope=Scope.USERS_MANAGE,
)
async def create(request: web.Request, actor: Actor, body: NewUser, idempotency_key: str | None) -> web.Response:
    """Create an account without a password.

    Give the user the `claim_link`: by it they choose a password that nobody else has seen. For owners and admins,
    within ten minutes of proving their password, as every change here is; admins never touch an owner.
    """
    made = await request.app[SERVICES].users.create(
        actor, body.username, Role(body.role), idempotency_key=idempotency_key
    )
    headers = {"Location": f"{_ALL}/{made.user.id}", **_replayed(made.token)}
    return json_response(201, {**_as_account(made.user), "claim_link": _link(request, made.token)}, headers)


@routes("GET", _ONE, schema=UserAccount, errors=[errors.Forbidden, errors.NotFound], scope=Scope.USERS_MANAGE)
async def get(request: web.Request, actor: Actor, user_id: str) -> web.Response:
    """One user."""
    return json_response(200, _as_account(await request.app[SERVICES].users.get(actor, user_id)))


@routes(
    "PATCH", _ONE, schema=UserAccount, errors=[*_CHANGING, errors.NotFound, errors.LastOwner], scope=Scope.USERS_MANAGE
)
async def change(request: web.Request, actor: Actor, user_id: str, body: UserChange) -> web.Response:
    """Give a user another role, or disable or enable the account.

    Somebody who is disabled, or loses a right, is signed out everywhere. The last owner who can sign in can neither be
    disabled nor get another role.
    """
    role = None if body.role is None else Role(body.role)
    user = await request.app[SERVICES].users.change(actor, user_id, role=role, disabled=body.disabled)
    return json_response(200, _as_account(user))


@routes("POST", f"{_ONE}/reset", schema=ResetLink, errors=[*_CHANGING, errors.NotFound])
async def reset(request: web.Request, actor: Actor, user_id: str) -> web.Response:
    """Make a link by which a user chooses another password; no API token can.

    The present password stops working, second factors are removed, a linked Discord account is unlinked and every
    session ends, at once.
    """
    made = await request.app[SERVICES].users.reset(actor, user_id)
    return json_response(200, {"link": _link(request, made.token)})


@routes("GET", _INVITATIONS, schema=InvitePage, errors=[errors.Forbidden], scope=Scope.USERS_MANAGE)
async def invitations(request: web.Request, actor: Actor, query: PageQuery) -> web.Response:
    """Invitations that can still be used; for owners and admins."""
    page = await request.app[SERVICES].users.invitations(actor, after=query.cursor, limit=query.limit)
    return json_response(200, _as_invites(page))


@routes(
    "POST",
    _INVITATIONS,
    status=201,
    schema=NewInvite,
    headers=_REPLAYED,
    errors=[*_CHANGING, errors.NotFound],
    scope=Scope.USERS_MANAGE,
)
async def invite(request: web.Request, actor: Actor, body: NewInvitation, idempotency_key: str | None) -> web.Response:
    """Invite somebody who has no account, under every REGISTRATION.

    The first who uses the link chooses a name and a password. It is withdrawn when the user who made it is disabled or
    may not invite any more.
    """
    invited = await request.app[SERVICES].users.invite(
        actor,
        Role(body.role),
        lasts=None if body.expires_in is None else invitation_span(body.expires_in),
        idempotency_key=idempotency_key,
    )
    link = _link(request, invited.token)
    return json_response(201, {**_as_invite(invited.invitation), "link": link}, _replayed(invited.token))


@routes(
    "DELETE",
    f"{_INVITATIONS}/{{invitation_id:{ID}}}",
    status=204,
    errors=[*_CHANGING, errors.NotFound],
    scope=Scope.USERS_MANAGE,
)
async def withdraw(request: web.Request, actor: Actor, invitation_id: str) -> web.Response:
    """Withdraw an invitation that nobody has used."""
    await request.app[SERVICES].users.withdraw(actor, invitation_id)
    return json_response(204)
