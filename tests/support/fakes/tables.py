"""The rows, and the conversion of arguments that the engines make."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy.dialects import postgresql

from app.domain.api_tokens import ApiToken
from app.domain.audit import AuditEvent, UsageHour
from app.domain.audit_chain import Seal, Segment
from app.domain.backup import BackupRecord
from app.domain.credentials import CredentialRecord, HistoryRecord
from app.domain.identity import Session, User
from app.domain.instances import Instance
from app.domain.jobs import Job
from app.domain.keys import KeySchedule
from app.domain.links import Invitation, OneTimeLink
from app.domain.passkeys import Passkey
from app.domain.privacy import Erasure
from app.domain.second_factor import TotpFactor
from app.infrastructure.database.columns import PlainText, UtcDateTime
from app.services.ports import IdempotentRequest

_T = TypeVar("_T")


@dataclass
class Tables:
    """Everything that is stored. Rows are immutable, so a copy of the containers is a snapshot."""

    config: dict[str, str] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)
    owner_claim: str | None = None
    sessions: dict[str, Session] = field(default_factory=dict)
    cookies: dict[bytes, str] = field(default_factory=dict)
    refresh_tokens: dict[bytes, tuple[str, datetime, bool]] = field(default_factory=dict)
    links: dict[bytes, tuple[OneTimeLink | Invitation, bool]] = field(default_factory=dict)
    passkeys: dict[str, Passkey] = field(default_factory=dict)
    spent_tickets: dict[bytes, datetime] = field(default_factory=dict)
    factors: dict[str, TotpFactor] = field(default_factory=dict)
    recovery_codes: dict[tuple[str, bytes], None] = field(default_factory=dict)
    api_tokens: dict[bytes, ApiToken] = field(default_factory=dict)
    imported: dict[bytes, str] = field(default_factory=dict)
    credentials: dict[str, CredentialRecord] = field(default_factory=dict)
    history: dict[str, HistoryRecord] = field(default_factory=dict)
    audit: list[AuditEvent] = field(default_factory=list)
    seals: dict[int, Seal] = field(default_factory=dict)
    segments: dict[int, Segment] = field(default_factory=dict)
    dropped: dict[int, None] = field(default_factory=dict)
    uses: dict[UsageHour, int] = field(default_factory=dict)
    instances: dict[str, Instance] = field(default_factory=dict)
    attempts: dict[tuple[str, datetime], int] = field(default_factory=dict)
    idempotency: dict[tuple[str, str], IdempotentRequest] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    claims: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    schedules: dict[str, KeySchedule] = field(default_factory=dict)
    backups: dict[str, BackupRecord] = field(default_factory=dict)
    bot_state: dict[str, str] = field(default_factory=dict)
    erasures: dict[str, Erasure] = field(default_factory=dict)

    def snapshot(self) -> Tables:
        copy = replace(self)
        for name, value in vars(self).items():
            if isinstance(value, dict | list):
                setattr(copy, name, value.copy())
        return copy


def like_an_engine(repository: type[_T]) -> type[_T]:
    """Make every method of a repository take its arguments as an engine does: text checked, times in UTC."""
    for name, method in list(vars(repository).items()):
        if inspect.iscoroutinefunction(method) and not name.startswith("_"):
            setattr(repository, name, _converting(method))
    return repository


def _converting(method: Any) -> Any:
    @functools.wraps(method)
    async def converted(self: object, *arguments: object, **named: object) -> object:
        return await method(self, *map(_stored, arguments), **{name: _stored(each) for name, each in named.items()})

    return converted


_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
_TEXT, _TIME = PlainText(), UtcDateTime()


def _stored(value: Any) -> Any:
    """Return a value as it comes back from an engine. Raises what the engines' own conversion raises."""
    if isinstance(value, str):
        _TEXT.process_bind_param(value, _DIALECT)
    elif isinstance(value, datetime):
        return _TIME.process_bind_param(value, _DIALECT)
    elif is_dataclass(value) and not isinstance(value, type):
        members = {each.name: getattr(value, each.name) for each in fields(value) if each.init}
        stored = {name: _stored(each) for name, each in members.items()}
        if any(stored[name] is not each for name, each in members.items()):
            return replace(value, **stored)
    return value
