"""The newest backup is restored for trial, and it is written down how that ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.backup import BackupRecord, Rehearsal, Row
from app.domain.jobs import JobKind
from app.infrastructure.backup.archive import ArchiveReader
from app.infrastructure.crypto.envelope import AesGcmEnvelope
from app.infrastructure.database.restoring.staging import StagedDatabase
from app.infrastructure.own_loop import in_own_loop
from tests.benchmarks.filled import Install, LoopWatch
from tests.support.backups import IDENTITY, RECIPIENT, back_up
from tests.support.installs import Place
from tests.support.restores import GUILD, SECRET, fill

if TYPE_CHECKING:
    from app.services import Services


@pytest.fixture
async def place(engine_url: str, tmp_path: Path) -> Place:
    return await with_identity(engine_url, tmp_path)


@pytest.fixture
async def sqlite_place(sqlite_url: str, tmp_path: Path) -> Place:
    return await with_identity(sqlite_url, tmp_path)


async def with_identity(url: str, tmp_path: Path) -> Place:
    identity = tmp_path / "identity.txt"
    identity.touch(mode=0o600)
    identity.write_text(IDENTITY)
    place = await fill(Place(url, tmp_path / "data"))
    return place.having(BACKUP_RECIPIENT=RECIPIENT, BACKUP_IDENTITY_FILE=str(identity))


@asynccontextmanager
async def backed_up(place: Place) -> AsyncIterator[Services]:
    """The services, after a backup was made."""
    await back_up(place, place.data_dir.parent / "one.age")
    async with place.services() as services:
        yield services


async def rehearsed(services: Services) -> BackupRecord:
    """The newest backup, after the job that is due was done."""
    await services.rehearsal.watch()
    run = await services.jobs.claim()
    assert run is not None
    assert run.job.kind is JobKind.BACKUP_REHEARSAL
    await services.jobs.work(run, services.rehearsal.carry_on)
    found = await services.rehearsal.newest()
    assert found is not None
    return found


def left(place: Place) -> list[str]:
    return [each.name for each in place.data_dir.iterdir() if "rehearsal" in each.name]


async def test_a_backup_that_restores_is_said_to_and_nothing_of_it_stays(place: Place) -> None:
    async with backed_up(place) as services:
        found = await rehearsed(services)
        assert (found.rehearsal, found.rehearsed_at is not None) == (Rehearsal.OK, True)
        assert "3 credentials opened" in str(found.rehearsal_note)
        # One a day is enough, whatever number of processes there is.
        await services.rehearsal.watch()
        assert await services.jobs.claim() is None
    assert left(place) == []
    assert any("backup.rehearsed" in row for row in (await place.contents())["audit_events"])


async def test_where_there_is_no_identity_it_is_said_that_nothing_can_be_decrypted(sqlite_place: Place) -> None:
    settings = {name: value for name, value in sqlite_place.settings.items() if name != "BACKUP_IDENTITY_FILE"}
    async with backed_up(Place(sqlite_place.url, sqlite_place.data_dir, settings)) as services:
        found = await rehearsed(services)
    assert (found.rehearsal, str(found.rehearsal_note)[:20]) == (Rehearsal.NOT_DECRYPTABLE, "not decryptable here")


async def test_unreadable_secrets_and_damaged_files_fail(sqlite_place: Place) -> None:
    statement = "UPDATE api_credentials SET encrypted_value = :none WHERE label = 'two'"
    await sqlite_place.execute(statement, none=b"no envelope")
    path = sqlite_place.data_dir.parent / "one.age"
    async with backed_up(sqlite_place) as services:
        found = await rehearsed(services)
        assert (found.rehearsal, found.rehearsal_note) == (Rehearsal.FAILED, "1 unreadable")
        whole = path.read_bytes()
        path.write_bytes(whole[:-50])
        assert (await services.rehearsal.rehearse(path, found.created_at)).result is Rehearsal.FAILED
        path.write_bytes(whole)
        other = await services.rehearsal.rehearse(path, found.created_at + timedelta(hours=1))
        assert "the file is another backup" in other.note
        path.unlink()
        assert "there is no file" in (await services.rehearsal.rehearse(path, found.created_at)).note


async def test_what_a_killed_rehearsal_left_goes_with_the_next(sqlite_place: Place) -> None:
    rest = sqlite_place.data_dir / ".rehearsal"
    rest.mkdir(mode=0o700)
    (rest / "staged.db").write_bytes(b"half")
    async with backed_up(sqlite_place) as services:
        assert (await rehearsed(services)).rehearsal is Rehearsal.OK
    assert left(sqlite_place) == []


async def test_after_a_day_the_newest_backup_is_rehearsed_again(sqlite_place: Place) -> None:
    async with backed_up(sqlite_place) as services:
        found = await rehearsed(services)
        assert found.rehearsed_at is not None
        async with services.rehearsal._storage.write() as uow:
            earlier = found.rehearsed_at - timedelta(days=1, seconds=1)
            await uow.backups.note_rehearsal(found.id, earlier, Rehearsal.OK, "ok")
        assert (await rehearsed(services)).rehearsed_at != earlier


class Gate:
    """Stops the thread that comes to it for the first time, until the event loop that serves has gone on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._open = threading.Event()

    def wait(self) -> None:
        """Called by the rehearsal: in a thread where waiting holds nobody up."""
        assert threading.current_thread() is not threading.main_thread(), "the loop that serves would stand still"
        self._loop.call_soon_threadsafe(self.reached.set)
        assert self._open.wait(60), "the loop that serves did not go on"

    def open(self) -> None:
        self._open.set()


