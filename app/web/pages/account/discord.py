"""The section about one's Discord account: linking it, from here or by a code that is typed there, and unlinking it."""

from __future__ import annotations

from gettext import NullTranslations

from aiohttp import web

from app.domain import errors
from app.domain.errors import AppError
from app.domain.identity import Actor
from app.services.discord_accounts import Linked
from app.web.inputs import NoFields
from app.web.options import SERVICES
from app.web.origin import ORIGIN
from app.web.pages.account.page import PATH, account_page, again, done, signed_out
from app.web.pages.drafts import CONFIRM
from app.web.pages.rendering import Refused, page, see_other, texts_of
from app.web.routing import Routes
from app.web.sessions import actor_of, keep_session, own_cookie
from app.web.tickets import forget_ticket, keep_ticket, ticket_of

routes = Routes("Pages")


async def _refuse(request: web.Request, error: AppError) -> web.StreamResponse:
    """Show a refusal in the section, where that is of use."""
    if isinstance(error, errors.ReauthenticationRequired):
        return see_other(CONFIRM)
    if not isinstance(error, errors.Forbidden | errors.LinkConflict | errors.NotConfigured):
        raise error
    return await account_page(request, await actor_of(request), refused=Refused(error), section="discord")


@routes(
    "GET",
    "/auth/discord/link",
    status=303,
    media_type="text/html",
    refuse=_refuse,
    errors=[errors.ReauthenticationRequired, errors.NotConfigured],
)
async def depart(request: web.Request, actor: Actor) -> web.Response:
    """Leads to Discord, where one proves the account there that is to be linked."""
    request.app[ORIGIN].check_navigation(request)
    departure = request.app[SERVICES].discord_sign_in.begin_link(actor)
    response = see_other(departure.url)
    keep_ticket(request, response, departure.ticket)
    return response


@routes(
    "GET", f"{PATH}/discord", media_type="text/html", refuse=_refuse, errors=[errors.Forbidden, errors.AlreadyExists]
)
async def ask(request: web.Request, actor: Actor) -> web.Response:
    """Shows what is linked and what moves, and asks."""
    offer = await request.app[SERVICES].discord_linking.offer(actor, ticket_of(request))
    return page(request, "link_discord.html", viewer=actor, offer=offer)


@routes(
    "POST",
    f"{PATH}/discord",
    media_type="text/html",
    retry=again("discord"),
    signed_out=signed_out(),
    errors=[errors.ReauthenticationRequired, errors.Forbidden, errors.AlreadyExists, errors.VersionConflict],
)
async def link(request: web.Request, actor: Actor, form: NoFields) -> web.Response:  # noqa: ARG001 - reads the token
    """Link the Discord account, once."""
    linked = await request.app[SERVICES].discord_linking.link(actor, ticket_of(request))
    response = await account_page(request, actor, news=_sentence(linked, texts_of(request)))
    forget_ticket(request, response)
    return response


@routes(
    "POST",
    f"{PATH}/discord/code",
    media_type="text/html",
    retry=again("discord"),
    signed_out=signed_out(),
    errors=[errors.ReauthenticationRequired],
)
async def make_code(request: web.Request, actor: Actor, form: NoFields) -> web.Response:  # noqa: ARG001 - reads the token
    """Show a code for `/link` in Discord, in this answer and nowhere else."""
    made = await request.app[SERVICES].discord_linking.issue_code(actor)
    return await account_page(request, actor, link_code=made.code.reveal(), link_code_until=made.expires_at)


@routes(
    "POST",
    f"{PATH}/discord/unlink",
    status=303,
    media_type="text/html",
    retry=again("discord"),
    signed_out=signed_out(),
    errors=[errors.ReauthenticationRequired, errors.NoOtherWayIn],
)
async def unlink(request: web.Request, actor: Actor, form: NoFields) -> web.Response:  # noqa: ARG001 - reads the token
    """Unlink your Discord account; your other sessions end."""
    kept = await request.app[SERVICES].discord_linking.unlink(actor, cookie=own_cookie(request))
    response = done("unlinked")
    keep_session(request, response, kept)
    return response


def _sentence(linked: Linked, texts: NullTranslations) -> str:
    moved = linked.moved
    parts = [texts.gettext("Your Discord account is linked.")]
    if moved.count:
        counted = texts.ngettext("%(num)s credential moved here.", "%(num)s credentials moved here.", moved.count)
        parts.append(counted % {"num": moved.count})
    renamed = texts.gettext("“%(label)s” (%(provider)s) is called “%(new)s” now, since its label was taken.")
    parts += [
        renamed % {"label": each.label, "provider": each.provider, "new": each.new_label} for each in moved.renamed
    ]
    return " ".join(parts)
