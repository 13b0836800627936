"""The credentials of the signed-in user: list, add, see, change, replace, remove and restore."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from aiohttp import web

from app.domain import errors
from app.domain.credentials import RECOVERABLE_FOR, CredentialView, Status, shows
from app.domain.errors import AppError, InvalidInput
from app.domain.identity import Actor
from app.domain.key_shapes import looks_like_key
from app.domain.text import whole_number
from app.domain.times import end_of_day
from app.services.credentials import UNSET
from app.web.inputs import ID, Model, NoFields
from app.web.options import SERVICES
from app.web.pages.drafts import draft_for, forget_draft, sign_in_first
from app.web.pages.rendering import Refused, page, see_other, texts_of
from app.web.routing import Retry, Routes
from app.web.sessions import ACCOUNT, actor_of

routes = Routes("Pages")
_ALL = "/credentials"
_NEW = f"{_ALL}/new"
ONE = f"{_ALL}/{{credential_id:{ID}}}"

_NEWS: Final = {
    "added": "Stored.",
    "changed": "Changed.",
    "replaced": "Replaced. The former secret is kept in the history.",
    "same": "Nothing changed: that secret is in force already.",
    "purged": "Deleted for good.",
    "removed": "Removed. It can be restored for seven days.",
    "restored": "Restored.",
}
_WORDS: Final = {
    Status.UNCHECKED: "not checked",
    Status.VALID: "valid",
    Status.REFUSED: "refused by the provider",
    Status.COULD_NOT_CHECK: "could not be checked",
    Status.EXPIRED: "expired",
    Status.UNREADABLE: "unreadable — enter it again",
}


class CredentialsQuery(Model):
    """The page of the list, and the action that led to it."""

    cursor: str | None = None
    removed: bool = False
    done: str = ""
    id: str = ""


class CredentialQuery(Model):
    """The action that led to the page."""

    done: str = ""


class AddForm(Model):
    """A new credential; with ``request_key``, a form that is sent twice stores one."""

    provider: str
    label: str
    secret: str
    expires: str = ""
    request_key: str | None = None


class ChangeForm(Model):
    """A new label or expiry, for the version that the page showed."""

    label: str
    expires: str = ""
    expires_before: str = ""
    version: str


class ReplaceForm(Model):
    """A new secret, for the version that the page showed."""

    secret: str
    version: str


class VersionForm(Model):
    """A button, for the version that the page showed."""

    version: str


@routes("GET", _ALL, media_type="text/html")
async def listing(request: web.Request, actor: Actor, query: CredentialsQuery) -> web.Response:
    """Your credentials, or those that you removed."""
    found = await request.app[SERVICES].credentials.page(actor, after=query.cursor, removed=query.removed)
    return page(
        request,
        "removed.html" if query.removed else "credentials.html",
        viewer=actor,
        items=[shown(each) for each in found.items],
        next_cursor=found.next_cursor,
        news=_NEWS.get(query.done),
        undo=query.id if query.done == "removed" and re.fullmatch(ID, query.id) else None,
    )


def kept_of(fields: Mapping[str, str]) -> dict[str, str]:
    """The typed fields that a form is filled in with again: not the secret, nor one in the wrong field."""
    typed = {name: fields.get(name, "") for name in ("provider", "label", "expires")}
    secret = fields.get("secret", "").strip()
    return {name: "" if looks_like_key(text) or shows(text, secret) else text for name, text in typed.items()}


async def _add_again(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:
    return _add_page(request, await actor_of(request), Refused(error), kept_of(fields))


def _add_page(request: web.Request, actor: Actor, refused: Refused | None, kept: Mapping[str, str]) -> web.Response:
    return page(
        request,
        "add.html",
        status=refused.status if refused else 200,
        viewer=actor,
        refused=refused,
        kept=kept,
        request_key=request.app[SERVICES].randomness.new_id(),
    )


@routes("GET", _NEW, media_type="text/html")
async def add_form(request: web.Request, actor: Actor) -> web.Response:
    """The form for a new credential."""
    return _with_draft(request, _add_page(request, actor, None, kept_of(draft_for(request, _NEW, actor.user_id))))


def _with_draft(request: web.Request, response: web.Response) -> web.Response:
    forget_draft(request, response)
    return response


def _add_signed_out(request: web.Request, fields: Mapping[str, str]) -> web.Response:
    return sign_in_first(request, _NEW, fields.get(ACCOUNT, ""), kept_of(fields))


def _removed_signed_out(request: web.Request, fields: Mapping[str, str]) -> web.Response:
    return sign_in_first(request, _ALL, fields.get(ACCOUNT, ""), {})


def signed_out(request: web.Request, fields: Mapping[str, str]) -> web.Response:
    """Answers a form of one credential whose session had ended: it leads back to the page of the credential."""
    page = f"{_ALL}/{request.match_info['credential_id']}"
    return sign_in_first(request, page, fields.get(ACCOUNT, ""), kept_of(fields))


@routes(
    "POST",
    _ALL,
    status=303,
    media_type="text/html",
    retry=_add_again,
    signed_out=_add_signed_out,
    errors=[errors.AlreadyExists, errors.QuotaExceeded],
)
async def add(request: web.Request, actor: Actor, form: AddForm) -> web.Response:
    """Store a credential."""
    await request.app[SERVICES].credentials.add(
        actor,
        provider=form.provider,
        label=form.label,
        secret=form.secret,
        expires_at=_end_of(form.expires),
        idempotency_key=form.request_key,
    )
    return see_other(f"{_ALL}?done=added")


def _again(section: str) -> Retry:
    """Answers a refused form with the page of its credential and the refusal beside the form."""

    async def retry(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:
        actor = await actor_of(request)
        view = await request.app[SERVICES].credentials.get(actor, request.match_info["credential_id"])
        return credential_page(request, actor, view, refused=Refused(error), section=section, typed=kept_of(fields))

    return retry


def credential_page(
    request: web.Request,
    actor: Actor,
    view: CredentialView,
    *,
    refused: Refused | None = None,
    section: str = "",
    news: str | None = None,
    typed: Mapping[str, str] | None = None,
) -> web.Response:
    """The page of one credential; `section` is the part of it whose form was refused, `typed` the text in it."""
    return page(
        request,
        "credential.html",
        status=refused.status if refused else 200,
        headers=refused.headers if refused else None,
        viewer=actor,
        credential=shown(view),
        refused=refused,
        section=section,
        news=news,
        typed=typed if typed and typed["label"] else None,
    )


@routes("GET", ONE, media_type="text/html", errors=[errors.NotFound])
async def one(request: web.Request, actor: Actor, credential_id: str, query: CredentialQuery) -> web.Response:
    """One credential."""
    view = await request.app[SERVICES].credentials.get(actor, credential_id)
    draft = kept_of(draft_for(request, request.path, actor.user_id))
    return _with_draft(request, credential_page(request, actor, view, news=_NEWS.get(query.done), typed=draft))


@routes(
    "POST",
    f"{ONE}/change",
    status=303,
    media_type="text/html",
    retry=_again("change"),
    signed_out=signed_out,
    errors=[errors.NotFound, errors.AlreadyExists, errors.VersionConflict],
)
async def change(request: web.Request, actor: Actor, credential_id: str, form: ChangeForm) -> web.Response:
    """Change the label or the expiry of a credential."""
    await request.app[SERVICES].credentials.change(
        actor,
        credential_id,
        label=form.label,
        # The form shows a day, the row holds a time: only a day that was changed replaces it.
        expires_at=UNSET if form.expires == form.expires_before else _end_of(form.expires),
        expected_version=_version(form.version),
    )
    return see_other(f"{_ALL}/{credential_id}?done=changed")


@routes(
    "POST",
    f"{ONE}/replace",
    status=303,
    media_type="text/html",
    retry=_again("replace"),
    signed_out=signed_out,
    errors=[errors.NotFound, errors.VersionConflict],
)
async def replace(request: web.Request, actor: Actor, credential_id: str, form: ReplaceForm) -> web.Response:
    """Replace the secret of a credential."""
    replaced = await request.app[SERVICES].credentials.replace(
        actor, credential_id, form.secret, expected_version=_version(form.version)
    )
    return see_other(f"{_ALL}/{credential_id}?done={'replaced' if replaced.new_secret else 'same'}")


@routes(
    "POST",
    f"{ONE}/remove",
    status=303,
    media_type="text/html",
    retry=_again("remove"),
    signed_out=signed_out,
    errors=[errors.NotFound, errors.VersionConflict],
)
async def remove(request: web.Request, actor: Actor, credential_id: str, form: VersionForm) -> web.Response:
    """Remove a credential; it can be restored for seven days."""
    await request.app[SERVICES].credentials.remove(actor, credential_id, expected_version=_version(form.version))
    return see_other(f"{_ALL}?done=removed&id={credential_id}")


async def _removed_again(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:  # noqa: ARG001
    refused, actor = Refused(error), await actor_of(request)
    found = await request.app[SERVICES].credentials.page(actor, removed=True)
    return page(
        request,
        "removed.html",
        status=refused.status,
        viewer=actor,
        items=[shown(each) for each in found.items],
        next_cursor=found.next_cursor,
        news=refused.sentence(texts_of(request)),
        undo=None,
    )


@routes(
    "POST",
    f"{ONE}/restore",
    status=303,
    media_type="text/html",
    retry=_removed_again,
    signed_out=_removed_signed_out,
    errors=[errors.NotFound, errors.AlreadyExists],
)
async def restore(request: web.Request, actor: Actor, credential_id: str, form: NoFields) -> web.Response:  # noqa: ARG001
    """Restore a removed credential."""
    await request.app[SERVICES].credentials.restore(actor, credential_id)
    return see_other(f"{_ALL}?done=restored")


@routes(
    "POST",
    f"{ONE}/purge",
    status=303,
    media_type="text/html",
    retry=_removed_again,
    signed_out=_removed_signed_out,
    errors=[errors.NotFound, errors.VersionConflict],
)
async def purge(request: web.Request, actor: Actor, credential_id: str, form: VersionForm) -> web.Response:
    """Delete a removed credential for good."""
    await request.app[SERVICES].credentials.purge(actor, credential_id, expected_version=_version(form.version))
    return see_other(f"{_ALL}?removed=true&done=purged")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A credential, for templates."""

    id: str
    provider: str
    label: str
    masked: str
    version: int
    fingerprint: str | None
    state: Status
    words: str
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    kept_until: datetime | None


def shown(view: CredentialView) -> Shown:
    """The view model of a credential."""
    return Shown(
        id=view.id,
        provider=view.provider,
        label=view.label,
        masked=view.masked,
        version=view.version,
        fingerprint=view.fingerprint,
        state=view.status,
        words=_WORDS[view.status],
        created_at=view.created_at,
        updated_at=view.updated_at,
        expires_at=view.expires_at,
        last_used_at=view.last_used_at,
        kept_until=view.deleted_at + RECOVERABLE_FOR if view.deleted_at else None,
    )


def _end_of(text: str) -> datetime | None:
    """The last second, in UTC, of a typed day; None for an empty text. Raises InvalidInput."""
    if not text.strip():
        return None
    try:
        return end_of_day(text.strip())
    except ValueError:
        raise InvalidInput("expires_at", "must be a day such as 2027-03-31") from None


def _version(text: str) -> int:
    number = whole_number(text)
    if number is None:
        raise InvalidInput("version", "must be a number")
    return number
