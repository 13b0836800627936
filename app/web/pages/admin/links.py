"""The page that shows a one-time link: in the answer to the form that made it, and nowhere else."""

from __future__ import annotations

from datetime import datetime

from aiohttp import web

from app.domain.identity import Actor
from app.domain.secrets import SecretText
from app.web.origin import ORIGIN
from app.web.pages.rendering import page


def link_page(
    request: web.Request,
    actor: Actor,
    *,
    token: SecretText | None,
    title: str,
    explanation: str,
    back: str,
    until: datetime | None = None,
) -> web.Response:
    """The page with the link of that token, which is in the fragment: browsers send that part to nobody.

    Without a token it says that the form was sent twice. ``back`` is where to go on, ``until`` how long the link lasts.
    """
    return page(
        request,
        "admin/link.html",
        viewer=actor,
        link=None if token is None else f"{request.app[ORIGIN].link(request, '/claim')}#{token.reveal()}",
        title=title,
        explanation=explanation,
        back=back,
        until=until,
    )
