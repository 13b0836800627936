"""The second factor of one's own account."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from app.domain import errors
from app.domain.identity import Actor
from app.services.authentication import Enrolment, FactorStatus, NewRecoveryCodes
from app.web.inputs import Model
from app.web.limits import Token
from app.web.options import SERVICES
from app.web.routing import Routes, json_response
from app.web.sessions import keep_session, own_cookie

routes = Routes("Second factor")

OTP: Final = "A one-time code or a recovery code, where the account has a second factor; blanks and dashes are ignored"


class FirstCode(Model):
    """A code of the new secret."""

    otp: Token = Field(description="The six digits that the authenticator app shows")


class Factors(TypedDict):
    """The second factor of an account; `since` is when it was switched on.

    `readable` is false where its secret cannot be read any more, so that only recovery codes work.
    """

    totp: bool
    since: datetime | None
    readable: bool
    recovery_codes_left: int


class TotpSecret(TypedDict):
    """A new secret for an authenticator app: to be typed (base 32), opened as an address, or scanned as an image."""

    secret: str
    uri: str
    qr_svg: str


class RecoveryCodes(TypedDict):
    """Recovery codes, each for one use, shown this once."""

    recovery_codes: list[str]


def _as_factors(status: FactorStatus) -> Factors:
    return {
        "totp": status.since is not None,
        "since": status.since,
        "readable": status.readable,
        "recovery_codes_left": status.recovery_codes_left,
    }


def _as_new_secret(enrolment: Enrolment) -> TotpSecret:
    return {
        "secret": enrolment.secret.reveal(),
        "uri": enrolment.uri.reveal(),
        "qr_svg": enrolment.qr_svg.reveal(),
    }


def _codes(request: web.Request, made: NewRecoveryCodes) -> web.Response:
    shown: RecoveryCodes = {"recovery_codes": [each.reveal() for each in made.codes]}
    response = json_response(200, shown)
    keep_session(request, response, made.kept)
    return response


@routes("GET", "/api/v1/auth/factors", schema=Factors)
async def factors(request: web.Request, actor: Actor) -> web.Response:
    """Your second factor."""
    return json_response(200, _as_factors(await request.app[SERVICES].second_factor.status(actor)))


@routes(
    "POST",
    "/api/v1/auth/totp",
    schema=TotpSecret,
    errors=[errors.ReauthenticationRequired, errors.Forbidden, errors.AlreadyExists],
)
async def start(request: web.Request, actor: Actor) -> web.Response:
    """Begin to switch on one-time codes.

    The secret counts once a code of it was confirmed, within ten minutes. Another one that waits is replaced; one that
    counts is not: switch it off first.
    """
    return json_response(200, _as_new_secret(await request.app[SERVICES].second_factor.start(actor)))


@routes(
    "POST",
    "/api/v1/auth/totp/confirm",
    schema=RecoveryCodes,
    errors=[
        errors.InvalidCredentials,
        errors.ReauthenticationRequired,
        errors.Forbidden,
        errors.NotFound,
        errors.SecondFactorUnreadable,
        errors.TooManyAttempts,
    ],
)
async def confirm(request: web.Request, actor: Actor, body: FirstCode) -> web.Response:
    """Switch one-time codes on by a code of the new secret.

    Every other session of your account ends, and a browser's session cookie is renewed. Keep the recovery codes: each
    signs you in once without the app.
    """
    return _codes(
        request, await request.app[SERVICES].second_factor.confirm(actor, body.otp, cookie=own_cookie(request))
    )


@routes(
    "POST",
    "/api/v1/auth/totp/recovery-codes",
    schema=RecoveryCodes,
    errors=[errors.ReauthenticationRequired, errors.Forbidden, errors.NotFound],
)
async def new_recovery_codes(request: web.Request, actor: Actor) -> web.Response:
    """Replace your recovery codes.

    All former ones stop working. Every other session of your account ends, and a browser's session cookie is renewed.
    """
    return _codes(
        request, await request.app[SERVICES].second_factor.new_recovery_codes(actor, cookie=own_cookie(request))
    )


@routes(
    "DELETE",
    "/api/v1/auth/totp",
    status=204,
    errors=[errors.ReauthenticationRequired, errors.Forbidden, errors.NotFound],
)
async def remove(request: web.Request, actor: Actor) -> web.Response:
    """Switch one-time codes off.

    The recovery codes go with them. Every other session of your account ends, and a browser's session cookie is
    renewed.
    """
    kept = await request.app[SERVICES].second_factor.remove(actor, cookie=own_cookie(request))
    response = json_response(204)
    keep_session(request, response, kept)
    return response
