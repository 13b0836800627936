"""The sender of a request, by bearer token or by the session cookie of a browser."""

from __future__ import annotations

import hmac
from typing import Final

from aiohttp import web

from app.domain.errors import InvalidToken
from app.domain.identity import Actor
from app.services.authentication import BrowserSession
from app.web.options import SERVICES
from app.web.origin import ORIGIN, UNSAFE
from app.web.problems import CrossSite

FORM_TOKEN: Final = "form_token"  # noqa: S105 - the name of a field
_LONGEST_TOKEN: Final = 4096


async def actor_of(request: web.Request) -> Actor:
    """The Actor of a request. A bearer token, also a bad one, wins over a cookie. Raises InvalidToken, CrossSite.

    Other schemes are not meant for Keyhall: a proxy that asks for a password of its own passes Basic on.
    """
    client = request.app[ORIGIN].client(request)
    authenticator = request.app[SERVICES].requests
    given = request.headers.getall("Authorization", None)
    bearer = [each for each in given if each[:6].lower() == "bearer"] if given else ()
    if given and bearer:
        token = bearer[0][7:]
        if len(given) != 1 or bearer[0][6:7] != " " or not 0 < len(token) <= _LONGEST_TOKEN:
            raise InvalidToken
        return await authenticator.authenticate(token, client)
    cookie = session_cookie(request)
    if cookie is None:
        raise InvalidToken
    if request.method in UNSAFE:
        request.app[ORIGIN].check_site(request, browser=True)
    return await authenticator.authenticate_browser(cookie, client)


def session_cookie(request: web.Request) -> str | None:
    """The session cookie, if cookies are allowed on this connection."""
    origin = request.app[ORIGIN]
    cookie = request.cookies.get(origin.cookie_name)
    return cookie if cookie and origin.cookies_allowed(request) else None


def begin_session(request: web.Request, response: web.StreamResponse, session: BrowserSession) -> None:
    """Set the cookie of a new session, for as long as the session may last."""
    origin = request.app[ORIGIN]
    response.set_cookie(
        origin.cookie_name,
        session.cookie.reveal(),
        expires=session.expires_at.strftime("%a, %d %b %Y %H:%M:%S GMT"),
        path="/",
        secure=origin.https,
        httponly=True,
        samesite="Lax",
    )


def end_session(request: web.Request, response: web.StreamResponse) -> None:
    """Delete the cookie, with the attributes that it was set with: others would leave it in place."""
    origin = request.app[ORIGIN]
    response.del_cookie(origin.cookie_name, path="/", secure=origin.https, httponly=True, samesite="Lax")


def form_token(request: web.Request) -> str:
    """The token in every form of a signed-in page; it is derived from the session cookie, which no other site has."""
    return hmac.digest((session_cookie(request) or "").encode(), b"keyhall form", "sha256").hex()


def check_form_token(request: web.Request, fields: dict[str, str]) -> None:
    """The second layer behind Sec-Fetch-Site and Origin. Raises CrossSite."""
    if not hmac.compare_digest(fields.pop(FORM_TOKEN, "").encode(), form_token(request).encode()):
        raise CrossSite
