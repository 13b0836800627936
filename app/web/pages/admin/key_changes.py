"""Changes of an application key: each is explained on a page of its own, which asks, and then leads to its job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from app.domain import errors
from app.domain.errors import AppError, InvalidInput, NotFound, ReauthenticationRequired
from app.domain.identity import Actor
from app.domain.jobs import Job
from app.domain.keys import KeyName
from app.services.keys.owner import Asked
from app.web.inputs import Model
from app.web.options import SERVICES
from app.web.pages.admin.keys import CHANGING, KEY, PURPOSES
from app.web.pages.drafts import CONFIRMED, confirm_first, draft_for, forget_draft, sign_in_first
from app.web.pages.rendering import Refused, page, see_other
from app.web.routing import Retry, Routes
from app.web.sessions import ACCOUNT, actor_of

routes = Routes("Pages")
JOB: Final = "/admin/keys/jobs/{}"
_VERSION: Final = f"{KEY}/versions/{{version:[1-9][0-9]{{0,9}}}}"
_OF_A_VERSION: Final = (*CHANGING, errors.NotFound)


@dataclass(frozen=True)
class _Change:
    """A change as the page names it, and as the services refuse it where a secret outside owns the key."""

    name: str
    asked: Asked | None


_ROTATE: Final = _Change("rotate", "rotated")
_ROLLBACK: Final = _Change("rollback", "rolled back")
_REVOKE: Final = _Change("revoke", None)
_RETIRE: Final = _Change("retire", None)


class KeyChangeForm(Model):
    """Why a key is changed."""

    reason: str = ""


class RevokeVersionForm(Model):
    """Why a version is revoked, and the name of its key, typed."""

    confirmation: str
    reason: str = ""


class KeyChangeQuery(Model):
    """The action that led to the page."""

    done: str = ""


async def _page(
    request: web.Request,
    actor: Actor,
    change: _Change,
    *,
    refused: Refused | None = None,
    news: str | None = None,
    typed: Mapping[str, str] | None = None,
) -> web.Response:
    name, number = KeyName(request.match_info["name"]), request.match_info.get("version")
    key = await request.app[SERVICES].key_inspection.before_change(actor, name, change.asked)
    version = next((each for each in key.versions if number is not None and each.version == int(number)), None)
    if number is not None and version is None:
        raise NotFound
    return page(
        request,
        "admin/key_change.html",
        status=refused.status if refused else 200,
        headers=refused.headers if refused else None,
        viewer=actor,
        change=change.name,
        key=key,
        version=version,
        purpose=PURPOSES[name],
        refused=refused,
        news=news,
        typed=dict(typed or {}),
    )


async def _ask(request: web.Request, actor: Actor, change: _Change, query: KeyChangeQuery) -> web.Response:
    typed = draft_for(request, request.path, actor.user_id)
    response = await _page(request, actor, change, news=CONFIRMED if query.done == "confirmed" else None, typed=typed)
    forget_draft(request, response)
    return response


def _again(change: _Change) -> Retry:
    """Answers a refused form with its page; where it takes a proof first, by leading to that."""

    async def retry(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:
        actor, typed = await actor_of(request), {"reason": fields.get("reason", "")}
        if isinstance(error, ReauthenticationRequired):
            return confirm_first(request, request.path, actor.user_id, typed)
        return await _page(request, actor, change, refused=Refused(error), typed=typed)

    return retry


def _signed_out(request: web.Request, fields: Mapping[str, str]) -> web.StreamResponse:
    return sign_in_first(request, request.path, fields.get(ACCOUNT, ""), {"reason": fields.get("reason", "")})


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
async def rotate(request: web.Request, actor: Actor, name: str, form: KeyChangeForm) -> web.Response:
    """Rotate a key now; leads to the page that shows it."""
    return _begun(await request.app[SERVICES].rotation.rotate(actor.because(form.reason or None), KeyName(name)))


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
async def roll_back(request: web.Request, actor: Actor, name: str, form: KeyChangeForm) -> web.Response:
    """Make the former primary primary again."""
    return _begun(await request.app[SERVICES].rotation.rollback(actor.because(form.reason or None), KeyName(name)))


@routes("GET", f"{_VERSION}/revoke", media_type="text/html", errors=[errors.Forbidden, errors.NotFound])
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


@routes("GET", f"{_VERSION}/retire", media_type="text/html", errors=[errors.Forbidden, errors.NotFound])
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
async def retire(request: web.Request, actor: Actor, name: str, version: str, form: KeyChangeForm) -> web.Response:
    """Prove by a full scan that nothing needs a version any more, and retire it."""
    return _begun(
        await request.app[SERVICES].rotation.retire(actor.because(form.reason or None), KeyName(name), int(version))
    )
