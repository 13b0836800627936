"""Adding a credential."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from app.domain import errors
from app.domain.errors import AppError
from app.domain.identity import Actor
from app.domain.key_shapes import provider_of
from app.domain.providers import KNOWN_PROVIDERS
from app.domain.text import trimmed
from app.web.inputs import Model
from app.web.options import SERVICES
from app.web.pages.credentials.views import ALL, NEW, end_of, kept_of
from app.web.pages.drafts import draft_for, forget_draft, sign_in_first
from app.web.pages.rendering import Refused, page, see_other
from app.web.routing import Routes
from app.web.sessions import ACCOUNT, actor_of

routes = Routes("Pages")


class AddForm(Model):
    """A new credential; with ``request_key``, a form that is sent twice stores one.

    An empty provider is recognised by the key; ``as_typed`` confirms one that disagrees with its shape.
    """

    provider: str
    label: str
    secret: str
    expires: str = ""
    as_typed: str = ""
    request_key: str | None = None


async def _add_again(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:
    refused, kept = Refused(error), kept_of(fields)
    by_shape = provider_of(trimmed(fields.get("secret", "")))
    asked = by_shape if refused.field == "provider" and kept.get("provider", "").strip() else None
    return _add_page(request, await actor_of(request), refused, kept, asked)


def _add_page(
    request: web.Request,
    actor: Actor,
    refused: Refused | None,
    kept: Mapping[str, str],
    asked: str | None = None,
) -> web.Response:
    """The form; ``asked`` is the provider of the key's shape, where another one was typed."""
    return page(
        request,
        "credentials/add.html",
        viewer=actor,
        refused=refused,
        kept={"provider": "", "label": "", "expires": "", **kept},
        asked=asked,
        providers=sorted(KNOWN_PROVIDERS),
        request_key=request.app[SERVICES].randomness.new_id(),
    )


@routes("GET", NEW, media_type="text/html")
async def add_form(request: web.Request, actor: Actor) -> web.Response:
    """The form for a new credential."""
    response = _add_page(request, actor, None, kept_of(draft_for(request, NEW, actor.user_id)))
    forget_draft(request, response)
    return response


def _signed_out(request: web.Request, fields: Mapping[str, str]) -> web.Response:
    return sign_in_first(request, NEW, fields.get(ACCOUNT, ""), kept_of(fields))


@routes(
    "POST",
    ALL,
    status=303,
    media_type="text/html",
    retry=_add_again,
    signed_out=_signed_out,
    errors=[errors.AlreadyExists, errors.QuotaExceeded],
)
async def add(request: web.Request, actor: Actor, form: AddForm) -> web.Response:
    """Store a credential."""
    await request.app[SERVICES].credentials.add(
        actor,
        provider=form.provider,
        label=form.label,
        secret=form.secret,
        expires_at=end_of(form.expires),
        idempotency_key=form.request_key,
        # The confirmation is for keys of the shape that the form asked about, not for any other key.
        recognise=not form.as_typed or provider_of(trimmed(form.secret)) != form.as_typed,
    )
    return see_other(f"{ALL}?done=added")
