"""The first owner, signing in and out, and sessions."""

from __future__ import annotations

from aiohttp import web
from pydantic import Field

from app.domain import errors
from app.domain.identity import Actor, Client
from app.web.api import schemas
from app.web.options import SERVICES
from app.web.routing import ID, Model, PageQuery, Routes, answer

routes = Routes("Signing in")


class Setup(Model):
    """The claim of the first owner."""

    setup_token: str = Field(description="Printed on the server's standard error at every start until it is used")
    username: str = Field(description="2 to 64 characters without spaces, ':', '/' and '@'")
    password: str = Field(description="12 to 256 characters, none of the common ones")


class Login(Model):
    """Name and password."""

    username: str
    password: str
    otp: str | None = Field(default=None, description="A one-time code, where the account has a second factor")


class RefreshToken(Model):
    """What a sign-in gave."""

    refresh_token: str


class Proof(Model):
    """The password once more."""

    password: str
    otp: str | None = Field(default=None, description="A one-time code, where the account has a second factor")


@routes("POST", "/api/v1/setup", status=201, shape=schemas.Account, errors=[errors.SetupClosed, errors.InvalidToken])
async def setup(request: web.Request, client: Client, body: Setup) -> web.Response:
    """Create the first owner, once.

    The setup token is printed on the server's standard error at every start, and is dead as soon as it was used.
    """
    user = await request.app[SERVICES].identity.setup(body.setup_token, body.username, body.password, client)
    return answer(201, schemas.account(user))


@routes(
    "POST",
    "/api/v1/auth/login",
    shape=schemas.Tokens,
    errors=[errors.InvalidCredentials, errors.OtpRequired, errors.TooManyAttempts, errors.Overloaded],
)
async def login(request: web.Request, client: Client, body: Login) -> web.Response:
    """Sign in.

    Unknown names, wrong passwords and disabled accounts get the same answer. Failed attempts are limited per account
    and per address.
    """
    pair = await request.app[SERVICES].authentication.login(body.username, body.password, client)
    return answer(200, schemas.tokens(pair))


@routes("POST", "/api/v1/auth/refresh", shape=schemas.Tokens, errors=[errors.InvalidToken])
async def refresh(request: web.Request, client: Client, body: RefreshToken) -> web.Response:
    """Trade a refresh token for a new pair.

    Each is good for one use; using one a second time ends the session.
    """
    pair = await request.app[SERVICES].authentication.refresh(body.refresh_token, client)
    return answer(200, schemas.tokens(pair))


@routes("POST", "/api/v1/auth/logout", status=204)
async def logout(request: web.Request, client: Client, body: RefreshToken) -> web.Response:
    """Sign out: end the session of a refresh token.

    A token that is not known is answered alike.
    """
    await request.app[SERVICES].authentication.logout(body.refresh_token, client)
    return answer(204)


@routes("GET", "/api/v1/auth/me", shape=schemas.Me)
async def me(request: web.Request, actor: Actor) -> web.Response:  # noqa: ARG001 - every handler gets the request
    """Who you are."""
    return answer(200, schemas.me(actor))


@routes(
    "POST",
    "/api/v1/auth/reauthenticate",
    status=204,
    errors=[errors.InvalidCredentials, errors.OtpRequired, errors.TooManyAttempts, errors.Overloaded],
)
async def reauthenticate(request: web.Request, actor: Actor, body: Proof) -> web.Response:
    """Prove your password again.

    For ten minutes from then on this session may reveal secrets.
    """
    await request.app[SERVICES].authentication.reauthenticate(actor, body.password)
    return answer(204)


@routes("GET", "/api/v1/auth/sessions", shape=schemas.SignIns)
async def sessions(request: web.Request, actor: Actor, query: PageQuery) -> web.Response:
    """Where you are signed in."""
    page = await request.app[SERVICES].authentication.sessions(actor, after=query.cursor, limit=query.limit)
    return answer(200, schemas.sign_ins(page, actor))


@routes("DELETE", f"/api/v1/auth/sessions/{{session_id:{ID}}}", status=204, errors=[errors.NotFound])
async def revoke_session(request: web.Request, actor: Actor, session_id: str) -> web.Response:
    """End one of your sessions, with every token of it."""
    await request.app[SERVICES].authentication.revoke_session(actor, session_id)
    return answer(204)
