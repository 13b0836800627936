"""Application keys and the jobs that change them, over REST: states and fingerprints go out, material never does."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from pydantic import Field

from app.domain import errors
from app.domain.identity import Actor
from app.domain.jobs import Job
from app.domain.keys import APPLICATION_KEYS, KeyName
from app.web.api import schemas
from app.web.options import SERVICES
from app.web.routing import ID, Model, PageQuery, Routes, Time, answer

routes = Routes("Keys")
_KEYS = "/api/v1/admin/keys"
_KEY = f"{_KEYS}/{{name:{'|'.join(APPLICATION_KEYS)}}}"
_VERSION = f"{_KEY}/versions/{{version:[1-9][0-9]{{0,9}}}}"
_JOBS = "/api/v1/admin/jobs"
_LOCATION: Final = {"Location": "The job, to be watched"}
_CHANGING: Final = (errors.Forbidden, errors.ReauthenticationRequired, errors.NotFound, errors.KeyStateConflict)


class Rotation(Model):
    """When to rotate."""

    at: Time | None = Field(default=None, description="Announced for then, within ten years; left out: now")


class NewSchedule(Model):
    """How old the primary may become."""

    rotation_days: int = Field(description="1 to 3650")
    automatic: bool = Field(description="Whether it is then rotated without being asked")


def _begun(job: Job) -> web.Response:
    return answer(202, schemas.job(job), {"Location": f"{_JOBS}/{job.id}"})


@routes("GET", _KEYS, shape=schemas.ApplicationKeys, errors=[errors.Forbidden])
async def keys(request: web.Request, actor: Actor) -> web.Response:
    """Every application key, with its versions, its age and what is about to happen to it.

    For owners, admins and auditors. All keys are on the one page.
    """
    return answer(200, schemas.keys(await request.app[SERVICES].key_inspection.list(actor)))


@routes("POST", f"{_KEY}/rotate", status=202, shape=schemas.Job, headers=_LOCATION, errors=_CHANGING)
async def rotate(request: web.Request, actor: Actor, name: str, body: Rotation | None) -> web.Response:
    """Have a new version made and promoted, now or at a time that is announced.

    A rotation of this key that is on its way already is the answer, and begins now if it waited for its date and none
    is given. Only for owners who proved their password within ten minutes, as is every other change of a key.
    """
    at = body.at if body else None
    return _begun(await request.app[SERVICES].rotation.rotate(actor, KeyName(name), at=at))


@routes("POST", f"{_KEY}/cancel", shape=schemas.Job, errors=_CHANGING)
async def cancel(request: web.Request, actor: Actor, name: str) -> web.Response:
    """Call off a rotation that waits for its date."""
    return answer(200, schemas.job(await request.app[SERVICES].rotation.cancel(actor, KeyName(name))))


@routes("POST", f"{_KEY}/rollback", status=202, shape=schemas.Job, headers=_LOCATION, errors=_CHANGING)
async def rollback(request: web.Request, actor: Actor, name: str) -> web.Response:
    """Have the version made primary again that was it before; not one that was revoked or destroyed."""
    return _begun(await request.app[SERVICES].rotation.rollback(actor, KeyName(name)))


@routes("PUT", f"{_KEY}/schedule", shape=schemas.ApplicationKey, errors=_CHANGING[:3])
async def schedule(request: web.Request, actor: Actor, name: str, body: NewSchedule) -> web.Response:
    """Set how many days a primary may serve, and whether it is then rotated without being asked."""
    standing = await request.app[SERVICES].rotation.set_schedule(
        actor, KeyName(name), rotation_days=body.rotation_days, automatic=body.automatic
    )
    return answer(200, schemas.key(standing))


@routes("POST", f"{_VERSION}/revoke", status=202, shape=schemas.Job, headers=_LOCATION, errors=_CHANGING)
async def revoke(request: web.Request, actor: Actor, name: str, version: str) -> web.Response:
    """Mark a version compromised, at once and for ever; a primary is replaced first.

    When this answers the version is revoked; the job is what follows from it, such as re-encrypting.
    """
    return _begun(await request.app[SERVICES].rotation.revoke(actor, KeyName(name), int(version)))


@routes("POST", f"{_VERSION}/retire", status=202, shape=schemas.Job, headers=_LOCATION, errors=_CHANGING)
async def retire(request: web.Request, actor: Actor, name: str, version: str) -> web.Response:
    """Have a full scan prove that nothing needs a version any more, and retire it."""
    return _begun(await request.app[SERVICES].rotation.retire(actor, KeyName(name), int(version)))


@routes("GET", _JOBS, shape=schemas.JobPage, errors=[errors.Forbidden])
async def jobs(request: web.Request, actor: Actor, query: PageQuery) -> web.Response:
    """Jobs, the latest first; for owners, admins and auditors."""
    page = await request.app[SERVICES].jobs.page(actor, after=query.cursor, limit=query.limit)
    return answer(200, schemas.job_page(page))


@routes("GET", f"{_JOBS}/{{job_id:{ID}}}", shape=schemas.Job, errors=[errors.Forbidden, errors.NotFound])
async def job(request: web.Request, actor: Actor, job_id: str) -> web.Response:
    """One job: where it stands, how far it came, and what went wrong."""
    return answer(200, schemas.job(await request.app[SERVICES].jobs.get(actor, job_id)))
