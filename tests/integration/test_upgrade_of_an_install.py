"""The database of the release before: verified, copied, and only then brought to head."""

from __future__ import annotations

import logging
import shutil
import stat
from pathlib import Path

import pytest

from app.bootstrap.database import key_management
from app.domain.errors import KeyDamaged, MigrationFailed
from app.infrastructure.database.engine import open_database
from app.infrastructure.database.migrate import SCRIPTS, current_revision, known_revisions, upgrade
from app.infrastructure.database.unit_of_work import SqlStorage
from app.settings import DatabaseUrl
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
    return sorted((place.data_dir / "backups").glob("*.db"))


async def test_an_install_of_the_release_before_is_copied_verified_and_brought_to_head(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install_id = await _install_of_the_release_before(place, tmp_path)
    with caplog.at_level(logging.INFO, logger="app.bootstrap.database"):
        async with place.keys(may_create=False) as opened:
            assert opened.keys.install_id == install_id
            assert await current_revision(opened.database) == known_revisions()[-1]
    if place.url.startswith("postgresql"):
        assert "the server's own backup is the only way back" in caplog.text
        assert _copies(place) == []
        return
    (copy,) = _copies(place)
    assert str(copy) in caplog.text
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    async with open_database(DatabaseUrl.parse(f"sqlite+aiosqlite:///{copy}"), may_create=False) as database:
        assert await current_revision(database) == known_revisions()[-2]
        assert await key_management(place.load(), SqlStorage(database)).verify()


async def test_a_schema_at_head_is_not_copied(place: Place) -> None:
    for _ in range(2):
        async with place.keys():
            pass
    assert _copies(place) == []


async def test_without_a_copy_nothing_is_migrated(sqlite_url: str, tmp_path: Path) -> None:
    place = Place(sqlite_url, tmp_path / "data")
    await _install_of_the_release_before(place, tmp_path)
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(MigrationFailed, match="nothing was changed"):
        async with place.having(BACKUP_DIR=str(tmp_path / "file" / "backups")).keys(may_create=False):
            pass
    async with open_database(DatabaseUrl.parse(sqlite_url), may_create=False) as database:
        assert await current_revision(database) == known_revisions()[-2]


async def test_a_damaged_install_halts_before_it_is_copied(place: Place, tmp_path: Path) -> None:
    await _install_of_the_release_before(place, tmp_path)
    await place.execute("UPDATE app_config SET value = replace(value, 'active', 'Active') WHERE key LIKE 'keyset/%'")
    with pytest.raises(KeyDamaged):
        async with place.keys(may_create=False):
            pass
    assert _copies(place) == []
