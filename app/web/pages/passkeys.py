"""Signing in with a passkey: the form of the sign-in page that carries a browser's answer."""

from __future__ import annotations

from aiohttp import web

from app.domain import errors
from app.domain.identity import Client
from app.web.inputs import Model
from app.web.options import SERVICES
from app.web.origin import ORIGIN
from app.web.pages.login import login_again
from app.web.pages.rendering import own_page, see_other
from app.web.passkeys import answer_in, browser_secret, relying_party
from app.web.routing import Routes
from app.web.sessions import begin_session, session_cookie

routes = Routes("Pages")


class PasskeyLoginForm(Model):
    """The answer of the browser as JSON, and the page to go back to."""

    credential: str
    next: str = "/"


@routes(
    "POST",
    "/login/passkey",
    status=303,
    media_type="text/html",
    retry=login_again,
    errors=[errors.InvalidCredentials, errors.TooManyAttempts, errors.Overloaded, errors.NotConfigured],
)
async def login(request: web.Request, client: Client, form: PasskeyLoginForm) -> web.Response:
    """Sign in with a passkey, in the browser that was asked for it."""
    request.app[ORIGIN].check_connection(request)
    session = await request.app[SERVICES].passkeys.login_browser(
        answer_in(form.credential),
        client,
        relying_party(request),
        browser=browser_secret(request),
        former_cookie=session_cookie(request),
    )
    response = see_other(own_page(form.next))
    begin_session(request, response, session)
    return response
