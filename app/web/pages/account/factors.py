"""The second factor: switched on with a QR code or a typed secret, its recovery codes, and switched off.

A form asks for password and code where they were last proven more than ten minutes ago, on a page of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiohttp import web

from app.domain import errors
from app.domain.errors import AppError
from app.domain.identity import Actor
from app.domain.secrets import SecretText
from app.web.inputs import Model
from app.web.options import SERVICES
from app.web.pages.account.page import PATH, account_page, done, signed_out
from app.web.pages.rendering import Refused, page, see_other
from app.web.problems import headers_of, status_of
from app.web.routing import Retry, Routes
from app.web.sessions import actor_of, own_cookie, renew_session

routes = Routes("Pages")
NEW = f"{PATH}/factors/new"
_PROOFS = (
    errors.ReauthenticationRequired,
    errors.InvalidCredentials,
    errors.OtpRequired,
    errors.SecondFactorUnreadable,
    errors.TooManyAttempts,
    errors.Overloaded,
)


class ProofForm(Model):
    """A button; with the password, and a code where there is a second factor, if the last proof is too old."""

    password: str = ""
    otp: str = ""


class CodeForm(Model):
    """The first code of the new secret."""

    otp: str = ""


def _proof_again(title: str, button: str) -> Retry:
    """Answers a refused button: with the page that asks for password and code, or with the reason in the section."""

    async def retry(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:  # noqa: ARG001
        actor = await actor_of(request)
        if not isinstance(error, _PROOFS):
            return await account_page(request, actor, refused=Refused(error), section="factors")
        # The first time it is a question, not a failure.
        refused = None if isinstance(error, errors.ReauthenticationRequired) else Refused(error)
        return page(
            request,
            "prove.html",
            status=status_of(type(error)),
            headers=headers_of(error),
            viewer=actor,
            refused=refused,
            title=title,
            button=button,
            code=await request.app[SERVICES].second_factor.demanded(actor.user_id),
        )

    return retry


async def _proven(request: web.Request, actor: Actor, form: ProofForm) -> Actor:
    """The actor after the proof that the form holds, if it holds one."""
    if not form.password:
        return actor
    authentication = request.app[SERVICES].authentication
    renewed = await authentication.reauthenticate(actor, form.password, otp=form.otp, cookie=own_cookie(request))
    renew_session(request, renewed)
    return await actor_of(request)


@routes(
    "POST",
    f"{PATH}/factors/start",
    status=303,
    media_type="text/html",
    retry=_proof_again("Switch the second factor on", "Go on"),
    signed_out=signed_out(),
    errors=[*_PROOFS, errors.AlreadyExists],
)
async def start(request: web.Request, actor: Actor, form: ProofForm) -> web.Response:
    """Begin to switch the second factor on; leads to the page with the QR code."""
    await request.app[SERVICES].second_factor.start(await _proven(request, actor, form))
    return see_other(NEW)


async def _new_page(request: web.Request, actor: Actor, refused: Refused | None) -> web.Response:
    enrolment = await request.app[SERVICES].second_factor.pending(actor)
    if enrolment is None:
        return see_other(PATH)
    typed = enrolment.secret.reveal()
    return page(
        request,
        "factor_new.html",
        status=refused.status if refused else 200,
        headers=refused.headers if refused else None,
        viewer=actor,
        refused=refused,
        secret=" ".join(typed[begin : begin + 4] for begin in range(0, len(typed), 4)),
        uri=enrolment.uri.reveal(),
        qr=enrolment.qr_svg.reveal(),
    )


@routes("GET", NEW, media_type="text/html")
async def new(request: web.Request, actor: Actor) -> web.Response:
    """The new secret as QR code and as text, and the form for its first code; without one, your account."""
    return await _new_page(request, actor, None)


async def _code_again(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:  # noqa: ARG001
    actor = await actor_of(request)
    if isinstance(error, errors.ReauthenticationRequired | errors.SecondFactorUnreadable):
        return await account_page(request, actor, refused=Refused(error), section="factors")
    return await _new_page(request, actor, Refused(error))


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
    codes = await request.app[SERVICES].second_factor.confirm(actor, form.otp)
    return _codes_page(request, actor, codes, on=True)


@routes(
    "POST",
    f"{PATH}/factors/codes",
    media_type="text/html",
    retry=_proof_again("Make new recovery codes", "Make new codes"),
    signed_out=signed_out(),
    errors=[*_PROOFS, errors.NotFound],
)
async def new_codes(request: web.Request, actor: Actor, form: ProofForm) -> web.Response:
    """Replace your recovery codes; the answer shows the new ones, this once."""
    actor = await _proven(request, actor, form)
    return _codes_page(request, actor, await request.app[SERVICES].second_factor.new_recovery_codes(actor), on=False)


@routes(
    "POST",
    f"{PATH}/factors/remove",
    status=303,
    media_type="text/html",
    retry=_proof_again("Switch the second factor off", "Switch it off"),
    signed_out=signed_out(),
    errors=[*_PROOFS, errors.NotFound],
)
async def remove(request: web.Request, actor: Actor, form: ProofForm) -> web.Response:
    """Switch the second factor off."""
    await request.app[SERVICES].second_factor.remove(await _proven(request, actor, form))
    return done("factor_off")


def _codes_page(request: web.Request, actor: Actor, codes: Sequence[SecretText], *, on: bool) -> web.Response:
    shown = [each.reveal() for each in codes]
    return page(request, "recovery_codes.html", viewer=actor, codes=shown, on=on)
