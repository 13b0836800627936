"""The dashboard, titled "Hall": the state of credentials and keys in one sentence, and the most urgent thing to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from aiohttp import web

from app.domain.identity import Actor, Permission
from app.localisation import mark
from app.services.dashboard import Dashboard, Headline, KeyAge
from app.web.inputs import Model, NoFields
from app.web.options import SERVICES
from app.web.pages.drafts import sign_in_first
from app.web.pages.navigation import administration
from app.web.pages.rendering import page, see_other
from app.web.routing import Routes
from app.web.sessions import ACCOUNT

routes = Routes("Pages")

_ATTENTION: Final = "/credentials?show=attention"
_KEYS: Final = "/admin/keys"
_REMEDIES: Final = {
    Headline.UNREADABLE: (_ATTENTION, mark("See which")),
    Headline.EXPIRED: (_ATTENTION, mark("See which")),
    Headline.REFUSED: (_ATTENTION, mark("See which")),
    Headline.EXPIRING: (_ATTENTION, mark("See which")),
    Headline.EMPTY: ("/credentials/new", mark("Add a credential")),
}
_NEWS: Final = {"hidden": mark("The steps of the first run are not shown any more.")}


class HallQuery(Model):
    """The action that led here."""

    done: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _DueDate:
    """A credential that expires, or a key whose rotation is due: one of both."""

    at: datetime
    name: str
    provider: str | None
    href: str | None
    late: bool = False


@routes("GET", "/", media_type="text/html")
async def dashboard(request: web.Request, actor: Actor, query: HallQuery) -> web.Response:
    """The Hall: state of everything at a glance."""
    services = request.app[SERVICES]
    view = await services.dashboard.dashboard(actor)
    keys_page = next((path for path, _ in administration(actor.role) if path == _KEYS), None)
    may_rotate = keys_page is not None and actor.may(Permission.MANAGE_KEYS)
    return page(
        request,
        "dashboard.html",
        viewer=actor,
        news=_NEWS.get(query.done),
        dashboard=view,
        remedy=_remedy(view, keys_page, may_rotate=may_rotate),
        bot=view.bot,
        announcements=view.announcements,
        import_failed=services.imports.failure_at_start(actor),
        keys=[(key, _share(key)) for key in view.keys],
        keys_page=keys_page,
        may_rotate=may_rotate,
        due=_due(view, keys_page),
    )


def _signed_out(request: web.Request, typed: Mapping[str, str]) -> web.Response:
    return sign_in_first(request, "/", typed.get(ACCOUNT, ""), {})


@routes("POST", "/hide-first-run", status=303, media_type="text/html", signed_out=_signed_out)
async def hide_first_run(request: web.Request, actor: Actor, form: NoFields) -> web.Response:  # noqa: ARG001 - reads the token
    """Show the steps of the first run no more."""
    await request.app[SERVICES].dashboard.hide_first_run(actor)
    return see_other("/?done=hidden")


def _remedy(view: Dashboard, keys_page: str | None, *, may_rotate: bool) -> tuple[str, str] | None:
    """Address and name of the page where the matter of the headline is dealt with, for those who have one."""
    if view.headline is Headline.KEY_DUE and keys_page is not None:
        return keys_page, mark("Rotate it") if may_rotate else mark("See the keys")
    return _REMEDIES.get(view.headline)


def _due(view: Dashboard, keys_page: str | None) -> Sequence[_DueDate]:
    """Everything that is due in the next 30 days or late, by date."""
    credentials = [
        _DueDate(at=each.expires_at, name=each.label, provider=each.provider, href=f"/credentials/{each.id}")
        for each in view.expiring
    ]
    keys = [
        _DueDate(at=key.due_at, name=key.name.value, provider=None, href=keys_page, late=key.due)
        for key in view.keys
        if key.due or key.due_soon
    ]
    return sorted([*credentials, *keys], key=lambda each: each.at)


def _share(key: KeyAge) -> float:
    """The share of its time that a key has spent, in percent, for the timeline."""
    days = max((key.due_at - key.since).days, 1)
    return round(min(max(key.age_days / days, 0.005), 0.995) * 100, 1)  # the mark stays within the picture
