"""API tokens of one's own: made, shown once in the answer, and revoked."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from aiohttp import web

from app.domain import errors
from app.domain.errors import InvalidInput
from app.domain.identity import Actor
from app.domain.scopes import Scope
from app.web.inputs import ID, Model, NoFields
from app.web.limits import TokenName
from app.web.options import SERVICES
from app.web.pages.account.page import PATH, account_page, again, done, signed_out
from app.web.routing import Routes

routes = Routes("Pages")

_LIFETIMES: Final = {"7": 7, "30": 30, "90": 90, "365": 365, "": None}
"""Days that can be chosen, by the text of the field; "" for a token that does not expire."""


class NewTokenForm(Model):
    """A token that is to be made: a box is "yes" where its scope is wanted."""

    name: TokenName
    days: str = "90"
    credentials_read: str = ""
    credentials_write: str = ""
    credentials_reveal: str = ""
    credentials_use: str = ""
    keys_read: str = ""
    keys_manage: str = ""
    audit_read: str = ""
    users_manage: str = ""
    metrics: str = ""


def _box(scope: Scope) -> str:
    return scope.value.replace(":", "_")


_BOXES: Final = tuple(_box(each) for each in Scope)


@routes(
    "POST",
    f"{PATH}/tokens",
    media_type="text/html",
    retry=again("tokens", "name", "days", *_BOXES),
    signed_out=signed_out("name", "days", *_BOXES),
    errors=[errors.ReauthenticationRequired, errors.Forbidden, errors.QuotaExceeded],
)
async def create(request: web.Request, actor: Actor, form: NewTokenForm) -> web.Response:
    """Make an API token and show it, in this answer and nowhere else."""
    if form.days not in _LIFETIMES:
        raise InvalidInput("days", "must be one of the choices")
    days = _LIFETIMES[form.days]
    created = await request.app[SERVICES].api_tokens.create(
        actor,
        name=form.name,
        scopes=[each.value for each in Scope if getattr(form, _box(each))],
        expires_at=None if days is None else timedelta(days=days),
    )
    secret = created.secret.reveal() if created.secret is not None else None
    return await account_page(request, actor, new_token=secret)


@routes(
    "POST",
    f"{PATH}/tokens/{{token_id:{ID}}}/revoke",
    status=303,
    media_type="text/html",
    retry=again("tokens"),
    signed_out=signed_out(),
    errors=[errors.NotFound],
)
async def revoke(request: web.Request, actor: Actor, token_id: str, form: NoFields) -> web.Response:  # noqa: ARG001
    """Revoke one of your API tokens."""
    await request.app[SERVICES].api_tokens.revoke(actor, token_id)
    return done("token")
