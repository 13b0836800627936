"""The health of the install over REST."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from aiohttp import web
from typing_extensions import TypedDict

from app.domain import errors
from app.domain.identity import Actor
from app.domain.scopes import Scope
from app.web.options import SERVICES
from app.web.routing import Routes, json_response

routes = Routes("Health")


class HealthCheck(TypedDict):
    """One check; `remedy` is empty where there is nothing to do."""

    name: str
    state: Literal["ok", "warning", "failed"]
    detail: str
    remedy: str


class InstallHealthReport(TypedDict):
    """The checks and when they were made; `ok` is whether none failed."""

    ok: bool
    at: datetime
    checks: list[HealthCheck]


@routes("GET", "/api/v1/admin/health", schema=InstallHealthReport, errors=[errors.Forbidden], scope=Scope.KEYS_READ)
async def health(request: web.Request, actor: Actor) -> web.Response:
    """The checks of `keyhall doctor` that a running process can make; for owners, admins and auditors."""
    report = await request.app[SERVICES].install_health.report(actor)
    checks = [
        {"name": each.name, "state": each.state.value, "detail": each.detail, "remedy": each.remedy}
        for each in report.diagnosis.checks
    ]
    return json_response(200, {"ok": report.diagnosis.ok, "at": report.at, "checks": checks})
