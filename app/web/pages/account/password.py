"""The form that changes one's password."""

from __future__ import annotations

from aiohttp import web

from app.domain import errors
from app.domain.identity import Actor
from app.web.inputs import Model
from app.web.options import SERVICES
from app.web.pages.account.page import PATH, again, done, signed_out
from app.web.routing import Routes
from app.web.sessions import keep_session, own_cookie

routes = Routes("Pages")


class PasswordForm(Model):
    """The present password, where the account has one, and the new one."""

    password: str = ""
    new_password: str


@routes(
    "POST",
    f"{PATH}/password",
    status=303,
    media_type="text/html",
    retry=again("password"),
    signed_out=signed_out(),
    errors=[
        errors.InvalidCredentials,
        errors.ReauthenticationRequired,
        errors.TooManyAttempts,
        errors.PasswordChanged,
        errors.Overloaded,
    ],
)
async def change(request: web.Request, actor: Actor, form: PasswordForm) -> web.Response:
    """Change your password; all your other sessions end."""
    kept = await request.app[SERVICES].passwords.change(
        actor, form.password or None, form.new_password, cookie=own_cookie(request)
    )
    response = done("password")
    keep_session(request, response, kept)
    return response
