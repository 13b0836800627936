"""One credential: seen, changed, replaced, removed, restored and deleted for good."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from app.domain import errors
from app.domain.credential_lists import Tab
from app.domain.errors import AppError
from app.domain.identity import Actor
from app.services.credentials import UNSET
from app.web.inputs import Model, NoFields
from app.web.options import SERVICES
from app.web.pages.credentials.listing import list_page
from app.web.pages.credentials.views import (
    ALL,
    NEWS,
    ONE,
    CredentialQuery,
    VersionForm,
    end_of,
    kept_of,
    shown,
    version_of,
)
from app.web.pages.drafts import draft_for, forget_draft, sign_in_first
from app.web.pages.rendering import Refused, page, see_other
from app.web.problems import status_of
from app.web.routing import Retry, Routes
from app.web.sessions import ACCOUNT, actor_of

routes = Routes("Pages")


class ChangeForm(Model):
    """A new label or expiry, or both, for the version that the page showed."""

    label: str | None = None
    expires: str | None = None
    expires_before: str = ""
    version: str


class ReplaceForm(Model):
    """A new secret, for the version that the page showed."""

    secret: str
    version: str


class PutBackForm(Model):
    """The version of a former secret, for the version that the page showed."""

    former: str
    version: str


def _removed_signed_out(request: web.Request, fields: Mapping[str, str]) -> web.Response:
    return sign_in_first(request, ALL, fields.get(ACCOUNT, ""), {})


def signed_out(request: web.Request, fields: Mapping[str, str]) -> web.Response:
    """Answers a form of one credential whose session had ended: it leads back to the page of the credential."""
    page = f"{ALL}/{request.match_info['credential_id']}"
    return sign_in_first(request, page, fields.get(ACCOUNT, ""), kept_of(fields))


def _again(section: str) -> Retry:
    """Answers a refused form with the page of its credential, as it is now, and the refusal beside the form."""

    async def retry(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:
        return await credential_page(
            request, await actor_of(request), refused=Refused(error), section=section, typed=kept_of(fields)
        )

    return retry


async def credential_page(
    request: web.Request,
    actor: Actor,
    *,
    refused: Refused | None = None,
    section: str = "",
    news: str | None = None,
    typed: Mapping[str, str] | None = None,
) -> web.Response:
    """The page of one credential; `section` is the part of it whose form was refused, `typed` the text in it."""
    found = await request.app[SERVICES].credentials.detail(actor, request.match_info["credential_id"])
    removed = found.view.deleted_at is not None
    return page(
        request,
        "credentials/removed.html" if removed else "credentials/one.html",
        viewer=actor,
        credential=shown(found.view),
        history=found.history,
        usage=found.usage,
        people=found.people,
        refused=refused,
        conflict=refused is not None and refused.status == status_of(errors.VersionConflict),
        section=section,
        news=news,
        typed=typed or {},
    )


@routes("GET", ONE, media_type="text/html", errors=[errors.NotFound])
async def one(request: web.Request, actor: Actor, credential_id: str, query: CredentialQuery) -> web.Response:  # noqa: ARG001
    """One credential; a removed one can be restored from its page."""
    draft = kept_of(draft_for(request, request.path, actor.user_id))
    response = await credential_page(request, actor, news=NEWS.get(query.done), typed=draft)
    forget_draft(request, response)
    return response


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
        label=UNSET if form.label is None else form.label,
        # The form shows a day, the row holds a time: only a day that was changed replaces it.
        expires_at=UNSET if form.expires in {None, form.expires_before} else end_of(form.expires or ""),
        expected_version=version_of(form.version),
    )
    return see_other(f"{ALL}/{credential_id}?done=changed")


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
        actor, credential_id, form.secret, expected_version=version_of(form.version)
    )
    return see_other(f"{ALL}/{credential_id}?done={'replaced' if replaced.new_secret else 'same'}")


@routes(
    "POST",
    f"{ONE}/rollback",
    status=303,
    media_type="text/html",
    retry=_again("history"),
    signed_out=signed_out,
    errors=[errors.NotFound, errors.VersionConflict, errors.CredentialUnreadable],
)
async def put_back(request: web.Request, actor: Actor, credential_id: str, form: PutBackForm) -> web.Response:
    """Put a former secret back in force."""
    replaced = await request.app[SERVICES].credentials.rollback(
        actor, credential_id, version=version_of(form.former), expected_version=version_of(form.version)
    )
    return see_other(f"{ALL}/{credential_id}?done={'put_back' if replaced.new_secret else 'same'}")


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
    await request.app[SERVICES].credentials.remove(actor, credential_id, expected_version=version_of(form.version))
    return see_other(f"{ALL}?done=removed&id={credential_id}")


async def _removed_again(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:  # noqa: ARG001
    return await list_page(request, await actor_of(request), tab=Tab.REMOVED, refused=Refused(error))


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
    return see_other(f"{ALL}?done=restored")


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
    await request.app[SERVICES].credentials.purge(actor, credential_id, expected_version=version_of(form.version))
    return see_other(f"{ALL}?show=removed&done=purged")