def gates(monkeypatch: pytest.MonkeyPatch) -> dict[str, Gate]:
    """In the middle of what takes processor time: rows are read, the schema is upgraded, secrets are decrypted."""
    found = {name: Gate() for name in ("read", "upgrade", "decrypt")}
    rows, upgrade, opened_by = ArchiveReader.rows, StagedDatabase.upgrade, AesGcmEnvelope.opened_by

    def gated_rows(self: ArchiveReader) -> Iterator[tuple[str, Row]]:
        for number, row in enumerate(rows(self)):
            if number == 1:
                found["read"].wait()
            yield row

    async def gated_upgrade(self: StagedDatabase) -> None:
        found["upgrade"].wait()
        await upgrade(self)

    def gated_opened_by(self: AesGcmEnvelope, *arguments: Any, **keywords: Any) -> list[int | None]:
        found["decrypt"].wait()
        return opened_by(self, *arguments, **keywords)

    monkeypatch.setattr(ArchiveReader, "rows", gated_rows)
    monkeypatch.setattr(StagedDatabase, "upgrade", gated_upgrade)
    monkeypatch.setattr(AesGcmEnvelope, "opened_by", gated_opened_by)
    return found


async def test_members_are_served_while_a_rehearsal_reads_upgrades_and_decrypts(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with backed_up(place) as services:
        on_the_way = gates(monkeypatch)  # only now: making a backup reads and decrypts, too
        rehearsing = asyncio.create_task(rehearsed(services))
        actor = await services.identity.operator_for(guild_id=GUILD)
        for name, gate in on_the_way.items():
            reaching = asyncio.create_task(gate.reached.wait())
            await asyncio.wait({rehearsing, reaching}, return_when=asyncio.FIRST_COMPLETED)
            assert reaching.done(), f"the rehearsal ended before: {name}"
            secret = f"{SECRET}{name}"
            stored = await services.credentials.add(actor, provider="openai", label=name, secret=secret, guild_id=GUILD)
            assert stored.view.id in {
                each.id for each in (await services.credentials.page(actor, guild_id=GUILD)).items
            }
            assert not rehearsing.done()
            gate.open()
        assert (await rehearsing).rehearsal is Rehearsal.OK


@pytest.mark.faults  # judged by the clock, so not beside the rest of the suite
async def test_the_event_loop_goes_on_during_a_rehearsal(sqlite_place: Place) -> None:
    async with AsyncExitStack() as stack:
        install = await Install.opened(stack, sqlite_place)
        await install.fill(3000)
        await back_up(sqlite_place, sqlite_place.data_dir.parent / "one.age")
        services = await stack.enter_async_context(sqlite_place.services())
        with LoopWatch() as watch:
            assert (await rehearsed(services)).rehearsal is Rehearsal.OK
        assert watch.longest < 250


async def test_work_on_its_own_loop_ends_with_the_one_who_waits() -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    begun = asyncio.Event()

    async def work() -> None:
        loop.call_soon_threadsafe(begun.set)
        try:
            await asyncio.Event().wait()
        finally:
            loop.call_soon_threadsafe(ended.set)

    waiting = asyncio.create_task(in_own_loop(work))
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(60):
        await ended.wait()
