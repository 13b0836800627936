"""The section of one's language and time zone."""

from __future__ import annotations

from aiohttp import web

from app.domain.identity import Actor
from app.web.inputs import Model
from app.web.options import SERVICES
from app.web.pages.account.page import PATH, again, done, signed_out
from app.web.routing import Routes

routes = Routes("Pages")


class PreferencesForm(Model):
    """A language's tag and a time zone's name; each empty for that of the browser."""

    language: str = ""
    time_zone: str = ""


@routes(
    "POST",
    f"{PATH}/preferences",
    status=303,
    media_type="text/html",
    retry=again("preferences", "language", "time_zone"),
    signed_out=signed_out("language", "time_zone"),
)
async def change(request: web.Request, actor: Actor, form: PreferencesForm) -> web.Response:
    """Choose the language of your pages, and the time zone of their times."""
    await request.app[SERVICES].preferences.change(
        actor, language=form.language or None, time_zone=form.time_zone.strip() or None
    )
    return done("preferences")
