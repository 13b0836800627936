"""Application keys and the jobs that change them, over REST: states and fingerprints go out, material never does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from app.domain import errors
from app.domain.identity import Actor
from app.domain.jobs import Job as JobRecord
from app.domain.keys import APPLICATION_KEYS, KeyName
from app.domain.scopes import Scope
from app.services.keys import KeyVersionInfo
from app.services.paging import Page
from app.services.rotation import KeyStatus
from app.web.inputs import ID, Model, PageQuery, Time
from app.web.limits import Reason, ScheduleDays
from app.web.options import SERVICES
from app.web.routing import Routes, json_response

routes = Routes("Keys")
_KEYS = "/api/v1/admin/keys"
_KEY = f"{_KEYS}/{{name:{'|'.join(APPLICATION_KEYS)}}}"
_VERSION = f"{_KEY}/versions/{{version:[1-9][0-9]{{0,9}}}}"
_JOBS = "/api/v1/admin/jobs"
JOB_LOCATION: Final = {"Location": "The job, to follow its progress"}
_CHANGING: Final = (errors.Forbidden, errors.ReauthenticationRequired, errors.NotFound, errors.KeyStateConflict)


class Rotation(Model):
    """When to rotate, and why."""

    at: Time | None = Field(
        default=None, description="When the rotation begins, at most ten years ahead; left out: now"
    )
    reason: Reason | None = Field(default=None, description="Stands in the audit trail; must not hold a key")


class Why(Model):
    """Why a key is changed."""

    reason: Reason | None = Field(default=None, description="Stands in the audit trail; must not hold a key")


class NewSchedule(Model):
    """The schedule of a key."""

    rotation_days: ScheduleDays
    automatic: bool = Field(description="Whether the key is rotated automatically at that age")


class ApplicationKeyVersion(TypedDict):
    """One version of an application key, without its material. States are those of SP 800-57.

    `fingerprint` identifies the material and reveals nothing of it. Nothing needs a retired version.
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
    """An application key. `version`, `fingerprint` and `since`, the time it became primary, are those of its primary;
    `due_at` is when that should be replaced.

    `announced_at` is when a rotation begins that was announced for a date; `job_id` is an unfinished change.
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


class Job(TypedDict):
    """Work that outlives its request. It is over when `finished_at` is set; `run_at` is when it is due next.

    `key` and `action` say what a job of kind `key.rotation` is for. `done` of `total` counts within `step`, where a
    total is known; `note` describes the progress and `error` the last failure, each in a sentence.
    """

    id: str
    kind: Literal["key.rotation", "key.ages", "backup", "backup.rehearsal", "audit.retention", "housekeeping"]
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


class JobPage(TypedDict):
    """A page of jobs, the latest first."""

    items: list[Job]
    next_cursor: str | None


def _as_keys(statuses: Sequence[KeyStatus]) -> ApplicationKeys:
    return {"items": [_as_key(each) for each in statuses], "next_cursor": None}


def _as_key(status: KeyStatus) -> ApplicationKey:
    primary = next(each for each in status.versions if each.primary)
    return {
        "name": status.name.value,
        "purpose": status.name.purpose,
        "version": primary.version,
        "fingerprint": primary.fingerprint,
        "since": status.since,
        "age_days": status.age_days,
        "rotation_days": status.rotation_days,
        "automatic": status.automatic,
        "due_at": status.due_at,
        "due": status.due,
        "announced_at": status.announced_at,
        "job_id": None if status.job is None else status.job.id,
        "versions": [_as_version(each) for each in status.versions],
    }


def _as_version(listing: KeyVersionInfo) -> ApplicationKeyVersion:
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


def _as_job(work: JobRecord) -> Job:
    """Of a job's payload, show the key and the action only."""
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


def _as_job_page(page: Page[JobRecord]) -> JobPage:
    return {"items": [_as_job(each) for each in page.items], "next_cursor": page.next_cursor}


def begun(job: JobRecord) -> web.Response:
    """The answer to a request that began a job."""
    return json_response(202, _as_job(job), {"Location": f"{_JOBS}/{job.id}"})


@routes("GET", _KEYS, schema=ApplicationKeys, errors=[errors.Forbidden], scope=Scope.KEYS_READ)
async def keys(request: web.Request, actor: Actor) -> web.Response:
    """Every application key, with its versions, its age and its next rotation.

    For owners, admins and auditors. All keys are on one page.
    """
    return json_response(200, _as_keys(await request.app[SERVICES].key_inspection.list(actor)))


