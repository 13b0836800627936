"""Whose the written files are, which modes they have, and which of them are trusted."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.bootstrap.commands import open_key_reset, open_master_key_change
from app.domain.errors import InsecureKey, StorageError
from app.infrastructure.database.engine import open_database
from app.infrastructure.private_files import make_directory, write
from app.settings import DatabaseUrl
from tests.support.installs import Place

SERVICE, GROUP, STRANGER = 65531, 65530, 65532
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    url = f"sqlite+aiosqlite:///{tmp_path / 'data' / 'keyhall.db'}"
    return Place(url, tmp_path / "data", {"LOG_LEVEL": "info"})  # with a setting it really starts, and is no copy


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _owners(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(directory)): (path.lstat().st_uid, path.lstat().st_gid) for path in directory.rglob("*")
    }


def _of_the_service(place: Place) -> None:
    """Everything in DATA_DIR is the service's, as after `chown -R`."""
    for path in (place.data_dir, *place.data_dir.rglob("*")):
        os.chown(path, SERVICE, GROUP)


@root
async def test_whatever_root_does_the_files_stay_those_of_the_service(place: Place) -> None:
    """A start, a rotation, a change of the master key and a reset, each as root."""
    await place.install()
    _of_the_service(place)
    async with place.services() as services:
        actor = await services.identity.operator()
        await services.rotation.rotate(actor, next(iter(services.keys.ring.keysets)))
        assert set(_owners(place.data_dir).values()) == {(SERVICE, GROUP)}
    async with open_master_key_change(place.load()) as change:
        await change.carry_out(force=False)
    assert set(_owners(place.data_dir).values()) == {(SERVICE, GROUP)}
    (place.data_dir / "master.key").write_text(os.urandom(32).hex())
    async with open_key_reset(place.load()) as reset:
        found = await reset.look()
        await reset.carry_out(found.install_id)
    owners = _owners(place.data_dir)
    assert any(name.startswith("backups/") for name in owners)
    assert any(".lost-" in name for name in owners)
    assert set(owners.values()) == {(SERVICE, GROUP)}


@root
async def test_side_files_of_the_database_have_its_owner(place: Place) -> None:
    await place.install()
    _of_the_service(place)
    async with open_database(place.load().database_url, may_create=False) as database, database.write():
        assert {"keyhall.db-wal", "keyhall.db-shm"} <= _owners(place.data_dir).keys()
        assert set(_owners(place.data_dir).values()) == {(SERVICE, GROUP)}


@root
async def test_a_first_start_by_root_in_the_services_directory_makes_files_of_the_service(place: Place) -> None:
    place.data_dir.mkdir()
    os.chown(place.data_dir, SERVICE, GROUP)
    async with place.keys() as opened:
        assert opened.created
        assert set(_owners(place.data_dir).values()) == {(SERVICE, GROUP)}


@root
async def test_a_file_keeps_the_owner_that_it_has_not_that_of_its_directory(place: Place) -> None:
    await place.install()
    os.chown(place.data_dir / "master.key", SERVICE, GROUP)
    os.chown(place.data_dir / "install.json", SERVICE, GROUP)
    os.chown(place.data_dir, 0, GROUP)
    async with place.keys() as opened:
        previous = opened.keys.ring.wrapping.master_key_id
    async with open_master_key_change(place.having().load()) as change:
        changed = await change.carry_out(force=False)
    assert changed.before == previous
    assert _owners(place.data_dir)["master.key"] == (SERVICE, GROUP)


@root
@pytest.mark.parametrize("replace", [False, True])
def test_a_page_belongs_to_whose_file_or_directory_it_is(tmp_path: Path, replace: bool) -> None:  # noqa: FBT001
    page = tmp_path / "page.svg"
    os.chown(tmp_path, SERVICE, GROUP)
    if replace:
        page.write_text("former")
        os.chown(page, STRANGER, GROUP)
    write(page, "page", replace=replace)
    assert page.read_text() == "page"
    assert (page.stat().st_uid, page.stat().st_gid) == ((STRANGER if replace else SERVICE), GROUP)
    assert stat.S_IMODE(page.stat().st_mode) == 0o600


