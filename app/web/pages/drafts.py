"""Drafts: the text of a form that was sent after its session had ended, kept until its sender has signed in again.

A draft is a cookie of ten minutes in the sender's own browser. It never holds a secret.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import orjson
from aiohttp import web

from app.localisation import mark
from app.web.origin import ORIGIN, cookie_of
from app.web.pages.rendering import see_other

CONFIRM: Final = "/account/confirm"
"""The page that asks who is at the keyboard; it leads back to the page that it is given as `next`."""
CONFIRMED: Final = mark("It is confirmed that it is you, for ten minutes. Repeat your step.")
"""The news of the page that it leads back to, by the value `confirmed` of `done`."""
_SECONDS: Final = 600
_LONGEST: Final = 2_000


def sign_in_first(request: web.Request, page: str, account: str, typed: Mapping[str, str]) -> web.Response:
    """Lead to the sign-in form, which leads back to ``page``; that takes the draft and fills its form in again.

    ``account`` is the user whose form it was: the draft is for nobody else.
    """
    response = see_other(f"/login?next={quote(page, safe='/')}&done=ended")
    keep_draft(request, response, page, account, typed)
    return response


def confirm_first(request: web.Request, page: str, account: str, typed: Mapping[str, str]) -> web.Response:
    """Lead to the page that asks for a proof, which leads back to ``page``; see ``sign_in_first``."""
    response = see_other(f"{CONFIRM}?next={quote(page, safe='/')}")
    keep_draft(request, response, page, account, typed)
    return response


def keep_draft(
    request: web.Request, response: web.StreamResponse, page: str, account: str, typed: Mapping[str, str]
) -> None:
    """Keep the text that ``account`` typed on ``page``, if it is not too long."""
    draft = {"page": page, "account": account, "typed": dict(typed)}
    value = base64.urlsafe_b64encode(orjson.dumps(draft)).decode().rstrip("=")
    if len(value) <= _LONGEST and request.app[ORIGIN].cookies_allowed(request):
        response.set_cookie(
            _name(request), value, max_age=_SECONDS, path="/", secure=_https(request), httponly=True, samesite="Lax"
        )


def draft_for(request: web.Request, page: str, account: str) -> Mapping[str, str]:
    """The draft that was kept for this page of this user; empty without one, and for anything that is none."""
    value = cookie_of(request, _name(request)) or ""
    try:
        draft = orjson.loads(base64.urlsafe_b64decode(value.encode() + b"=" * (-len(value) % 4)))
    except (ValueError, binascii.Error):
        return {}
    if not isinstance(draft, dict) or (draft.get("page"), draft.get("account")) != (page, account):
        return {}
    if not isinstance(draft.get("typed"), dict):
        return {}
    return {name: text for name, text in draft["typed"].items() if isinstance(name, str) and isinstance(text, str)}


def forget_draft(request: web.Request, response: web.StreamResponse) -> None:
    """Delete the draft: its form is filled in with it."""
    response.del_cookie(_name(request), path="/", secure=_https(request), httponly=True, samesite="Lax")


def _https(request: web.Request) -> bool:
    return request.app[ORIGIN].https


def _name(request: web.Request) -> str:
    return f"{request.app[ORIGIN].cookie_name}-draft"
