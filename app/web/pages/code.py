"""The second step of signing in: a one-time code, where the account has a second factor.

The password is neither asked for again nor kept in the page: a cookie shows for five minutes that it was right.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from app.domain import errors
from app.domain.errors import AppError
from app.domain.identity import Client
from app.domain.secrets import SecretText
from app.services.authentication import PENDING_SIGN_IN_LASTS
from app.web.inputs import Model
from app.web.options import SERVICES
from app.web.origin import ORIGIN, cookie_of
from app.web.pages.rendering import Refused, own_page, page, see_other
from app.web.routing import Routes
from app.web.sessions import begin_session, session_cookie

routes = Routes("Pages")
PATH = "/login/code"
_LATE = "/login?done=late"


class CodeQuery(Model):
    """The page to open after signing in; ``way`` is `recovery` for the form that is made for a recovery code."""

    next: str = "/"
    way: str = ""


class SignInCodeForm(CodeQuery):
    """A one-time code or a recovery code: either form takes both."""

    otp: str = ""


def ask_for_code(request: web.Request, pending: SecretText, next_page: str) -> web.Response:
    """Lead to the page, with the cookie that shows that the password was right."""
    origin = request.app[ORIGIN]
    response = see_other(PATH if next_page == "/" else f"{PATH}?next={next_page}")
    response.set_cookie(
        origin.pending_cookie_name,
        pending.reveal(),
        max_age=int(PENDING_SIGN_IN_LASTS.total_seconds()),
        path="/",
        secure=origin.https,
        httponly=True,
        samesite="Lax",  # with Strict it would not come along where Discord has led the browser here
    )
    return response


def _pending(request: web.Request) -> str | None:
    origin = request.app[ORIGIN]
    return cookie_of(request, origin.pending_cookie_name) if origin.cookies_allowed(request) else None


def _forget(request: web.Request, response: web.StreamResponse) -> None:
    origin = request.app[ORIGIN]
    response.del_cookie(origin.pending_cookie_name, path="/", secure=origin.https, httponly=True, samesite="Lax")


async def _again(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:
    if isinstance(error, errors.InvalidToken):
        response = see_other(_LATE)
        _forget(request, response)
        return response
    refused = Refused(error)
    return page(
        request,
        "code.html",
        refused=refused,
        next=own_page(fields.get("next", "/")),
        recovery=fields.get("way") == "recovery",
    )


@routes("GET", PATH, media_type="text/html")
async def code_form(request: web.Request, query: CodeQuery) -> web.Response:
    """The form for the code; without a right password before, it leads to the sign-in form."""
    if _pending(request) is None:
        return see_other("/login")
    return page(request, "code.html", refused=None, next=own_page(query.next), recovery=query.way == "recovery")


@routes(
    "POST",
    PATH,
    status=303,
    media_type="text/html",
    retry=_again,
    errors=[
        errors.InvalidCredentials,
        errors.OtpRequired,
        errors.SecondFactorUnreadable,
        errors.TooManyAttempts,
    ],
)
async def code(request: web.Request, client: Client, form: SignInCodeForm) -> web.Response:
    """Sign in by the code, after the password."""
    request.app[ORIGIN].check_connection(request)
    session = await request.app[SERVICES].authentication.finish_browser(
        _pending(request), form.otp, client, former_cookie=session_cookie(request)
    )
    response = see_other(own_page(form.next))
    _forget(request, response)
    begin_session(request, response, session)
    return response
