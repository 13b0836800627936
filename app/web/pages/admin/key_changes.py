"""Changes of an application key: each is explained on a page of its own, which asks, and then leads to its job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from app.domain import errors
from app.domain.errors import AppError, InvalidInput, ReauthenticationRequired
from app.domain.identity import Actor
from app.domain.jobs import Job
from app.domain.keys import KeyName
from app.domain.text import whole_number
from app.services.rotation import KeyStatus
from app.web.inputs import Model
from app.web.options import SERVICES
from app.web.pages.admin.keys import CHANGING, KEY
from app.web.pages.drafts import CONFIRMED, confirm_first, draft_for, forget_draft, sign_in_first
from app.web.pages.rendering import Refused, page, see_other
from app.web.routing import Retry, Routes
from app.web.sessions import ACCOUNT, actor_of

routes = Routes("Pages")
JOB: Final = "/admin/keys/jobs/{}"
_VERSION: Final = f"{KEY}/versions/{{version:[1-9][0-9]{{0,9}}}}"
_ASKING: Final = (errors.Forbidden, errors.NotFound, errors.KeyStateConflict)
_OF_A_VERSION: Final = (*CHANGING, errors.NotFound)


_ROTATE: Final = "rotate"
_ROLLBACK: Final = "rollback"
_REVOKE: Final = "revoke"
_RETIRE: Final = "retire"


class RotateForm(Model):
    """Why a key is rotated, and the version that the page named as the primary."""

    primary: str
    reason: str = ""


class RollBackForm(RotateForm):
    """The same with the version that the page named as the former one."""

    former: str


class RetireVersionForm(Model):
    """Why a version is retired."""

    reason: str = ""


class RevokeVersionForm(Model):
    """Why a version is revoked, and the name of its key, typed."""

    confirmation: str
    reason: str = ""


class KeyChangeQuery(Model):
    """The action that led to the page."""

    done: str = ""


async def _before(request: web.Request, actor: Actor, change: str) -> KeyStatus:
    """The key that is to be changed. Raises KeyStateConflict where the change would be refused."""
    inspection, name = request.app[SERVICES].key_inspection, KeyName(request.match_info["name"])
    match change:
        case "revoke":
            return await inspection.before_revocation(actor, name, int(request.match_info["version"]))
        case "retire":
            return await inspection.before_retirement(actor, name, int(request.match_info["version"]))
        case _:
            return await inspection.before_change(actor, name, "rotated" if change == _ROTATE else "rolled back")


async def _page(
    request: web.Request,
    actor: Actor,
    change: str,
    *,
    refused: Refused | None = None,
    news: str | None = None,
    typed: Mapping[str, str] | None = None,
) -> web.Response:
    key = await _before(request, actor, change)
    number = request.match_info.get("version")
    return page(
        request,
        "admin/key_change.html",
        viewer=actor,
        change=change,
        key=key,
        version=next((each for each in key.versions if str(each.version) == number), None),
        refused=refused,
        news=news,
        typed=dict(typed or {}),
    )


async def _ask(request: web.Request, actor: Actor, change: str, query: KeyChangeQuery) -> web.Response:
    typed = draft_for(request, request.path, actor.user_id)
    response = await _page(request, actor, change, news=CONFIRMED if query.done == "confirmed" else None, typed=typed)
    forget_draft(request, response)
    return response


def _again(change: str) -> Retry:
    """Answers a refused form with its page; where it takes a proof first, by leading to that."""

    async def retry(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:
        actor, typed = await actor_of(request), {"reason": fields.get("reason", "")}
        if isinstance(error, ReauthenticationRequired):
            return confirm_first(request, request.path, actor.user_id, typed)
        return await _page(request, actor, change, refused=Refused(error), typed=typed)

    return retry


def _signed_out(request: web.Request, fields: Mapping[str, str]) -> web.StreamResponse:
    return sign_in_first(request, request.path, fields.get(ACCOUNT, ""), {"reason": fields.get("reason", "")})


def _version(field: str, text: str) -> int:
    number = whole_number(text)
    if number is None:
        raise InvalidInput(field, "must be a number")
    return number


def _begun(job: Job) -> web.Response:
    return see_other(JOB.format(job.id))


@routes("GET", f"{KEY}/rotate", media_type="text/html", errors=[errors.Forbidden, errors.KeyStateConflict])
async def ask_to_rotate(request: web.Request, actor: Actor, name: str, query: KeyChangeQuery) -> web.Response:  # noqa: ARG001
    """Explains a rotation, and asks."""
    return await _ask(request, actor, _ROTATE, query)


@routes(
    "POST",
    f"{KEY}/rotate",
    status=303,
    media_type="text/html",
    retry=_again(_ROTATE),
    signed_out=_signed_out,
    errors=CHANGING,
)
async def rotate(request: web.Request, actor: Actor, name: str, form: RotateForm) -> web.Response:
    """Rotate a key now, if the version that the page named is still primary; leads to the page that shows it."""
    return _begun(
        await request.app[SERVICES].rotation.rotate(
            actor.because(form.reason or None), KeyName(name), seen_primary=_version("primary", form.primary)
        )
    )


@routes("GET", f"{KEY}/rollback", media_type="text/html", errors=[errors.Forbidden, errors.KeyStateConflict])
async def ask_to_roll_back(request: web.Request, actor: Actor, name: str, query: KeyChangeQuery) -> web.Response:  # noqa: ARG001
    """Explains a rollback, and asks."""
    return await _ask(request, actor, _ROLLBACK, query)


@routes(
    "POST",
    f"{KEY}/rollback",
    status=303,
    media_type="text/html",
    retry=_again(_ROLLBACK),
    signed_out=_signed_out,
    errors=CHANGING,
)
async def roll_back(request: web.Request, actor: Actor, name: str, form: RollBackForm) -> web.Response:
    """Make the former primary primary again, where both are still the versions that the page named."""
    return _begun(
        await request.app[SERVICES].rotation.rollback(
            actor.because(form.reason or None),
            KeyName(name),
            seen_primary=_version("primary", form.primary),
            seen_former=_version("former", form.former),
        )
    )


@routes("GET", f"{_VERSION}/revoke", media_type="text/html", errors=_ASKING)
async def ask_to_revoke(
    request: web.Request,
    actor: Actor,
    name: str,  # noqa: ARG001
    version: str,  # noqa: ARG001
    query: KeyChangeQuery,
) -> web.Response:
    """Explains the revocation of a version, and asks for the name of the key."""
    return await _ask(request, actor, _REVOKE, query)


@routes(
    "POST",
    f"{_VERSION}/revoke",
    status=303,
    media_type="text/html",
    retry=_again(_REVOKE),
    signed_out=_signed_out,
    errors=_OF_A_VERSION,
)
async def revoke(request: web.Request, actor: Actor, name: str, version: str, form: RevokeVersionForm) -> web.Response:
    """Mark a version as compromised, permanently."""
    if form.confirmation.strip() != name:
        raise InvalidInput("confirmation", f"must be the name of the key, {name}: nothing was revoked")
    return _begun(
        await request.app[SERVICES].rotation.revoke(actor.because(form.reason or None), KeyName(name), int(version))
    )


@routes("GET", f"{_VERSION}/retire", media_type="text/html", errors=_ASKING)
async def ask_to_retire(
    request: web.Request,
    actor: Actor,
    name: str,  # noqa: ARG001
    version: str,  # noqa: ARG001
    query: KeyChangeQuery,
) -> web.Response:
    """Explains the retirement of a version, and asks."""
    return await _ask(request, actor, _RETIRE, query)


@routes(
    "POST",
    f"{_VERSION}/retire",
    status=303,
    media_type="text/html",
    retry=_again(_RETIRE),
    signed_out=_signed_out,
    errors=_OF_A_VERSION,
)
async def retire(request: web.Request, actor: Actor, name: str, version: str, form: RetireVersionForm) -> web.Response:
    """Prove by a full scan that nothing needs a version any more, and retire it."""
    return _begun(
        await request.app[SERVICES].rotation.retire(actor.because(form.reason or None), KeyName(name), int(version))
    )
