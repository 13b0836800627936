"""Signing in with Discord: to Discord, back from there, and the page that says why it did not work.

Nothing of the address by which Discord leads back stays in the browser: every answer leads on to another page.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from aiohttp import web

from app.domain import errors
from app.domain.errors import AppError
from app.domain.identity import Client
from app.domain.secrets import SecretText
from app.localisation import mark
from app.services.discord_accounts import Arrival
from app.web.inputs import Model
from app.web.middleware import REQUEST_ID
from app.web.options import SERVICES
from app.web.origin import ORIGIN
from app.web.pages.code import ask_for_code
from app.web.pages.rendering import own_page, page, see_other
from app.web.problems import InsecureConnection, status_of
from app.web.routing import Routes
from app.web.sessions import begin_session, session_cookie
from app.web.tickets import forget_ticket, keep_ticket, ticket_of

routes = Routes("Pages")

CONFIRM: Final = "/account/discord"
"""The page that asks before an account that was proven is linked."""
_WHY: Final[Mapping[str, tuple[type[AppError], str]]] = MappingProxyType(
    {
        "again": (
            errors.TicketRefused,
            mark("This was begun in another browser, took longer than ten minutes, or is done already."),
        ),
        "declined": (errors.DiscordDeclined, mark("You did not agree at Discord, so nothing was changed.")),
        "code": (errors.InvalidToken, mark("Discord does not take this any more.")),
        "members": (
            errors.MembershipRequired,
            mark(
                "Only members of this bot's servers get an account. Join one of them, use a command of the bot, "
                "try again."
            ),
        ),
        "invited": (
            errors.InvitationRequired,
            mark("No account belongs to this Discord account. Ask the owner for one."),
        ),
        "forbidden": (errors.Forbidden, mark("This Discord account may not sign in here. Ask the owner.")),
        "later": (
            errors.TooManyAttempts,
            mark("There were too many attempts from your network. Try again in 15 minutes."),
        ),
        "settings": (
            errors.NotConfigured,
            mark("Discord refuses this Keyhall. Its owner has to look at the settings."),
        ),
        "discord": (errors.DiscordUnavailable, mark("Discord does not answer right now. Try again in a minute.")),
    }
)
_ELSE: Final = mark("Something here did not work. Try again in a minute.")


class DepartureQuery(Model):
    """The page to open after signing in."""

    next: str = "/"


class ArrivalQuery(Model):
    """The parameters with which Discord sends a browser back."""

    state: str = ""
    code: str = ""


class WhyQuery(Model):
    """Why it did not work."""

    why: str = ""


@routes("GET", "/auth/discord", status=303, media_type="text/html", errors=[errors.NotConfigured])
async def depart(request: web.Request, query: DepartureQuery) -> web.Response:
    """Leads to Discord, where one agrees to sign in with the account there."""
    origin = request.app[ORIGIN]
    origin.check_navigation(request)
    origin.check_connection(request)
    departure = request.app[SERVICES].discord_sign_in.begin(own_page(query.next))
    response = see_other(departure.url)
    keep_ticket(request, response, departure.ticket)
    return response


async def _refuse(request: web.Request, error: AppError) -> web.StreamResponse:
    """Lead to the page that says why. The ticket of somebody who was not sent back with it stays theirs."""
    if status_of(type(error)) >= 500:
        request.app[SERVICES].failures.note("GET /auth/discord/callback", error, request[REQUEST_ID])
    why = next((each for each, (kind, _) in _WHY.items() if isinstance(error, kind)), "else")
    response = see_other(f"/auth/discord/failed?why={why}")
    if not isinstance(error, errors.TicketRefused | InsecureConnection):
        forget_ticket(request, response)
    return response


@routes("GET", "/auth/discord/callback", status=303, media_type="text/html", refuse=_refuse)
async def arrive(request: web.Request, client: Client, query: ArrivalQuery) -> web.Response:
    """Where Discord sends a browser back to; leads on to the page after signing in."""
    request.app[ORIGIN].check_connection(request)
    arrived = await request.app[SERVICES].discord_sign_in.finish(
        Arrival(
            ticket=ticket_of(request),
            state=query.state,
            code=SecretText(query.code),
            former_cookie=session_cookie(request),
        ),
        client,
    )
    if arrived.ticket is not None:
        response = see_other(CONFIRM)
        keep_ticket(request, response, arrived.ticket)
        return response
    if arrived.pending is not None:
        response = ask_for_code(request, arrived.pending, own_page(arrived.next))
        forget_ticket(request, response)
        return response
    response = see_other(own_page(arrived.next))
    forget_ticket(request, response)
    if arrived.session is not None:
        begin_session(request, response, arrived.session)
    return response


@routes("GET", "/auth/discord/failed", media_type="text/html")
async def failed(request: web.Request, query: WhyQuery) -> web.Response:
    """Says why signing in with Discord did not work."""
    _, sentence = _WHY.get(query.why, (None, _ELSE))
    return page(request, "discord_failed.html", sentence=sentence)
