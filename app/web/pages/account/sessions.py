"""Where one is signed in: end one session, or every other one."""

from __future__ import annotations

from aiohttp import web

from app.domain import errors
from app.domain.identity import Actor
from app.web.inputs import ID, NoFields
from app.web.options import SERVICES
from app.web.pages.account.page import PATH, again, done, signed_out
from app.web.routing import Routes
from app.web.sessions import keep_session, own_cookie

routes = Routes("Pages")


@routes(
    "POST",
    f"{PATH}/sessions/{{session_id:{ID}}}/end",
    status=303,
    media_type="text/html",
    retry=again("sessions"),
    signed_out=signed_out(),
    errors=[errors.NotFound],
)
async def end(request: web.Request, actor: Actor, session_id: str, form: NoFields) -> web.Response:  # noqa: ARG001
    """End one of your sessions."""
    await request.app[SERVICES].authentication.revoke_session(actor, session_id)
    return done("session")


@routes(
    "POST",
    f"{PATH}/sessions/end",
    status=303,
    media_type="text/html",
    retry=again("sessions"),
    signed_out=signed_out(),
)
async def end_others(request: web.Request, actor: Actor, form: NoFields) -> web.Response:  # noqa: ARG001
    """End all your sessions but this one."""
    kept = await request.app[SERVICES].passwords.end_other_sessions(actor, cookie=own_cookie(request))
    response = done("sessions")
    keep_session(request, response, kept)
    return response
