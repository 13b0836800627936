"""The chain that seals the audit trail, on both engines: what it names, and whom it keeps waiting (nobody)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import text

from app.domain.audit import Action, AuditEvent, Result
from app.domain.audit_chain import NEVER_REACHED, Stream
from app.domain.errors import Forbidden, InvalidInput, NotReady
from app.domain.identity import Source
from app.domain.keys import KeyName
from app.services.audit_trail import AuditQuery, sealing, verification
from tests.support.database import NOW, user
from tests.support.fakes import FakeClock
from tests.support.keyhall import member
from tests.support.trails import AUDITOR, Trail, opened, sealed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def trail(engine_url: str) -> AsyncIterator[Trail]:
    """A sealed trail on either engine."""
    async with sealed(engine_url) as trail:
        yield trail


@pytest.fixture
async def lite(sqlite_url: str) -> AsyncIterator[Trail]:
    """The same on SQLite, for what is judged alike on both."""
    async with sealed(sqlite_url) as trail:
        yield trail


# ---------------------------------------------------------------------------------------------------------------------
# What stands
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_sealed_trail_verifies(trail: Trail) -> None:
    await trail.happens(Action.LOGIN)
    found = await trail.verify()
    assert found.ok
    assert (found.sealed, found.unsealed, found.segments) == (10, 1, 2)
    assert found.latest_seal == await trail.keyhall.services.audit_sealing.latest_seal() is not None
    assert (await trail.verify(found.latest_seal)).ok


async def test_events_and_uses_have_chains_of_their_own(trail: Trail) -> None:
    found = await trail.rows("SELECT segment, position, action FROM audit_events ORDER BY segment, position")
    assert [row[:2] for row in found] == [*((1, n) for n in range(1, 7)), *((2, n) for n in range(1, 5))]
    assert {row[2] for row in found if row[0] == 2} == {Action.CREDENTIAL_USED.value}


async def test_a_day_gets_a_segment_of_its_own(trail: Trail) -> None:
    for _ in range(2):
        trail.keyhall.advance(trail.clock, timedelta(days=1))
        await trail.happens(Action.LOGIN, Action.CREDENTIAL_USED)
        await trail.seal()
    assert (found := await trail.verify()).ok
    assert (found.sealed, found.segments) == (14, 6)


async def test_a_segment_that_is_full_is_closed(lite: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.domain.audit_chain.SEGMENT_ROWS", 3)
    monkeypatch.setattr(sealing, "BATCH", 2)
    monkeypatch.setattr(verification, "BATCH", 2)
    await lite.happens(*[Action.LOGIN] * 7)
    await lite.seal()
    assert (found := await lite.verify(await lite.keyhall.services.audit_sealing.latest_seal())).ok
    assert (found.sealed, found.segments) == (17, 5)


async def test_the_day_of_a_quiet_chain_is_closed_too(lite: Trail) -> None:
    lite.keyhall.advance(lite.clock, timedelta(days=1))
    for _ in range(2):
        await lite.keyhall.services.audit_sealing.close_finished()
    assert (found := await lite.verify()).ok
    assert found.segments == 4


async def test_a_person_can_be_erased(trail: Trail) -> None:
    await trail.edit("UPDATE subjects SET value = '', user_id = NULL")
    assert (await trail.verify()).ok


async def test_a_new_version_of_the_seal_key_begins_a_segment(lite: Trail) -> None:
    await lite.keyhall.rotate(KeyName.AUDIT_SEAL_KEY)
    await lite.keyhall.keys.reload()
    await lite.happens(Action.LOGIN)
    await lite.seal()
    assert (found := await lite.verify()).ok
    assert found.segments == 4


async def test_a_key_that_another_process_replaced_seals_nothing_any_more(trail: Trail) -> None:
    """It is noticed in the unit of work itself, and what was computed with the former version is dropped."""
    await trail.keyhall.rotate(KeyName.AUDIT_SEAL_KEY)
    await trail.happens(Action.LOGIN)
    assert await trail.keyhall.services.audit_sealing.seal() == 0
    await trail.seal()
    versions = {
        row[0].partition('"key_version":')[2][:1] for row in await trail.rows("SELECT value FROM audit_segments")
    }
    assert versions == {"1", "2"}
    assert (await trail.verify()).ok


async def test_a_process_without_a_lease_does_not_seal(lite: Trail) -> None:
    await lite.happens(Action.LOGIN)
    lite.keyhall.keys.lease(float("-inf"))
    with pytest.raises(NotReady):
        await lite.seal()


async def test_only_who_may_read_the_trail_verifies_it(lite: Trail) -> None:
    with pytest.raises(Forbidden):
        await lite.keyhall.services.audit_verification.verify(member(FakeClock()))


@pytest.mark.parametrize("remembered", ["", "x", "security:1:aa", f"security:0:{'aa' * 32}", f"other:1:{'aa' * 32}"])
async def test_a_remembered_seal_that_is_none_is_refused(sqlite_url: str, remembered: str) -> None:
    async with opened(sqlite_url) as trail:
        with pytest.raises(InvalidInput):
            await trail.verify(remembered)


# ---------------------------------------------------------------------------------------------------------------------
# What was tampered with is named
# ---------------------------------------------------------------------------------------------------------------------

_THIRD: Final = "segment = 1 AND position = 3"
_OTHERS: Final = {
    "at": "'2020-01-01T00:00:00.000000Z'",
    "action": "'auth.logout'",
    "result": "'denied'",
    "source": "'cli'",
    "subject_id": "NULL",
    "address_id": "NULL",
    "object_kind": "NULL",
    "object_id": "''",
    "detail": "'{}'",
    "id": "9999",
    "seal": "(SELECT seal FROM audit_events WHERE segment = 1 AND position = 2)",
}


@pytest.mark.parametrize("column", _OTHERS)
async def test_an_edited_column_names_the_row(lite: Trail, column: str) -> None:
    await lite.edit(f"UPDATE audit_events SET {column} = {_OTHERS[column]} WHERE {_THIRD}")  # noqa: S608
    ((edited,),) = await lite.rows(f"SELECT id FROM audit_events WHERE {_THIRD}")  # noqa: S608
    found = await lite.verify()
    assert not found.ok
    assert found.first_bad is not None
    assert (found.first_bad.id, found.first_bad.position, found.first_bad.segment) == (str(edited), 3, 1)
    assert f"row {edited} was changed" in found.first_bad.what


def test_no_column_is_missing_above() -> None:
    from app.infrastructure.database.schema import audit_events

    assert _OTHERS.keys() | {"segment", "position"} == {column.name for column in audit_events.c}


async def test_an_edited_use_is_named_as_well(trail: Trail) -> None:
    await trail.edit("UPDATE audit_events SET result = 'failed' WHERE segment = 2 AND position = 4")
    found = await trail.verify()
    assert found.first_bad is not None
    assert (found.first_bad.stream, found.first_bad.position) == (Stream.USES, 4)


@pytest.mark.parametrize("place", ["1", "3", "6"])
async def test_a_removed_row_is_named_by_its_place(lite: Trail, place: str) -> None:
    await lite.edit(f"DELETE FROM audit_events WHERE segment = 1 AND position = {place}")  # noqa: S608
    found = await lite.verify()
    assert found.first_bad is not None
    assert found.first_bad.position == int(place)
    assert "missing" in found.first_bad.what


@pytest.mark.parametrize("column", ["segment", "position"])
async def test_a_row_that_is_made_unsealed_again_is_missed(lite: Trail, column: str) -> None:
    await lite.edit(f"UPDATE audit_events SET {column} = NULL WHERE {_THIRD}")  # noqa: S608
    found = await lite.verify()
    assert found.first_bad is not None
    assert found.first_bad.position == 3


async def test_swapped_rows_are_named(trail: Trail) -> None:
    await trail.edit(
        f"UPDATE audit_events SET position = 99 WHERE {_THIRD}",  # noqa: S608
        "UPDATE audit_events SET position = 3 WHERE segment = 1 AND position = 5",
        "UPDATE audit_events SET position = 5 WHERE segment = 1 AND position = 99",
    )
    found = await trail.verify()
    assert found.first_bad is not None
    assert found.first_bad.position == 3
    assert "another's place" in found.first_bad.what


@pytest.mark.parametrize(
    ("segment", "position"), [(1, 7), (1, 0), (1, "NULL"), (7, 1), (0, 1), (-3, 1), (-(2**63) + 1, 1)]
)
async def test_an_inserted_row_is_named(lite: Trail, segment: int, position: Any) -> None:
    copied = "at, action, result, source, detail, seal"
    await lite.edit(
        f"INSERT INTO audit_events ({copied}, segment, position) "  # noqa: S608
        f"SELECT {copied}, {segment}, {position} FROM audit_events WHERE {_THIRD}"
    )
    found = await lite.verify()
    assert found.first_bad is not None
    assert "inserted" in found.first_bad.what


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        (
            "UPDATE audit_segments SET value = replace(value, '\"last\":6', '\"last\":5') WHERE number = 1",
            "1 was edited",
        ),
        ("UPDATE audit_segments SET value = 'x' WHERE number = 1", "segment 1 was edited"),
        ("UPDATE audit_segments SET value = '{}' WHERE number = 1", "segment 1 was edited"),
        ("UPDATE audit_segments SET mac = '' WHERE number = 1", "segment 1 was edited"),
        (
            "INSERT INTO audit_segments SELECT 0, stream, value, mac FROM audit_segments WHERE number = 1",
            "0 was inserted",
        ),
        ("UPDATE audit_segments SET stream = 'uses' WHERE number = 1", "segment 1 was edited"),
        ("UPDATE audit_segments SET number = 5 WHERE number = 1", "segment 1 is missing"),
        ("DELETE FROM audit_segments WHERE number = 1", "segment 1 is missing"),
        ("DELETE FROM audit_segments WHERE number = 2", "every segment of the chain of uses is missing"),
        ("DELETE FROM audit_segments", "name the segment 1, which there never was"),
    ],
)
async def test_an_edited_or_removed_segment_is_named(lite: Trail, statement: str, what: str) -> None:
    await lite.happens(Action.LOGIN)  # else nothing is left
    await lite.edit(statement)
    found = await lite.verify()
    assert found.first_bad is not None
    assert what in found.first_bad.what


async def test_a_cut_end_is_named(trail: Trail) -> None:
    await trail.edit("DELETE FROM audit_events WHERE segment = 1 AND position > 4")
    found = await trail.verify()
    assert found.first_bad is not None
    assert found.first_bad.position == 5


async def test_a_cut_last_segment_is_named(lite: Trail) -> None:
    lite.keyhall.advance(lite.clock, timedelta(days=1))
    await lite.happens(Action.LOGIN)
    await lite.seal()
    await lite.edit("DELETE FROM audit_events WHERE segment > 2", "DELETE FROM audit_segments WHERE number > 2")
    found = await lite.verify()
    assert found.first_bad is not None
    assert "the segment that follows segment 1 is missing" in found.first_bad.what


async def test_an_end_put_back_to_an_older_state_shows_by_a_seal_that_was_remembered(lite: Trail) -> None:
    """And by nothing else: the older rows are authentic."""
    before = await lite.rows("SELECT value, mac FROM audit_segments WHERE number = 1")
    await lite.happens(Action.LOGOUT)
    await lite.seal()
    remembered = (await lite.verify()).latest_seal
    async with lite.database.write() as connection:
        value, mac = before[0]
        put_back = text("UPDATE audit_segments SET value = :value, mac = :mac WHERE number = 1")
        await connection.change(put_back, {"value": value, "mac": mac})
        await connection.change(text("DELETE FROM audit_events WHERE segment = 1 AND position = 7"))
    assert (await lite.verify()).ok
    found = await lite.verify(remembered)
    assert found.first_bad is not None
    assert "remembered" in found.first_bad.what
    assert found.first_bad.position == 7


async def test_another_chain_in_the_place_of_a_remembered_one_is_named(lite: Trail) -> None:
    found = await lite.verify(f"security:3:{'ab' * 32}")
    assert found.first_bad is not None
    assert found.first_bad.position == 3


async def test_an_emptied_trail_is_named(lite: Trail) -> None:
    await lite.edit("DELETE FROM audit_events", "DELETE FROM audit_segments")
    found = await lite.verify()
    assert found.first_bad is not None
    assert "every row is gone" in found.first_bad.what


async def test_sealing_goes_on_behind_an_edited_segment_which_stays_named(lite: Trail) -> None:
    """Sealing it once more would authenticate the edit."""
    await lite.edit("UPDATE audit_segments SET value = replace(value, '\"last\":6', '\"last\":5') WHERE number = 1")
    await lite.happens(Action.LOGIN)
    await lite.seal()
    found = await lite.verify()
    assert found.unsealed == 0
    assert found.first_bad is not None
    assert found.first_bad.segment == 1


@pytest.mark.parametrize(
    ("was", "edited"),
    [
        ('"first":1,', '"first":1e400,'),
        ('"opened_at":"2026', '"opened_at":"0001-01-01T00:00:00.000000+23:59","x":"2026'),
    ],
)
async def test_a_segment_with_a_number_beyond_all_is_edited_and_stops_nobody(
    trail: Trail, was: str, edited: str
) -> None:
    await trail.edit(f"UPDATE audit_segments SET value = replace(value, '{was}', '{edited}') WHERE number = 1")  # noqa: S608
    assert [row for row in await trail.rows("SELECT value FROM audit_segments WHERE number = 1") if edited in row[0]]
    await trail.happens(Action.LOGIN)
    await trail.seal()
    found = await trail.verify()
    assert found.unsealed == 0
    assert found.first_bad is not None
    assert found.first_bad.what == "segment 1 was edited"


@pytest.mark.parametrize("more", [False, True])
async def test_sealing_goes_on_where_a_forged_row_lies_in_the_next_place(
    trail: Trail, caplog: pytest.LogCaptureFixture, *, more: bool
) -> None:
    """And where others lie in the segments that would follow; once they are removed, the rest verifies."""
    copied = "at, action, result, source, detail, seal"
    for segment, position in [(1, 7), *([(3, 7), (4, 7)] if more else [])]:
        await trail.edit(
            f"INSERT INTO audit_events ({copied}, segment, position) "  # noqa: S608
            f"SELECT {copied}, {segment}, {position} FROM audit_events WHERE {_THIRD}"
        )
    await trail.happens(Action.LOGIN)
    await trail.seal()
    found = await trail.verify()
    assert found.unsealed == 0
    assert found.first_bad is not None
    assert "inserted into segment 1" in found.first_bad.what
    assert "is taken by a forged row" in caplog.text
    if not more:
        await trail.edit("DELETE FROM audit_events WHERE segment = 1 AND position = 7")
        assert (await trail.verify()).ok


@pytest.mark.parametrize("number", ["'zzz'", "x'ff'", "9223372036854775807"])
async def test_sealing_goes_on_where_a_segment_has_no_number_that_could_be(lite: Trail, number: str) -> None:
    await lite.edit(f"UPDATE audit_segments SET number = {number} WHERE number = 2")  # noqa: S608
    await lite.happens(Action.LOGIN, Action.CREDENTIAL_USED)
    await lite.seal()
    found = await lite.verify()
    assert found.unsealed == 0
    assert found.first_bad is not None


@pytest.mark.parametrize("at", ["4000-01-01 00:00:00+00 BC", "20000-01-01 00:00:00+00", "infinity", "-infinity"])
async def test_a_time_that_only_postgresql_has_is_named_and_stops_nobody(postgres_url: str, at: str) -> None:
    async with sealed(postgres_url) as trail:
        columns = "action, result, source, detail"
        await trail.edit(
            f"INSERT INTO audit_events (at, {columns}) SELECT '{at}', {columns} FROM audit_events WHERE {_THIRD}"  # noqa: S608
        )
        await trail.seal()
        found = await trail.verify()
        assert (found.ok, found.unsealed) == (True, 0)
        await trail.edit(f"UPDATE audit_events SET at = '{at}' WHERE {_THIRD}")  # noqa: S608
        found = await trail.verify()
        assert found.first_bad is not None
        assert found.first_bad.position == 3
        page = await trail.keyhall.services.audit.page(AUDITOR, AuditQuery())
        assert [each.at for each in page.items].count(None) == 2
        assert len(page.items) == 11


async def test_bytes_in_the_place_of_text_are_named(sqlite_url: str) -> None:
    """An SQLite file holds any type in any column."""
    async with opened(sqlite_url) as trail:
        await trail.happens(Action.LOGIN, Action.LOGIN)
        await trail.seal()
        await trail.edit("UPDATE audit_events SET at = x'ff', detail = 7.5 WHERE segment = 1 AND position = 2")
        found = await trail.verify()
        assert found.first_bad is not None
        assert found.first_bad.position == 2


# ---------------------------------------------------------------------------------------------------------------------
# At the same time
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_row_that_commits_late_is_sealed_late(postgres_url: str) -> None:
    """PostgreSQL gives ids before the commit: the chain has an order of its own."""
    async with opened(postgres_url) as trail:
        entered, leave = asyncio.Event(), asyncio.Event()

        async def slow() -> None:
            async with trail.keyhall.storage.write() as uow:
                await uow.audit.append(
                    AuditEvent(
                        at=NOW, action=Action.LOGIN, result=Result.OK, source=Source.WEB, subject_id=user().subject_id
                    )
                )
                entered.set()
                await leave.wait()

        writing = asyncio.create_task(slow())
        await entered.wait()
        await trail.happens(Action.LOGOUT)
        await trail.seal()
        leave.set()
        await writing
        await trail.seal()
        found = await trail.rows("SELECT id, position FROM audit_events ORDER BY position")
        ids = [row[0] for row in found]
        assert ids == [1, 3, 2]
        assert (await trail.verify()).ok


async def test_writers_and_sealers_at_once_lose_nothing_and_wait_for_nobody(trail: Trail) -> None:
    """Two sealers, eight writers: every row is in the chain once, and no writer fails."""

    async def write() -> None:
        for _ in range(20):
            await trail.happens(Action.LOGIN, Action.CREDENTIAL_USED)

    async def seal() -> None:
        while not over:
            await trail.keyhall.services.audit_sealing.seal()
            await asyncio.sleep(0)

    over = False
    sealers = [asyncio.create_task(seal()) for _ in range(2)]
    await asyncio.gather(*(write() for _ in range(8)))
    over = True
    await asyncio.gather(*sealers)
    await trail.seal()
    found = await trail.verify()
    assert found.ok
    assert (found.sealed, found.unsealed) == (10 + 8 * 20 * 2, 0)


async def test_a_verification_beside_a_sealer_finds_nothing(trail: Trail) -> None:
    over = False

    async def write() -> None:
        while not over:
            await trail.happens(Action.LOGIN, Action.CREDENTIAL_USED)
            await trail.keyhall.services.audit_sealing.seal()

    writing = asyncio.create_task(write())
    for _ in range(20):
        assert (await trail.verify()).first_bad is None
    over = True
    await writing


@pytest.mark.parametrize("taken", ["a segment", "a row"])
async def test_sealing_goes_on_below_forged_numbers_that_leave_no_room(
    trail: Trail, caplog: pytest.LogCaptureFixture, taken: str
) -> None:
    """Above 2^62 - 1 there is no number for the next segment; the rows that come are sealed all the same."""
    last = NEVER_REACHED - 1
    if taken == "a segment":
        for number in (last, last - 1):
            await trail.edit(
                f"INSERT INTO audit_segments (number, stream, value, mac) "  # noqa: S608
                f"SELECT {number}, stream, value, mac FROM audit_segments WHERE number = 2"
            )
    else:  # and one in the next place of the chain, so that a new segment begins above all that rows name
        copied = "at, action, result, source, detail, seal"
        for segment, position in ((1, 7), (last, 7)):
            await trail.edit(
                f"INSERT INTO audit_events ({copied}, segment, position) "  # noqa: S608
                f"SELECT {copied}, {segment}, {position} FROM audit_events WHERE {_THIRD}"
            )
    for _ in range(2):
        await trail.happens(Action.LOGIN, Action.CREDENTIAL_USED)
        await trail.seal()
    assert await trail.rows("SELECT count(*) FROM audit_events WHERE segment IS NULL") == [(0,)]
    assert f"segment {last} of the audit trail was forged" in caplog.text
    assert "keyhall audit verify" in caplog.text
    numbers = await trail.rows("SELECT max(number) FROM audit_segments WHERE number < 1000000")
    assert numbers[0][0] < 10
    assert not (await trail.verify()).ok
    if taken == "a segment":
        await trail.edit(f"DELETE FROM audit_segments WHERE number >= {last - 1}")  # noqa: S608
        assert (await trail.verify()).ok
