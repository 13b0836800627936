"""One Discord server: the credentials that are shared with it. Its roles, caps and use today are not here yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from app.domain import errors
from app.domain.errors import AppError
from app.domain.identity import Actor, Permission
from app.localisation import mark
from app.services.credentials import SharedCredential
from app.web.inputs import ID, Model
from app.web.options import SERVICES
from app.web.pages.credentials.views import VersionForm, shown, version_of
from app.web.pages.drafts import sign_in_first
from app.web.pages.rendering import Refused, page, see_other
from app.web.routing import Routes
from app.web.sessions import ACCOUNT, actor_of

routes = Routes("Pages")
_GUILD: Final = "/guilds/{guild_id:[0-9]+}"
_NEWS: Final = {"removed": mark("The credential is removed. Its sharer can restore it for seven days.")}


class GuildQuery(Model):
    """The page of the list, and the action that led to it."""

    cursor: str | None = None
    done: str = ""


async def _guild_page(
    request: web.Request, actor: Actor, query: GuildQuery, refused: Refused | None = None
) -> web.Response:
    guild_id = request.match_info["guild_id"]
    found = await request.app[SERVICES].credentials.guilds.page(actor, guild_id, after=query.cursor)
    return page(
        request,
        "guild.html",
        viewer=actor,
        guild_id=guild_id,
        sees_all=actor.may(Permission.SEE_ALL_CREDENTIALS),
        items=[_shown(each) for each in found.items],
        next_cursor=found.next_cursor,
        later=query.cursor is not None,
        refused=refused,
        news=_NEWS.get(query.done),
    )


def _shown(shared: SharedCredential) -> Mapping[str, object]:
    return {"credential": shown(shared.view), "sharer": shared.sharer, "may_remove": shared.may_remove}


async def _again(request: web.Request, error: AppError, fields: Mapping[str, str]) -> web.Response:  # noqa: ARG001
    return await _guild_page(request, await actor_of(request), GuildQuery(), Refused(error))


def _signed_out(request: web.Request, fields: Mapping[str, str]) -> web.StreamResponse:
    return sign_in_first(request, f"/guilds/{request.match_info['guild_id']}", fields.get(ACCOUNT, ""), {})


@routes("GET", _GUILD, media_type="text/html", errors=[errors.NotFound])
async def guild(request: web.Request, actor: Actor, guild_id: str, query: GuildQuery) -> web.Response:  # noqa: ARG001
    """The credentials that are shared with a server: your own; for owners, admins and auditors all."""
    return await _guild_page(request, actor, query)


@routes(
    "POST",
    f"{_GUILD}/credentials/{{credential_id:{ID}}}/remove",
    status=303,
    media_type="text/html",
    retry=_again,
    signed_out=_signed_out,
    errors=[errors.NotFound, errors.VersionConflict],
)
async def remove(
    request: web.Request, actor: Actor, guild_id: str, credential_id: str, form: VersionForm
) -> web.Response:
    """Remove a credential that is shared with the server; its sharer can restore it for seven days."""
    await request.app[SERVICES].credentials.remove(actor, credential_id, expected_version=version_of(form.version))
    # Who sees only their own shares may have none left there.
    sees_all = actor.may(Permission.SEE_ALL_CREDENTIALS)
    return see_other(f"/guilds/{guild_id}?done=removed" if sees_all else "/credentials?done=removed")
