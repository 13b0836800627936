"""Every statement that the repositories can send, found by calling every method with every choice of its parameters.

The arguments follow from the annotations of a method, so a new method is called too, or the test says which type of
parameter has no sample yet.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from itertools import product
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from sqlalchemy import event
from sqlalchemy.engine import Connection as SyncConnection

from app.domain.api_tokens import ApiToken
from app.domain.audit import AuditEvent, AuditFilter, Result, UsageHour
from app.domain.audit_chain import Seal, Segment, Stream
from app.domain.backup import BackupRecord
from app.domain.credential_lists import ListFilter, ListPlace, Need
from app.domain.credentials import CredentialRecord, HistoryRecord, Owner, OwnerKind
from app.domain.encrypted_columns import ENCRYPTED_COLUMNS, EncryptedColumn, EncryptedRow, Reencrypted
from app.domain.errors import UniqueViolation
from app.domain.identity import Role, Session, User, UserFilter
from app.domain.instances import Instance
from app.domain.jobs import Job, JobKind, JobState, Progress
from app.domain.keys import KeyName, KeySchedule
from app.domain.links import Invitation, LinkPurpose, OneTimeLink
from app.domain.passkeys import Passkey
from app.domain.preferences import Preferences
from app.domain.privacy import Person
from app.domain.second_factor import TotpFactor
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.database.engine import Connection, Database
from app.infrastructure.database.errors import ConstraintBroken
from app.infrastructure.database.unit_of_work import SqlUnitOfWork
from app.services.ports import IdempotentRequest, UnitOfWork
from tests.support.database import NOW, api_token, credential, former, session, user
from tests.support.database import event as audit_event

ID: Final = "x"
"""Every id and every text, so that what was stored is found again."""


def repositories() -> Mapping[str, type]:
    """The port of every repository, by its name in a unit of work."""
    return {
        name: get_type_hints(each.fget)["return"]
        for name, each in inspect.getmembers(UnitOfWork, lambda member: isinstance(member, property))
    }


def methods() -> list[str]:
    """Every public method of every repository, as ``repository.method``."""
    return [
        f"{name}.{method}"
        for name, repository in repositories().items()
        for method, _ in inspect.getmembers(repository, inspect.isfunction)
        if not method.startswith("_")
    ]


@dataclass(frozen=True, slots=True)
class Sent:
    """A statement with its parameters."""

    statement: str
    parameters: Any


async def every_statement(database: Database) -> Mapping[str, Sequence[Sent]]:
    """What each method sends, with every choice of its parameters, where its rows are and where there are none.

    Afterwards the database holds a row of every kind.
    """
    found: dict[str, dict[str, Sent]] = {method: {} for method in methods()}
    for filled in (False, True):
        if filled:
            async with database.write() as connection:
                await _fill(SqlUnitOfWork(connection, SystemRandomness()))
        for method, statements in found.items():
            for arguments in choices(method):
                await _record(database, method, arguments, statements)
    return {method: list(statements.values()) for method, statements in found.items()}


async def _record(database: Database, method: str, arguments: Mapping[str, Any], found: dict[str, Sent]) -> None:
    """Call a method, note what it sends, and undo it."""
    with suppress(_Undone):
        async with database.write() as connection, _recorded(connection, found):
            with suppress(UniqueViolation, ConstraintBroken):  # of a row that is there, or of one that is not
                await _call(SqlUnitOfWork(connection, SystemRandomness()), method, arguments)
            raise _Undone


class _Undone(Exception):
    """Rolls back."""


@asynccontextmanager
async def _recorded(connection: Connection, found: dict[str, Sent]) -> AsyncIterator[None]:
    raw = connection._connection.sync_connection
    assert raw is not None

    def note(_connection: SyncConnection, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        found.setdefault(statement, Sent(statement, parameters[0] if isinstance(parameters, list) else parameters))

    event.listen(raw, "before_cursor_execute", note)
    yield
    event.remove(raw, "before_cursor_execute", note)


async def _call(unit: SqlUnitOfWork, method: str, arguments: Mapping[str, Any]) -> Any:
    repository, name = method.split(".")
    function: Callable[..., Awaitable[Any]] = getattr(getattr(unit, repository), name)
    return await function(**arguments)


def choices(method: str) -> Iterator[Mapping[str, Any]]:
    """Every combination of a sample, or None where that is allowed too, for each parameter."""
    repository, name = method.split(".")
    function = getattr(repositories()[repository], name)
    hints = get_type_hints(function)
    names = [each for each in inspect.signature(function).parameters if each != "self"]
    samples = [_samples(hints[each], f"{method}({each})") for each in names]
    for values in product(*samples):
        yield dict(zip(names, values, strict=True))


def _samples(annotation: Any, where: str) -> Sequence[Any]:
    if get_origin(annotation) in {Union, UnionType}:
        return [
            None,
            *(each for kind in get_args(annotation) if kind is not NoneType for each in _samples(kind, where)),
        ]
    if annotation in _SAMPLES:
        return _SAMPLES[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return list(annotation)
    raise AssertionError(f"{where}: add a sample of {annotation} to _SAMPLES")


_OWNER: Final = Owner(OwnerKind.USER, ID)
_ROW: Final = EncryptedRow(ID, OwnerKind.USER, ID, 1, 0xFFFF_FFFF, b"envelope")

_SAMPLES: Final[Mapping[Any, Sequence[Any]]] = {
    bool: [False, True],
    bytes: [b"hash"],
    datetime: [NOW],
    float: [1.0],
    int: [1],
    str: [ID],
    timedelta: [timedelta(seconds=15)],
    ApiToken: [replace(api_token(ID), user_id=ID)],
    AuditEvent: [audit_event(), audit_event(address="192.0.2.7")],
    AuditFilter: [
        AuditFilter(),
        AuditFilter(subject_id=ID),
        AuditFilter(action="key"),
        AuditFilter(action="key.revoked"),
        AuditFilter(about=(ID, ID)),
        AuditFilter(result=Result.DENIED),
        AuditFilter(since=NOW, until=NOW),
    ],
    BackupRecord: [
        BackupRecord(
            id=ID, path=ID, managed=True, created_at=NOW, size=1, sha256=ID, credentials=1, unreadable=0, users=1
        )
    ],
    CredentialRecord: [replace(credential(ID, owner=_OWNER), created_by=ID)],
    EncryptedColumn: ENCRYPTED_COLUMNS,
    HistoryRecord: [replace(former(1, credential_id=ID), id=ID)],
    IdempotentRequest: [IdempotentRequest(user_id=ID, key=ID, mac=b"mac", resource_id=ID, created_at=NOW)],
    Instance: [Instance(id=ID, kind="web", host=ID, pid=1, started_at=NOW, lease_until=NOW, epochs={})],
    Invitation: [
        Invitation(id=f"invitation-{ID}", role=Role.MEMBER, issued_by=ID, created_at=NOW, expires_at=NOW + timedelta(1))
    ],
    Job: [Job(id=ID, kind=JobKind.KEY_AGES, payload={}, unique_key=ID, run_at=NOW, created_at=NOW)],
    JobState: [JobState.WAITING, JobState.DONE],
    KeyName: [KeyName.AES_KEY],
    KeySchedule: [KeySchedule(name=KeyName.AES_KEY, rotation_days=30)],
    ListFilter: [
        ListFilter(user_id=ID, now=NOW, restorable_since=NOW),
        ListFilter(user_id=ID, now=NOW, restorable_since=NOW, words=[ID]),
    ],
    ListPlace: [ListPlace(Need.NOTHING, ID, ID)],
    OneTimeLink: [
        OneTimeLink(id=ID, purpose=LinkPurpose.CLAIM, user_id=ID, created_at=NOW, expires_at=NOW + timedelta(days=7))
    ],
    Owner: [_OWNER],
    Passkey: [Passkey(id=ID, user_id=ID, name=ID, credential_id=b"hash", public_key=b"key", created_at=NOW)],
    Person: [Person(ID, ID)],
    Progress: [Progress()],
    Segment: [Segment.beginning(1, Stream.SECURITY, NOW, 1)],
    Session: [replace(session(ID), user_id=ID)],
    TotpFactor: [TotpFactor(id=ID, user_id=ID, encrypted_secret=b"envelope", key_version=1, created_at=NOW)],
    User: [replace(user(), id=ID, subject_id=ID)],
    Preferences: [Preferences(time_zone="Europe/Berlin")],
    UserFilter: [UserFilter(), UserFilter(name=ID, role=Role.MEMBER, disabled=False), UserFilter(disabled=True)],
    Collection[bytes]: [[b"mark"], [b"mark", b"other"]],
    Collection[str]: [[ID], [ID, "y"]],
    Mapping[str, datetime]: [{}, {ID: NOW, "y": NOW}],
    Mapping[str, int]: [{ID: 1}],
    Sequence[Reencrypted]: [[], [Reencrypted(_ROW, 1, b"envelope")]],
    Sequence[Seal]: [[], [Seal(1, 1, 1, b"seal")]],
    Sequence[UsageHour]: [
        [],
        [UsageHour(hour=NOW, object_kind=ID, object_id=ID, subject_id=ID, source=ID, result=ID, uses=1)],
    ],
    Sequence[int]: [[], [1, 2]],
    Sequence[str]: [[], [ID]],
}


async def _fill(unit: SqlUnitOfWork) -> None:
    """Store a row of every kind, so that a method that looks for one finds it and goes on."""
    for method in (
        "users.add",
        "sessions.add",
        "sessions.add_refresh",
        "links.add",
        "passkeys.add",
        "tickets.spend",
        "factors.start",
        "factors.put_codes",
        "api_tokens.add",
        "imports.add",
        "credentials.add",
        "credentials.add_history",
        "jobs.add",
        "instances.register",
        "idempotency.add",
        "attempts.hit",
        "keys.put",
        "schedules.put",
        "backups.add",
        "bot_state.put",
        "audit.append",
        "audit_chain.add_segment",
        "audit_chain.add_uses",
    ):
        *_, arguments = choices(method)
        await _call(unit, method, {**arguments, **({"at": None} if method == "jobs.add" else {})})  # a job that is due
    await unit.credentials.add(replace(credential("removed", owner=_OWNER), deleted_at=NOW))
