"""Credentials over REST. A secret that came in goes out by an explicit reveal only.

A little longer than 400 lines, because every route of the family says its status, its errors and its scope.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from app.domain import errors
from app.domain.credentials import CredentialView, OwnerKind
from app.domain.identity import Actor
from app.domain.scopes import Scope
from app.services.credentials import UNSET, HealthReport, HistoryView, Unset
from app.services.paging import Page
from app.web.inputs import ID, Model, PageQuery, Time
from app.web.limits import GuildId, Label, Provider, Secret, Version
from app.web.options import SERVICES
from app.web.routing import Routes, json_response

routes = Routes("Credentials")
_ALL = "/api/v1/credentials"
_ONE = f"{_ALL}/{{credential_id:{ID}}}"
_ETAG = {"ETag": "The version, to be sent back as If-Match"}


class NewCredential(Model):
    """The credential to store."""

    provider: Provider = Field(description="Such as `openai` or `github`: letters, digits, '.', '_' and '-'")
    label: Label = Field(description="Shown openly; one that looks like a key, or shows the secret, is refused")
    secret: Secret = Field(description="At most 64 KiB of UTF-8; blanks and invisible characters around it are dropped")
    expires_at: Time | None = None
    guild_id: GuildId | None = Field(
        default=None, description="The Discord guild that it is for; left out: it is for you"
    )


class Change(Model):
    """The fields to change; a field that is left out stays as it is."""

    label: Label = ""
    expires_at: Time | None = None


class NewSecret(Model):
    """The new secret; the former one stays in the history."""

    secret: Secret
    expires_at: Time | None = Field(default=None, description="Left out: the expiry stays")


class RollbackTo(Model):
    """The former secret to go back to."""

    version: Version | None = Field(default=None, description="Left out: the latest former secret")


class Listing(PageQuery):
    """The credentials to list."""

    guild_id: GuildId | None = Field(default=None, description="List those of this guild instead of your own")
    removed: bool = Field(default=False, description="List the removed credentials that can still be restored")


class Removal(Model):
    """How to remove a credential."""

    purge: bool = Field(default=False, description="Delete a removed credential and its history for good")


class Credential(TypedDict):
    """A credential, without its secret. `masked` shows at most a third of it.

    `secret_age_days` counts from the last replacement or rollback. `concern` says why it is time for a new secret.
    """

    id: str
    provider: str
    label: str
    masked: str
    version: int
    status: str
    guild_id: str | None
    fingerprint: str | None
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    last_verified_at: datetime | None
    removed_at: datetime | None
    secret_age_days: int
    concern: Literal["expired", "expiring", "aged"] | None


class CredentialPage(TypedDict):
    """A page of credentials."""

    items: list[Credential]
    next_cursor: str | None


class Revealed(TypedDict):
    """The secret itself."""

    secret: str


class FormerSecret(TypedDict):
    """A secret that was replaced; it was in force from `created_at` to `replaced_at`."""

    version: int
    masked: str
    readable: bool
    created_at: datetime
    replaced_at: datetime


class FormerSecrets(TypedDict):
    """Former secrets, latest first: the latest 20."""

    items: list[FormerSecret]
    next_cursor: str | None


class ProviderHealth(TypedDict):
    """The state of one provider's credentials; `aged` counts those whose secret has been in force for over 180 days."""

    provider: str
    total: int
    readable: int
    unreadable: int
    expired: int
    aged: int
    oldest_update: datetime
    last_used: datetime | None
    last_verified: datetime | None


class Unreadable(TypedDict):
    """A credential that must be entered again, and whose it is: a user's or a Discord guild's."""

    id: str
    provider: str
    label: str
    username: str | None
    guild_id: str | None


class Health(TypedDict):
    """The state of credentials by provider; `scope` says whether everybody's or only your own.

    `unreadable` names the first 100.
    """

    scope: Literal["everybody", "own"]
    providers: list[ProviderHealth]
    unreadable: list[Unreadable]


def _as_credential(view: CredentialView) -> Credential:
    return {
        "id": view.id,
        "provider": view.provider,
        "label": view.label,
        "masked": view.masked,
        "version": view.version,
        "status": view.status.value,
        "guild_id": view.owner.id if view.owner.kind is OwnerKind.GUILD else None,
        "fingerprint": view.fingerprint,
        "created_at": view.created_at,
        "updated_at": view.updated_at,
        "expires_at": view.expires_at,
        "last_used_at": view.last_used_at,
        "last_verified_at": view.last_verified_at,
        "removed_at": view.deleted_at,
        "secret_age_days": view.secret_age_days,
        "concern": None if view.concern is None else view.concern.value,
    }


def _as_page(page: Page[CredentialView]) -> CredentialPage:
    return {"items": [_as_credential(view) for view in page.items], "next_cursor": page.next_cursor}


def _as_history(history: Page[HistoryView]) -> FormerSecrets:
    return {
        "items": [
            {
                "version": each.version,
                "masked": each.masked,
                "readable": each.readable,
                "created_at": each.created_at,
                "replaced_at": each.replaced_at,
            }
            for each in history.items
        ],
        "next_cursor": history.next_cursor,
    }


def _as_health(report: HealthReport) -> Health:
    return {
        "scope": "everybody" if report.everybody else "own",
        "providers": [
            {
                "provider": each.provider,
                "total": each.total,
                "readable": each.readable,
                "unreadable": each.unreadable,
                "expired": each.expired,
                "aged": each.aged,
                "oldest_update": each.oldest_update,
                "last_used": each.last_used,
                "last_verified": each.last_verified,
            }
            for each in report.providers
        ],
        "unreadable": [
            {
                "id": each.id,
                "provider": each.provider,
                "label": each.label,
                "username": each.username,
                "guild_id": each.owner.id if each.owner.kind is OwnerKind.GUILD else None,
            }
            for each in report.unreadable
        ],
    }


