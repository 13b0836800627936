"""Credentials over REST. A secret comes in and never goes out, but for an explicit reveal."""

from __future__ import annotations

from datetime import datetime

from aiohttp import web
from pydantic import Field

from app.domain import errors
from app.domain.credentials import CredentialView
from app.domain.identity import Actor
from app.services.credentials import UNSET, Unset
from app.web.api import schemas
from app.web.options import SERVICES
from app.web.routing import ID, Model, PageQuery, Routes, Time, answer

routes = Routes("Credentials")
_ALL = "/api/v1/credentials"
_ONE = f"{_ALL}/{{credential_id:{ID}}}"
_ETAG = {"ETag": "The version, to be sent back as If-Match"}


class NewCredential(Model):
    """What is to be stored."""

    provider: str = Field(description="Such as `openai` or `github`: letters, digits, '.', '_' and '-'")
    label: str = Field(description="1 to 64 characters, shown in clear; one that looks like a secret is refused")
    secret: str = Field(description="At most 64 KiB; white space around it is dropped")
    expires_at: Time | None = None
    guild_id: str | None = Field(default=None, description="The Discord guild that it is for; yours without it")


class Change(Model):
    """What is to be different; what is left out stays."""

    label: str = ""
    expires_at: Time | None = None


class NewSecret(Model):
    """What takes the place of the secret; the former one stays in the history."""

    secret: str
    expires_at: Time | None = Field(default=None, description="Left out: the expiry stays")


class RollbackTo(Model):
    """Which former secret."""

    version: int | None = Field(default=None, description="Left out: the latest of the former ones")


class Listing(PageQuery):
    """Which credentials."""

    guild_id: str | None = Field(default=None, description="A guild's instead of yours")
    removed: bool = Field(default=False, description="The removed ones that can still be restored")


def _one(view: CredentialView, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return answer(status, schemas.credential(view), {"ETag": f'"{view.version}"', **(headers or {})})


@routes("GET", _ALL, shape=schemas.CredentialPage, errors=[errors.Forbidden])
async def listing(request: web.Request, actor: Actor, query: Listing) -> web.Response:
    """Your credentials, or a guild's."""
    page = await request.app[SERVICES].credentials.page(
        actor, after=query.cursor, limit=query.limit, guild_id=query.guild_id, removed=query.removed
    )
    return answer(200, schemas.credential_page(page))


@routes(
    "POST",
    _ALL,
    status=201,
    shape=schemas.Credential,
    headers={"Location": "The new credential", **_ETAG, "Idempotent-Replayed": "`true` when it was stored before"},
    errors=[errors.AlreadyExists, errors.QuotaExceeded, errors.Forbidden],
)
async def add(request: web.Request, actor: Actor, body: NewCredential, idempotency_key: str | None) -> web.Response:
    """Store a credential.

    It is encrypted, bound to its row, and read back before this answers. The secret never comes back.
    """
    added = await request.app[SERVICES].credentials.add(
        actor,
        provider=body.provider,
        label=body.label,
        secret=body.secret,
        expires_at=body.expires_at,
        guild_id=body.guild_id,
        idempotency_key=idempotency_key,
    )
    headers = {"Location": f"{_ALL}/{added.view.id}"}
    if added.replayed:
        headers["Idempotent-Replayed"] = "true"
    return _one(added.view, status=201, headers=headers)


@routes("GET", f"{_ALL}/health", shape=schemas.Health)
async def health(request: web.Request, actor: Actor) -> web.Response:
    """Whether everything stored can be read, by provider.

    For owners, admins and auditors: of everybody; for members: of their own.
    """
    return answer(200, schemas.health(await request.app[SERVICES].credentials.health.report(actor)))


@routes("GET", _ONE, shape=schemas.Credential, headers=_ETAG, errors=[errors.NotFound])
async def get(request: web.Request, actor: Actor, credential_id: str) -> web.Response:
    """One credential."""
    return _one(await request.app[SERVICES].credentials.get(actor, credential_id))


@routes("PATCH", _ONE, shape=schemas.Credential, headers=_ETAG, errors=[errors.NotFound, errors.AlreadyExists])
async def change(
    request: web.Request, actor: Actor, credential_id: str, body: Change, expected_version: int | None
) -> web.Response:
    """Relabel it, or change when it expires."""
    view = await request.app[SERVICES].credentials.change(
        actor,
        credential_id,
        label=body.label if "label" in body.model_fields_set else UNSET,
        expires_at=_expiry(body),
        expected_version=expected_version,
    )
    return _one(view)


def _expiry(body: Change | NewSecret) -> datetime | Unset | None:
    return body.expires_at if "expires_at" in body.model_fields_set else UNSET


@routes("DELETE", _ONE, status=204, errors=[errors.NotFound])
async def remove(request: web.Request, actor: Actor, credential_id: str, expected_version: int | None) -> web.Response:
    """Remove it; it can be restored for seven days."""
    await request.app[SERVICES].credentials.remove(actor, credential_id, expected_version=expected_version)
    return answer(204)


@routes("PUT", f"{_ONE}/secret", shape=schemas.Credential, headers=_ETAG, errors=[errors.NotFound])
async def replace(
    request: web.Request, actor: Actor, credential_id: str, body: NewSecret, expected_version: int | None
) -> web.Response:
    """Replace its secret; the former one stays in the history."""
    view = await request.app[SERVICES].credentials.replace(
        actor, credential_id, body.secret, expected_version=expected_version, expires_at=_expiry(body)
    )
    return _one(view)


@routes(
    "POST",
    f"{_ONE}/reveal",
    shape=schemas.Revealed,
    errors=[errors.NotFound, errors.ReauthenticationRequired, errors.Forbidden, errors.CredentialUnreadable],
)
async def reveal(request: web.Request, actor: Actor, credential_id: str) -> web.Response:
    """Reveal its secret.

    Only within ten minutes of a proven password, and only after the audit trail has it. The answer must not be stored.
    """
    secret = await request.app[SERVICES].credentials.reveal(actor, credential_id)
    content: schemas.Revealed = {"secret": secret.reveal()}
    return answer(200, content, {"Cache-Control": "no-store"})


@routes(
    "POST",
    f"{_ONE}/restore",
    shape=schemas.Credential,
    headers=_ETAG,
    errors=[errors.NotFound, errors.AlreadyExists, errors.QuotaExceeded],
)
async def restore(request: web.Request, actor: Actor, credential_id: str) -> web.Response:
    """Bring back a removed one."""
    return _one(await request.app[SERVICES].credentials.restore(actor, credential_id))


@routes("GET", f"{_ONE}/versions", shape=schemas.FormerSecrets, errors=[errors.NotFound])
async def versions(request: web.Request, actor: Actor, credential_id: str, query: PageQuery) -> web.Response:
    """Its latest 20 former secrets, as masks."""
    page = await request.app[SERVICES].credentials.versions(actor, credential_id, after=query.cursor, limit=query.limit)
    return answer(200, schemas.former_secrets(page))


@routes(
    "POST",
    f"{_ONE}/rollback",
    shape=schemas.Credential,
    headers=_ETAG,
    errors=[errors.NotFound, errors.CredentialUnreadable],
)
async def rollback(
    request: web.Request, actor: Actor, credential_id: str, body: RollbackTo | None, expected_version: int | None
) -> web.Response:
    """Put a former secret back in force; the present one goes to the history.

    Without a version, a repeated request goes back to where the first one came from: send If-Match.
    """
    version = body.version if body else None
    view = await request.app[SERVICES].credentials.rollback(
        actor, credential_id, version=version, expected_version=expected_version
    )
    return _one(view)
