"""Linking one's Discord account."""

from __future__ import annotations

from datetime import datetime

from aiohttp import web
from typing_extensions import TypedDict

from app.domain import errors
from app.domain.identity import Actor
from app.web.options import SERVICES
from app.web.routing import Routes, json_response
from app.web.sessions import keep_session, own_cookie

routes = Routes("Signing in")


class LinkCode(TypedDict):
    """A code for `/link` in Discord, and until when it works."""

    code: str
    expires_at: datetime


@routes("POST", "/api/v1/auth/discord/link-code", schema=LinkCode, errors=[errors.ReauthenticationRequired])
async def make_code(request: web.Request, actor: Actor) -> web.Response:
    """Make a code by which you link your Discord account.

    Type `/link` with the code in Discord within ten minutes. It works once; an earlier code stops working.
    """
    made = await request.app[SERVICES].discord_linking.issue_code(actor)
    return json_response(200, {"code": made.code.reveal(), "expires_at": made.expires_at})


@routes(
    "DELETE",
    "/api/v1/auth/discord",
    status=204,
    errors=[errors.ReauthenticationRequired, errors.NotFound, errors.NoOtherWayIn],
)
async def unlink(request: web.Request, actor: Actor) -> web.Response:
    """Unlink your Discord account.

    Your credentials stay with this account. Your other sessions end, and a browser's session cookie is renewed.
    """
    kept = await request.app[SERVICES].discord_linking.unlink(actor, cookie=own_cookie(request))
    response = json_response(204)
    keep_session(request, response, kept)
    return response
