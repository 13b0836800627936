"""The audit trail over REST."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from app.domain import errors
from app.domain.audit import AuditItem as Row
from app.domain.audit import Result
from app.domain.identity import Actor
from app.domain.scopes import Scope
from app.services.audit_trail import AuditQuery
from app.services.paging import Page
from app.web.inputs import PageQuery, Time
from app.web.limits import About, Action, Username
from app.web.options import SERVICES
from app.web.routing import Routes, json_response

routes = Routes("Audit trail")


class Events(PageQuery):
    """The rows that are wanted, and which page of them."""

    actor: Username | None = Field(default=None, description="The name of a user")
    action: Action | None = Field(default=None, description="An action, such as `key.revoked`, or a family: `key`")
    about: About | None = Field(default=None, description="The kind and the id of an object, such as `key:AES_KEY`")
    result: Literal["ok", "denied", "failed", "intent"] | None = Field(default=None, description="How it ended")
    since: Time | None = Field(default=None, description="From this time on")
    until: Time | None = Field(default=None, description="Before this time")


class AuditItem(TypedDict):
    """A row. `actor` is null for the operator at the command line and for Keyhall itself, as `source` says, and for
    somebody who was not signed in. `about` is the kind and the id of an object.
    """

    id: str
    at: datetime | None
    actor: str | None
    action: str
    about: str | None
    result: Literal["ok", "denied", "failed", "intent"]
    source: Literal["web", "discord", "cli", "system"]
    detail: dict[str, Any]


class AuditPage(TypedDict):
    """A page of rows, the latest first."""

    items: list[AuditItem]
    next_cursor: str | None


def _as_page(page: Page[Row]) -> dict[str, Any]:
    return {"items": [each.as_members() for each in page.items], "next_cursor": page.next_cursor}


@routes("GET", "/api/v1/admin/audit", schema=AuditPage, errors=[errors.Forbidden], scope=Scope.AUDIT_READ)
async def audit(request: web.Request, actor: Actor, query: Events) -> web.Response:
    """Who did what, when and from where, the latest first; for owners, admins and auditors."""
    wanted = AuditQuery(
        actor=query.actor,
        action=query.action,
        about=query.about,
        result=None if query.result is None else Result(query.result),
        since=query.since,
        until=query.until,
    )
    page = await request.app[SERVICES].audit.page(actor, wanted, after=query.cursor, limit=query.limit)
    return json_response(200, _as_page(page))
