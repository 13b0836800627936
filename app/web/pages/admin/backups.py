"""Backups: which there are, how the last trial of each ended, and one more, or a trial, now. No file leaves here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Final

from aiohttp import web

from app.domain import errors
from app.domain.backup import Rehearsal
from app.domain.errors import AppError, ReauthenticationRequired
from app.domain.identity import Actor, Permission
from app.domain.jobs import Job, JobKind, JobState
from app.localisation import mark
from app.services.backup import BackupView
from app.web.inputs import ID, Model, NoFields
from app.web.options import SERVICES
from app.web.pages.drafts import CONFIRMED, confirm_first, sign_in_first
from app.web.pages.rendering import Refused, page, see_other
from app.web.routing import Routes
from app.web.sessions import ACCOUNT, actor_of

routes = Routes("Pages")
PATH: Final = "/admin/backups"
_TRIALS: Final[Mapping[Rehearsal | None, tuple[str, str]]] = {
    Rehearsal.OK: (mark("restored on trial"), "valid"),
    Rehearsal.FAILED: (mark("the trial failed"), "refused"),
    Rehearsal.NOT_DECRYPTABLE: (mark("not decryptable here"), "could_not_check"),
    None: (mark("not tried yet"), "unchecked"),
}
_STATES: Final[Mapping[JobState, str]] = {
    JobState.WAITING: mark("It waits for a worker, which `keyhall run` and `keyhall worker` start."),
    JobState.RUNNING: mark("It is being done."),
    JobState.DONE: mark("It is done."),
    JobState.FAILED: mark("It did not succeed."),
    JobState.CANCELLED: mark("It was cancelled."),
}
_TITLES: Final[Mapping[JobKind, str]] = {
    JobKind.BACKUP: mark("Backup"),
    JobKind.BACKUP_REHEARSAL: mark("Rehearsal"),
}


class BackupsQuery(Model):
    """The page of the list, and the action that led to it: a job that was begun, or a proof."""

    cursor: str | None = None
    job: str = ""
    done: str = ""


async def _backups_page(
    request: web.Request, actor: Actor, query: BackupsQuery, refused: Refused | None = None
) -> web.Response:
    services = request.app[SERVICES]
    found = await services.backups.page(actor, after=query.cursor)
    job = await services.jobs.get(actor, query.job) if re.fullmatch(ID, query.job) else None
    return page(
        request,
        "admin/backups.html",
        viewer=actor,
        arrangement=await services.backups.arrangement(actor),
        backups=[_shown(each) for each in found.items],
        next_cursor=found.next_cursor,
        later=query.cursor is not None,
        job=_job(job),
        may_change=actor.may(Permission.MANAGE_BACKUPS),
        refused=refused,
        news=CONFIRMED if query.done == "confirmed" else None,
    )


def _shown(view: BackupView) -> Mapping[str, object]:
    word, shape = _TRIALS[view.backup.rehearsal]
    return {
        "backup": view.backup,
        "name": PurePath(view.backup.path).name,
        "present": view.present,
        "word": word,
        "shape": shape,
    }


def _job(job: Job | None) -> Mapping[str, object] | None:
    """The job for the template; None for one that is about something else."""
    if job is None or job.kind not in _TITLES:
        return None
    return {
        "title": _TITLES[job.kind],
        "state": _STATES[job.state],
        "failed": job.state is JobState.FAILED,
        "over": job.state.over,
        "note": job.error or job.progress.note,
        "id": job.id,
    }


async def _again(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:  # noqa: ARG001
    actor = await actor_of(request)
    if isinstance(error, ReauthenticationRequired):
        return confirm_first(request, PATH, actor.user_id, {})
    return await _backups_page(request, actor, BackupsQuery(), Refused(error))


def _signed_out(request: web.Request, fields: Mapping[str, str]) -> web.StreamResponse:
    return sign_in_first(request, PATH, fields.get(ACCOUNT, ""), {})


@routes("GET", PATH, media_type="text/html", errors=[errors.Forbidden, errors.NotFound])
async def backups(request: web.Request, actor: Actor, query: BackupsQuery) -> web.Response:
    """The backups that this install made, the latest first, and when more are made; for owners, admins and auditors."""
    return await _backups_page(request, actor, query)


@routes(
    "POST",
    PATH,
    status=303,
    media_type="text/html",
    retry=_again,
    signed_out=_signed_out,
    errors=[errors.Forbidden, errors.ReauthenticationRequired, errors.NotConfigured],
)
async def back_up(request: web.Request, actor: Actor, form: NoFields) -> web.Response:  # noqa: ARG001 - reads the token
    """Have a backup made now."""
    job = await request.app[SERVICES].backups.request(actor)
    return see_other(f"{PATH}?job={job.id}")


@routes(
    "POST",
    f"{PATH}/rehearse",
    status=303,
    media_type="text/html",
    retry=_again,
    signed_out=_signed_out,
    errors=[errors.Forbidden, errors.NotFound],
)
async def rehearse(request: web.Request, actor: Actor, form: NoFields) -> web.Response:  # noqa: ARG001 - reads the token
    """Have the newest backup restored for trial now."""
    job = await request.app[SERVICES].rehearsal.request(actor)
    return see_other(f"{PATH}?job={job.id}")
