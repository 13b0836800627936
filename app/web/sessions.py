"""The sender of a request, by bearer token or by the session cookie of a browser."""

from __future__ import annotations

import hmac
from typing import Final

from aiohttp import web

from app.domain.errors import InvalidToken
from app.domain.identity import Actor
from app.domain.secrets import SecretText
from app.services.authentication import DEVICE_REMEMBERED_FOR, BrowserSession, KeptSession, lasting_part
from app.web.options import SERVICES
from app.web.origin import ORIGIN, UNSAFE, cookie_of
from app.web.problems import CrossSite

ACCOUNT: Final = "account"
"""The field that says whose form it is, so that its draft is shown to nobody else."""
FORM_TOKEN: Final = "form_token"  # noqa: S105 - the name of a field
_LONGEST_TOKEN: Final = 4096
ACTOR: Final = web.RequestKey("keyhall.actor", Actor)
"""The sender of a request, once identified."""
_BY_COOKIE: Final = web.RequestKey("keyhall.by_cookie", bool)
_RENEWED: Final = web.RequestKey("keyhall.renewed", BrowserSession)


async def actor_of(request: web.Request) -> Actor:
    """The Actor of a request. A bearer token, also a bad one, wins over a cookie. Raises InvalidToken, CrossSite.

    Other schemes are not meant for Keyhall: a proxy that asks for a password of its own passes Basic on.
    """
    actor = request[ACTOR] = await _identified(request)
    return actor


async def viewer_of(request: web.Request) -> Actor | None:
    """The sender of a request for a page that everybody may read; None where nobody is signed in."""
    try:
        return await actor_of(request)
    except InvalidToken:
        return None


async def _identified(request: web.Request) -> Actor:
    app = request.app
    client = app[ORIGIN].client(request)
    authenticator = app[SERVICES].requests
    given = request.headers.getall("Authorization", None)
    bearer = [each for each in given if each[:6].lower() == "bearer"] if given else ()
    if given and bearer:
        token = bearer[0][7:]
        if len(given) != 1 or bearer[0][6:7] != " " or not 0 < len(token) <= _LONGEST_TOKEN:
            raise InvalidToken
        return await authenticator.authenticate(token, client)
    cookie = session_cookie(request)
    if cookie is None:
        raise InvalidToken().as_recorded()  # nothing was presented, so there is nothing to record
    if request.method in UNSAFE:
        app[ORIGIN].check_site(request, browser=True)
    request[_BY_COOKIE] = True
    return await authenticator.authenticate_browser(cookie, client)


def session_cookie(request: web.Request) -> str | None:
    """The session cookie, if cookies are allowed on this connection; once it was renewed, the new one."""
    if _RENEWED in request:
        return request[_RENEWED].cookie.reveal()
    origin = request.app[ORIGIN]
    cookie = cookie_of(request, origin.cookie_name)
    return cookie if cookie and origin.cookies_allowed(request) else None


def own_cookie(request: web.Request) -> str | None:
    """The session cookie that identified the sender; None where it was a bearer token."""
    return session_cookie(request) if request.get(_BY_COOKIE) else None


def begin_session(request: web.Request, response: web.StreamResponse, session: BrowserSession) -> None:
    """Set the cookie of a new session, for as long as the session may last."""
    _set_cookie(request, response, session)
    remember_device(request, response, session.device_claim)


def renew_session(request: web.Request, renewed: BrowserSession | None) -> None:
    """Note that the session has another cookie from now on; every answer to this request sets that cookie."""
    if renewed is not None:
        request[_RENEWED] = renewed


def set_renewed_cookie(request: web.Request, response: web.StreamResponse) -> None:
    """Set the cookie that the session got during this request."""
    if _RENEWED in request:
        _set_cookie(request, response, request[_RENEWED])


def keep_session(request: web.Request, response: web.StreamResponse, kept: KeptSession) -> None:
    """Set the cookies of a session that goes on where all others of its user ended."""
    renew_session(request, kept.browser)
    remember_device(request, response, kept.device_claim)


def remember_device(request: web.Request, response: web.StreamResponse, claim: SecretText | None) -> None:
    """Set the cookie by which this browser is known at its next sign-in, where cookies may travel."""
    origin = request.app[ORIGIN]
    if claim is not None and origin.cookies_allowed(request):
        response.set_cookie(
            origin.device_cookie_name,
            claim.reveal(),
            max_age=int(DEVICE_REMEMBERED_FOR.total_seconds()),
            path="/",
            secure=origin.https,
            httponly=True,
            samesite="Strict",
        )


def _set_cookie(request: web.Request, response: web.StreamResponse, session: BrowserSession) -> None:
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
    """The token in every form of a signed-in page; it is derived from the session cookie, which no other site has.

    It has another mask in every page: a random half, and the token under that mask. Pages are compressed, and the same
    text in many of them could be guessed from their lengths (BREACH).
    """
    token = _token_of_forms(request)
    mask = request.app[SERVICES].randomness.token_bytes(len(token))
    return (mask + _under(mask, token)).hex()


def _token_of_forms(request: web.Request) -> bytes:
    """From the part of the cookie that a renewal keeps, so that forms that are open elsewhere can still be sent."""
    return hmac.digest(lasting_part(session_cookie(request) or "").encode(), b"keyhall form", "sha256")


def _under(mask: bytes, token: bytes) -> bytes:
    return bytes(one ^ other for one, other in zip(mask, token, strict=True))


def check_form_token(request: web.Request, fields: dict[str, str]) -> None:
    """The second layer behind Sec-Fetch-Site and Origin. Raises CrossSite."""
    token, given = _token_of_forms(request), fields.pop(FORM_TOKEN, "")
    try:
        masked = bytes.fromhex(given)
        mask, hidden = masked[: len(token)], masked[len(token) :]
        sent = _under(mask, hidden)
    except ValueError:
        raise CrossSite from None
    if not hmac.compare_digest(sent, token):
        raise CrossSite
