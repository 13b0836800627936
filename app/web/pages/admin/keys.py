"""Application keys: all of them, and the page of each with its schedule and the rotation that is announced for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from app.domain import errors
from app.domain.errors import AppError, InvalidInput, ReauthenticationRequired
from app.domain.identity import Actor, Permission
from app.domain.jobs import Job
from app.domain.keys import APPLICATION_KEYS, KeyName, KeyState
from app.domain.text import whole_number
from app.domain.times import BEGIN_OF_DAY, day_or_time
from app.localisation import mark
from app.services.rotation import KeyStatus
from app.web.inputs import Model, NoFields
from app.web.options import SERVICES
from app.web.pages.drafts import CONFIRMED, confirm_first, draft_for, forget_draft, sign_in_first
from app.web.pages.rendering import Refused, page, see_other
from app.web.routing import Retry, Routes, SignedOut
from app.web.sessions import ACCOUNT, actor_of

routes = Routes("Pages")
PATH: Final = "/admin/keys"
KEY: Final = f"{PATH}/{{name:{'|'.join(APPLICATION_KEYS)}}}"
CHANGING: Final = (errors.Forbidden, errors.ReauthenticationRequired, errors.KeyStateConflict)

PURPOSES: Final[Mapping[KeyName, str]] = {
    KeyName.JWT_SECRET_KEY: mark("signs access tokens"),
    KeyName.AES_KEY: mark("protects credentials at rest"),
    KeyName.ENCRYPTION_KEY: mark("makes the tokens of /encrypt"),
    KeyName.API_SECRET_KEY: mark("hashes API tokens and fingerprints"),
}
STATES: Final[Mapping[KeyState, str]] = {
    KeyState.PRE_ACTIVATION: mark("not yet in use"),
    KeyState.ACTIVE: mark("primary"),
    KeyState.DEACTIVATED: mark("deactivated"),
    KeyState.COMPROMISED: mark("compromised"),
    KeyState.DESTROYED: mark("destroyed"),
}
ACTIONS: Final[Mapping[str, str]] = {
    "rotate": mark("Rotation of %(key)s"),
    "rollback": mark("Rollback of %(key)s"),
    "import": mark("Import of %(key)s"),
    "revoke": mark("Revocation of a version of %(key)s"),
    "retire": mark("Retirement of versions of %(key)s"),
}
"""Titles of jobs, by their action."""
_NEWS: Final[Mapping[str, str]] = {
    "confirmed": CONFIRMED,
    "scheduled": mark("The schedule is changed."),
    "announced": mark("The rotation is announced. Everybody sees its date in the Hall."),
    "cancelled": mark("The rotation is cancelled."),
}
_SCHEDULES: Final = (90, 180, 365)


class KeyQuery(Model):
    """The action that led to the page."""

    done: str = ""


class ScheduleForm(Model):
    """How many days a primary may serve; the box is "yes" where it is then rotated unasked."""

    days: str
    automatic: str = ""


class AnnounceForm(Model):
    """The day on which a rotation begins, in UTC, and why."""

    at: str
    reason: str = ""


@routes("GET", PATH, media_type="text/html", errors=[errors.Forbidden])
async def keys(request: web.Request, actor: Actor) -> web.Response:
    """Every application key: its age, the rotation that is due or under way, and which process has loaded it."""
    found = await request.app[SERVICES].key_inspection.list(actor)
    late: dict[str, list[str]] = {}
    for key in found:
        for process, loaded in key.processes:
            late.setdefault(process, []).extend([] if loaded else [key.name.value])
    return page(
        request,
        "admin/keys.html",
        viewer=actor,
        keys=found,
        purposes=PURPOSES,
        processes=list(late.items()),
        may_change=actor.may(Permission.MANAGE_KEYS),
    )


async def _key_page(
    request: web.Request,
    actor: Actor,
    *,
    refused: Refused | None = None,
    section: str = "",
    news: str | None = None,
    typed: Mapping[str, str] | None = None,
) -> web.Response:
    name = KeyName(request.match_info["name"])
    every = await request.app[SERVICES].key_inspection.list(actor)
    key = next(each for each in every if each.name is name)
    return page(
        request,
        "admin/key.html",
        viewer=actor,
        key=key,
        purpose=PURPOSES[name],
        states=STATES,
        actions=ACTIONS,
        jobs=_jobs(key),
        schedules=sorted({*_SCHEDULES, key.rotation_days}),
        may_change=actor.may(Permission.MANAGE_KEYS),
        refused=refused,
        refused_section=section,
        news=news,
        typed=dict(typed or {}),
    )


def _jobs(key: KeyStatus) -> list[Job]:
    """The changes of a key that are under way; one that waits for its date has a section of its own."""
    present = [] if key.job is None or key.announced_at is not None else [key.job]
    return [*present, *key.finishing]


def path_of(request: web.Request) -> str:
    """The page of the key that a request is about."""
    return f"{PATH}/{request.match_info['name']}"


def _again(section: str, *kept: str) -> Retry:
    """Answers a refused form with the page; where it takes a proof first, by leading to that."""

    async def retry(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:
        actor, typed = await actor_of(request), {name: fields.get(name, "") for name in kept}
        if isinstance(error, ReauthenticationRequired):
            return confirm_first(request, path_of(request), actor.user_id, typed)
        return await _key_page(request, actor, refused=Refused(error), section=section, typed=typed)

    return retry


def _signed_out(*kept: str) -> SignedOut:
    def answer(request: web.Request, fields: Mapping[str, str]) -> web.StreamResponse:
        typed = {name: fields.get(name, "") for name in kept}
        return sign_in_first(request, path_of(request), fields.get(ACCOUNT, ""), typed)

    return answer


@routes("GET", KEY, media_type="text/html", errors=[errors.Forbidden])
async def key(request: web.Request, actor: Actor, name: str, query: KeyQuery) -> web.Response:  # noqa: ARG001
    """One application key: its versions with their states, its schedule, and the changes that are under way."""
    typed = draft_for(request, path_of(request), actor.user_id)
    response = await _key_page(request, actor, news=_NEWS.get(query.done), typed=typed)
    forget_draft(request, response)
    return response


@routes(
    "POST",
    f"{KEY}/schedule",
    status=303,
    media_type="text/html",
    retry=_again("schedule", "days", "automatic"),
    signed_out=_signed_out("days", "automatic"),
    errors=CHANGING,
)
async def schedule(request: web.Request, actor: Actor, name: str, form: ScheduleForm) -> web.Response:
    """Set after how many days a key is due for rotation, and whether it is then rotated automatically."""
    days = whole_number(form.days)
    if days is None:
        raise InvalidInput("days", "must be a number")
    await request.app[SERVICES].rotation.set_schedule(
        actor, KeyName(name), rotation_days=days, automatic=bool(form.automatic)
    )
    return see_other(f"{path_of(request)}?done=scheduled")


@routes(
    "POST",
    f"{KEY}/announce",
    status=303,
    media_type="text/html",
    retry=_again("announce", "at", "reason"),
    signed_out=_signed_out("at", "reason"),
    errors=CHANGING,
)
async def announce(request: web.Request, actor: Actor, name: str, form: AnnounceForm) -> web.Response:
    """Announce a rotation for a day: everybody is shown its date, and a worker begins it then."""
    try:
        at = day_or_time(form.at, BEGIN_OF_DAY)
    except ValueError:
        raise InvalidInput("at", "must be a day such as 2027-03-31") from None
    await request.app[SERVICES].rotation.rotate(actor.because(form.reason or None), KeyName(name), at=at)
    return see_other(f"{path_of(request)}?done=announced")


@routes(
    "POST",
    f"{KEY}/cancel",
    status=303,
    media_type="text/html",
    retry=_again("announce"),
    signed_out=_signed_out(),
    errors=CHANGING,
)
async def cancel(request: web.Request, actor: Actor, name: str, form: NoFields) -> web.Response:  # noqa: ARG001
    """Cancel a rotation that was announced."""
    await request.app[SERVICES].rotation.cancel(actor, KeyName(name))
    return see_other(f"{path_of(request)}?done=cancelled")
