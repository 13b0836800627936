"""Backups over REST: which there are, and one more."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from aiohttp import web
from typing_extensions import TypedDict

from app.domain import errors
from app.domain.identity import Actor
from app.domain.scopes import Scope
from app.services.backup import BackupView
from app.services.paging import Page
from app.web.api.keys import JOB_LOCATION, Job, begun
from app.web.inputs import PageQuery
from app.web.options import SERVICES
from app.web.routing import Routes, json_response

routes = Routes("Backups")
_BACKUPS = "/api/v1/admin/backups"


class Backup(TypedDict):
    """A backup that this install made. `verified_at` is when all of it was read and every credential in it opened.

    `managed` ones were made by a job in `BACKUP_DIR` and are deleted in time; `present` is whether the file is there,
    as this process sees the disk. `rehearsal` is how the last trial of restoring it ended.
    """

    id: str
    file: str
    managed: bool
    present: bool
    created_at: datetime
    size: int
    sha256: str
    credentials: int
    unreadable: int
    users: int
    latest_seal: str | None
    verified_at: datetime | None
    rehearsed_at: datetime | None
    rehearsal: Literal["ok", "failed", "not_decryptable"] | None
    rehearsal_note: str | None


class BackupPage(TypedDict):
    """A page of backups, the latest first."""

    items: list[Backup]
    next_cursor: str | None


def _as_page(page: Page[BackupView]) -> BackupPage:
    return {"items": [_as_backup(each) for each in page.items], "next_cursor": page.next_cursor}


def _as_backup(view: BackupView) -> Backup:
    backup = view.backup
    return {
        "id": backup.id,
        "file": backup.path,
        "managed": backup.managed,
        "present": view.present,
        "created_at": backup.created_at,
        "size": backup.size,
        "sha256": backup.sha256,
        "credentials": backup.credentials,
        "unreadable": backup.unreadable,
        "users": backup.users,
        "latest_seal": backup.latest_seal,
        "verified_at": backup.verified_at,
        "rehearsed_at": backup.rehearsed_at,
        "rehearsal": None if backup.rehearsal is None else backup.rehearsal.value,
        "rehearsal_note": backup.rehearsal_note,
    }


@routes("GET", _BACKUPS, schema=BackupPage, errors=[errors.Forbidden], scope=Scope.KEYS_READ)
async def backups(request: web.Request, actor: Actor, query: PageQuery) -> web.Response:
    """Backups that this install made, the latest first; for owners, admins and auditors."""
    page = await request.app[SERVICES].backups.page(actor, after=query.cursor, limit=query.limit)
    return json_response(200, _as_page(page))


@routes(
    "POST",
    _BACKUPS,
    status=202,
    schema=Job,
    headers=JOB_LOCATION,
    errors=[errors.Forbidden, errors.ReauthenticationRequired, errors.NotConfigured],
    example={
        "kind": "backup",
        "key": None,
        "action": None,
        "state": "waiting",
        "step": "",
        "total": None,
        "note": "",
        "attempts": 0,
    },
)
async def back_up(request: web.Request, actor: Actor) -> web.Response:
    """Have a backup made in `BACKUP_DIR` for `BACKUP_RECIPIENT`; one that is being made for a request is the answer.

    For owners and admins, within ten minutes of proving their password.
    """
    return begun(await request.app[SERVICES].backups.request(actor))
