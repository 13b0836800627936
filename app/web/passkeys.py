"""Passkeys on the web: for which host they are, and the cookie that ties a question to the browser that asked it.

Without that tie, an attacker who gets hold of a browser's answer could send it from elsewhere (compare the state of
OAuth, RFC 9700, 4.7). Programs keep no cookies and get no such tie.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Final

from aiohttp import web

from app.domain.errors import NotConfigured
from app.domain.passkeys import CHALLENGE_LASTS, RelyingParty
from app.web.bodies import parse_json
from app.web.options import SERVICES
from app.web.origin import ORIGIN, cookie_of
from app.web.problems import MalformedRequest

_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


def relying_party(request: web.Request) -> RelyingParty:
    """For which host passkeys are made and used here. Raises NotConfigured."""
    return request.app[ORIGIN].relying_party(request, browser=_is_browser(request))


def passkeys_elsewhere(request: web.Request) -> str | None:
    """Where to open Keyhall, for a page where browsers make no passkeys; None where they make them."""
    try:
        request.app[ORIGIN].relying_party(request, browser=True)
    except NotConfigured as refused:
        return refused.detail
    return None


def answer_in(text: str) -> dict[str, object]:
    """The answer in a field of a form, which one of our own scripts filled in. Nothing else is an answer."""
    try:
        answer = parse_json(text.encode("utf-8", "surrogatepass"))
    except MalformedRequest:
        return {}
    return answer if isinstance(answer, dict) else {}


def ask_browser(request: web.Request) -> tuple[str | None, Callable[[web.StreamResponse], None]]:
    """A secret of the browser that asks, and what sets its cookie; None for a program.

    A browser keeps the secret that it has, so that two of its tabs do not disturb each other.
    """
    origin = request.app[ORIGIN]
    if not _is_browser(request) or not origin.cookies_allowed(request):
        return None, lambda _: None
    secret = browser_secret(request)
    if secret is None:
        secret = urlsafe_b64encode(request.app[SERVICES].randomness.token_bytes(32)).decode().rstrip("=")

    def set_cookie(response: web.StreamResponse) -> None:
        response.set_cookie(
            origin.passkey_cookie_name,
            secret,
            max_age=int(CHALLENGE_LASTS.total_seconds()),
            path="/",
            secure=origin.https,
            httponly=True,
            samesite="Strict",
        )

    return secret, set_cookie


def browser_secret(request: web.Request) -> str | None:
    """The secret that this browser got with a question for a passkey; None without one."""
    origin = request.app[ORIGIN]
    secret = cookie_of(request, origin.passkey_cookie_name) if origin.cookies_allowed(request) else None
    return secret if secret is not None and _SECRET.fullmatch(secret) else None


def _is_browser(request: web.Request) -> bool:
    """Whether a page sent the request, as browsers say with each that is no plain visit."""
    return "Origin" in request.headers or "Sec-Fetch-Site" in request.headers
