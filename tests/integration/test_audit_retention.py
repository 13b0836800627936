"""Old rows of the audit trail leave in whole segments, and nothing is lost wherever the process dies."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from app.domain.audit import Action
from app.domain.audit_chain import AuditExportFailed, Segment, StoredSegment, Stream
from app.domain.errors import StorageError
from app.domain.keys import KeyName
from app.infrastructure.audit_exports import AuditExportFiles
from app.infrastructure.clock import SystemRandomness
from app.services.audit_trail import retention
from app.services.audit_trail.seals import Seals
from app.services.jobs import Later
from tests.support.database import event
from tests.support.fakes import FakeAuditExports, FakeClock, FakeStorage
from tests.support.keyhall import open_keyhall
from tests.support.trails import AUDITOR, Trail, sealed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.keyhall import Keyhall


@dataclass(frozen=True)
class Old:
    """A sealed trail, and the files of its segments."""

    trail: Trail
    exports: FakeAuditExports

    async def after(self, days: int) -> None:
        self.trail.keyhall.advance(self.trail.clock, timedelta(days=days))
        await self.trail.keyhall.services.audit_retention.apply()


@pytest.fixture
async def old(engine_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Old]:
    """Six security events and four uses."""
    monkeypatch.setattr(retention, "BATCH", 3)
    exports = FakeAuditExports()
    async with sealed(engine_url, exports=exports) as trail:
        yield Old(trail, exports)


async def test_nothing_leaves_before_its_time(old: Old) -> None:
    await old.after(1)  # closes the segments
    await old.after(89)
    assert (found := await old.trail.verify()).ok
    assert found.sealed == 10
    assert not old.exports.files


async def test_old_uses_become_hourly_sums(old: Old) -> None:
    await old.after(1)
    await old.after(91)
    assert (found := await old.trail.verify()).ok
    assert found.sealed == 6
    assert not old.exports.files
    ((hour, uses),) = await old.trail.rows("SELECT hour, uses FROM usage_hours")
    assert uses == 4
    assert ":00:00" in str(hour)
    await old.after(1)  # and are not counted twice
    assert await old.trail.rows("SELECT uses FROM usage_hours") == [(4,)]


async def test_old_events_are_exported_and_the_rest_still_verifies(old: Old) -> None:
    await old.after(1)
    remembered = (await old.trail.verify()).latest_seal
    await old.trail.happens(Action.LOGIN)
    await old.trail.seal()
    await old.after(401)
    assert (found := await old.trail.verify(remembered)).ok
    assert found.sealed == 1
    ((name, content),) = old.exports.files.items()
    header, *rows = [json.loads(line) for line in content.splitlines()]
    assert name == f"audit-00000001-{header['seal'][:16]}.jsonl"
    assert (header["segment"], header["first"], header["last"]) == (1, 1, 6)
    assert [each["position"] for each in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["seal"] == header["seal"]
    assert rows[1]["action"] == "auth.login"
    stored = await old.trail.keyhall.services.audit_verification.segments()
    assert stored[0].segment is not None
    assert stored[0].segment.digest == await old.exports.digest(name)


async def test_a_segment_that_does_not_verify_stays_as_evidence(old: Old, caplog: pytest.LogCaptureFixture) -> None:
    await old.after(1)
    await old.trail.edit("UPDATE audit_events SET detail = '{}' WHERE segment = 1 AND position = 2")
    await old.after(401)
    assert await old.trail.rows("SELECT count(*) FROM audit_events WHERE segment = 1") == [(6,)]
    assert "is old and stays" in caplog.text


async def test_a_worker_that_was_stopped_does_not_replace_the_export_of_another(old: Old) -> None:
    """It verified the rows, was stopped, and goes on after another worker has exported and dropped them."""
    await old.after(1)
    service = old.trail.keyhall.services.audit_retention
    stored = next(each for each in await service._verification.segments() if _of_events(each))
    segment = stored.segment
    assert segment is not None
    seals = Seals(service._derivation, service._keys.usable_materials(KeyName.AUDIT_SEAL_KEY)[segment.key_version])
    await old.after(401)
    exported = dict(old.exports.files)
    assert len(exported) == 1
    with pytest.raises(AuditExportFailed, match="dropped"):
        await service._export(segment, seals)
    assert old.exports.files == exported


async def test_rows_that_change_while_they_are_exported_are_in_no_file(
    old: Old, monkeypatch: pytest.MonkeyPatch
) -> None:
    await old.after(1)
    service = old.trail.keyhall.services.audit_retention
    verified = service._verification.flaw_of_rows

    async def then_change(segment: Segment, seals: Seals) -> object:
        flaw = await verified(segment, seals)
        await old.trail.edit("UPDATE audit_events SET action = 'forged' WHERE segment = 1 AND position = 2")
        return flaw

    monkeypatch.setattr(service._verification, "flaw_of_rows", then_change)
    with pytest.raises(AuditExportFailed, match="changed"):
        await old.after(401)
    assert not old.exports.files
    monkeypatch.undo()
    assert not (await old.trail.verify()).ok


def _of_events(stored: StoredSegment) -> bool:
    return stored.segment is not None and stored.segment.stream is Stream.SECURITY


async def test_a_dropped_segment_that_is_removed_is_named(old: Old) -> None:
    await old.after(1)
    await old.after(401)
    await old.trail.edit("DELETE FROM audit_segments WHERE number = 1")
    found = await old.trail.verify()
    assert found.first_bad is not None
    assert "segment 1 is missing" in found.first_bad.what


async def test_rows_that_are_inserted_into_a_dropped_segment_are_named(old: Old) -> None:
    await old.after(1)
    await old.after(401)
    await old.trail.edit(
        "INSERT INTO audit_events (at, action, result, source, detail, segment, position, seal) "
        "SELECT '2026-01-01T00:00:00.000000Z', 'auth.login', 'ok', 'web', '{}', 1, 1, mac FROM audit_segments "
        "WHERE number = 1"
    )
    assert (await old.trail.verify()).first_bad is not None


async def test_rows_that_are_put_among_leaving_uses_are_not_counted(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the segment was verified: one behind its end, one in the place of a row that was deleted."""
    await old.after(1)
    service = old.trail.keyhall.services.audit_retention
    verified = service._verification.flaw_of_rows

    async def then_forge(segment: Segment, seals: Seals) -> object:
        flaw = await verified(segment, seals)
        if segment.stream is Stream.USES:
            copied = "at, action, result, source, detail, seal, segment"
            await old.trail.edit(
                "DELETE FROM audit_events WHERE segment = 2 AND position = 3",
                *(
                    f"INSERT INTO audit_events ({copied}, position) "  # noqa: S608
                    f"SELECT {copied}, {position} FROM audit_events WHERE segment = 2 AND position = 1"
                    for position in (3, 5, 6)
                ),
            )
        return flaw

    monkeypatch.setattr(service._verification, "flaw_of_rows", then_forge)
    await old.after(91)
    # The third row is forged; the fourth was sealed behind the third, whose seal is another by now.
    assert await old.trail.rows("SELECT sum(uses) FROM usage_hours") == [(2,)]
    assert await old.trail.rows("SELECT count(*) FROM audit_events WHERE segment = 2") == [(0,)]


