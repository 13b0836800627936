"""A person's own data: the export, and the erasure of the account."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from app.domain import errors
from app.domain.identity import Actor
from app.web.headers import EXPORT_HEADERS
from app.web.inputs import Model
from app.web.limits import Password, Token
from app.web.options import SERVICES
from app.web.routing import Routes, json_response
from app.web.sessions import end_session

routes = Routes("Privacy")


class ErasureProof(Model):
    """The proof that it is the account's owner who asks for its erasure."""

    password: Password | None = Field(
        default=None, description="The password of the account; without one a fresh sign-in has to do"
    )
    otp: Token | None = Field(default=None, description="A one-time code, where the account has a second factor")


class Export(TypedDict):
    """Everything that is stored about the person. Rows have the columns of their tables, without hashes and secrets."""

    format: int
    install_id: str
    exported_at: datetime
    account: dict[str, Any]
    sessions: list[dict[str, Any]]
    links: list[dict[str, Any]]
    factors: list[dict[str, Any]]
    passkeys: list[dict[str, Any]]
    tokens: list[dict[str, Any]]
    requests: list[dict[str, Any]]
    jobs: list[dict[str, Any]]
    usage: list[dict[str, Any]]
    credentials: list[dict[str, Any]]
    audit: list[dict[str, Any]]
    complete: bool


@routes(
    "GET",
    "/api/v1/privacy/export",
    schema=Export,
    headers={"Content-Disposition": "The name of a file"},
    errors=[errors.ReauthenticationRequired, errors.Overloaded],
)
async def export(request: web.Request, actor: Actor) -> web.Response:
    """Everything that is stored about you.

    Secrets are masked. Needs a password proven within ten minutes. Of the audit trail the latest 10,000 rows by you and
    as many about you; `complete` says whether that is all.
    """
    return json_response(200, await request.app[SERVICES].personal_data.of_oneself(actor), EXPORT_HEADERS)


@routes(
    "POST",
    "/api/v1/privacy/erase",
    status=204,
    errors=[
        errors.InvalidCredentials,
        errors.OtpRequired,
        errors.ReauthenticationRequired,
        errors.LastOwner,
        errors.TooManyAttempts,
        errors.Overloaded,
    ],
)
async def erase(request: web.Request, actor: Actor, body: ErasureProof) -> web.Response:
    """Erase your account and everything that is stored about you, for good.

    Your credentials, also those that you share with servers, are deleted with their versions. The audit trail names you
    by a random id from then on.
    """
    await request.app[SERVICES].erasure.of_oneself(actor, body.password, otp=body.otp)
    response = json_response(204)
    end_session(request, response)
    return response
