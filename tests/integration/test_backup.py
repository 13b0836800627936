"""A backup holds the install as of one moment, on both engines, and is whole or not there."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os
import stat
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from app import __version__
from app.domain.backup import EncryptTo
from app.domain.credentials import QUOTA
from app.domain.errors import BackupError, BackupNotWritten, NotABackup, StorageError
from app.domain.times import utc_text
from app.infrastructure.backup import files
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.database import snapshot
from app.infrastructure.database.migrate import known_revisions
from app.infrastructure.database.schema import metadata
from app.services.ports import ShowProgress
from app.settings import DatabaseUrl
from tests.benchmarks.backups import fill as fill_many
from tests.benchmarks.backups import peak
from tests.benchmarks.filled import Install, LoopWatch
from tests.support.backups import RECIPIENT, back_up, content, of, verified
from tests.support.database import NOW
from tests.support.installs import Place
from tests.support.pgbouncer import pgbouncer

GUILD = "900000000000000001"
SECRET = "sk-proj-4f9aTq7ZbX2mLw8vKd3Yc6Rn"


@pytest.fixture
def place(engine_url: str, tmp_path: Path) -> Place:
    return Place(engine_url, tmp_path / "data")


@pytest.fixture
def sqlite_place(sqlite_url: str, tmp_path: Path) -> Place:
    return Place(sqlite_url, tmp_path / "data")


@pytest.fixture
async def filled(place: Place) -> Place:
    return await fill(place)


@pytest.fixture
async def small(sqlite_place: Place) -> Place:
    return await fill(sqlite_place)


def left(directory: Path) -> list[str]:
    """The backups in a directory, half-written ones too."""
    return sorted(each.name for each in directory.iterdir() if ".age" in each.name)


async def fill(place: Place) -> Place:
    """Some of everything: credentials, one with a history, one removed, text that is awkward."""
    await place.install()
    async with place.services() as services:
        actor = await services.identity.operator_for(guild_id=GUILD)
        for label in ("one", "zoë \U0001f511", "three"):
            await services.credentials.add(
                actor, provider="openai", label=label, secret=f"{SECRET}{label[:1]}", guild_id=GUILD
            )
        page = await services.credentials.page(actor, guild_id=GUILD)
        await services.credentials.replace(actor, page.items[0].id, f"{SECRET}second")
        await services.credentials.remove(actor, page.items[2].id)
    return place


async def test_every_row_is_in_the_backup_as_it_stands(filled: Place, tmp_path: Path) -> None:
    await back_up(filled, tmp_path / "one.age")
    header, rows = content((tmp_path / "one.age").read_bytes())
    now = await filled.contents()
    for table in header.tables:
        # The rows about this backup itself came later.
        stored = [row for row in now.get(table, ()) if "backup.created" not in row and table != "backups"]
        assert sorted((_plain(row) for row in stored), key=repr) == sorted(
            (tuple(row.values()) for row in of(rows, table)), key=repr
        ), table
    assert len(of(rows, "api_credentials")) == 3
    assert len(of(rows, "credential_history")) == 1


def _plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row as SQLAlchemy has it without a schema, in the values of an archive."""
    return tuple(
        base64.b64encode(value).decode()
        if isinstance(value, bytes)
        else utc_text(value)
        if isinstance(value, datetime)
        else value
        for value in row
    )


async def test_the_header_names_install_master_key_and_schema(small: Place, tmp_path: Path) -> None:
    made = await back_up(small, tmp_path / "one.age")
    header, rows = content((tmp_path / "one.age").read_bytes())
    manifest = json.loads((await small.app_config())["manifest"])
    assert (header.install_id, header.master_key_id) == (manifest["install_id"], manifest["master_key_id"])
    assert (header.environment, header.app_version, header.revision) == ("test", __version__, known_revisions()[-1])
    assert set(header.tables) == set(metadata.tables) - snapshot.LEFT_OUT
    assert made.written.rows == len(rows)
    assert made.written.size == (tmp_path / "one.age").stat().st_size


