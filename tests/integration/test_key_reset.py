"""The last resort: what a reset keeps, what it tells, and when it is refused."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import shutil
import sqlite3
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.bootstrap.commands import open_key_reset
from app.bootstrap.database import key_management, master_keys
from app.bootstrap.services import open_services
from app.domain.errors import (
    ConfigInvalid,
    CredentialUnreadable,
    InstallMismatch,
    InUse,
    InvalidInput,
    InvalidToken,
    KeyDamaged,
    KeyhallError,
    KeyMissing,
    KeyStateConflict,
    MasterKeyMismatch,
    MasterKeyMissing,
    NoInstall,
)
from app.domain.identity import Client, Role, Source
from app.domain.jobs import JobState
from app.domain.keys import KeyName
from app.infrastructure.database.engine import open_database
from app.infrastructure.database.errors import ConstraintBroken
from app.infrastructure.database.migrate import SCRIPTS, current_revision, known_revisions, upgrade
from app.infrastructure.database.unit_of_work import SqlStorage
from app.services import Services
from app.services.keys.reset import KeyResetReport
from app.settings import DatabaseUrl
from tests.support.installs import Place
from tests.support.snapshots import InstallSnapshot, kind

PASSWORD = "a brass key on a hook"
SECRET, FORMER, OTHER = (f"sk-proj-{name}-4f9aTq7ZbX2mLw8vKd3Yc6Rn" for name in ("secret", "former", "other"))
GUILD = "900000000000000001"
WEB = Client(source=Source.WEB)
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def place(engine_url: str, tmp_path: Path) -> Place:
    return Place(engine_url, tmp_path / "data")


@pytest.fixture
def sqlite_place(sqlite_url: str, tmp_path: Path) -> Place:
    return Place(sqlite_url, tmp_path / "data")


_FILLED: dict[str, tuple[InstallSnapshot, str]] = {}


async def _fill(place: Place) -> str:
    """An install with a user, who is signed in, and credentials; returns the access token.

    The first of its kind is filled, the others are copies of it.
    """
    if place.settings:  # which may give keys
        return await _fill_really(await place.install())
    if kind(place.url) not in _FILLED:
        token = await _fill_really(await place.install())
        _FILLED[kind(place.url)] = InstallSnapshot.of(place.url, place.data_dir), token
    else:
        snapshot, token = _FILLED[kind(place.url)]
        await snapshot.copy(place.url, place.data_dir)
    return token


async def _fill_really(place: Place) -> str:
    async with place.services() as services:
        operator = await services.identity.operator()
        await services.identity.create(operator, "mia", PASSWORD, Role.MEMBER)
        mia = await services.identity.operator_for(username="mia")
        added = await services.credentials.add(mia, provider="openai", label="main", secret=FORMER)
        await services.credentials.replace(mia, added.view.id, SECRET)
        guild = await services.identity.operator_for(guild_id=GUILD)
        await services.credentials.add(guild, provider="github", label="ours", secret=OTHER, guild_id=GUILD)
        return (await services.authentication.login("mia", PASSWORD, WEB)).access_token.reveal()


def _lose(place: Place) -> Path:
    """Put another key in the file's place; returns where the right one is now."""
    file = place.data_dir / "master.key"
    kept = place.data_dir.parent / "found again"
    shutil.copy2(file, kept)
    file.write_text(secrets.token_hex(32))
    return kept


async def _reset(place: Place) -> KeyResetReport:
    async with open_key_reset(place.load()) as reset:
        return await reset.carry_out((await reset.look()).install_id)


async def _secrets(place: Place) -> dict[str, str | None]:
    """What opens, by label; None for what does not."""
    async with place.services() as services:
        return await _opening(services)


async def _opening(services: Services) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for actor in (
        await services.identity.operator_for(username="mia"),
        await services.identity.operator_for(guild_id=GUILD),
    ):
        guild_id = actor.guild.guild_id if actor.guild else None
        for view in (await services.credentials.page(actor, guild_id=guild_id)).items:
            found[view.label] = None
            with suppress(CredentialUnreadable):
                found[view.label] = (await services.credentials.reveal(actor, view.id)).reveal()
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The master key is lost
# ---------------------------------------------------------------------------------------------------------------------