@routes(
    "POST", f"{_KEY}/rotate", status=202, schema=Job, headers=JOB_LOCATION, errors=_CHANGING, scope=Scope.KEYS_MANAGE
)
async def rotate(request: web.Request, actor: Actor, name: str, body: Rotation | None) -> web.Response:
    """Create a new version and promote it, now or at an announced time.

    If the key has an unfinished rotation, that is the answer; one that waits for its date begins now if no date is
    given. Every change of a key is for owners only, within ten minutes of proving their password.
    """
    at = body.at if body else None
    return begun(await request.app[SERVICES].rotation.rotate(_because(actor, body), KeyName(name), at=at))


def _because(actor: Actor, body: Rotation | Why | None) -> Actor:
    """The actor, with the reason that was given."""
    return actor.because(body.reason if body else None)


@routes(
    "POST",
    f"{_KEY}/cancel",
    schema=Job,
    errors=_CHANGING,
    scope=Scope.KEYS_MANAGE,
    example={"state": "cancelled", "step": "announced", "total": None, "note": "version 2 is announced", "attempts": 0},
)
async def cancel(request: web.Request, actor: Actor, name: str, body: Why | None) -> web.Response:
    """Cancel a rotation that waits for its date."""
    return json_response(
        200, _as_job(await request.app[SERVICES].rotation.cancel(_because(actor, body), KeyName(name)))
    )


@routes(
    "POST", f"{_KEY}/rollback", status=202, schema=Job, headers=JOB_LOCATION, errors=_CHANGING, scope=Scope.KEYS_MANAGE
)
async def rollback(request: web.Request, actor: Actor, name: str, body: Why | None) -> web.Response:
    """Make the previous version primary again; a revoked or destroyed one is refused."""
    return begun(await request.app[SERVICES].rotation.rollback(_because(actor, body), KeyName(name)))


@routes("PUT", f"{_KEY}/schedule", schema=ApplicationKey, errors=_CHANGING[:3], scope=Scope.KEYS_MANAGE)
async def schedule(request: web.Request, actor: Actor, name: str, body: NewSchedule) -> web.Response:
    """Set after how many days a primary is due for rotation, and whether it is then rotated automatically."""
    status = await request.app[SERVICES].rotation.set_schedule(
        actor, KeyName(name), rotation_days=body.rotation_days, automatic=body.automatic
    )
    return json_response(200, _as_key(status))


@routes(
    "POST",
    f"{_VERSION}/revoke",
    status=202,
    schema=Job,
    headers=JOB_LOCATION,
    errors=_CHANGING,
    scope=Scope.KEYS_MANAGE,
)
async def revoke(request: web.Request, actor: Actor, name: str, version: str, body: Why | None) -> web.Response:
    """Mark a version compromised, at once and permanently; a primary is replaced first.

    When this answers, the version is revoked; the job does the work that follows, such as re-encrypting.
    """
    return begun(await request.app[SERVICES].rotation.revoke(_because(actor, body), KeyName(name), int(version)))


@routes(
    "POST",
    f"{_VERSION}/retire",
    status=202,
    schema=Job,
    headers=JOB_LOCATION,
    errors=_CHANGING,
    scope=Scope.KEYS_MANAGE,
)
async def retire(request: web.Request, actor: Actor, name: str, version: str, body: Why | None) -> web.Response:
    """Prove by a full scan that nothing needs a version any more, and retire it."""
    return begun(await request.app[SERVICES].rotation.retire(_because(actor, body), KeyName(name), int(version)))


@routes("GET", _JOBS, schema=JobPage, errors=[errors.Forbidden], scope=Scope.KEYS_READ)
async def jobs(request: web.Request, actor: Actor, query: PageQuery) -> web.Response:
    """Jobs, the latest first; for owners, admins and auditors."""
    page = await request.app[SERVICES].jobs.page(actor, after=query.cursor, limit=query.limit)
    return json_response(200, _as_job_page(page))


@routes(
    "GET", f"{_JOBS}/{{job_id:{ID}}}", schema=Job, errors=[errors.Forbidden, errors.NotFound], scope=Scope.KEYS_READ
)
async def job(request: web.Request, actor: Actor, job_id: str) -> web.Response:
    """One job: its state, its progress and its last failure."""
    return json_response(200, _as_job(await request.app[SERVICES].jobs.get(actor, job_id)))
