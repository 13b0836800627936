"""The health of everybody's credentials: counted per provider, and every unreadable one named with its owner."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from app.domain import errors
from app.domain.identity import Actor
from app.web.inputs import Model
from app.web.options import SERVICES
from app.web.pages.rendering import page
from app.web.routing import Routes

routes = Routes("Pages")
PATH: Final = "/admin/credentials"


class HealthQuery(Model):
    """The page of the list of unreadable credentials."""

    cursor: str | None = None


@routes("GET", PATH, media_type="text/html", errors=[errors.Forbidden])
async def health(request: web.Request, actor: Actor, query: HealthQuery) -> web.Response:
    """The health of everybody's credentials."""
    found = await request.app[SERVICES].credentials.health.page(actor, after=query.cursor)
    return page(
        request,
        "admin/credentials.html",
        viewer=actor,
        providers=found.providers,
        unreadable=found.unreadable.items,
        next_cursor=found.unreadable.next_cursor,
    )
