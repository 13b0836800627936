"""The page on which somebody gets an account: by name, or by an invitation; and the open invitations."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from aiohttp import web

from app.domain import errors
from app.domain.errors import AppError, InvalidInput, ReauthenticationRequired
from app.domain.identity import Actor, Role
from app.localisation import mark
from app.web.inputs import ID, Model, NoFields
from app.web.options import SERVICES
from app.web.pages.admin.links import link_page
from app.web.pages.admin.users import PATH, ROLES, read_role
from app.web.pages.drafts import CONFIRMED, confirm_first, draft_for, forget_draft, sign_in_first
from app.web.pages.rendering import Refused, page, see_other, texts_of
from app.web.routing import Retry, Routes, SignedOut
from app.web.sessions import ACCOUNT, actor_of

routes = Routes("Pages")
NEW: Final = f"{PATH}/new"
_NEWS: Final = {
    "confirmed": CONFIRMED,
    "withdrawn": mark("The invitation is withdrawn: its link does nothing any more."),
}
_LIFETIMES: Final[Mapping[str, tuple[timedelta, str]]] = MappingProxyType(
    {
        "1": (timedelta(days=1), mark("a day")),
        "7": (timedelta(days=7), mark("7 days")),
        "30": (timedelta(days=30), mark("30 days")),
    }
)
_TYPED: Final = ("username", "role", "invited_role", "days")


class NewQuery(Model):
    """The page of the open invitations, and the action that led to it."""

    cursor: str | None = None
    done: str = ""


class NewUserForm(Model):
    """An account that is to be made; with ``request_key``, a form that is sent twice makes one."""

    username: str
    role: str
    request_key: str | None = None


class InvitationForm(Model):
    """An invitation that is to be made; with ``request_key``, a form that is sent twice makes one."""

    invited_role: str
    days: str = "7"
    request_key: str | None = None


async def _new_page(
    request: web.Request,
    actor: Actor,
    *,
    after: str | None = None,
    refused: Refused | None = None,
    section: str = "",
    news: str | None = None,
    typed: Mapping[str, str] | None = None,
) -> web.Response:
    services = request.app[SERVICES]
    found = await services.users.invitations(actor, after=after)
    return page(
        request,
        "admin/new_user.html",
        viewer=actor,
        roles={each: words for each, words in ROLES.items() if actor.role.covers(each)},
        owner=Role.OWNER,
        lifetimes={days: words for days, (_, words) in _LIFETIMES.items()},
        invitations=[
            {"id": each.id, "role": ROLES[each.role][0], "created_at": each.created_at, "expires_at": each.expires_at}
            for each in found.items
        ],
        next_cursor=found.next_cursor,
        request_key=services.randomness.new_id(),
        refused=refused,
        section=section,
        news=news,
        typed=dict(typed or {}),
    )


def _again(section: str) -> Retry:
    """Answers a refused form with the page, the refusal beside the form, and the typed text."""

    async def retry(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:
        actor = await actor_of(request)
        typed = {name: fields[name] for name in _TYPED if name in fields}
        if isinstance(error, ReauthenticationRequired):
            return confirm_first(request, NEW, actor.user_id, typed)
        return await _new_page(request, actor, refused=Refused(error), section=section, typed=typed)

    return retry


def _signed_out(*kept: str) -> SignedOut:
    def answer(request: web.Request, fields: Mapping[str, str]) -> web.StreamResponse:
        typed = {name: fields.get(name, "") for name in kept}
        return sign_in_first(request, NEW, fields.get(ACCOUNT, ""), typed)

    return answer


@routes("GET", NEW, media_type="text/html", errors=[errors.Forbidden])
async def new(request: web.Request, actor: Actor, query: NewQuery) -> web.Response:
    """The forms for a new account and for an invitation, and the invitations that can still be used."""
    typed = draft_for(request, NEW, actor.user_id)
    response = await _new_page(request, actor, after=query.cursor, news=_NEWS.get(query.done), typed=typed)
    forget_draft(request, response)
    return response


@routes(
    "POST",
    NEW,
    media_type="text/html",
    retry=_again("account"),
    signed_out=_signed_out("username", "role"),
    errors=[errors.Forbidden, errors.ReauthenticationRequired, errors.AlreadyExists],
)
async def create(request: web.Request, actor: Actor, form: NewUserForm) -> web.Response:
    """Make an account and a link by which its user chooses a password; this answer alone shows the link."""
    made = await request.app[SERVICES].users.create(
        actor, form.username, read_role(form.role), idempotency_key=form.request_key
    )
    say = texts_of(request).gettext
    return link_page(
        request,
        actor,
        token=made.token,
        title=say("A link for %(name)s") % {"name": made.user.username},
        explanation=say(
            "The account is there. Send this link to its user: who opens it chooses the password. It works once, for "
            "seven days."
        ),
        back=f"{PATH}/{made.user.id}",
    )


@routes(
    "POST",
    f"{PATH}/invitations",
    media_type="text/html",
    retry=_again("invitation"),
    signed_out=_signed_out("invited_role", "days"),
    errors=[errors.Forbidden, errors.ReauthenticationRequired],
)
async def invite(request: web.Request, actor: Actor, form: InvitationForm) -> web.Response:
    """Make an invitation for somebody who has no account; this answer alone shows its link."""
    if form.days not in _LIFETIMES:
        raise InvalidInput("days", "must be one of the choices")
    invited = await request.app[SERVICES].users.invite(
        actor, read_role(form.invited_role), lasts=_LIFETIMES[form.days][0], idempotency_key=form.request_key
    )
    say = texts_of(request).gettext
    return link_page(
        request,
        actor,
        token=invited.token,
        title=say("An invitation"),
        explanation=say(
            "Send this link to one person: who opens it first chooses a name and a password. It works once."
        ),
        until=invited.invitation.expires_at,
        back=NEW,
    )


@routes(
    "POST",
    f"{PATH}/invitations/{{invitation_id:{ID}}}/withdraw",
    status=303,
    media_type="text/html",
    retry=_again("open"),
    signed_out=_signed_out(),
    errors=[errors.Forbidden, errors.NotFound, errors.ReauthenticationRequired],
)
async def withdraw(request: web.Request, actor: Actor, invitation_id: str, form: NoFields) -> web.Response:  # noqa: ARG001
    """Withdraw an invitation that nobody has used."""
    await request.app[SERVICES].users.withdraw(actor, invitation_id)
    return see_other(f"{NEW}?done=withdrawn")
