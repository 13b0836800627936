"""API tokens: made, listed and revoked by their owner, in person."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NotRequired

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from app.domain import errors
from app.domain.api_tokens import ApiToken
from app.domain.identity import Actor
from app.domain.scopes import MOST_SCOPES
from app.web.inputs import ID, Model, PageQuery, Time
from app.web.limits import GuildId, ScopeName, TokenName
from app.web.options import SERVICES
from app.web.routing import Routes, json_response

routes = Routes("API tokens")

_ALL = "/api/v1/auth/tokens"


class NewToken(Model):
    """A token that is to be made."""

    name: TokenName = Field(description="In your words: where it will be used")
    scopes: list[ScopeName] = Field(
        min_length=1,
        max_length=MOST_SCOPES,
        description="Its rights; `credentials:use:<credential id>` is the use of that credential alone",
    )
    expires_at: Time | None = Field(default=None, description="Without it, the token lasts until it is revoked")
    guild_id: GuildId | None = Field(
        default=None, description="A Discord server: the token reaches credentials of that server and no others"
    )


class Token(TypedDict):
    """An API token, without the token itself. `prefix` is how it begins.

    `status` is `expired` once `expires_at` has passed, and `ended` where the version of API_SECRET_KEY that it was made
    with was revoked.
    """

    id: str
    name: str
    prefix: str
    scopes: list[str]
    guild_id: str | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    status: Literal["active", "expired", "ended"]


class CreatedToken(Token):
    """A new token. `token` is shown this once, and not where an earlier delivery of the request made it."""

    token: NotRequired[str]


class TokenPage(TypedDict):
    """A page of tokens, newest first."""

    items: list[Token]
    next_cursor: str | None


def _as_token(request: web.Request, token: ApiToken) -> Token:
    return {
        "id": token.id,
        "name": token.name,
        "prefix": token.prefix,
        "scopes": list(token.scopes),
        "guild_id": token.guild_id,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "last_used_at": token.last_used_at,
        "status": request.app[SERVICES].api_tokens.status(token).value,
    }


@routes(
    "POST",
    _ALL,
    status=201,
    schema=CreatedToken,
    headers={"Idempotent-Replayed": "`true` if an earlier delivery of this request made it"},
    errors=[errors.ReauthenticationRequired, errors.Forbidden, errors.NotFound, errors.QuotaExceeded],
)
async def create(request: web.Request, actor: Actor, body: NewToken, idempotency_key: str | None) -> web.Response:
    """Make an API token.

    Allowed within ten minutes of proving the password, in a session. The token is in this answer and never again.
    """
    created = await request.app[SERVICES].api_tokens.create(
        actor,
        name=body.name,
        scopes=body.scopes,
        expires_at=body.expires_at,
        guild_id=body.guild_id,
        idempotency_key=idempotency_key,
    )
    shown = _as_token(request, created.token)
    if created.secret is None:
        return json_response(201, shown, {"Idempotent-Replayed": "true"})
    content: CreatedToken = {**shown, "token": created.secret.reveal()}
    return json_response(201, content)


@routes("GET", _ALL, schema=TokenPage, errors=[errors.Forbidden])
async def listing(request: web.Request, actor: Actor, query: PageQuery) -> web.Response:
    """Your API tokens, newest first, without the tokens themselves."""
    page = await request.app[SERVICES].api_tokens.page(actor, after=query.cursor, limit=query.limit)
    content: TokenPage = {
        "items": [_as_token(request, each) for each in page.items],
        "next_cursor": page.next_cursor,
    }
    return json_response(200, content)


@routes("DELETE", f"{_ALL}/{{token_id:{ID}}}", status=204, errors=[errors.Forbidden, errors.NotFound])
async def revoke(request: web.Request, actor: Actor, token_id: str) -> web.Response:
    """Revoke one of your API tokens, at once and everywhere."""
    await request.app[SERVICES].api_tokens.revoke(actor, token_id)
    return json_response(204)
