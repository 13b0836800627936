"""The first owner, signing in and signing out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from app.domain import errors
from app.domain.errors import AppError
from app.domain.identity import Actor, Client
from app.localisation import mark
from app.web.inputs import Model, NoFields
from app.web.options import SERVICES
from app.web.origin import ORIGIN
from app.web.pages.code import ask_for_code
from app.web.pages.drafts import forget_draft
from app.web.pages.rendering import Refused, own_page, page, see_other
from app.web.passkeys import passkeys_elsewhere
from app.web.routing import Routes
from app.web.sessions import begin_session, end_session, session_cookie

routes = Routes("Pages")

_NEWS: Final = {
    "owner": mark("There is an owner already. If it is you, sign in with the name and password that you chose."),
    "claimed": mark("The password is set. Sign in with the one that you chose."),
    "out": mark("You are signed out."),
    "erased": mark("Your account and everything that was stored about you is erased."),
    "late": mark("The code was not entered within five minutes. Sign in again."),
    "ended": mark(
        "Your session had ended, so nothing was changed. Sign in to go on; a secret has to be entered again."
    ),
}


class SetupForm(Model):
    """The account of the first owner."""

    setup_token: str
    username: str
    password: str


class ClaimForm(Model):
    """The token of a claim link, and the first password of its account."""

    token: str
    username: str = ""
    password: str


class LoginForm(Model):
    """Name and password, and the page to go back to; a code too, where a program fills in the form at once."""

    username: str
    password: str
    otp: str = ""
    next: str = "/"


class LoginQuery(Model):
    """The page to open after signing in, and the action that led here."""

    next: str = "/"
    done: str = ""


async def _setup_again(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:
    if isinstance(error, errors.SetupClosed):  # also where the account was made, and its first session failed
        return see_other("/login?done=owner")
    refused = Refused(error)
    return page(
        request,
        "setup.html",
        refused=refused,
        username=fields.get("username", ""),
        # A refused password is typed again, without looking the token up again; a wrong token is of no use.
        setup_token="" if isinstance(error, errors.InvalidToken) else fields.get("setup_token", ""),
        usable=request.app[ORIGIN].cookies_allowed(request),
        bot=await request.app[SERVICES].bot_state.shown(),
    )


@routes("GET", "/setup", media_type="text/html")
async def setup_form(request: web.Request) -> web.Response:
    """The form that creates the first owner."""
    if await request.app[SERVICES].identity.owner_ever_existed():
        return see_other("/login")
    bot = await request.app[SERVICES].bot_state.shown()
    usable = request.app[ORIGIN].cookies_allowed(request)
    return page(request, "setup.html", refused=None, username="", setup_token="", usable=usable, bot=bot)


@routes("POST", "/setup", status=303, media_type="text/html", retry=_setup_again, errors=[errors.SetupClosed])
async def setup(request: web.Request, client: Client, form: SetupForm) -> web.Response:
    """Create the first owner, and sign them in."""
    request.app[ORIGIN].check_connection(request)
    session = await request.app[SERVICES].first_owner.set_up(form.setup_token, form.username, form.password, client)
    response = see_other("/")
    begin_session(request, response, session)
    return response


async def _claim_again(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:
    refused = Refused(error)
    return page(
        request,
        "claim.html",
        refused=refused,
        username=fields.get("username", ""),
        # A token that is refused is of no use; with any other mistake it is good for the next try.
        token="" if isinstance(error, errors.InvalidToken) else fields.get("token", ""),
    )


@routes("GET", "/claim", media_type="text/html")
async def claim_form(request: web.Request) -> web.Response:
    """The form by which somebody claims an account; the token of the link is behind its `#`, which browsers keep."""
    return page(request, "claim.html", refused=None, username="", token="")


@routes(
    "POST",
    "/claim",
    status=303,
    media_type="text/html",
    retry=_claim_again,
    errors=[errors.InvalidToken, errors.AlreadyExists, errors.TooManyAttempts, errors.Overloaded],
)
async def claim(request: web.Request, client: Client, form: ClaimForm) -> web.Response:
    """Claim an account by its one-time link."""
    await request.app[SERVICES].claims.claim(form.token, form.password, client, username=form.username or None)
    return see_other("/login?done=claimed")


async def login_again(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:
    """The sign-in form again, with the refusal; the page that asks for the code, where only that is missing."""
    if isinstance(error, errors.OtpRequired) and error.pending is not None:
        return ask_for_code(request, error.pending, own_page(fields.get("next", "/")))
    refused = Refused(error)
    return page(
        request,
        "login.html",
        refused=refused,
        username=fields.get("username", ""),
        next=own_page(fields.get("next", "/")),
        news=None,
        usable=request.app[ORIGIN].cookies_allowed(request),
        passkeys=passkeys_elsewhere(request) is None,
    )


@routes("GET", "/login", media_type="text/html")
async def login_form(request: web.Request, query: LoginQuery) -> web.Response:
    """The form to sign in."""
    if not await request.app[SERVICES].identity.owner_ever_existed():
        return see_other("/setup")
    return page(
        request,
        "login.html",
        refused=None,
        username="",
        next=own_page(query.next),
        news=_NEWS.get(query.done),
        usable=request.app[ORIGIN].cookies_allowed(request),
        passkeys=passkeys_elsewhere(request) is None,
    )


@routes(
    "POST",
    "/login",
    status=303,
    media_type="text/html",
    retry=login_again,
    errors=[errors.InvalidCredentials, errors.OtpRequired, errors.TooManyAttempts, errors.Overloaded],
)
async def login(request: web.Request, client: Client, form: LoginForm) -> web.Response:
    """Sign in; every sign-in is a new session, and ends the one that the browser had.

    Where the account has a second factor, it leads to the page that asks for the code.
    """
    request.app[ORIGIN].check_connection(request)
    session = await request.app[SERVICES].authentication.login_browser(
        form.username, form.password, client, otp=form.otp, former_cookie=session_cookie(request)
    )
    response = see_other(own_page(form.next))
    begin_session(request, response, session)
    return response


@routes("POST", "/logout", status=303, media_type="text/html")
async def logout(request: web.Request, actor: Actor, form: NoFields) -> web.Response:  # noqa: ARG001 - reads the token
    """Sign out."""
    await request.app[SERVICES].authentication.end_session(actor)
    response = see_other("/login?done=out")
    end_session(request, response)
    forget_draft(request, response)
    return response
