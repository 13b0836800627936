"""The first owner, signing in and out, and sessions."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Literal

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from app.domain import errors
from app.domain.identity import Actor, Client, Session, User
from app.services.authentication import TokenPair
from app.services.credentials import UNSET
from app.services.paging import Page
from app.web.api.factors import OTP
from app.web.inputs import ID, Model, PageQuery
from app.web.limits import NewPassword, NewUsername, Password, Token, Username
from app.web.options import SERVICES
from app.web.routing import ANY_SCOPE, Routes, json_response
from app.web.sessions import keep_session, own_cookie, remember_device, renew_session, session_cookie

routes = Routes("Signing in")


class Setup(Model):
    """The account of the first owner."""

    setup_token: Token = Field(description="Printed on the server's standard error at every start until it is used")
    username: NewUsername = Field(description="2 to 64 characters without spaces, ':', '/' and '@'")
    password: NewPassword = Field(description="12 to 256 characters, not easy to guess")


class Claim(Model):
    """The first password of an account, or after a reset another one."""

    token: Token = Field(description="The token of a claim or reset link, which is the part behind its `#`")
    username: Username | None = Field(
        default=None, description="The name that you choose, by an invitation; else the account's, if it is given"
    )
    password: NewPassword = Field(description="12 to 256 characters, not easy to guess")


class Login(Model):
    """Name and password."""

    username: Username
    password: Password
    otp: Token | None = Field(default=None, description=OTP)


class RefreshToken(Model):
    """The refresh token of a sign-in."""

    refresh_token: Token


class Proof(Model):
    """The password once more."""

    password: Password
    otp: Token | None = Field(default=None, description=OTP)


class PasswordChange(Model):
    """The present password and the new one."""

    password: Password | None = Field(
        default=None, description="The present one; left out where the account has none yet"
    )
    new_password: NewPassword = Field(description="12 to 256 characters, not easy to guess")


class PreferencesChange(Model):
    """A member that is left out stays as it is."""

    language: str | None = Field(default=None, description="`en` or `de`; null for that of the browser")
    time_zone: str | None = Field(
        default=None, description="A name such as `Europe/Berlin`; null for that of the browser"
    )


class Tokens(TypedDict):
    """An access token for `Authorization: Bearer`, its life in seconds, and the refresh token."""

    access_token: str
    refresh_token: str
    token_type: Literal["Bearer"]
    expires_in: int


class Account(TypedDict):
    """A user."""

    id: str
    username: str
    role: str
    discord_id: str | None


class Me(Account):
    """The signed-in user. `authenticated_at` is when a password was last proven in this session.

    `scopes` are those of the API token that stands for the user, null in a session. `language` and `time_zone` are
    those of their pages, null where the browser decides.
    """

    session_id: str | None
    scopes: list[str] | None
    authenticated_at: datetime | None
    language: str | None
    time_zone: str | None


class SignIn(TypedDict):
    """A session; `current` marks the one of this request."""

    id: str
    device: str | None
    address: str | None
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    current: bool


class SignIns(TypedDict):
    """Sessions, newest first."""

    items: list[SignIn]
    next_cursor: str | None


def as_tokens(pair: TokenPair) -> Tokens:
    """The tokens of a sign-in, in the form of the contract."""
    return {
        "access_token": pair.access_token.reveal(),
        "refresh_token": pair.refresh_token.reveal(),
        "token_type": "Bearer",
        "expires_in": pair.expires_in,
    }


def _as_account(user: User) -> Account:
    return {"id": user.id, "username": user.username, "role": user.role.value, "discord_id": user.discord_id}


def _as_me(actor: Actor) -> Me:
    return {
        "id": actor.user_id,
        "username": actor.username,
        "role": actor.role.value,
        "discord_id": actor.discord_id,
        "session_id": actor.session_id,
        "authenticated_at": actor.authenticated_at,
        "scopes": None if actor.scopes is None else sorted(actor.scopes),
        "language": actor.preferences.language,
        "time_zone": actor.preferences.time_zone,
    }


def _as_sign_ins(sessions: Page[Session], actor: Actor) -> SignIns:
    return {
        "items": [
            {
                "id": each.id,
                "device": each.device,
                "address": each.address,
                "created_at": each.created_at,
                "last_seen_at": each.last_seen_at,
                "expires_at": each.expires_at,
                "current": each.id == actor.session_id,
            }
            for each in sessions.items
        ],
        "next_cursor": sessions.next_cursor,
    }


@routes("POST", "/api/v1/setup", status=201, schema=Account, errors=[errors.SetupClosed, errors.InvalidToken])
async def setup(request: web.Request, client: Client, body: Setup) -> web.Response:
    """Create the first owner, once.

    The setup token is printed on the server's standard error at every start, and stops working once an owner
    exists.
    """
    user = await request.app[SERVICES].identity.setup(body.setup_token, body.username, body.password, client)
    return json_response(201, _as_account(user))


@routes(
    "POST",
    "/api/v1/auth/claim",
    status=201,
    schema=Account,
    errors=[errors.InvalidToken, errors.AlreadyExists, errors.TooManyAttempts, errors.Overloaded],
)
async def claim(request: web.Request, client: Client, body: Claim) -> web.Response:
    """Choose the password of an account by its one-time link.

    A claim link gives the account its first password, a reset link another one: then every session of it ends. Tokens
    that are unknown, used or expired get the same answer; wrong ones are limited per network.
    """
    user = await request.app[SERVICES].claims.claim(body.token, body.password, client, username=body.username)
    return json_response(201, _as_account(user))


@routes(
    "POST",
    "/api/v1/auth/login",
    schema=Tokens,
    errors=[
        errors.InvalidCredentials,
        errors.OtpRequired,
        errors.SecondFactorUnreadable,
        errors.TooManyAttempts,
        errors.Overloaded,
    ],
)
async def login(request: web.Request, client: Client, body: Login) -> web.Response:
    """Sign in.

    Unknown names, wrong passwords and disabled accounts get the same answer. Wrong passwords are limited, per account
    and network. Where the account has a second factor, a right password alone is answered with `otp_required`, and a
    wrong code as a wrong password is. A session whose cookie is sent along ends. A client that keeps cookies gets one
    by which its next sign-in is distinguished from those of strangers.
    """
    pair = await request.app[SERVICES].authentication.login(
        body.username, body.password, client, otp=body.otp, former_cookie=session_cookie(request)
    )
    response = json_response(200, as_tokens(pair))
    remember_device(request, response, pair.device_claim)
    return response


@routes("POST", "/api/v1/auth/refresh", schema=Tokens, errors=[errors.InvalidToken])
async def refresh(request: web.Request, client: Client, body: RefreshToken) -> web.Response:
    """Trade a refresh token for a new pair.

    Each is good for one use; using one a second time ends the session.
    """
    pair = await request.app[SERVICES].authentication.refresh(body.refresh_token, client)
    return json_response(200, as_tokens(pair))


@routes("POST", "/api/v1/auth/logout", status=204)
async def logout(request: web.Request, client: Client, body: RefreshToken) -> web.Response:
    """Sign out: end the session of a refresh token.

    An unknown token gets the same answer.
    """
    await request.app[SERVICES].authentication.logout(body.refresh_token, client)
    return json_response(204)


@routes("GET", "/api/v1/auth/me", schema=Me, scope=ANY_SCOPE)
async def me(request: web.Request, actor: Actor) -> web.Response:  # noqa: ARG001 - every handler gets the request
    """Your account and session."""
    return json_response(200, _as_me(actor))


@routes("PATCH", "/api/v1/auth/me", schema=Me)
async def change_preferences(request: web.Request, actor: Actor, body: PreferencesChange) -> web.Response:
    """Choose the language of your pages and the time zone of their times; null leaves it to the browser."""
    preferences = await request.app[SERVICES].preferences.change(
        actor,
        language=body.language if "language" in body.model_fields_set else UNSET,
        time_zone=body.time_zone if "time_zone" in body.model_fields_set else UNSET,
    )
    return json_response(200, _as_me(replace(actor, preferences=preferences)))


@routes(
    "POST",
    "/api/v1/auth/reauthenticate",
    status=204,
    errors=[
        errors.InvalidCredentials,
        errors.OtpRequired,
        errors.SecondFactorUnreadable,
        errors.TooManyAttempts,
        errors.Overloaded,
    ],
)
async def reauthenticate(request: web.Request, actor: Actor, body: Proof) -> web.Response:
    """Prove your password, and your second factor if you have one, again.

    For ten minutes from then on this session may reveal secrets. A browser's session cookie is renewed.
    """
    renewed = await request.app[SERVICES].authentication.reauthenticate(
        actor, body.password, otp=body.otp, cookie=own_cookie(request)
    )
    renew_session(request, renewed)
    return json_response(204)


@routes(
    "POST",
    "/api/v1/auth/password",
    status=204,
    errors=[
        errors.InvalidCredentials,
        errors.ReauthenticationRequired,
        errors.TooManyAttempts,
        errors.PasswordChanged,
        errors.Overloaded,
    ],
)
async def change_password(request: web.Request, actor: Actor, body: PasswordChange) -> web.Response:
    """Change your password; all your other sessions end.

    The present password is judged within the limits on guessing. This session and its access token go on working, and
    a browser's session cookie is renewed. An account without a password gets its first one, if you signed in within
    the last ten minutes. Of simultaneous changes one succeeds.
    """
    kept = await request.app[SERVICES].passwords.change(
        actor, body.password, body.new_password, cookie=own_cookie(request)
    )
    response = json_response(204)
    keep_session(request, response, kept)
    return response


@routes("GET", "/api/v1/auth/sessions", schema=SignIns)
async def sessions(request: web.Request, actor: Actor, query: PageQuery) -> web.Response:
    """Where you are signed in."""
    page = await request.app[SERVICES].authentication.sessions(actor, after=query.cursor, limit=query.limit)
    return json_response(200, _as_sign_ins(page, actor))


@routes("DELETE", f"/api/v1/auth/sessions/{{session_id:{ID}}}", status=204, errors=[errors.NotFound])
async def revoke_session(request: web.Request, actor: Actor, session_id: str) -> web.Response:
    """End one of your sessions, with every token of it."""
    await request.app[SERVICES].authentication.revoke_session(actor, session_id)
    return json_response(204)


@routes("DELETE", "/api/v1/auth/sessions", status=204)
async def end_other_sessions(request: web.Request, actor: Actor) -> web.Response:
    """End all your sessions but this one, with all their tokens.

    A browser's session cookie is renewed.
    """
    kept = await request.app[SERVICES].passwords.end_other_sessions(actor, cookie=own_cookie(request))
    response = json_response(204)
    keep_session(request, response, kept)
    return response
