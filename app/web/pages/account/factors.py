"""The second factor: switched on with a QR code or a typed secret, its recovery codes, and switched off.

Where password and code were last proven more than ten minutes ago, each leads to the page that asks for them.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from app.domain import errors
from app.domain.errors import AppError
from app.domain.identity import Actor
from app.services.authentication import NewRecoveryCodes
from app.web.inputs import Model, NoFields
from app.web.options import SERVICES
from app.web.pages.account.page import PATH, again, done, signed_out
from app.web.pages.drafts import CONFIRM
from app.web.pages.rendering import Refused, page, see_other
from app.web.routing import Routes
from app.web.sessions import actor_of, keep_session, own_cookie

routes = Routes("Pages")
NEW = f"{PATH}/factors/new"


class CodeForm(Model):
    """The first code of the new secret."""

    otp: str = ""


@routes(
    "POST",
    f"{PATH}/factors/start",
    status=303,
    media_type="text/html",
    retry=again("factors"),
    signed_out=signed_out(),
    errors=[errors.ReauthenticationRequired, errors.AlreadyExists],
)
async def start(request: web.Request, actor: Actor, form: NoFields) -> web.Response:  # noqa: ARG001 - reads the token
    """Begin to switch the second factor on; leads to the page with the QR code."""
    await request.app[SERVICES].second_factor.start(actor)
    return see_other(NEW)


async def _new_page(request: web.Request, actor: Actor, refused: Refused | None) -> web.Response:
    enrolment = await request.app[SERVICES].second_factor.pending(actor)
    if enrolment is None:
        return see_other(PATH)
    typed = enrolment.secret.reveal()
    return page(
        request,
        "factor_new.html",
        headers={"Cache-Control": "no-store, no-transform"},
        viewer=actor,
        refused=refused,
        secret=" ".join(typed[begin : begin + 4] for begin in range(0, len(typed), 4)),
        uri=enrolment.uri.reveal(),
        qr=enrolment.qr_svg.reveal(),
    )


async def _prove_first(request: web.Request, error: AppError) -> web.StreamResponse:  # noqa: ARG001
    if not isinstance(error, errors.ReauthenticationRequired):
        raise error
    return see_other(CONFIRM)


@routes("GET", NEW, media_type="text/html", refuse=_prove_first)
async def new(request: web.Request, actor: Actor) -> web.Response:
    """The new secret as QR code and as text, and the form for its first code; without one, your account."""
    return await _new_page(request, actor, None)


async def _code_again(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.StreamResponse:
    if isinstance(error, errors.ReauthenticationRequired | errors.SecondFactorUnreadable):
        return await again("factors")(request, error, fields)
    return await _new_page(request, await actor_of(request), Refused(error))


@routes(
    "POST",
    NEW,
    media_type="text/html",
    retry=_code_again,
    signed_out=signed_out(),
    errors=[
        errors.InvalidCredentials,
        errors.NotFound,
        errors.ReauthenticationRequired,
        errors.SecondFactorUnreadable,
        errors.TooManyAttempts,
    ],
)
async def confirm(request: web.Request, actor: Actor, form: CodeForm) -> web.Response:
    """Switch the second factor on by its first code; the answer shows the recovery codes, this once."""
    made = await request.app[SERVICES].second_factor.confirm(actor, form.otp, cookie=own_cookie(request))
    return _codes_page(request, actor, made, on=True)


@routes(
    "POST",
    f"{PATH}/factors/codes",
    media_type="text/html",
    retry=again("factors"),
    signed_out=signed_out(),
    errors=[errors.ReauthenticationRequired, errors.NotFound],
)
async def new_codes(request: web.Request, actor: Actor, form: NoFields) -> web.Response:  # noqa: ARG001 - reads the token
    """Replace your recovery codes; the answer shows the new ones, this once."""
    made = await request.app[SERVICES].second_factor.new_recovery_codes(actor, cookie=own_cookie(request))
    return _codes_page(request, actor, made, on=False)


@routes(
    "POST",
    f"{PATH}/factors/remove",
    status=303,
    media_type="text/html",
    retry=again("factors"),
    signed_out=signed_out(),
    errors=[errors.ReauthenticationRequired, errors.NotFound],
)
async def remove(request: web.Request, actor: Actor, form: NoFields) -> web.Response:  # noqa: ARG001 - reads the token
    """Switch the second factor off."""
    kept = await request.app[SERVICES].second_factor.remove(actor, cookie=own_cookie(request))
    response = done("factor_off")
    keep_session(request, response, kept)
    return response


def _codes_page(request: web.Request, actor: Actor, made: NewRecoveryCodes, *, on: bool) -> web.Response:
    shown = [each.reveal() for each in made.codes]
    response = page(request, "recovery_codes.html", viewer=actor, codes=shown, on=on)
    keep_session(request, response, made.kept)
    return response
