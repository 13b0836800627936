"""The page on which one confirms that it is oneself, where a form demands it."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from app.domain import errors
from app.domain.errors import AppError
from app.domain.identity import Actor
from app.web.inputs import Model
from app.web.options import SERVICES
from app.web.pages.account.page import PATH, signed_out
from app.web.pages.drafts import CONFIRM
from app.web.pages.rendering import Refused, own_page, page, see_other
from app.web.passkeys import answer_in, passkeys_elsewhere, relying_party
from app.web.routing import Routes
from app.web.sessions import actor_of, own_cookie, renew_session

routes = Routes("Pages")

_WRONG = (errors.InvalidCredentials, errors.OtpRequired, errors.TooManyAttempts, errors.Overloaded)


class ConfirmQuery(Model):
    """The page that asked for the proof, to which this one leads back."""

    next: str = PATH


class ConfirmForm(Model):
    """The password, and a one-time code where the account has a second factor."""

    password: str
    otp: str = ""
    next: str = PATH


class ConfirmPasskeyForm(Model):
    """The answer of the browser as JSON."""

    credential: str
    next: str = PATH


async def _page(request: web.Request, actor: Actor, back: str, refused: Refused | None = None) -> web.Response:
    services = request.app[SERVICES]
    return page(
        request,
        "account_confirm.html",
        viewer=actor,
        next=own_page(back),
        refused=refused,
        has_password=await services.passwords.has_password(actor),
        has_factor=(await services.second_factor.status(actor)).since is not None,
        by_discord=actor.discord_id is not None,
        has_passkey=bool((await services.passkeys.page(actor, limit=1)).items),
        passkeys_elsewhere=passkeys_elsewhere(request),
    )


async def _again(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:
    return await _page(request, await actor_of(request), fields.get("next", PATH), Refused(error))


def _back(next_page: str) -> web.Response:
    return see_other(f"{own_page(next_page)}?done=confirmed")


@routes("GET", CONFIRM, media_type="text/html")
async def confirm_form(request: web.Request, actor: Actor, query: ConfirmQuery) -> web.Response:
    """Asks who is at the keyboard."""
    return await _page(request, actor, query.next)


@routes(
    "POST",
    CONFIRM,
    status=303,
    media_type="text/html",
    retry=_again,
    signed_out=signed_out(),
    errors=_WRONG,
)
async def confirm(request: web.Request, actor: Actor, form: ConfirmForm) -> web.Response:
    """Prove your password, and your second factor if you have one: it counts for ten minutes."""
    services = request.app[SERVICES]
    renewed = await services.authentication.reauthenticate(
        actor, form.password, otp=form.otp or None, cookie=own_cookie(request)
    )
    renew_session(request, renewed)
    return _back(form.next)


@routes(
    "POST",
    f"{CONFIRM}/passkey",
    status=303,
    media_type="text/html",
    retry=_again,
    signed_out=signed_out(),
    errors=[*_WRONG, errors.NotConfigured],
)
async def confirm_by_passkey(request: web.Request, actor: Actor, form: ConfirmPasskeyForm) -> web.Response:
    """Prove with a passkey that it is you."""
    renewed = await request.app[SERVICES].passkeys.reauthenticate(
        actor, answer_in(form.credential), relying_party(request), cookie=own_cookie(request)
    )
    renew_session(request, renewed)
    return _back(form.next)
