"""The database of the release before: verified, copied, and only then brought to head."""

from __future__ import annotations

import logging
import shutil
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.bootstrap.backup import backup_keys, backup_verification
from app.bootstrap.database import key_management
from app.domain.backup import OpenWith
from app.domain.errors import BackupLocked, KeyDamaged, MigrationFailed, UniqueViolation
from app.infrastructure.database.engine import open_database
from app.infrastructure.database.migrate import SCRIPTS, current_revision, known_revisions, upgrade
from app.infrastructure.database.unit_of_work import SqlStorage
from app.settings import DatabaseUrl
from tests.support.database import user
from tests.support.installs import Place


@pytest.fixture
def place(engine_url: str, tmp_path: Path) -> Place:
    return Place(engine_url, tmp_path / "data")


async def _install_of_the_release_before(place: Place, tmp_path: Path) -> str:
    """An install whose schema is one revision behind; returns its id."""
    scripts = tmp_path / "alembic"
    shutil.copytree(SCRIPTS, scripts)
    newest = max((scripts / "versions").glob("0*.py"))
    newest.unlink()
    async with open_database(DatabaseUrl.parse(place.url), may_create=True) as database:
        await upgrade(database, scripts=scripts)
        keys = key_management(place.load(), SqlStorage(database))
        assert await keys.initialize(may_create=True)
        assert await current_revision(database) == known_revisions()[-2]
        return keys.install_id


def _copies(place: Place) -> list[Path]:
    return sorted((place.data_dir / "backups").glob("*"))


async def test_an_install_of_the_release_before_is_copied_verified_and_brought_to_head(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install_id = await _install_of_the_release_before(place, tmp_path)
    with caplog.at_level(logging.INFO, logger="app.bootstrap.copies"):
        async with place.keys(may_create=False) as opened:
            assert opened.keys.install_id == install_id
            assert await current_revision(opened.database) == known_revisions()[-1]
    (copy,) = _copies(place)
    assert str(copy) in caplog.text
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    if place.url.startswith("postgresql"):
        verification, own = backup_verification(place.load()), backup_keys(place.load())
        info = await verification.files.inspect(copy, own)
        assert info.header is not None
        assert info.header.revision == known_revisions()[-2]
        assert (await verification.verify(copy, own)).ok
        return
    async with open_database(DatabaseUrl.parse(f"sqlite+aiosqlite:///{copy}"), may_create=False) as database:
        assert await current_revision(database) == known_revisions()[-2]
        assert await key_management(place.load(), SqlStorage(database)).verify()


async def test_a_schema_at_head_is_not_copied(place: Place) -> None:
    for _ in range(2):
        async with place.keys():
            pass
    assert _copies(place) == []


async def test_a_backup_before_a_migration_is_for_the_recipient_where_one_is_set(
    postgres_url: str, tmp_path: Path
) -> None:
    recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
    place = Place(postgres_url, tmp_path / "data").having(BACKUP_RECIPIENT=recipient)
    await _install_of_the_release_before(place, tmp_path)
    async with place.keys(may_create=False):
        pass
    (backup,) = _copies(place)
    verification, own = backup_verification(place.load()), backup_keys(place.load())
    assert (await verification.files.inspect(backup, OpenWith())).kinds == ("X25519",)
    with pytest.raises(BackupLocked):
        await verification.verify(backup, own)


async def test_without_a_copy_nothing_is_migrated(engine_url: str, tmp_path: Path) -> None:
    place = Place(engine_url, tmp_path / "data")
    await _install_of_the_release_before(place, tmp_path)
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(MigrationFailed, match="nothing was changed"):
        async with place.having(BACKUP_DIR=str(tmp_path / "file" / "backups")).keys(may_create=False):
            pass
    async with open_database(DatabaseUrl.parse(engine_url), may_create=False) as database:
        assert await current_revision(database) == known_revisions()[-2]


async def test_a_damaged_install_halts_before_it_is_copied(place: Place, tmp_path: Path) -> None:
    await _install_of_the_release_before(place, tmp_path)
    await place.execute("UPDATE app_config SET value = replace(value, 'active', 'Active') WHERE key LIKE 'keyset/%'")
    with pytest.raises(KeyDamaged):
        async with place.keys(may_create=False):
            pass
    assert _copies(place) == []


async def test_users_of_an_older_schema_get_the_form_that_look_alikes_have_in_common(
    place: Place, tmp_path: Path
) -> None:
    scripts = tmp_path / "alembic"
    shutil.copytree(SCRIPTS, scripts)
    [this] = (scripts / "versions").glob("*_name_skeletons.py")
    for later in [each for each in (scripts / "versions").glob("0*.py") if each.name >= this.name]:
        later.unlink()
    names = ["Owner", "\u043ewner", "mia", "\uff4d\uff49\uff4e\uff41"]
    async with open_database(DatabaseUrl.parse(place.url), may_create=True) as database:
        await upgrade(database, scripts=scripts)
        for number, name in enumerate(names):
            values = {"id": f"user-{number}", "subject": f"subject-{number}", "name": name, "key": name.casefold()}
            at = "2026-11-20T12:00:00.000000Z" if place.url.startswith("sqlite") else datetime(2026, 11, 20, tzinfo=UTC)
            await place.execute("INSERT INTO subjects (id, kind, value) VALUES (:subject, 'user', :name)", **values)
            await place.execute(
                "INSERT INTO users (id, subject_id, username, name_key, role, token_version, created_at, updated_at)"
                " VALUES (:id, :subject, :name, :key, 'member', 1, :at, :at)",
                **values,
                at=at,
            )
        await upgrade(database)
        async with SqlStorage(database).read() as uow:
            found = [await uow.users.by_name(name) for name in ("owner", "\u043ewner", "mia", "mina")]
        assert [user and user.username for user in found] == names
        with pytest.raises(UniqueViolation):
            async with SqlStorage(database).write() as uow:
                await uow.users.add(user("0wner"))