async def test_everything_but_the_secrets_stays_and_what_is_lost_is_told(place: Place) -> None:
    token = await _fill(place)
    lost_key, before = _lose(place), await place.contents()
    stranger = (place.data_dir / "master.key").read_bytes()
    report = await _reset(place)

    assert [(each.owner_kind, each.owner, each.provider, each.label) for each in report.lost] == [
        ("guild", GUILD, "github", "ours"),
        ("user", "mia", "openai", "main"),
    ]
    assert (report.kept, report.sessions, report.file) == ([], 1, place.data_dir / "master.key")
    (aside,) = report.moved_aside
    assert aside.name.startswith("master.key.lost-")
    assert aside.read_bytes() == stranger

    after = await place.contents()
    for table in ("users", "owner_claim", "subjects", "credential_history", "schema_info"):
        assert after[table] == before[table]
    assert before["audit_events"] == after["audit_events"][: len(before["audit_events"])]
    (row,) = (row for row in after["audit_events"] if row[2] == "keys.reset")
    assert json.loads(row[9])["credentials"] == 2
    for old, new in zip(before["api_credentials"], after["api_credentials"], strict=True):
        assert [column for column, (one, other) in enumerate(zip(old, new, strict=True)) if one != other] == [9, 10]
        assert new[9:11] == (None, "unreadable")

    async with place.services() as services:
        assert services.keys.install_id == report.install_id
        assert services.keys.ring.manifest.master_key_id == report.master_key_id
        assert {each.version for keyset in services.keys.ring.keysets.values() for each in keyset} == {2}
        with pytest.raises(InvalidToken):
            await services.requests.authenticate(token, WEB)
        await services.authentication.login("mia", PASSWORD, WEB)
        assert await _opening(services) == {"main": None, "ours": None}
    # Should the key turn up after all, the copy is what it opens.
    if report.copy is not None:
        found = Place(f"sqlite+aiosqlite:///{report.copy}", place.data_dir.parent / "found")
        found.data_dir.mkdir()
        shutil.copy2(lost_key, found.data_dir / "master.key")
        assert await _secrets(found) == {"main": SECRET, "ours": OTHER}
    else:
        assert place.url.startswith("postgresql")


