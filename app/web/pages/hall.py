"""The Hall: whether every key hangs where it should, and if not, the one thing to do."""

from __future__ import annotations

from aiohttp import web

from app.domain.identity import Actor
from app.services.overview import KeyAge, Matter
from app.web.endpoints import Routes
from app.web.options import SERVICES
from app.web.pages.rendering import page

routes = Routes("Pages")

_REMEDIES = {
    Matter.UNREADABLE: ("/credentials", "See which"),
    Matter.EXPIRED: ("/credentials", "See which"),
    Matter.EXPIRING: ("/credentials", "See which"),
    Matter.EMPTY: ("/credentials/new", "Add a credential"),
}


@routes("GET", "/", media_type="text/html")
async def hall(request: web.Request, actor: Actor) -> web.Response:
    """The Hall: state of everything at a glance."""
    view = await request.app[SERVICES].overview.hall(actor)
    return page(
        request,
        "hall.html",
        viewer=actor,
        hall=view,
        well=view.matter is Matter.WELL,
        remedy=_REMEDIES.get(view.matter),
        keys=[(key, _share(key)) for key in view.keys],
    )


def _share(key: KeyAge) -> float:
    """How much of its time a key has spent, in percent for the timeline."""
    days = max((key.due_at - key.since).days, 1)
    return round(min(max(key.age_days / days, 0.005), 0.995) * 100, 1)  # the mark stays within the picture
