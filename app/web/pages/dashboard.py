"""The dashboard, titled "Hall": the state of credentials and keys in one sentence, and the most urgent thing to do."""

from __future__ import annotations

from aiohttp import web

from app.domain.identity import Actor
from app.services.dashboard import Headline, KeyAge
from app.web.options import SERVICES
from app.web.pages.rendering import page
from app.web.routing import Routes

routes = Routes("Pages")

_REMEDIES = {
    Headline.UNREADABLE: ("/credentials", "See which"),
    Headline.EXPIRED: ("/credentials", "See which"),
    Headline.EXPIRING: ("/credentials", "See which"),
    Headline.EMPTY: ("/credentials/new", "Add a credential"),
}


@routes("GET", "/", media_type="text/html")
async def dashboard(request: web.Request, actor: Actor) -> web.Response:
    """The Hall: state of everything at a glance."""
    view = await request.app[SERVICES].dashboard.dashboard(actor)
    return page(
        request,
        "dashboard.html",
        viewer=actor,
        dashboard=view,
        well=view.headline is Headline.WELL,
        remedy=_REMEDIES.get(view.headline),
        bot=view.bot,
        announcements=view.announcements,
        import_failed=request.app[SERVICES].imports.failure_at_start(actor),
        keys=[(key, _share(key)) for key in view.keys],
    )


def _share(key: KeyAge) -> float:
    """The share of its time that a key has spent, in percent, for the timeline."""
    days = max((key.due_at - key.since).days, 1)
    return round(min(max(key.age_days / days, 0.005), 0.995) * 100, 1)  # the mark stays within the picture