async def test_after_a_reset_starts_are_normal_and_entering_a_secret_again_heals_it(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await _fill(place)
    _lose(place)
    report = await _reset(place)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        async with place.services() as services:
            for each in report.lost:
                actor = await services.identity.operator_for(
                    **({"username": each.owner} if each.owner_kind == "user" else {"guild_id": each.owner})
                )
                view = (await services.credentials.replace(actor, each.id, f"{SECRET}-again")).view
                assert view.fingerprint
            assert await _opening(services) == {"main": f"{SECRET}-again", "ours": f"{SECRET}-again"}
            assert caplog.records == []
            # What never opens again holds no rotation up for ever.
            operator = await services.identity.operator()
            job = await services.rotation.rotate(operator, KeyName.AES_KEY)
            async for stand in services.rotation.follow(job.id):
                job = stand
            assert job.state is JobState.DONE
            assert [each.retired_at is None for each in services.keys.ring.keysets[KeyName.AES_KEY]] == [False, True]
    with pytest.raises(KeyStateConflict, match="nothing is lost"):
        await _reset(place)


async def test_a_rotation_that_was_on_its_way_is_called_off(place: Place) -> None:
    await _fill(place)
    async with place.services() as services:
        operator = await services.identity.operator()
        job = await services.rotation.rotate(operator, KeyName.AES_KEY)
    _lose(place)
    await _reset(place)
    async with place.services() as services:
        assert (await services.jobs.get(await services.identity.operator(), job.id)).state is JobState.CANCELLED


async def test_a_key_from_outside_is_adopted_as_at_a_first_start(sqlite_place: Place) -> None:
    place = sqlite_place.having(AES_KEY=secrets.token_hex(32), JWT_SECRET_KEY=secrets.token_hex(32))
    await _fill(place)
    _lose(place)
    await _reset(place)
    assert await _secrets(place) == {"main": None, "ours": None}


# ---------------------------------------------------------------------------------------------------------------------
# When it is refused
# ---------------------------------------------------------------------------------------------------------------------


async def _refused(place: Place, error: type[KeyhallError], match: str) -> None:
    before, files = await place.contents(), sorted(place.data_dir.rglob("*"))
    with pytest.raises(error, match=match):
        await _reset(place)
    assert await place.contents() == before
    assert sorted(place.data_dir.rglob("*")) == files


async def test_it_is_refused_while_the_key_that_is_given_opens_the_install(place: Place) -> None:
    await _fill(place)
    await _refused(place, KeyStateConflict, "nothing is lost")


async def test_it_is_refused_while_a_process_is_live(place: Place) -> None:
    async with place.keys() as opened, open_services(place.load(), opened, kind="web"):
        _lose(place)
        before = await place.app_config()
        with pytest.raises(InUse, match=r"web .* is live"):
            await _reset(place)
        assert await place.app_config() == before


@pytest.mark.parametrize("typed", ["", "yes", "00000000-0000-0000-0000-000000000000"])
async def test_it_is_refused_where_something_else_was_typed(sqlite_place: Place, typed: str) -> None:
    await _fill(sqlite_place)
    _lose(sqlite_place)
    before = await sqlite_place.contents()
    async with open_key_reset(sqlite_place.load()) as reset:
        with pytest.raises(InvalidInput, match="must be the install's id"):
            await reset.carry_out(typed)
    assert await sqlite_place.contents() == before
    assert not list(sqlite_place.data_dir.glob("*lost*"))


async def test_it_is_refused_for_an_older_database_whose_keys_all_open(sqlite_place: Place) -> None:
    await _fill(sqlite_place)
    record = sqlite_place.data_dir / "install.json"
    remembered = json.loads(record.read_text())
    remembered["epochs"]["AES_KEY"] = 7
    record.write_text(json.dumps(remembered))
    await _refused(sqlite_place, KeyStateConflict, "none is lost")
    with pytest.raises(KeyDamaged):
        await _secrets(sqlite_place)


async def test_it_is_refused_where_there_is_no_install(sqlite_place: Place) -> None:
    with pytest.raises(NoInstall):
        await _reset(sqlite_place)
    assert not sqlite_place.data_dir.exists()


async def test_it_is_refused_where_the_data_directory_belongs_to_another_install(sqlite_place: Place) -> None:
    await _fill(sqlite_place)
    _lose(sqlite_place)
    other = sqlite_place.having(INSTALL_ID="01a1fb86-086d-767e-aff8-ced89b2cf640")
    await _refused(other, InstallMismatch, "INSTALL_ID")
    await sqlite_place.execute("DELETE FROM app_config WHERE key = 'manifest'")
    await _refused(other, InstallMismatch, "disagree")


async def test_of_two_resets_at_once_one_is_refused(place: Place) -> None:
    await _fill(place)
    _lose(place)
    outcomes = await asyncio.gather(_reset(place), _reset(place), return_exceptions=True)
    (report,) = (each for each in outcomes if isinstance(each, KeyResetReport))
    assert [type(each) for each in outcomes if each is not report] == [KeyStateConflict]
    async with place.keys(may_create=False) as opened:
        assert opened.keys.ring.manifest.master_key_id == report.master_key_id


async def test_an_install_of_the_release_before_is_brought_to_head_on_the_way(place: Place, tmp_path: Path) -> None:
    scripts = tmp_path / "alembic"
    shutil.copytree(SCRIPTS, scripts)
    max((scripts / "versions").glob("0*.py")).unlink()
    async with open_database(DatabaseUrl.parse(place.url), may_create=True) as database:
        await upgrade(database, scripts=scripts)
        assert await key_management(place.load(), SqlStorage(database)).initialize(may_create=True)
        assert await current_revision(database) == known_revisions()[-2]
    _lose(place)
    async with open_database(DatabaseUrl.parse(place.url), may_create=False) as database:
        async with open_key_reset(place.load()) as reset:
            with pytest.raises(InvalidInput):
                await reset.carry_out("no")
        assert await current_revision(database) == known_revisions()[-2]
        report = await _reset(place)
        assert await current_revision(database) == known_revisions()[-1]
    async with place.keys(may_create=False) as opened:
        assert opened.keys.install_id == report.install_id


# ---------------------------------------------------------------------------------------------------------------------
# Rows are damaged or gone, and the master key is there
# ---------------------------------------------------------------------------------------------------------------------

DAMAGE = {
    "the manifest is gone": ("DELETE FROM app_config WHERE key = 'manifest'", True),
    "the manifest is cut short": ("UPDATE app_config SET value = substr(value, 1, 300) WHERE key = 'manifest'", True),
    "a keyset is gone": ("DELETE FROM app_config WHERE key = 'keyset/JWT_SECRET_KEY'", True),
    "a keyset was edited": (
        r"""UPDATE app_config SET value = replace(value, '"epoch"\:1', '"epoch"\:4294967295')
        WHERE key = 'keyset/API_SECRET_KEY'""",
        True,
    ),
    "the keyset of secrets is gone": ("DELETE FROM app_config WHERE key = 'keyset/AES_KEY'", False),
    "the keyset of secrets was edited": (
        r"""UPDATE app_config SET value = replace(value, '"version"\:1', '"version"\:4294967295')
        WHERE key = 'keyset/AES_KEY'""",
        False,
    ),
    "a keyset is in another's place": (
        """UPDATE app_config SET value = (SELECT value FROM app_config WHERE key = 'keyset/ENCRYPTION_KEY')
        WHERE key = 'keyset/AES_KEY'""",
        False,
    ),
    "a stray keyset is there": (
        "INSERT INTO app_config SELECT 'keyset/STRAY', value, updated_at FROM app_config WHERE key = 'manifest'",
        True,
    ),
    "everything is gone": ("DELETE FROM app_config", False),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_what_is_whole_is_kept_where_rows_are_damaged(place: Place, damage: str) -> None:
    statement, kept = DAMAGE[damage]
    token = await _fill(place)
    key = (place.data_dir / "master.key").read_bytes()
    await place.execute(statement)
    with pytest.raises((KeyMissing, KeyDamaged)):
        await _secrets(place)
    report = await _reset(place)
    assert (KeyName.AES_KEY in report.kept, not report.lost) == (kept, kept)
    # The master key that fits is not exchanged: backups need it.
    if damage != "everything is gone":
        assert (place.data_dir / "master.key").read_bytes() == key
        assert report.moved_aside == ()
    assert await _secrets(place) == ({"main": SECRET, "ours": OTHER} if kept else {"main": None, "ours": None})
    async with place.services() as services:
        numbers = [each.version for keyset in services.keys.ring.keysets.values() for each in keyset]
        assert max(numbers) == 2
        with pytest.raises(InvalidToken):
            await services.requests.authenticate(token, WEB)
        if kept:
            await _worked_off(services)
            mia = await services.identity.operator_for(username="mia")
            assert all(view.fingerprint for view in (await services.credentials.page(mia)).items)
            former, primary = services.keys.ring.keysets[KeyName.AES_KEY]
            assert (former.retired_at is not None, primary.version) == (True, 2)
            assert await _opening(services) == {"main": SECRET, "ours": OTHER}


async def _worked_off(services: Services) -> None:
    """Every job that is due, as a worker does them."""
    while (run := await services.jobs.claim()) is not None:
        await services.jobs.work(run, services.rotation.job.carry_on)
        assert run.progress.step == "done", run.progress


async def test_the_install_is_known_by_its_rows_where_nothing_else_knows_it(sqlite_place: Place) -> None:
    await _fill(sqlite_place)
    (sqlite_place.data_dir / "install.json").unlink()
    _lose(sqlite_place)
    await sqlite_place.execute("UPDATE app_config SET value = substr(value, 1, 300) WHERE key = 'manifest'")
    async with open_key_reset(sqlite_place.load()) as reset:
        found = (await reset.look()).install_id
        assert any(found in value for value in (await sqlite_place.app_config()).values())
    assert (await _reset(sqlite_place)).install_id == found


async def test_an_install_that_nothing_names_has_to_be_named(sqlite_place: Place) -> None:
    await _fill(sqlite_place)
    (sqlite_place.data_dir / "install.json").unlink()
    await sqlite_place.execute("DELETE FROM app_config")
    await _refused(sqlite_place, ConfigInvalid, "which install this is")
    named = sqlite_place.having(INSTALL_ID="01a1fb86-086d-767e-aff8-ced89b2cf640")
    assert (await _reset(named)).install_id == "01a1fb86-086d-767e-aff8-ced89b2cf640"
    assert await _secrets(named) == {"main": None, "ours": None}


# ---------------------------------------------------------------------------------------------------------------------
# Which master key goes on
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_key_that_the_settings_give_goes_on(sqlite_place: Place) -> None:
    await _fill(sqlite_place.having(MASTER_KEY=secrets.token_hex(32)))
    place = sqlite_place.having(MASTER_KEY=secrets.token_hex(32))
    with pytest.raises(MasterKeyMismatch):
        await _secrets(place)
    report = await _reset(place)
    assert (report.file, report.moved_aside) == (None, ())
    assert await _secrets(place) == {"main": None, "ours": None}
    assert not list(place.data_dir.glob("master.key*"))


async def test_in_production_nothing_is_made_and_a_file_that_is_there_counts_as_given(sqlite_place: Place) -> None:
    """The operator made it for that, and has a copy of it already."""
    place = sqlite_place.having(APP_ENV="production")
    await _fill(place.having(MASTER_KEY=secrets.token_hex(32)))
    await _refused(place, MasterKeyMissing, "none is given")
    file = place.data_dir / "master.key"
    file.write_text(secrets.token_hex(32))
    file.chmod(0o600)
    given = file.read_text()
    report = await _reset(place)
    assert (file.read_text(), report.file, report.moved_aside) == (given, file, ())
    assert await _secrets(place) == {"main": None, "ours": None}


def test_a_file_that_is_moved_aside_never_takes_anothers_place(sqlite_place: Place) -> None:
    keys = master_keys(sqlite_place.load())
    made, moved = keys.start_over(NOW)
    assert moved == []
    aside = []
    for _ in range(3):
        before = keys.default_file.read_text()
        keys.previous_file.write_text("the previous one")
        made, (key, previous) = keys.start_over(NOW)
        assert (key.read_text(), previous.read_text()) == (before, "the previous one")
        aside += [key.name, previous.name]
    assert list(keys.given()) == [made]
    assert aside[:4] == [
        "master.key.lost-20261120T120000Z",
        "master.key.previous.lost-20261120T120000Z",
        "master.key.lost-20261120T120000Z.2",
        "master.key.previous.lost-20261120T120000Z.2",
    ]
    assert len(set(aside)) == 6


async def test_nothing_is_reset_without_a_copy_of_the_database(sqlite_place: Place, tmp_path: Path) -> None:
    await _fill(sqlite_place)
    _lose(sqlite_place)
    (tmp_path / "file").touch()
    await _refused(sqlite_place.having(BACKUP_DIR=str(tmp_path / "file" / "backups")), ConfigInvalid, "no copy")


async def test_a_failure_in_the_middle_leaves_the_old_state(sqlite_place: Place) -> None:
    await _fill(sqlite_place)
    kept = _lose(sqlite_place)
    before = await sqlite_place.contents()
    database = sqlite_place.url.removeprefix("sqlite+aiosqlite:///")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(
            "CREATE TRIGGER failing BEFORE INSERT ON audit_events BEGIN SELECT RAISE(ABORT, 'failing'); END"
        )
    with pytest.raises(ConstraintBroken, match="failing"):
        await _reset(sqlite_place)
    assert await sqlite_place.contents() == before
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DROP TRIGGER failing")
    # The right key still opens it.
    shutil.copy2(kept, sqlite_place.data_dir / "master.key")
    assert await _secrets(sqlite_place) == {"main": SECRET, "ours": OTHER}
