"""The audit trail as people read it: pages, filters, and rows that somebody edited."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import text

from app.domain.audit import Action, AuditEvent, Result
from app.domain.errors import Forbidden, InvalidInput
from app.domain.identity import Role, Source
from app.services.audit_trail import AuditQuery, AuditReading, reading
from tests.support.database import NOW, user
from tests.support.fakes import FakeClock
from tests.support.keyhall import member

if TYPE_CHECKING:
    from app.infrastructure.database.engine import Database
    from app.infrastructure.database.unit_of_work import SqlStorage
    from app.services.ports import Storage

AUDITOR: Final = member(FakeClock(), role=Role.AUDITOR)
ALICE: Final = user()


async def fill(storage: Storage) -> AuditReading:
    """Five rows, an hour between them: a person at an address, the operator, Keyhall itself, and a stranger."""
    rows: list[tuple[Action, str | None, Source, str | None, tuple[str, str]]] = [
        (Action.LOGIN, ALICE.subject_id, Source.WEB, "192.0.2.7", ("user", ALICE.id)),
        (Action.KEY_REVOKED, None, Source.CLI, None, ("key", "AES_KEY")),
        (Action.KEY_RETIRED, None, Source.SYSTEM, None, ("key", "AES_KEY")),
        (Action.LOGIN, None, Source.WEB, "192.0.2.8", ("user", "?")),
        (Action.KEY_REVOKED, ALICE.subject_id, Source.WEB, "192.0.2.7", ("key", "JWT_SECRET_KEY")),
    ]
    async with storage.write() as uow:
        await uow.users.add(ALICE)
        for hour, (action, subject_id, source, address, (kind, object_id)) in enumerate(rows):
            await uow.audit.append(
                AuditEvent(
                    at=NOW + timedelta(hours=hour),
                    action=action,
                    result=Result.DENIED if subject_id is None and source is Source.WEB else Result.OK,
                    source=source,
                    subject_id=subject_id,
                    address=address,
                    object_kind=kind,
                    object_id=object_id,
                    detail={"version": hour},
                )
            )
    return AuditReading(storage=storage)


async def test_a_row_says_who_what_when_and_from_where(storage: Storage) -> None:
    audit = await fill(storage)
    page = await audit.page(AUDITOR, AuditQuery())
    assert page.items[0].as_members() == {
        "id": "5",
        "at": NOW + timedelta(hours=4),
        "actor": "Alice",
        "action": "key.revoked",
        "about": "key:JWT_SECRET_KEY",
        "result": "ok",
        "source": "web",
        "detail": {"version": 4, "address": "192.0.2.7"},
    }
    assert [each.actor for each in page.items] == ["Alice", None, None, None, "Alice"]
    assert page.next_cursor is None


async def test_pages_follow_each_other_without_a_gap(storage: Storage) -> None:
    audit = await fill(storage)
    found, cursor = [], None
    while True:
        page = await audit.page(AUDITOR, AuditQuery(), after=cursor, limit=2)
        found += [each.id for each in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == ["5", "4", "3", "2", "1"]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        (AuditQuery(actor="alice"), ["5", "1"]),
        (AuditQuery(actor="nobody"), []),
        (AuditQuery(action="key.revoked"), ["5", "2"]),
        (AuditQuery(action="key"), ["5", "3", "2"]),
        (AuditQuery(action="keys"), []),
        (AuditQuery(about="key:AES_KEY"), ["3", "2"]),
        (AuditQuery(since=NOW + timedelta(hours=3)), ["5", "4"]),
        (AuditQuery(until=NOW + timedelta(hours=1)), ["1"]),
        (AuditQuery(result=Result.DENIED), ["4"]),
        (AuditQuery(actor="Alice", action="key", since=NOW, until=NOW + timedelta(days=1)), ["5"]),
    ],
)
async def test_filters_leave_out_what_was_not_asked_for(storage: Storage, query: AuditQuery, ids: list[str]) -> None:
    audit = await fill(storage)
    assert [each.id for each in (await audit.page(AUDITOR, query)).items] == ids
    assert [each.id async for part in audit.all(AUDITOR, query) for each in part] == ids[::-1]


async def test_a_reader_goes_back_and_forth(storage: Storage) -> None:
    audit = await fill(storage)
    first = await audit.stretch(AUDITOR, AuditQuery(), limit=2)
    second = await audit.stretch(AUDITOR, AuditQuery(), older=first.older, limit=2)
    third = await audit.stretch(AUDITOR, AuditQuery(), older=second.older, limit=2)
    back = await audit.stretch(AUDITOR, AuditQuery(), newer=third.newer, limit=2)
    assert [[each.id for each in stretch.items] for stretch in (first, second, third, back)] == [
        ["5", "4"],
        ["3", "2"],
        ["1"],
        ["3", "2"],
    ]
    assert (first.newer, third.older) == (None, None)
    assert await audit.stretch(AUDITOR, AuditQuery(), newer=back.newer, limit=2) == first
    assert await audit.stretch(AUDITOR, AuditQuery(), newer=first.older, limit=2) == first
    filtered = await audit.stretch(AUDITOR, AuditQuery(action="key"), newer=third.newer, limit=2)
    assert [each.id for each in filtered.items] == ["3", "2"]
    for row in ("x", "-1", "a" * 200):
        with pytest.raises(InvalidInput):
            await audit.stretch(AUDITOR, AuditQuery(), newer=row)


async def test_all_rows_come_in_parts(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = await fill(storage)
    monkeypatch.setattr(reading, "BATCH", 2)
    parts = [[each.id for each in part] async for part in audit.all(AUDITOR, AuditQuery())]
    assert parts == [["1", "2"], ["3", "4"], ["5"]]


@pytest.mark.parametrize(
    "query",
    [
        AuditQuery(action="KEY"),
        AuditQuery(action="key.%"),
        AuditQuery(action="key\n"),
        AuditQuery(about="key"),
        AuditQuery(about="key:a b"),
        AuditQuery(actor="\0"),
        AuditQuery(actor="x" * 300),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(storage: Storage, query: AuditQuery) -> None:
    with pytest.raises(InvalidInput):
        await AuditReading(storage=storage).page(AUDITOR, query)


@pytest.mark.parametrize("role", [Role.MEMBER])
async def test_only_who_may_reads_it(storage: Storage, role: Role) -> None:
    audit = AuditReading(storage=storage)
    with pytest.raises(Forbidden):
        await audit.page(member(FakeClock(), role=role), AuditQuery())
    with pytest.raises(Forbidden):
        await anext(audit.all(member(FakeClock(), role=role), AuditQuery()))


@pytest.mark.parametrize("change", ["value = ''", "value = '', user_id = NULL"], ids=["name", "name and account"])
async def test_of_a_person_who_was_erased_only_the_random_id_is_left(
    database: Database, sql: SqlStorage, change: str
) -> None:
    audit = await fill(sql)
    async with database.write() as connection:
        await connection.change(text(f"UPDATE subjects SET {change} WHERE kind = 'user'"))  # noqa: S608
    assert (await audit.page(AUDITOR, AuditQuery())).items[0].actor == ALICE.subject_id


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("detail", "'['", {}),
        ("detail", "'[1]'", {}),
        ("detail", "x'ff'", {}),
        ("detail", """'{"n": "\\ud800"}'""", {}),
        ("detail", """'{"n": 123456789012345678901234567890}'""", {}),
        ("detail", """'{"n": 1e400}'""", {}),
        ("at", "'soon'", None),
        ("at", "7", None),
        ("at", "'9999-12-31T23:59:59-12:00'", None),
        ("at", "'0001-01-01T00:00:00+14:00'", None),
        ("at", "'0001-01-01T00:00:00'", None),
    ],
)
async def test_an_edited_row_does_not_keep_people_from_the_others(
    sqlite_url: str, column: str, value: str, expected: Any
) -> None:
    from app.infrastructure.database.unit_of_work import SqlStorage
    from tests.support.database import migrated

    async with migrated(sqlite_url) as database:
        audit = await fill(SqlStorage(database))
        async with database.write() as connection:
            await connection.change(text(f"UPDATE audit_events SET {column} = {value} WHERE id = 2"))  # noqa: S608
        items = (await audit.page(AUDITOR, AuditQuery())).items
        assert len(items) == 5
        assert getattr(items[3], column) == expected