async def test_it_is_a_job_that_comes_back(old: Old) -> None:
    services = old.trail.keyhall.services
    await services.audit_retention.watch()
    await services.audit_retention.watch()  # of which there is one
    run = await services.jobs.claim()
    assert run is not None
    with pytest.raises(Later):
        await services.audit_retention.carry_on(run)
    await run.release(run.job.state)
    assert await services.jobs.claim() is None or run.job.unique_key is not None


# ---------------------------------------------------------------------------------------------------------------------
# Wherever it dies
# ---------------------------------------------------------------------------------------------------------------------


async def _aged(storage: FakeStorage, clock: FakeClock, exports: FakeAuditExports) -> Keyhall:
    """The making of the install and four uses, all old enough to leave."""
    keyhall = await open_keyhall(storage, clock, SystemRandomness(), exports=exports)
    async with storage.write() as uow:
        for _ in range(4):
            await uow.audit.append(event())
    while await keyhall.services.audit_sealing.seal():
        pass
    keyhall.advance(clock, timedelta(days=1))
    await keyhall.services.audit_sealing.close_finished()
    keyhall.advance(clock, timedelta(days=401))
    return keyhall


@pytest.mark.parametrize("commits", range(7))
async def test_a_retention_that_dies_after_any_commit_loses_nothing(
    commits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    clock, exports = FakeClock(), FakeAuditExports()
    storage = FakeStorage(clock)
    keyhall = await _aged(storage, clock, exports)

    def kept(stream: Stream) -> int:
        rows = [each for number, each in enumerate(storage.tables.audit, 1) if number not in storage.tables.dropped]
        return sum(Stream.of(each.action) is stream for each in rows)

    with storage.dead_after(commits), suppress(StorageError):
        await keyhall.services.audit_retention.apply()
    assert kept(Stream.USES) + sum(storage.tables.uses.values()) == 4
    exported = sum(content.count(b"\n") - 1 for content in exports.files.values())
    assert max(exported, kept(Stream.SECURITY)) == 1
    verified = await keyhall.services.audit_verification.verify(AUDITOR)
    assert verified.ok, verified.first_bad
    await keyhall.services.audit_retention.apply()
    assert (kept(Stream.USES), kept(Stream.SECURITY), sum(storage.tables.uses.values())) == (0, 0, 4)
    segments: list[Segment] = list(storage.tables.segments.values())
    assert {each.digest for each in segments if each.export} == {await exports.digest(name) for name in exports.files}


async def test_an_export_is_for_one_user_alone_and_replaces_a_part_of_one(tmp_path: Path) -> None:
    files = AuditExportFiles(tmp_path / "audit")
    for _ in range(2):
        async with files.writing("one.jsonl") as opened:
            await opened.add([b"a\n", b"b\n"])

    async def die() -> None:
        async with files.writing("two.jsonl") as opened:
            await opened.add([b"half"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await die()
    (made,) = (tmp_path / "audit").iterdir()
    assert (made.read_bytes(), made.stat().st_mode & 0o777) == (b"a\nb\n", 0o600)


async def test_an_export_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("no directory")
    with pytest.raises(AuditExportFailed, match="cannot be written"):
        async with AuditExportFiles(tmp_path / "audit").writing("one.jsonl"):
            pass
