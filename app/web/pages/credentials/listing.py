"""The list of the reader's credentials: tabs, a search, and pages both ways."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from app.domain.credential_lists import Tab
from app.domain.errors import InvalidInput
from app.domain.identity import Actor
from app.localisation import mark
from app.web.inputs import ID, Model
from app.web.options import SERVICES
from app.web.pages.credentials.views import ALL, NEWS, shown
from app.web.pages.rendering import Refused, page, see_other
from app.web.routing import Routes

routes = Routes("Pages")

_TABS: Final = {
    Tab.ALL: mark("All"),
    Tab.ATTENTION: mark("Needs attention"),
    Tab.SHARED: mark("Shared"),
    Tab.REMOVED: mark("Removed"),
}


class ListQuery(Model):
    """The tab, the search and the page of the list; ``done`` and ``id`` are the action that led to it.

    ``removed=true`` is how the address of the tab of removed ones was written before.
    """

    show: str = Tab.ALL.value
    q: str = ""
    cursor: str | None = None
    removed: bool = False
    done: str = ""
    id: str = ""


@routes("GET", ALL, media_type="text/html")
async def listing(request: web.Request, actor: Actor, query: ListQuery) -> web.Response:
    """Your credentials, by what they need."""
    if query.removed:
        done = {"done": query.done} if query.done else {}
        return see_other(f"{ALL}?{urlencode({'show': Tab.REMOVED.value, **done})}")
    return await list_page(
        request,
        actor,
        tab=_tab(query.show),
        search=query.q,
        cursor=query.cursor,
        news=NEWS.get(query.done),
        undo=query.id if query.done == "removed" and re.fullmatch(ID, query.id) else None,
    )


async def list_page(
    request: web.Request,
    actor: Actor,
    *,
    tab: Tab,
    search: str = "",
    cursor: str | None = None,
    news: str | None = None,
    undo: str | None = None,
    refused: Refused | None = None,
) -> web.Response:
    """A page of the list; ``refused`` is what became of a button on it."""
    found = await request.app[SERVICES].credentials.lists.page(actor, tab=tab, search=search, cursor=cursor)
    return page(
        request,
        "credentials/list.html",
        viewer=actor,
        tab=tab,
        title=_TABS[tab],
        tabs=[(each, _address(each, search), text, getattr(found.counts, each.value)) for each, text in _TABS.items()],
        search=search,
        items=[shown(each) for each in found.items],
        previous=found.previous_cursor and _address(tab, search, found.previous_cursor),
        next=found.next_cursor and _address(tab, search, found.next_cursor),
        everything=_address(tab, ""),
        news=news,
        undo=undo,
        refused=refused,
    )


def _tab(text: str) -> Tab:
    try:
        return Tab(text)
    except ValueError:
        raise InvalidInput("show", f"must be one of {', '.join(Tab)}") from None


def _address(tab: Tab, search: str, cursor: str | None = None) -> str:
    """The address of a page of the list, without what is as it is anyway."""
    given = {"show": "" if tab is Tab.ALL else tab.value, "q": search, "cursor": cursor or ""}
    parts = urlencode({name: text for name, text in given.items() if text})
    return f"{ALL}?{parts}" if parts else ALL
