"""What the API gives out: the shapes that the documentation shows and mypy holds the handlers to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

# pydantic reads these for the documentation and needs this one on Python 3.11.
from typing_extensions import TypedDict

from app.domain import jobs
from app.domain.credentials import CredentialView, OwnerKind
from app.domain.identity import Actor, Session, User
from app.services.authentication import TokenPair
from app.services.credentials import HealthReport, HistoryView
from app.services.keys import KeyVersionInfo
from app.services.paging import Page
from app.services.rotation import KeyStatus


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


def credential(view: CredentialView) -> Credential:
    """The shape of a view."""
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


class CredentialPage(TypedDict):
    """A page of credentials."""

    items: list[Credential]
    next_cursor: str | None


def credential_page(page: Page[CredentialView]) -> CredentialPage:
    """The shape of a page."""
    return {"items": [credential(view) for view in page.items], "next_cursor": page.next_cursor}


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


def former_secrets(history: Page[HistoryView]) -> FormerSecrets:
    """The shape of a history."""
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


class ProviderHealth(TypedDict):
    """How the credentials of one provider do; `aged` are those whose secret has been in force for over 180 days."""

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
    """A credential of yours that must be entered again."""

    id: str
    provider: str
    label: str


class Health(TypedDict):
    """By provider; `scope` says whether of everybody or of you alone."""

    scope: Literal["everybody", "own"]
    providers: list[ProviderHealth]
    unreadable: list[Unreadable]


def health(report: HealthReport) -> Health:
    """The shape of a report."""
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
        "unreadable": [{"id": each.id, "provider": each.provider, "label": each.label} for each in report.unreadable],
    }


class Tokens(TypedDict):
    """An access token for `Authorization: Bearer`, its life in seconds, and what gets the next one."""

    access_token: str
    refresh_token: str
    token_type: Literal["Bearer"]
    expires_in: int


def tokens(pair: TokenPair) -> Tokens:
    """The shape of a pair: here the tokens leave the house."""
    return {
        "access_token": pair.access_token.reveal(),
        "refresh_token": pair.refresh_token.reveal(),
        "token_type": "Bearer",
        "expires_in": pair.expires_in,
    }


class Account(TypedDict):
    """A user."""

    id: str
    username: str
    role: str
    discord_id: str | None


class Me(Account):
    """Whoever asks. `authenticated_at` is when a password was last proven in this session."""

    session_id: str | None
    authenticated_at: datetime | None


def account(user: User) -> Account:
    """The shape of a user."""
    return {"id": user.id, "username": user.username, "role": user.role.value, "discord_id": user.discord_id}


def me(actor: Actor) -> Me:
    """The shape of an actor."""
    return {
        "id": actor.user_id,
        "username": actor.username,
        "role": actor.role.value,
        "discord_id": actor.discord_id,
        "session_id": actor.session_id,
        "authenticated_at": actor.authenticated_at,
    }


class SignIn(TypedDict):
    """A session; `current` is the one that asks."""

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


def sign_ins(sessions: Page[Session], actor: Actor) -> SignIns:
    """The shape of somebody's sessions."""
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


class ApplicationKeyVersion(TypedDict):
    """One version of an application key, without its material. States are those of SP 800-57.

    `fingerprint` identifies the material and reveals nothing of it. A version that is retired is needed by nothing.
    """

    version: int
    state: Literal["pre-activation", "active", "deactivated", "compromised", "destroyed"]
    primary: bool
    fingerprint: str
    origin: Literal["generated", "adopted", "imported"]
    created_at: datetime
    activated_at: datetime | None
    deactivated_at: datetime | None
    retired_at: datetime | None
    compromised_at: datetime | None
    destroyed_at: datetime | None


class ApplicationKey(TypedDict):
    """An application key. `version`, `fingerprint` and `since`, when it came into force, are those of its primary;
    `due_at` is when that should be replaced.

    `announced_at` is when a rotation begins that was set for a date; `job_id` is the change of primary on its way.
    """

    name: str
    purpose: str
    version: int
    fingerprint: str
    since: datetime
    age_days: int
    rotation_days: int
    automatic: bool
    due_at: datetime
    due: bool
    announced_at: datetime | None
    job_id: str | None
    versions: list[ApplicationKeyVersion]


class ApplicationKeys(TypedDict):
    """Every application key; there is no next page."""

    items: list[ApplicationKey]
    next_cursor: None


def keys(standings: Sequence[KeyStatus]) -> ApplicationKeys:
    """The shape of all of them."""
    return {"items": [key(each) for each in standings], "next_cursor": None}


def key(standing: KeyStatus) -> ApplicationKey:
    """The shape of one."""
    primary = next(each for each in standing.versions if each.primary)
    return {
        "name": standing.name.value,
        "purpose": standing.name.purpose,
        "version": primary.version,
        "fingerprint": primary.fingerprint,
        "since": standing.since,
        "age_days": standing.age_days,
        "rotation_days": standing.rotation_days,
        "automatic": standing.automatic,
        "due_at": standing.due_at,
        "due": standing.due,
        "announced_at": standing.announced_at,
        "job_id": None if standing.job is None else standing.job.id,
        "versions": [_key_version(each) for each in standing.versions],
    }


def _key_version(listing: KeyVersionInfo) -> ApplicationKeyVersion:
    return {
        "version": listing.version,
        "state": listing.state.value,
        "primary": listing.primary,
        "fingerprint": listing.fingerprint,
        "origin": listing.origin.value,
        "created_at": listing.created_at,
        "activated_at": listing.activated_at,
        "deactivated_at": listing.deactivated_at,
        "retired_at": listing.retired_at,
        "compromised_at": listing.compromised_at,
        "destroyed_at": listing.destroyed_at,
    }


class Job(TypedDict):
    """Work that outlives its request. It is over when `finished_at` is set; `run_at` is when it is due next.

    `key` and `action` say what a job of kind `key.rotation` is for. `done` of `total` counts within `step`, where a
    total is known; `note` says where it stands and `error` what went wrong last, each in a sentence.
    """

    id: str
    kind: Literal["key.rotation", "key.ages"]
    key: str | None
    action: str | None
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    step: str
    done: int
    total: int | None
    note: str
    error: str | None
    run_at: datetime
    attempts: int
    created_at: datetime
    finished_at: datetime | None


def job(work: jobs.Job) -> Job:
    """The shape of a job: of what it carries along no more than the key and what is to become of it."""
    return {
        "id": work.id,
        "kind": work.kind.value,
        "key": work.payload.get("name"),
        "action": work.payload.get("action"),
        "state": work.state.value,
        "step": work.progress.step,
        "done": work.progress.done,
        "total": work.progress.total,
        "note": work.progress.note,
        "error": work.error,
        "run_at": work.run_at,
        "attempts": work.attempts,
        "created_at": work.created_at,
        "finished_at": work.finished_at,
    }


class JobPage(TypedDict):
    """A page of jobs, the latest first."""

    items: list[Job]
    next_cursor: str | None


def job_page(page: Page[jobs.Job]) -> JobPage:
    """The shape of a page."""
    return {"items": [job(each) for each in page.items], "next_cursor": page.next_cursor}
