"""The users of this Keyhall, for those who manage them: the list, and one user with what can be done about the account.

Who may do what to whom, the services decide (`app.domain.roles`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final

from aiohttp import web

from app.domain import errors
from app.domain.errors import AppError, InvalidInput, ReauthenticationRequired
from app.domain.identity import Actor, Role, UserFilter
from app.localisation import mark
from app.services.paging import Page
from app.services.users import KnownUser
from app.web.inputs import ID, Model, NoFields
from app.web.options import SERVICES
from app.web.pages.admin.links import link_page
from app.web.pages.drafts import CONFIRMED, confirm_first, draft_for, forget_draft, sign_in_first
from app.web.pages.rendering import Refused, page, see_other, texts_of
from app.web.routing import Retry, Routes, SignedOut
from app.web.sessions import ACCOUNT, actor_of

routes = Routes("Pages")
PATH: Final = "/admin/users"
ONE: Final = f"{PATH}/{{user_id:{ID}}}"

ROLES: Final[Mapping[Role, tuple[str, str]]] = MappingProxyType(
    {
        Role.MEMBER: (mark("Member"), mark("stores and uses credentials")),
        Role.AUDITOR: (mark("Auditor"), mark("sees keys, health and the audit trail; has no credentials")),
        Role.ADMIN: (mark("Admin"), mark("manages users, backups and credentials of servers")),
        Role.OWNER: (mark("Owner"), mark("may do everything, also with the application keys")),
    }
)
"""The name of each role and what it may do, as people read them."""
_NEWS: Final = {
    "confirmed": CONFIRMED,
    "role": mark("The role is changed. Where a right was lost, every session of the user has ended."),
    "disabled": mark("The account is disabled, and signed out everywhere."),
    "enabled": mark("The account is enabled. Its user signs in again."),
    "unlocked": mark("The wrong passwords are forgotten: the user may try again."),
}
_CHANGING: Final = (errors.Forbidden, errors.NotFound, errors.ReauthenticationRequired)


class UsersQuery(Model):
    """The users that are wanted, and which page of them."""

    name: str = ""
    role: str = ""
    state: str = ""
    cursor: str | None = None


class UserPageQuery(Model):
    """The action that led to the page."""

    done: str = ""


class RoleForm(Model):
    """The role that a user gets."""

    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownUser:
    """A user, for templates."""

    id: str
    username: str
    role: Role
    role_name: str
    state: str
    words: str
    disabled: bool
    claimed: bool
    discord_id: str | None
    created_at: datetime
    last_seen_at: datetime | None


def read_role(text: str) -> Role:
    """The role that a field names. Raises InvalidInput."""
    if text not in {each.value for each in Role}:
        raise InvalidInput("role", "must be one of the choices")
    return Role(text)


def _shown(known: KnownUser) -> ShownUser:
    user = known.user
    if user.disabled_at is not None:
        state, words = "refused", mark("disabled")
    elif user.password_hash is None and user.discord_id is None:
        state, words = "unchecked", mark("has not signed in yet")
    else:
        state, words = "valid", mark("active")
    return ShownUser(
        id=user.id,
        username=user.username,
        role=user.role,
        role_name=ROLES[user.role][0],
        state=state,
        words=words,
        disabled=user.disabled_at is not None,
        claimed=user.password_hash is not None,
        discord_id=user.discord_id,
        created_at=user.created_at,
        last_seen_at=known.last_seen_at,
    )


# ---------------------------------------------------------------------------------------------------------------------
# The list
# ---------------------------------------------------------------------------------------------------------------------


def _filter(query: UsersQuery) -> UserFilter:
    if query.state not in {"", "active", "disabled"}:
        raise InvalidInput("state", "must be one of the choices")
    return UserFilter(
        name=query.name.strip() or None,
        role=read_role(query.role) if query.role else None,
        disabled=query.state == "disabled" if query.state else None,
    )


def _list_page(
    request: web.Request, actor: Actor, found: Page[KnownUser], given: Mapping[str, str], refused: Refused | None = None
) -> web.Response:
    typed = {name: given.get(name, "") for name in ("name", "role", "state")}
    return page(
        request,
        "admin/users.html",
        viewer=actor,
        users=[_shown(each) for each in found.items],
        next_cursor=found.next_cursor,
        later=bool(given.get("cursor")),
        typed=typed,
        filtered=any(typed.values()),
        roles=ROLES,
        refused=refused,
    )


async def _list_again(request: web.Request, error: AppError) -> web.StreamResponse:
    """Answer a filter that makes no sense with the form, as it was sent."""
    if not isinstance(error, InvalidInput):
        raise error
    return _list_page(request, await actor_of(request), Page((), None), request.query, Refused(error))


@routes("GET", PATH, media_type="text/html", refuse=_list_again, errors=[errors.Forbidden])
async def users(request: web.Request, actor: Actor, query: UsersQuery) -> web.Response:
    """The users, by a part of the name, role and state; for owners and admins."""
    found = await request.app[SERVICES].users.directory(actor, wanted=_filter(query), after=query.cursor)
    return _list_page(request, actor, found, request.query)


# ---------------------------------------------------------------------------------------------------------------------
# One user
# ---------------------------------------------------------------------------------------------------------------------


async def _user_page(
    request: web.Request,
    actor: Actor,
    *,
    refused: Refused | None = None,
    section: str = "",
    news: str | None = None,
    role: str = "",
) -> web.Response:
    known = await request.app[SERVICES].users.profile(actor, request.match_info["user_id"])
    return page(
        request,
        "admin/user.html",
        viewer=actor,
        user=_shown(known),
        own=known.user.id == actor.user_id,
        may_change=actor.role.covers(known.user.role),
        roles={each: words for each, words in ROLES.items() if actor.role.covers(each)},
        role=role or known.user.role.value,
        refused=refused,
        section=section,
        news=news,
    )


def _again(section: str) -> Retry:
    """Answers a refused form with the page of its user and the refusal beside the form."""

    async def retry(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:
        actor = await actor_of(request)
        role = fields.get("role", "")
        if isinstance(error, ReauthenticationRequired):
            return confirm_first(request, _address(request), actor.user_id, {"role": role})
        return await _user_page(request, actor, refused=Refused(error), section=section, role=role)

    return retry


def _signed_out(*kept: str) -> SignedOut:
    def answer(request: web.Request, fields: Mapping[str, str]) -> web.StreamResponse:
        typed = {name: fields.get(name, "") for name in kept}
        return sign_in_first(request, _address(request), fields.get(ACCOUNT, ""), typed)

    return answer


def _address(request: web.Request) -> str:
    return f"{PATH}/{request.match_info['user_id']}"


@routes("GET", ONE, media_type="text/html", errors=[errors.Forbidden, errors.NotFound])
async def user(request: web.Request, actor: Actor, user_id: str, query: UserPageQuery) -> web.Response:  # noqa: ARG001
    """One user."""
    typed = draft_for(request, _address(request), actor.user_id)
    response = await _user_page(request, actor, news=_NEWS.get(query.done), role=typed.get("role", ""))
    forget_draft(request, response)
    return response


@routes(
    "POST",
    f"{ONE}/role",
    status=303,
    media_type="text/html",
    retry=_again("role"),
    signed_out=_signed_out("role"),
    errors=[*_CHANGING, errors.LastOwner],
)
async def change_role(request: web.Request, actor: Actor, user_id: str, form: RoleForm) -> web.Response:
    """Give a user another role."""
    await request.app[SERVICES].users.change(actor, user_id, role=read_role(form.role))
    return see_other(f"{PATH}/{user_id}?done=role")


@routes(
    "POST",
    f"{ONE}/disable",
    status=303,
    media_type="text/html",
    retry=_again("disable"),
    signed_out=_signed_out(),
    errors=[*_CHANGING, errors.LastOwner],
)
async def disable(request: web.Request, actor: Actor, user_id: str, form: NoFields) -> web.Response:  # noqa: ARG001
    """Disable an account, and sign its user out everywhere."""
    await request.app[SERVICES].users.change(actor, user_id, disabled=True)
    return see_other(f"{PATH}/{user_id}?done=disabled")


@routes(
    "POST",
    f"{ONE}/enable",
    status=303,
    media_type="text/html",
    retry=_again("disable"),
    signed_out=_signed_out(),
    errors=_CHANGING,
)
async def enable(request: web.Request, actor: Actor, user_id: str, form: NoFields) -> web.Response:  # noqa: ARG001
    """Enable an account."""
    await request.app[SERVICES].users.change(actor, user_id, disabled=False)
    return see_other(f"{PATH}/{user_id}?done=enabled")


@routes(
    "POST",
    f"{ONE}/unlock",
    status=303,
    media_type="text/html",
    retry=_again("unlock"),
    signed_out=_signed_out(),
    errors=[errors.Forbidden, errors.NotFound],
)
async def unlock(request: web.Request, actor: Actor, user_id: str, form: NoFields) -> web.Response:  # noqa: ARG001
    """Forget the wrong passwords that keep a user out."""
    services = request.app[SERVICES]
    named = await services.users.get(actor, user_id)
    await services.authentication.unlock(actor, named.username)
    return see_other(f"{PATH}/{user_id}?done=unlocked")


@routes(
    "POST",
    f"{ONE}/reset",
    media_type="text/html",
    retry=_again("reset"),
    signed_out=_signed_out(),
    errors=_CHANGING,
)
async def reset(request: web.Request, actor: Actor, user_id: str, form: NoFields) -> web.Response:  # noqa: ARG001
    """Make a link by which a user chooses another password, and show it, in this answer and nowhere else."""
    made = await request.app[SERVICES].users.reset(actor, user_id)
    say = texts_of(request).gettext
    return link_page(
        request,
        actor,
        token=made.token,
        title=say("A link for %(name)s") % {"name": made.user.username},
        explanation=say(
            "Send it to them: who opens it chooses the password of the account. It works once, for seven days. "
            "Until then nobody can sign in there."
        ),
        back=f"{PATH}/{user_id}",
    )
