"""Revealing the secret of a credential, which asks for the password if its last proof is too old."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from app.domain import errors
from app.domain.errors import AppError
from app.domain.identity import Actor
from app.web.inputs import Model
from app.web.options import SERVICES
from app.web.pages.credentials.one import credential_page, signed_out
from app.web.pages.credentials.views import ONE, shown
from app.web.pages.rendering import Refused, page
from app.web.problems import headers_of, status_of
from app.web.routing import Routes
from app.web.sessions import actor_of, own_cookie, renew_session

routes = Routes("Pages")


class RevealForm(Model):
    """A button; with the password, and a code where the account has a second factor, if the last proof is too old."""

    password: str = ""
    otp: str = ""


async def _confirm(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:  # noqa: ARG001
    actor = await actor_of(request)
    if isinstance(error, errors.CredentialUnreadable):
        return await credential_page(request, actor, refused=Refused(error), section="reveal")
    view = await request.app[SERVICES].credentials.get(actor, request.match_info["credential_id"])
    # The first time it is a question, not a failure.
    refused = None if isinstance(error, errors.ReauthenticationRequired) else Refused(error)
    return page(
        request,
        "credentials/confirm.html",
        status=status_of(type(error)),
        headers=headers_of(error),
        viewer=actor,
        credential=shown(view),
        refused=refused,
        code=await request.app[SERVICES].second_factor.demanded(actor.user_id),
    )


@routes(
    "POST",
    f"{ONE}/reveal",
    media_type="text/html",
    retry=_confirm,
    signed_out=signed_out,
    errors=[
        errors.NotFound,
        errors.ReauthenticationRequired,
        errors.InvalidCredentials,
        errors.OtpRequired,
        errors.SecondFactorUnreadable,
        errors.TooManyAttempts,
        errors.CredentialUnreadable,
    ],
)
async def reveal(request: web.Request, actor: Actor, credential_id: str, form: RevealForm) -> web.Response:
    """Show the secret of a credential, in this answer and nowhere else.

    Asks for the password, and for a code where the account has a second factor, if they were last proven more than ten
    minutes ago.
    """
    services = request.app[SERVICES]
    if form.password:
        cookie = own_cookie(request)
        renewed = await services.authentication.reauthenticate(actor, form.password, otp=form.otp, cookie=cookie)
        renew_session(request, renewed)
        actor = await actor_of(request)
    view = await services.credentials.get(actor, credential_id)
    secret = await services.credentials.reveal(actor, credential_id)
    return page(request, "credentials/revealed.html", viewer=actor, credential=shown(view), secret=secret.reveal())