async def test_neither_master_key_nor_any_secret_is_in_it(small: Place, tmp_path: Path) -> None:
    await back_up(small, tmp_path / "one.age")
    _, rows = content((tmp_path / "one.age").read_bytes())
    text, key = repr(rows), (small.data_dir / "master.key").read_text().strip()
    assert key not in text
    assert SECRET not in text


async def test_a_backup_of_a_whole_install_is_verified_without_its_database(filled: Place, tmp_path: Path) -> None:
    made = await back_up(filled, tmp_path / "one.age")
    nowhere = filled.having(DATABASE_URL=f"sqlite+aiosqlite:///{tmp_path}/nowhere/keyhall.db")
    report = await verified(nowhere, tmp_path / "one.age")
    assert report == made.report
    assert (report.ok, report.credentials, report.unreadable) == (True, 3, 0)


async def test_a_credential_that_does_not_open_is_counted(small: Place, tmp_path: Path) -> None:
    await small.execute("UPDATE api_credentials SET encrypted_value = x'00' WHERE label = 'one'")
    await small.execute("UPDATE credential_history SET encrypted_value = 'text'")
    made = await back_up(small, tmp_path / "one.age")
    assert (made.report.ok, made.report.credentials, made.report.unreadable) == (False, 3, 2)
    assert "keyhall credentials verify" in made.report.problems[0]
    assert (await verified(small, tmp_path / "one.age")).unreadable == 2


@pytest.mark.parametrize("there", [True, False], ids=["another master key", "no master key"])
async def test_on_another_machine_the_report_says_which_master_key_is_needed(
    small: Place, tmp_path: Path, *, there: bool
) -> None:
    made = await back_up(small, tmp_path / "one.age")
    elsewhere = Place(small.url, tmp_path / "elsewhere")
    if there:
        elsewhere = elsewhere.having(MASTER_KEY="11" * 16 + "5c3f9a" * 5 + "77")
    report = await verified(elsewhere, tmp_path / "one.age")
    assert (report.ok, report.credentials, report.unreadable) == (False, 3, 4)
    assert made.report.master_key_id in report.problems[0]


async def test_every_cut_at_512_bytes_and_every_flipped_byte_is_refused(small: Place, tmp_path: Path) -> None:
    await back_up(small, tmp_path / "one.age")
    whole, path = (tmp_path / "one.age").read_bytes(), tmp_path / "changed.age"
    for size in range(0, len(whole), 512):
        path.write_bytes(whole[:size])
        with pytest.raises(BackupError):
            await verified(small, path)
    for place in range(len(whole)):
        with pytest.raises(BackupError):
            content(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])


async def test_a_file_that_is_no_backup_is_refused_with_a_type(small: Place, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for refused in (path, tmp_path):
        with pytest.raises(NotABackup):
            await verified(small, refused)
    os.mkfifo(path)
    with pytest.raises(NotABackup):
        await verified(small, path)


# ---------------------------------------------------------------------------------------------------------------------
# The file
# ---------------------------------------------------------------------------------------------------------------------


async def test_the_file_is_private_whatever_the_umask(small: Place, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        await back_up(small, tmp_path / "one.age")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "one.age").stat().st_mode) == 0o600
    assert left(tmp_path) == ["one.age"]


async def test_a_file_that_is_there_is_kept_unless_it_is_to_be_replaced(small: Place, tmp_path: Path) -> None:
    path = tmp_path / "one.age"
    path.write_text("precious")
    with pytest.raises(BackupNotWritten, match="--replace"):
        await back_up(small, path)
    with pytest.raises(BackupNotWritten, match="nothing but an earlier one"):
        await back_up(small, path, replace=True)
    assert path.read_text() == "precious"
    path.write_text("age-encryption.org/v1\n")
    await back_up(small, path, replace=True)
    assert (await verified(small, path)).ok
    assert left(tmp_path) == ["one.age"]


async def test_no_backup_is_written_over_what_is_no_file(small: Place, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "link", Path("/dev/null"), tmp_path / "absent" / "one.age"):
        with pytest.raises(BackupNotWritten):
            await back_up(small, path, replace=True)
    assert not (tmp_path / "elsewhere").exists()


