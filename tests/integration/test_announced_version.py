"""On SQLite a process's own quiet commits are no reason to look at the keys again; everybody else's commits are."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from app.bootstrap.keys import open_keys
from app.bootstrap.services import open_services
from app.domain.keys import KeyName, Keyset
from app.infrastructure.database.dialects.commit_watch import CommitWatch
from app.infrastructure.database.repositories.bot_state import BotStateRepositoryImpl
from app.infrastructure.database.repositories.encrypted_rows import EncryptedRowRepositoryImpl
from app.infrastructure.database.repositories.keys import KeyRepositoryImpl
from app.infrastructure.database.unit_of_work import SqlStorage
from app.services.rotation import passes
from app.settings.database_url import DatabaseUrl
from tests.support.database import NOW, migrated
from tests.support.installs import Place
from tests.support.rotations import fill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from app.infrastructure.database.engine import Database
    from app.services import Services
    from app.services.keys import KeyRing
    from app.services.ports import Storage


@pytest.fixture
async def database(sqlite_url: str) -> AsyncIterator[Database]:
    async with migrated(sqlite_url) as database:
        yield database


@pytest.fixture
def storage(database: Database) -> SqlStorage:
    return SqlStorage(database)


@pytest.fixture
async def others(database: Database, sqlite_url: str) -> AsyncIterator[SqlStorage]:
    """Connections of their own to the same file, as another process has them."""
    async with migrated(sqlite_url) as another:
        yield SqlStorage(another)


async def put(storage: Storage, value: str = "v") -> None:
    async with storage.write() as unit:
        await unit.bot_state.put("k", value, NOW)


async def test_own_commits_that_announce_nothing_do_not_move_it(storage: SqlStorage) -> None:
    announced, every = storage.announced_version(), storage.data_version()
    for number in range(50):
        await put(storage, str(number))
        assert storage.announced_version() == announced
    assert storage.data_version() != every


async def test_own_commits_that_announce_something_move_it_once(storage: SqlStorage, database: Database) -> None:
    before = storage.announced_version()
    async with database.write() as connection:
        await connection.announce()
        await BotStateRepositoryImpl(connection).put("k", "announced", NOW)
    after = storage.announced_version()
    assert after != before
    await put(storage)
    assert storage.announced_version() == after


async def test_an_announcement_that_is_rolled_back_moves_nothing(storage: SqlStorage, database: Database) -> None:
    before = storage.announced_version()
    with suppress(KeyError):
        async with database.write() as connection:
            await BotStateRepositoryImpl(connection).put("k", "never", NOW)
            await connection.announce()
            raise KeyError
    await put(storage)
    assert storage.announced_version() == before


async def test_every_commit_of_others_moves_it(storage: SqlStorage, others: SqlStorage) -> None:
    for number, own in enumerate((False, True, True, False)):
        before = storage.announced_version()
        await put(others, f"theirs {number}")
        if own:  # nobody has looked between the two
            await put(storage, f"ours {number}")
        after = storage.announced_version()
        assert after != before
        await put(storage, f"ours again {number}")
        assert storage.announced_version() == after


@pytest.mark.parametrize("moment", ["before the look", "after the look"])
async def test_a_commit_of_others_right_behind_our_own_is_not_taken_for_ours(
    storage: SqlStorage, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Between our commit and the look at the number: the number alone would not show that two have committed."""
    await put(storage)
    before = storage.announced_version()
    honest = CommitWatch.committed

    def committed(watch: CommitWatch, writer: sqlite3.Connection) -> None:
        if moment == "after the look":
            honest(watch, writer)
        with closing(sqlite3.connect(str(DatabaseUrl.parse(sqlite_url).path), isolation_level=None)) as other:
            other.execute("UPDATE bot_state SET value = 'theirs'")
        if moment == "before the look":
            honest(watch, writer)

    with monkeypatch.context() as patched:
        patched.setattr(CommitWatch, "committed", committed)
        await put(storage, "ours")
    assert storage.announced_version() != before


async def test_a_commit_of_which_nobody_can_say_whose_it_was_counts_as_theirs(
    storage: SqlStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(storage)
    before = storage.announced_version()

    def failing(*_: object) -> int:
        raise sqlite3.OperationalError

    with monkeypatch.context() as patched:
        patched.setattr(CommitWatch, "look", failing)
        await put(storage, "committed all the same")
    assert storage.announced_version() != before


# ---------------------------------------------------------------------------------------------------------------------
# What the lease keeper reads
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Install:
    """An open install on SQLite, and how often its keys were read since ``reads`` was set to 0."""

    place: Place
    storage: Storage
    services: Services
    reads: int = 0


@pytest.fixture
async def install(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Install]:
    place = await Place(sqlite_url, tmp_path / "data").install()
    settings = place.load()
    async with (
        open_keys(settings, may_create=False) as opened,
        open_services(settings, opened, kind="test") as services,
    ):
        install = Install(place, opened.storage, services)
        honest = KeyRepositoryImpl.get_manifest

        async def counted(keys: KeyRepositoryImpl, *, share_lock: bool = False) -> str | None:
            install.reads += not share_lock
            return await honest(keys, share_lock=share_lock)

        monkeypatch.setattr(KeyRepositoryImpl, "get_manifest", counted)
        await services.instances.catch_up()
        install.reads = 0
        yield install


async def test_after_a_commit_of_its_own_a_process_serves_without_reading_the_keys(install: Install) -> None:
    instances = install.services.instances
    for number in range(20):
        await put(install.storage, str(number))
        assert instances.serving()
        await instances.refresh()
    assert install.reads == 0


async def test_after_a_commit_of_another_process_it_reads_them_first(install: Install) -> None:
    instances = install.services.instances
    for number in range(1, 4):
        await put(install.storage, str(number))
        await install.place.execute("UPDATE bot_state SET value = 'theirs'")
        await instances.catch_up()  # unless the keeper of the lease has done so already
        assert instances.serving()
        assert install.reads == number


async def test_a_change_of_keys_of_its_own_is_loaded_before_anything_is_served(install: Install) -> None:
    instances, keys = install.services.instances, install.services.keys

    def announce(ring: KeyRing) -> Keyset:
        return keys.add_version(ring, KeyName.AES_KEY)

    async with install.storage.write() as unit:
        changed = await keys.change(unit, KeyName.AES_KEY, announce)
    assert keys.epochs[KeyName.AES_KEY] < changed.epoch
    assert not instances.serving()
    await instances.catch_up()
    assert keys.epochs[KeyName.AES_KEY] == changed.epoch


async def test_while_a_rotation_commits_page_after_page_the_keys_are_not_read(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "BATCH", 20)
    await fill(install.services)
    reads: list[int] = []
    honest = EncryptedRowRepositoryImpl.swap

    async def swap(repository: EncryptedRowRepositoryImpl, *arguments: Any) -> int:
        await install.services.instances.refresh()  # the keeper's turn comes between any two pages
        reads.append(install.reads)
        return await honest(repository, *arguments)

    monkeypatch.setattr(EncryptedRowRepositoryImpl, "swap", swap)
    services = install.services
    job = await services.rotation.rotate(await services.identity.operator(), KeyName.AES_KEY)
    run = await services.jobs.claim(job.id)
    assert run is not None
    await services.jobs.work(run, services.rotation.job.carry_on)
    assert len(reads) >= 5
    assert len(set(reads)) == 1