@root
def test_made_directories_belong_to_the_owner_of_the_one_above(tmp_path: Path) -> None:
    os.chown(tmp_path, SERVICE, GROUP)
    make_directory(tmp_path / "a" / "b")
    assert set(_owners(tmp_path).values()) == {(SERVICE, GROUP)}


# ---------------------------------------------------------------------------------------------------------------------
# Modes
# ---------------------------------------------------------------------------------------------------------------------


async def test_no_umask_opens_or_closes_what_is_made(tmp_path: Path, umask: int) -> None:
    data_dir = tmp_path / "x" / "a" / "b"
    place = Place(f"sqlite+aiosqlite:///{tmp_path / 'y' / 'c' / 'keyhall.db'}", data_dir)
    async with place.keys() as opened:
        assert opened.created
    for path in (*(tmp_path / "x").rglob("*"), *(tmp_path / "y").rglob("*"), tmp_path / "x", tmp_path / "y"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


async def test_the_copy_before_a_migration_is_private_too(tmp_path: Path, umask: int) -> None:
    with closing(sqlite3.connect(tmp_path / "k.db")) as connection:
        connection.execute("CREATE TABLE t (a)")
    (tmp_path / "k.db").chmod(0o600)
    async with open_database(DatabaseUrl(path=tmp_path / "k.db"), may_create=False) as database:
        await database.copy(tmp_path / "z" / "backups" / "copy.db")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "z").rglob("*")}
    assert modes == {"backups": 0o700, "copy.db": 0o600}
    assert stat.S_IMODE((tmp_path / "z").stat().st_mode) == 0o700


async def test_the_copy_before_a_migration_is_not_written_through_a_link_that_another_user_puts_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making the file and SQLite's opening it by name."""
    for name in ("k.db", "victim"):
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            connection.execute(f"CREATE TABLE t_of_{name[0]} (a)")
    before = (tmp_path / "victim").read_bytes()
    connect = sqlite3.connect

    def connect_late(path: object, *arguments: object, **named: object) -> object:
        if isinstance(path, Path):
            path.unlink()
            path.symlink_to(tmp_path / "victim")
        return connect(path, *arguments, **named)  # type: ignore[call-overload]

    async with open_database(DatabaseUrl(path=tmp_path / "k.db"), may_create=False) as database:
        monkeypatch.setattr(sqlite3, "connect", connect_late)
        with pytest.raises(StorageError):
            await database.copy(tmp_path / "backups" / "copy.db")
    assert (tmp_path / "victim").read_bytes() == before
    assert list((tmp_path / "backups").iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------------
# Who else may write there
# ---------------------------------------------------------------------------------------------------------------------


async def _open(place: Place) -> None:
    async with place.keys():
        pass


def _production(place: Place) -> Place:
    key = os.urandom(32).hex()
    return place.having(APP_ENV="production", PUBLIC_URL="https://keys.example.org", MASTER_KEY=key)


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o1777, 0o770])
async def test_a_data_dir_that_others_may_write_is_warned_about(
    place: Place, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    await place.install()
    place.data_dir.chmod(mode)
    await _open(place)
    assert f"may write into DATA_DIR {place.data_dir}" in caplog.text
    assert "chmod go-w" in caplog.text


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o1777])
async def test_production_refuses_a_data_dir_that_everybody_may_write(place: Place, mode: int) -> None:
    place.data_dir.mkdir()
    place.data_dir.chmod(mode)
    production = _production(place)
    with pytest.raises(InsecureKey, match="may write into DATA_DIR") as caught:
        await _open(production)
    assert list(place.data_dir.iterdir()) == []
    assert f"`chmod go-w {place.data_dir}`" in caught.value.remedy
    place.data_dir.chmod(0o755)
    await _open(production)


@root
@pytest.mark.parametrize("name", ["master.key", "install.json", "keyhall.db"])
async def test_a_file_of_a_stranger_is_warned_about_and_refused_in_production(
    place: Place, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    await place.install()
    os.chown(place.data_dir / name, STRANGER, GROUP)
    await _open(place)
    assert f"{place.data_dir / name} belongs to user {STRANGER}" in caplog.text
    with pytest.raises(InsecureKey, match=f"belongs to user {STRANGER}"):
        await _open(_production(place))


@root
async def test_files_of_the_directorys_owner_are_nobodys_concern(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await place.install()
    _of_the_service(place)
    await _open(place)
    assert "belongs to user" not in caplog.text
