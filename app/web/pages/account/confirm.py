"""The password once more, for what one may do only within ten minutes of its proof."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from app.domain import errors
from app.domain.errors import AppError
from app.domain.identity import Actor
from app.web.inputs import Model
from app.web.options import SERVICES
from app.web.pages.account.page import CONFIRM, done, signed_out
from app.web.pages.rendering import Refused, page
from app.web.routing import Routes
from app.web.sessions import actor_of, own_cookie, renew_session

routes = Routes("Pages")


class ConfirmForm(Model):
    """The password, and a code where there is a second factor."""

    password: str
    otp: str = ""


async def _page(request: web.Request, actor: Actor, refused: Refused | None) -> web.Response:
    return page(
        request,
        "confirm_account.html",
        status=refused.status if refused else 200,
        headers=refused.headers if refused else None,
        viewer=actor,
        refused=refused,
        has_password=await request.app[SERVICES].passwords.has_password(actor),
        code=await request.app[SERVICES].second_factor.demanded(actor.user_id),
        by_discord=actor.discord_id is not None,
    )


async def _again(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:  # noqa: ARG001
    return await _page(request, await actor_of(request), Refused(error))


@routes("GET", CONFIRM, media_type="text/html")
async def ask(request: web.Request, actor: Actor) -> web.Response:
    """Asks for the password."""
    return await _page(request, actor, None)


@routes(
    "POST",
    CONFIRM,
    status=303,
    media_type="text/html",
    retry=_again,
    signed_out=signed_out(),
    errors=[errors.InvalidCredentials, errors.OtpRequired, errors.TooManyAttempts, errors.Overloaded],
)
async def confirm(request: web.Request, actor: Actor, form: ConfirmForm) -> web.Response:
    """Prove your password again, and go back to your account."""
    renewed = await request.app[SERVICES].authentication.reauthenticate(
        actor, form.password, otp=form.otp or None, cookie=own_cookie(request)
    )
    renew_session(request, renewed)
    return done("confirmed")