async def test_no_backup_is_written_over_a_file_of_the_install(small: Place, tmp_path: Path) -> None:
    for path in (tmp_path / "keyhall.db", small.data_dir / "master.key", small.data_dir / "install.json"):
        before = path.read_bytes()
        with pytest.raises(BackupNotWritten):
            await back_up(small, path, replace=True)
        assert path.read_bytes() == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync", "link"])
async def test_a_disk_that_fails_leaves_nothing_behind(
    small: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        if call == "write":
            patched.setattr(files._Digested, "write", failing)
        elif call == "fsync":
            patched.setattr(os, "fsync", failing)
        else:
            patched.setattr(os, "link", failing)
            patched.setattr(Path, "rename", failing)
        with pytest.raises(BackupNotWritten, match=os.strerror(number)):
            await back_up(small, tmp_path / "one.age")
    assert left(tmp_path) == []


async def test_a_file_that_the_disk_changed_is_no_backup(
    small: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def changing(descriptor: int) -> None:
        fsync(descriptor)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            place = os.fstat(descriptor).st_size - 40
            (byte,) = os.pread(descriptor, 1, place)
            os.pwrite(descriptor, bytes([byte ^ 1]), place)

    monkeypatch.setattr(os, "fsync", changing)
    with pytest.raises(BackupNotWritten, match="read back"):
        await back_up(small, tmp_path / "one.age")
    assert left(tmp_path) == []


async def test_the_rest_of_a_killed_backup_is_taken_away(small: Place, tmp_path: Path) -> None:
    (tmp_path / ".one.age.new").write_bytes(b"half")
    await back_up(small, tmp_path / "one.age")
    assert left(tmp_path) == ["one.age"]


async def test_of_two_backups_to_one_file_one_is_made(small: Place, tmp_path: Path) -> None:
    results = await asyncio.gather(
        *(back_up(small, tmp_path / "one.age") for _ in range(4)), return_exceptions=True
    )  # fmt: skip
    refused = [each for each in results if isinstance(each, BaseException)]
    assert len(refused) == 3, results
    assert all(isinstance(each, BackupNotWritten) for each in refused), results
    assert (await verified(small, tmp_path / "one.age")).ok


async def test_a_cancelled_backup_leaves_nothing_behind(small: Place, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        install = await Install.opened(stack, small)
        await install.fill(5000)
        begun, loop = asyncio.Event(), asyncio.get_running_loop()

        def show(*_: int | None) -> None:
            loop.call_soon_threadsafe(begun.set)

        running = asyncio.create_task(_write(small.url, tmp_path / "one.age", show))
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert left(tmp_path) == []


async def test_a_database_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        await _write(f"sqlite+aiosqlite:///{tmp_path}/none.db", tmp_path / "one.age")
    assert left(tmp_path) == []


async def _write(url: str, path: Path, show: ShowProgress = lambda *_: None) -> int:
    """Write a backup, and count its rows as it is read back."""
    written, rows = await files.AgeBackupFiles(DatabaseUrl.parse(url), SystemRandomness()).write(
        path,
        EncryptTo(recipient=RECIPIENT),
        lambda _, rows: sum(1 for _ in rows),
        replace=False,
        created_at=NOW,
        show=show,
    )
    assert written.rows == rows
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# While others work
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_backup_under_20_writers_is_of_one_moment(place: Place, tmp_path: Path) -> None:
    """Each writer adds a credential and its audit row in one transaction: a backup holds both or neither."""
    await place.install()
    async with place.services() as services:
        over = asyncio.Event()

        async def write(writer: int) -> int:
            number, guild = 0, str(int(GUILD) + writer)
            actor = await services.identity.operator_for(guild_id=guild)
            while not over.is_set() and number < QUOTA:
                label = f"writer {writer} number {number}"
                await services.credentials.add(
                    actor, provider="openai", label=label, secret=f"{SECRET}{label}", guild_id=guild
                )
                number += 1
            return number

        writers = [asyncio.create_task(write(number)) for number in range(20)]
        reports = []
        for number in range(3):
            made = await back_up(place, tmp_path / f"{number}.age")
            reports.append(made.report.credentials)
            _, rows = content((tmp_path / f"{number}.age").read_bytes())
            stored = {row["id"] for row in of(rows, "api_credentials")}
            added = {row["object_id"] for row in of(rows, "audit_events") if row["action"] == "credential.added"}
            assert stored == added
            assert made.report.ok
        over.set()
        assert sum(await asyncio.gather(*writers)) >= reports[-1] > 0


async def test_the_event_loop_goes_on(place: Place, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        install = await Install.opened(stack, place)
        await install.fill(5000)
        with LoopWatch() as watch:
            began = asyncio.get_running_loop().time()
            await _write(place.url, tmp_path / "one.age")
            took = (asyncio.get_running_loop().time() - began) * 1000
        # Done on the loop it would wait for all of it.
        assert watch.longest < took / 3, (watch.longest, took)
        assert watch.longest < 150


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_a_backup_of_100_000_credentials_takes_less_than_150_mb(place: Place, tmp_path: Path) -> None:
    await place.install()
    await fill_many(place, 100_000)
    (tmp_path / "passphrase").write_text("correct horse battery staple")
    for key in (("--recipient", RECIPIENT), ("--passphrase-file", str(tmp_path / "passphrase"))):
        create = ("backup", "create", str(tmp_path / f"{key[0]}.age"), *key)
        assert await asyncio.to_thread(peak, place, *create) < 150


@pytest.mark.postgres
@pytest.mark.parametrize("moment", ["-infinity", "infinity", "20000-01-01 00:00:00+00", "0044-03-15 12:00:00+00 BC"])
async def test_a_time_that_python_does_not_have_is_backed_up_as_it_stands(
    postgres_url: str, tmp_path: Path, moment: str
) -> None:
    place = await fill(Place(postgres_url, tmp_path / "data"))
    await place.execute("UPDATE audit_events SET at = CAST(CAST(:at AS text) AS timestamptz) WHERE id = 1", at=moment)
    await back_up(place, tmp_path / "one.age")
    _, rows = content((tmp_path / "one.age").read_bytes())
    (row,) = [row for row in of(rows, "audit_events") if row["id"] == 1]
    assert row["at"] == moment


@pytest.mark.postgres
async def test_behind_pgbouncer_a_backup_is_made_too(postgres_url: str, tmp_path: Path) -> None:
    place = await fill(Place(postgres_url, tmp_path / "data"))
    with pgbouncer(postgres_url) as url:
        pooled = Place(url, place.data_dir)
        for number in range(3):
            await back_up(pooled, tmp_path / f"{number}.age")
            assert (await verified(pooled, tmp_path / f"{number}.age")).credentials == 3


@pytest.mark.postgres
async def test_the_limits_of_requests_do_not_end_a_backup(postgres_url: str, tmp_path: Path) -> None:
    place = await fill(Place(postgres_url, tmp_path / "data"))

    def limits() -> list[str]:
        with snapshot.open_snapshot(DatabaseUrl.parse(place.url)) as now:
            names = ("statement_timeout", "idle_in_transaction_session_timeout", "transaction_isolation")
            return [next(now.query(f"SELECT current_setting('{name}')"))[0] for name in names]

    assert await asyncio.to_thread(limits) == ["10min", "10min", "repeatable read"]


@pytest.mark.parametrize("first", ["1e400", '"x"', "null"])
async def test_an_edited_segment_of_the_audit_trail_does_not_keep_the_rest_from_a_backup(
    small: Place, tmp_path: Path, first: str
) -> None:
    await small.execute(
        "INSERT INTO audit_segments (number, stream, value, mac) VALUES (1, 'security', :value, x'00')",
        value=f'{{"key_version":1,"first":{first},"last":1,"previous":"","seal":"","opened_at":"","closed_at":null}}',
    )
    assert (await back_up(small, tmp_path / "one.age")).written.header.latest_seal is None
