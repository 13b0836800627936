"""The change of a key while it goes on: a page that can be closed, and the events that keep it up to date."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from app.domain import errors
from app.domain.identity import Actor, Permission
from app.domain.jobs import JobState
from app.domain.rotation import Step
from app.localisation import mark
from app.services.rotation import RotationView
from app.web.event_stream import EVENT_STREAM, Event, event_stream
from app.web.inputs import ID
from app.web.options import SERVICES
from app.web.pages.admin.keys import ACTIONS, PATH, STATES
from app.web.pages.rendering import page
from app.web.routing import Routes

routes = Routes("Pages")
_JOB: Final = f"{PATH}/jobs/{{job_id:{ID}}}"

_STEPS: Final[Mapping[Step, str]] = {
    Step.PREPARE: mark("Make the new version"),
    Step.ANNOUNCED: mark("Have every process load it, then make it primary"),
    Step.PROMOTED: mark("Have every process use it"),
    Step.OVERLAP: mark("Wait until no token of a former version is valid"),
    Step.REENCRYPT: mark("Encrypt every stored secret again"),
    Step.VERIFY: mark("Open every stored secret with it"),
    Step.RECOMPUTE: mark("Compute every fingerprint again"),
    Step.DONE: mark("Retire former versions"),
}
_NOW: Final[Mapping[Step, str]] = {
    Step.PREPARE: mark("The new version is being made."),
    Step.ANNOUNCED: mark("Every process is loading the new version."),
    Step.PROMOTED: mark("The new version is primary. Every process is about to use it."),
    Step.OVERLAP: mark("Former versions verify tokens until the last one has expired."),
    Step.REENCRYPT: mark("Stored secrets are encrypted again."),
    Step.VERIFY: mark("Every stored secret is opened, to prove it."),
    Step.RECOMPUTE: mark("Fingerprints are computed again."),
    Step.DONE: mark("Former versions are being retired."),
}
_OVER: Final[Mapping[JobState, str]] = {
    JobState.DONE: mark("Done."),
    JobState.FAILED: mark("It stopped before its end."),
    JobState.CANCELLED: mark("It was cancelled before it began."),
}


@routes("GET", _JOB, media_type="text/html", errors=[errors.Forbidden, errors.NotFound])
async def rotation(request: web.Request, actor: Actor, job_id: str) -> web.Response:
    """One change of a key: from which version to which, its steps, processes and rows. It goes on without the page."""
    view = await request.app[SERVICES].rotation_watch.look(actor, job_id)
    return page(
        request,
        "admin/rotation.html",
        viewer=actor,
        view=view,
        title=ACTIONS.get(view.action, ACTIONS["rotate"]),
        sentence=_sentence(view),
        retire_at=view.job.run_at if _waits_for_tokens(view) else None,
        step_names=_STEPS,
        states=STATES,
        may_change=actor.may(Permission.MANAGE_KEYS),
    )


def _waits_for_tokens(view: RotationView) -> bool:
    return view.job.state is JobState.WAITING and view.job.progress.step == Step.OVERLAP


def _sentence(view: RotationView) -> str:
    """The state in one sentence; when it begins and what went wrong are said beside it."""
    job = view.job
    if job.state.over:
        return _OVER[job.state]
    if job.state is JobState.WAITING and not job.progress.step:
        return mark("It waits for its date.") if view.announced else mark("It waits for a worker.")
    return _NOW[Step(job.progress.step or Step.PREPARE)]


@routes(
    "GET",
    f"{_JOB}/events",
    media_type=EVENT_STREAM,
    errors=[errors.Forbidden, errors.NotFound, errors.TooManyAttempts],
)
async def events(request: web.Request, actor: Actor, job_id: str) -> web.StreamResponse:
    """The progress of a change of a key as server-sent events, until it is over.

    Each event `progress` is a JSON object with `state`, `step`, `done`, `total`, `note`, `error`, `processes` and
    `over`. The stream ends with the session too; a user may have four at a time.
    """
    watch = request.app[SERVICES].rotation_watch

    async def look(reader: Actor) -> Event:
        return _event(await watch.watch(reader, job_id))

    return await event_stream(request, actor, look)


def _event(view: RotationView) -> Event:
    job = view.job
    return Event(
        name="progress",
        data={
            "state": job.state.value,
            "step": job.progress.step,
            "done": job.progress.done,
            "total": job.progress.total,
            "note": job.progress.note,
            "error": job.error,
            "processes": [{"name": name, "loaded": loaded} for name, loaded in view.processes],
            "over": job.state.over,
        },
        last=job.state.over,
    )
