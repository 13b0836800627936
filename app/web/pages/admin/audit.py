"""The audit trail, for those who may read it: filtered, verified and exported."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from app.domain import errors
from app.domain.audit import Action, Result
from app.domain.errors import AppError, InvalidInput
from app.domain.identity import Actor
from app.domain.times import begin_of_day
from app.services.audit_trail import AuditQuery, Stretch, VerificationAt
from app.services.audit_trail.export import ExportFormat, heading, lines
from app.web.inputs import Model, NoFields
from app.web.options import SERVICES
from app.web.pages.admin.audit_sentences import RESULTS, sentence
from app.web.pages.drafts import sign_in_first
from app.web.pages.rendering import Refused, page, texts_of
from app.web.routing import Routes
from app.web.sessions import ACCOUNT, actor_of
from app.web.streaming import stream

routes = Routes("Pages")
PATH: Final = "/admin/audit"
_VERIFY_SECONDS: Final = 10.0
"""How long a person waits for the verification; the command has no limit."""
_FILTERS: Final = ("actor", "action", "about", "result", "since", "until")
_FAMILIES: Final[Mapping[str, list[str]]] = {
    family: [each.value for each in Action if each.value.startswith(f"{family}.")]
    for family in dict.fromkeys(each.value.partition(".")[0] for each in Action)
}
_MEDIA_TYPES: Final = {
    ExportFormat.JSONL: "application/x-ndjson",
    ExportFormat.CSV: "text/csv; charset=utf-8",
}


class AuditFields(Model):
    """The rows that are wanted; "" leaves a question open. Days are in UTC, and both are included."""

    actor: str = ""
    action: str = ""
    about: str = ""
    result: str = ""
    since: str = ""
    until: str = ""

    def as_query(self) -> AuditQuery:
        """Raises InvalidInput."""
        if self.result not in {"", *Result}:
            raise InvalidInput("result", "must be one of the choices")
        return AuditQuery(
            actor=self.actor.strip() or None,
            action=self.action.strip() or None,
            about=self.about.strip() or None,
            result=Result(self.result) if self.result else None,
            since=_day("since", self.since),
            until=_day("until", self.until, and_days=1),
        )


class AuditPageQuery(AuditFields):
    """The rows that are wanted, and the stretch of them: older or newer than another one."""

    older: str | None = None
    newer: str | None = None


class AuditExportQuery(AuditFields):
    """The rows that are wanted, and how they are written."""

    format: str = ExportFormat.JSONL.value


def _day(field: str, text: str, *, and_days: int = 0) -> datetime | None:
    """The begin of a typed day, or of one that many days behind it. Raises InvalidInput."""
    if not text.strip():
        return None
    try:
        return begin_of_day(text.strip()) + timedelta(days=and_days)
    except (ValueError, OverflowError):
        raise InvalidInput(field, "must be a day such as 2027-03-31") from None


def _audit_page(
    request: web.Request,
    actor: Actor,
    found: Stretch,
    *,
    refused: Refused | None = None,
    verified: Mapping[str, object] | None = None,
) -> web.Response:
    say = texts_of(request)
    typed = {name: request.query.get(name, "") for name in _FILTERS}
    given = urlencode({name: text for name, text in typed.items() if text})
    return page(
        request,
        "admin/audit.html",
        viewer=actor,
        rows=[(each, sentence(each, say)) for each in found.items],
        newer=found.newer,
        older=found.older,
        typed=typed,
        given=given,
        families=_FAMILIES,
        results=RESULTS,
        refused=refused,
        verified=verified,
    )


async def _again(request: web.Request, error: AppError) -> web.StreamResponse:
    """Answer a filter that makes no sense with the form, as it was sent."""
    if not isinstance(error, InvalidInput):
        raise error
    return _audit_page(request, await actor_of(request), Stretch((), None, None), refused=Refused(error))


@routes("GET", PATH, media_type="text/html", refuse=_again, errors=[errors.Forbidden])
async def audit(request: web.Request, actor: Actor, query: AuditPageQuery) -> web.Response:
    """Who did what, when and from where, the latest first; for owners, admins and auditors."""
    found = await request.app[SERVICES].audit.stretch(actor, query.as_query(), older=query.older, newer=query.newer)
    return _audit_page(request, actor, found)


@routes(
    "GET",
    f"{PATH}/export",
    media_type="application/x-ndjson, text/csv",
    headers={"Content-Disposition": "The name of a file"},
    errors=[errors.Forbidden],
)
async def export(request: web.Request, actor: Actor, query: AuditExportQuery) -> web.StreamResponse:
    """The rows that the filters leave, the oldest first, as a file: JSON lines or a spreadsheet."""
    if query.format not in set(ExportFormat):
        raise InvalidInput("format", "must be jsonl or csv")
    wanted = ExportFormat(query.format)
    rows = request.app[SERVICES].audit.all(actor, query.as_query())

    async def parts() -> AsyncIterator[bytes]:
        begin = heading(wanted)
        async for items in rows:
            yield begin + lines(items, wanted)
            begin = b""
        yield begin

    return await stream(
        request,
        parts(),
        {"Content-Type": _MEDIA_TYPES[wanted], "Content-Disposition": f'attachment; filename="audit.{wanted.value}"'},
    )


def _signed_out(request: web.Request, fields: Mapping[str, str]) -> web.StreamResponse:
    return sign_in_first(request, PATH, fields.get(ACCOUNT, ""), {})


@routes("POST", f"{PATH}/verify", media_type="text/html", signed_out=_signed_out, errors=[errors.Forbidden])
async def verify(request: web.Request, actor: Actor, form: NoFields) -> web.Response:  # noqa: ARG001 - reads the token
    """Verify every row, and name the first that was changed, removed, inserted or moved."""
    services = request.app[SERVICES]
    found = await services.audit_verification.verify_within(actor, _VERIFY_SECONDS)
    latest = await services.audit.stretch(actor, AuditQuery())
    return _audit_page(request, actor, latest, verified=_outcome(found))


def _outcome(verification: VerificationAt) -> Mapping[str, object]:
    found = verification.found
    if found is None:
        return {"at": verification.at, "finished": False, "latest_seal": None}
    return {
        "at": verification.at,
        "finished": True,
        "flaw": None if found.first_bad is None else found.first_bad.sentence,
        "sealed": found.sealed,
        "unsealed": found.unsealed,
        "segments": found.segments,
        "latest_seal": found.latest_seal,
    }
