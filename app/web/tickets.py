"""The ticket of a browser whose person is at Discord, as a cookie."""

from __future__ import annotations

from aiohttp import web

from app.domain.secrets import SecretText
from app.services.discord_accounts import TICKET_LASTS
from app.web.origin import ORIGIN, cookie_of


def ticket_of(request: web.Request) -> str | None:
    """The ticket, if cookies are allowed on this connection."""
    origin = request.app[ORIGIN]
    return cookie_of(request, origin.ticket_cookie_name) if origin.cookies_allowed(request) else None


def keep_ticket(request: web.Request, response: web.StreamResponse, ticket: SecretText) -> None:
    """Set the cookie. SameSite=Lax: the browser sends it when Discord leads it back, and with no form of others."""
    origin = request.app[ORIGIN]
    response.set_cookie(
        origin.ticket_cookie_name,
        ticket.reveal(),
        max_age=int(TICKET_LASTS.total_seconds()),
        path="/",
        secure=origin.https,
        httponly=True,
        samesite="Lax",
    )


def forget_ticket(request: web.Request, response: web.StreamResponse) -> None:
    """Delete the cookie, with the attributes that it was set with."""
    origin = request.app[ORIGIN]
    response.del_cookie(origin.ticket_cookie_name, path="/", secure=origin.https, httponly=True, samesite="Lax")
