"""Your data: the export as a file, and the erasure of the account."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from app.domain import errors
from app.domain.errors import AppError
from app.domain.identity import Actor
from app.web.headers import EXPORT_HEADERS
from app.web.inputs import Model
from app.web.options import SERVICES
from app.web.pages.drafts import CONFIRM, CONFIRMED, forget_draft, sign_in_first
from app.web.pages.rendering import Refused, page, see_other
from app.web.problems import headers_of, status_of
from app.web.routing import Retry, Routes, json_response
from app.web.sessions import ACCOUNT, actor_of, end_session, own_cookie, renew_session

routes = Routes("Pages")
_PATH: Final = "/privacy"


class DoneQuery(Model):
    """The act that led to the page."""

    done: str = ""


class ExportForm(Model):
    """A button; with the password if its last proof is too old, and a code where there is a second factor."""

    password: str = ""
    otp: str = ""


class EraseForm(Model):
    """The password, where the account has one, and a code where it has a second factor."""

    password: str = ""
    otp: str = ""


async def _page(
    request: web.Request,
    actor: Actor,
    *,
    news: str | None = None,
    error: AppError | None = None,
    section: str = "",
    confirm: bool = False,
) -> web.Response:
    # The first time it is a question, not a failure.
    asked = isinstance(error, errors.ReauthenticationRequired)
    return page(
        request,
        "privacy.html",
        status=200 if error is None else status_of(type(error)),
        headers=None if error is None else headers_of(error),
        viewer=actor,
        news=news,
        will_go=await request.app[SERVICES].erasure.preview(actor),
        refused=None if error is None or (asked and confirm) else Refused(error),
        section=section,
        confirm=confirm,
    )


def _again(section: str) -> Retry:
    """Answers a refused form with the page and the refusal beside the form.

    Who has no password to type there is led to the page that takes a passkey, or leads to Discord, and back.
    """

    async def retry(request: web.Request, error: AppError, _: Mapping[str, str]) -> web.Response:
        actor = await actor_of(request)
        stale = isinstance(error, errors.ReauthenticationRequired)
        if stale and not await request.app[SERVICES].passwords.has_password(actor):
            return see_other(f"{CONFIRM}?next={_PATH}")
        return await _page(request, actor, error=error, section=section, confirm=section == "export")

    return retry


def _signed_out(request: web.Request, fields: Mapping[str, str]) -> web.StreamResponse:
    """Answers a form whose session had ended; its fields are secret, so none is kept."""
    return sign_in_first(request, _PATH, fields.get(ACCOUNT, ""), {})


@routes("GET", _PATH, media_type="text/html")
async def privacy(request: web.Request, actor: Actor, query: DoneQuery) -> web.Response:
    """Your data: the export, and the form that erases the account."""
    return await _page(request, actor, news=CONFIRMED if query.done == "confirmed" else None)


@routes(
    "POST",
    f"{_PATH}/export",
    retry=_again("export"),
    signed_out=_signed_out,
    headers={"Content-Disposition": "The name of a file"},
    errors=[
        errors.ReauthenticationRequired,
        errors.InvalidCredentials,
        errors.OtpRequired,
        errors.TooManyAttempts,
        errors.Overloaded,
    ],
)
async def export(request: web.Request, actor: Actor, form: ExportForm) -> web.Response:
    """Everything that is stored about you, as a file in JSON.

    Asks for the password if it was last proven more than ten minutes ago.
    """
    services = request.app[SERVICES]
    if form.password:
        cookie = own_cookie(request)
        renewed = await services.authentication.reauthenticate(
            actor, form.password, otp=form.otp or None, cookie=cookie
        )
        renew_session(request, renewed)
        actor = await actor_of(request)
    return json_response(200, await services.personal_data.of_oneself(actor), EXPORT_HEADERS)


@routes(
    "POST",
    f"{_PATH}/erase",
    status=303,
    media_type="text/html",
    retry=_again("erase"),
    signed_out=_signed_out,
    errors=[
        errors.ReauthenticationRequired,
        errors.InvalidCredentials,
        errors.OtpRequired,
        errors.LastOwner,
        errors.TooManyAttempts,
        errors.Overloaded,
    ],
)
async def erase(request: web.Request, actor: Actor, form: EraseForm) -> web.Response:
    """Erase your account and everything that is stored about you, for good."""
    await request.app[SERVICES].erasure.of_oneself(actor, form.password or None, otp=form.otp or None)
    response = see_other("/login?done=erased")
    end_session(request, response)
    forget_draft(request, response)
    return response
