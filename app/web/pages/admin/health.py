"""The health of the install: the checks of `keyhall doctor` that a running process can make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from app.domain import errors
from app.domain.diagnosis import CheckState
from app.domain.identity import Actor
from app.localisation import mark
from app.web.options import SERVICES
from app.web.pages.rendering import page
from app.web.routing import Routes

routes = Routes("Pages")
_STATES: Final[Mapping[CheckState, tuple[str, str]]] = {
    CheckState.OK: (mark("well"), "valid"),
    CheckState.WARNING: (mark("worth a look"), "could_not_check"),
    CheckState.FAILED: (mark("wrong"), "refused"),
}


@routes("GET", "/admin/health", media_type="text/html", errors=[errors.Forbidden])
async def health(request: web.Request, actor: Actor) -> web.Response:
    """One line for each thing that can be wrong, with its remedy; for owners, admins and auditors."""
    report = await request.app[SERVICES].install_health.report(actor)
    checks = report.diagnosis.checks
    return page(
        request,
        "admin/health.html",
        viewer=actor,
        at=report.at,
        checks=[(each, *_STATES[each.state]) for each in checks],
        failed=sum(each.state is CheckState.FAILED for each in checks),
        warned=sum(each.state is CheckState.WARNING for each in checks),
    )