def _one(view: CredentialView, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return json_response(status, _as_credential(view), {"ETag": f'"{view.version}"', **(headers or {})})


@routes("GET", _ALL, schema=CredentialPage, errors=[errors.Forbidden], scope=Scope.CREDENTIALS_READ)
async def listing(request: web.Request, actor: Actor, query: Listing) -> web.Response:
    """Your credentials, or a guild's."""
    page = await request.app[SERVICES].credentials.page(
        actor, after=query.cursor, limit=query.limit, guild_id=query.guild_id, removed=query.removed
    )
    return json_response(200, _as_page(page))


@routes(
    "POST",
    _ALL,
    status=201,
    schema=Credential,
    headers={
        "Location": "The new credential",
        **_ETAG,
        "Idempotent-Replayed": "`true` if an earlier delivery of this request stored it",
    },
    errors=[errors.AlreadyExists, errors.QuotaExceeded, errors.Forbidden],
    scope=Scope.CREDENTIALS_WRITE,
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


@routes("GET", f"{_ALL}/health", schema=Health, scope=Scope.CREDENTIALS_READ)
async def health(request: web.Request, actor: Actor) -> web.Response:
    """Whether the stored credentials can be read, by provider.

    Owners, admins and auditors see everybody's; members see their own.
    """
    return json_response(200, _as_health(await request.app[SERVICES].credentials.health.report(actor)))


@routes("GET", _ONE, schema=Credential, headers=_ETAG, errors=[errors.NotFound], scope=Scope.CREDENTIALS_READ)
async def get(request: web.Request, actor: Actor, credential_id: str) -> web.Response:
    """One credential."""
    return _one(await request.app[SERVICES].credentials.get(actor, credential_id))


@routes(
    "PATCH",
    _ONE,
    schema=Credential,
    headers=_ETAG,
    errors=[errors.NotFound, errors.AlreadyExists],
    scope=Scope.CREDENTIALS_WRITE,
)
async def change(
    request: web.Request, actor: Actor, credential_id: str, body: Change, expected_version: int | None
) -> web.Response:
    """Change the label or the expiry of a credential."""
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


@routes("DELETE", _ONE, status=204, errors=[errors.NotFound], scope=Scope.CREDENTIALS_WRITE)
async def remove(
    request: web.Request, actor: Actor, credential_id: str, query: Removal, expected_version: int | None
) -> web.Response:
    """Remove a credential; it can be restored for seven days. With `purge`, delete a removed one for good."""
    credentials = request.app[SERVICES].credentials
    remove_or_purge = credentials.purge if query.purge else credentials.remove
    await remove_or_purge(actor, credential_id, expected_version=expected_version)
    return json_response(204)


@routes(
    "PUT", f"{_ONE}/secret", schema=Credential, headers=_ETAG, errors=[errors.NotFound], scope=Scope.CREDENTIALS_WRITE
)
async def replace(
    request: web.Request, actor: Actor, credential_id: str, body: NewSecret, expected_version: int | None
) -> web.Response:
    """Replace the secret of a credential; the former one stays in the history.

    The secret that is in force, given again, changes nothing: the version stays.
    """
    replaced = await request.app[SERVICES].credentials.replace(
        actor, credential_id, body.secret, expected_version=expected_version, expires_at=_expiry(body)
    )
    return _one(replaced.view)


@routes(
    "POST",
    f"{_ONE}/reveal",
    schema=Revealed,
    errors=[errors.NotFound, errors.ReauthenticationRequired, errors.Forbidden, errors.CredentialUnreadable],
    scope=Scope.CREDENTIALS_REVEAL,
)
async def reveal(request: web.Request, actor: Actor, credential_id: str) -> web.Response:
    """Reveal the secret of a credential.

    Allowed within ten minutes of proving the password. The audit row is written first. The response must not be stored.
    """
    secret = await request.app[SERVICES].credentials.reveal(actor, credential_id)
    content: Revealed = {"secret": secret.reveal()}
    return json_response(200, content)


@routes(
    "POST",
    f"{_ONE}/restore",
    schema=Credential,
    headers=_ETAG,
    errors=[errors.NotFound, errors.AlreadyExists, errors.QuotaExceeded],
    scope=Scope.CREDENTIALS_WRITE,
)
async def restore(request: web.Request, actor: Actor, credential_id: str) -> web.Response:
    """Restore a removed credential."""
    return _one(await request.app[SERVICES].credentials.restore(actor, credential_id))


@routes("GET", f"{_ONE}/versions", schema=FormerSecrets, errors=[errors.NotFound], scope=Scope.CREDENTIALS_READ)
async def versions(request: web.Request, actor: Actor, credential_id: str, query: PageQuery) -> web.Response:
    """The latest 20 former secrets of a credential, as masks."""
    page = await request.app[SERVICES].credentials.versions(actor, credential_id, after=query.cursor, limit=query.limit)
    return json_response(200, _as_history(page))


@routes(
    "POST",
    f"{_ONE}/rollback",
    schema=Credential,
    headers=_ETAG,
    errors=[errors.NotFound, errors.CredentialUnreadable],
    scope=Scope.CREDENTIALS_WRITE,
)
async def rollback(
    request: web.Request, actor: Actor, credential_id: str, body: RollbackTo | None, expected_version: int | None
) -> web.Response:
    """Make a former secret the present one again; the present one goes to the history.

    Without a version, repeating the request undoes the first one: send If-Match.
    """
    version = body.version if body else None
    replaced = await request.app[SERVICES].credentials.rollback(
        actor, credential_id, version=version, expected_version=expected_version
    )
    return _one(replaced.view)
