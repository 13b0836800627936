"""A restored install is the one that was backed up, and nothing is changed before everything was verified."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from app.bootstrap.restore import open_backup_restore
from app.domain.backup import OpenWith
from app.domain.errors import (
    BackupDamaged,
    BackupError,
    BackupLocked,
    BackupUnreadable,
    ConfigInvalid,
    DatabaseUnavailable,
    EnvironmentMismatch,
    InstallMismatch,
    InUse,
    MasterKeyMismatch,
    MasterKeyMissing,
    NotABackup,
    SchemaNewer,
    StartupError,
)
from app.domain.keys import KeyName, KeyState
from app.infrastructure.install_file import InstallFile
from tests.support.archives import rewritten
from tests.support.backups import back_up, verified
from tests.support.installs import Place
from tests.support.pgbouncer import pgbouncer
from tests.support.postgres import PostgresServer
from tests.support.restores import GUILD, SECRET, fill, restore, rows_in, secrets_of
from tests.support.rotations import Change, under


@pytest.fixture
def place(engine_url: str, tmp_path: Path) -> Place:
    return Place(engine_url, tmp_path / "data")


@pytest.fixture
def sqlite_place(sqlite_url: str, tmp_path: Path) -> Place:
    return Place(sqlite_url, tmp_path / "data")


def elsewhere(place: Place, tmp_path: Path, *, url: str | None = None) -> Place:
    """An empty machine that has the paper with the master key and nothing else."""
    data = tmp_path / "elsewhere"
    data.mkdir(mode=0o700)
    shutil.copy(place.data_dir / "master.key", data / "master.key")
    return Place(url or f"sqlite+aiosqlite:///{data}/keyhall.db", data)


def damage(place: Place, content: bytes | None) -> None:
    """Write over the file of a database, or take it away."""
    file = Path(place.url.removeprefix("sqlite+aiosqlite:///"))
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)


def content_of(path: str) -> bytes:
    return Path(path).read_bytes()


def mode_of(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


async def test_a_restore_brings_back_what_was_backed_up_and_keeps_what_it_replaces(
    place: Place, tmp_path: Path
) -> None:
    await fill(place)
    before = await secrets_of(place)
    await back_up(place, tmp_path / "one.age")
    async with place.services() as services:
        actor = await services.identity.operator_for(guild_id=GUILD)
        await services.credentials.add(actor, provider="openai", label="later", secret=f"{SECRET}later", guild_id=GUILD)
    report = await restore(place, tmp_path / "one.age")
    assert (report.credentials, report.unreadable, report.carried.lost) == (3, [], [])
    found = await place.contents()
    for table in ("sessions", "refresh_tokens", "instances", "jobs", "one_time_links", "spent_tickets"):
        assert found[table] == [], table
    assert any("backup.restored" in row for row in found["audit_events"])
    await back_up(place, tmp_path / "two.age")
    assert rows_in(tmp_path / "one.age") == rows_in(tmp_path / "two.age")
    assert await secrets_of(place) == before
    assert report.replaced is not None
    assert report.removed_by is not None
    if place.url.startswith("sqlite"):
        kept = Place(f"sqlite+aiosqlite:///{report.replaced}", tmp_path / "other")
        assert len((await kept.contents())["api_credentials"]) == 4
        assert mode_of(report.replaced) == 0o600
    else:
        await place.execute(report.removed_by)


async def test_a_restore_of_an_empty_machine_needs_the_backup_and_the_master_key_alone(
    sqlite_place: Place, tmp_path: Path
) -> None:
    await fill(sqlite_place)
    before = await secrets_of(sqlite_place)
    await back_up(sqlite_place, tmp_path / "one.age")
    there = elsewhere(sqlite_place, tmp_path)
    report = await restore(there, tmp_path / "one.age")
    assert report.replaced is None
    assert await secrets_of(there) == before


@pytest.mark.postgres
async def test_a_backup_goes_to_the_other_engine_and_back(sqlite_url: str, postgres_url: str, tmp_path: Path) -> None:
    place = await fill(Place(sqlite_url, tmp_path / "data"))
    before = await secrets_of(place)
    await back_up(place, tmp_path / "one.age")
    await restore(place, tmp_path / "one.age", into=postgres_url)
    moved = Place(postgres_url, place.data_dir)
    assert await secrets_of(moved) == before
    await back_up(moved, tmp_path / "two.age")
    assert rows_in(tmp_path / "one.age") == rows_in(tmp_path / "two.age")
    back = elsewhere(place, tmp_path)
    await restore(back, tmp_path / "two.age")
    assert await secrets_of(back) == before
    # The first database is older than what the data directory remembers by now.
    with pytest.raises(StartupError, match="older state"):
        await secrets_of(place)


@pytest.mark.postgres
async def test_behind_pgbouncer_a_backup_is_restored_too(postgres_url: str, tmp_path: Path) -> None:
    place = await fill(Place(postgres_url, tmp_path / "data"))
    before = await secrets_of(place)
    await back_up(place, tmp_path / "one.age")
    with pgbouncer(postgres_url) as url:
        assert (await restore(Place(url, place.data_dir), tmp_path / "one.age")).credentials == 3
    assert await secrets_of(place) == before


@pytest.mark.postgres
async def test_a_role_that_may_make_no_schema_is_told_which_right_it_needs(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    place = await fill(Place(postgres_url, tmp_path / "data"))
    await back_up(place, tmp_path / "one.age")
    database = str(make_url(postgres_url).database)
    role = f"role_{database}"
    postgres_server.execute(f'CREATE ROLE "{role}" LOGIN', database=database)
    for kind in ("ALL TABLES", "ALL SEQUENCES"):
        postgres_server.execute(f'GRANT ALL ON {kind} IN SCHEMA public TO "{role}"', database=database)
    less = Place(postgres_url.replace("postgres@", f"{role}@"), place.data_dir)
    with pytest.raises(DatabaseUnavailable) as halt:
        await restore(less, tmp_path / "one.age")
    assert "GRANT CREATE ON DATABASE" in halt.value.remedy


async def test_a_directory_that_takes_nothing_is_said_to(
    sqlite_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(sqlite_place)
    await back_up(sqlite_place, tmp_path / "one.age")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(ConfigInvalid, match="No space left"):
        await restore(sqlite_place, tmp_path / "one.age")


async def test_of_two_restores_at_once_one_is_refused(place: Place, tmp_path: Path) -> None:
    await fill(place)
    before = await secrets_of(place)
    await back_up(place, tmp_path / "one.age")
    found = await asyncio.gather(*(restore(place, tmp_path / "one.age") for _ in range(2)), return_exceptions=True)
    (refused,) = (each for each in found if isinstance(each, BaseException))
    assert isinstance(refused, InUse), found
    assert await secrets_of(place) == before


async def test_into_another_database_leaves_the_install_as_it_is(sqlite_place: Place, tmp_path: Path) -> None:
    await fill(sqlite_place)
    await back_up(sqlite_place, tmp_path / "one.age")
    before, remembered = await sqlite_place.contents(), InstallFile(sqlite_place.data_dir).read()
    await restore(sqlite_place, tmp_path / "one.age", into=f"sqlite+aiosqlite:///{tmp_path}/other.db")
    assert await sqlite_place.contents() == before
    assert InstallFile(sqlite_place.data_dir).read() == remembered


async def test_what_follows_a_restore_is_signed_with_a_new_key_and_looks_newer_than_before(
    place: Place, tmp_path: Path
) -> None:
    await fill(place)
    await back_up(place, tmp_path / "one.age")
    async with place.services() as services:
        await Change("rotate", KeyName.AES_KEY).make(services)
        epochs = dict(services.keys.epochs)
    await restore(place, tmp_path / "one.age")
    remembered = InstallFile(place.data_dir).read()
    assert remembered is not None
    async with place.services() as services:
        keyset = services.keys.ring.keysets[KeyName.JWT_SECRET_KEY]
        assert keyset.primary.version > 1
        assert list(services.keys.usable_materials(KeyName.JWT_SECRET_KEY)) == [keyset.primary.version]
        assert all(services.keys.epochs[name] > epoch for name, epoch in epochs.items())
        assert dict(remembered.epochs) == dict(services.keys.epochs)


async def test_a_crash_before_install_json_leaves_an_install_that_starts(
    sqlite_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(sqlite_place)
    await back_up(sqlite_place, tmp_path / "one.age")
    before = await secrets_of(sqlite_place)

    def crash(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(InstallFile, "remember", crash)
        with pytest.raises(RuntimeError):
            await restore(sqlite_place, tmp_path / "one.age")
    assert await secrets_of(sqlite_place) == before


# ---------------------------------------------------------------------------------------------------------------------
# What does not come back
# ---------------------------------------------------------------------------------------------------------------------


async def test_compromised_and_destroyed_keys_stay_so_and_their_secrets_are_encrypted_again(
    place: Place, tmp_path: Path
) -> None:
    await fill(place)
    before = await secrets_of(place)
    await back_up(place, tmp_path / "one.age")
    async with place.services() as services:
        await Change("revoke", KeyName.AES_KEY).make(services)
        await Change("rotate", KeyName.ENCRYPTION_KEY).make(services)
        await services.rotation.destroy(
            await services.identity.operator(), KeyName.ENCRYPTION_KEY, 1, typed=KeyName.ENCRYPTION_KEY
        )
        messages = services.keys.ring.keysets[KeyName.ENCRYPTION_KEY].primary.fingerprint
    report = await restore(place, tmp_path / "one.age")
    assert set(report.carried.marks) == {
        (KeyName.AES_KEY, 1, KeyState.COMPROMISED),
        (KeyName.ENCRYPTION_KEY, 1, KeyState.DESTROYED),
    }
    assert report.carried.reencrypted == 4
    async with place.services() as services:
        aes = services.keys.ring.keysets[KeyName.AES_KEY]
        assert (aes.primary.version, aes.version(1).state) == (2, KeyState.COMPROMISED)  # type: ignore[union-attr]
        assert services.keys.ring.keysets[KeyName.ENCRYPTION_KEY].primary.fingerprint == messages
        assert await under(services) == {2}
    assert await secrets_of(place) == before


async def test_users_who_were_disabled_since_stay_disabled(place: Place, tmp_path: Path) -> None:
    await fill(place)
    await place.execute("INSERT INTO subjects (id, kind, value) VALUES ('s1', 'user', 'mallory')")
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    stamp = moment if place.url.startswith("postgres") else "2026-01-01T00:00:00.000000Z"
    await place.execute(
        "INSERT INTO users (id, subject_id, username, name_key, role, token_version, created_at, updated_at) "
        "VALUES ('u1', 's1', 'mallory', 'mallory', 'member', 1, :at, :at)",
        at=stamp,
    )
    await back_up(place, tmp_path / "one.age")
    await place.execute("UPDATE users SET disabled_at = :at WHERE id = 'u1'", at=stamp)
    report = await restore(place, tmp_path / "one.age")
    assert report.carried.disabled == 1
    async with place.keys() as opened, opened.storage.read() as uow:
        user = await uow.users.get("u1")
        assert user is not None
        assert user.disabled_at == moment
    await place.execute("DELETE FROM users")
    report = await restore(place, tmp_path / "one.age")
    assert "u1" in report.carried.lost[0]


# ---------------------------------------------------------------------------------------------------------------------
# Refusals change nothing
# ---------------------------------------------------------------------------------------------------------------------


async def refused(place: Place, path: Path, kind: type[Exception], match: str | None = None) -> None:
    before, files = await place.contents(), sorted(each.name for each in place.data_dir.iterdir())
    with pytest.raises(kind, match=match):
        await restore(place, path)
    assert await place.contents() == before
    assert sorted(each.name for each in place.data_dir.iterdir()) == files


async def test_a_live_process_is_named_and_nothing_is_changed(place: Place, tmp_path: Path) -> None:
    await fill(place)
    await back_up(place, tmp_path / "one.age")
    async with place.services():
        with pytest.raises(InUse, match="is live"):
            await restore(place, tmp_path / "one.age")


async def test_a_process_that_starts_meanwhile_is_found_in_the_last_moment(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(place)
    await back_up(place, tmp_path / "one.age")
    from app.services.backup import restore as module

    original = module.__dict__["open_all"]

    async def late(*arguments: object) -> object:
        later = datetime(2999, 1, 1, tzinfo=UTC)
        stamp = later if place.url.startswith("postgres") else "2999-01-01T00:00:00.000000Z"
        await place.execute(
            "INSERT INTO instances (id, kind, host, pid, started_at, lease_until, epochs) "
            "VALUES ('x', 'web', 'late', 7, :at, :at, '{}')",
            at=stamp,
        )
        return await original(*arguments)

    monkeypatch.setattr(module, "open_all", late)
    with pytest.raises(InUse, match="web late/7"):
        await restore(place, tmp_path / "one.age")
    assert len((await place.contents())["instances"]) == 1


async def test_another_installs_backup_is_refused(sqlite_place: Place, tmp_path: Path) -> None:
    await fill(sqlite_place)
    await back_up(sqlite_place, tmp_path / "one.age")
    other = Place(f"sqlite+aiosqlite:///{tmp_path}/other.db", tmp_path / "other").having(MASTER_KEY="ab12" * 16)
    async with other.keys():
        pass
    await refused(other, tmp_path / "one.age", InstallMismatch, "data directory belongs to")
    (other.data_dir / "install.json").unlink()
    key = (sqlite_place.data_dir / "master.key").read_text().strip()
    with_key = Place(other.url, other.data_dir).having(MASTER_KEY=key)
    await refused(with_key, tmp_path / "one.age", InstallMismatch, "holds install")
    pinned = with_key.having(INSTALL_ID="11111111-1111-4111-8111-111111111111")
    await refused(pinned, tmp_path / "one.age", InstallMismatch, "INSTALL_ID names")


async def test_the_master_key_that_is_needed_is_named(sqlite_place: Place, tmp_path: Path) -> None:
    await fill(sqlite_place)
    made = await back_up(sqlite_place, tmp_path / "one.age")
    there = elsewhere(sqlite_place, tmp_path)
    (there.data_dir / "master.key").unlink()
    with pytest.raises(MasterKeyMissing, match=made.report.master_key_id):
        await restore(there, tmp_path / "one.age")
    with pytest.raises(MasterKeyMismatch, match=made.report.master_key_id):
        await restore(there.having(MASTER_KEY="ab12" * 16), tmp_path / "one.age")
    key = (sqlite_place.data_dir / "master.key").read_text().strip()
    # The install has another master key since: the restored one is under that.
    report = await restore(there.having(MASTER_KEY="ab12" * 16, MASTER_KEY_PREVIOUS=key), tmp_path / "one.age")
    assert report.master_key_id != made.report.master_key_id
    assert await secrets_of(there.having(MASTER_KEY="ab12" * 16)) == await secrets_of(sqlite_place)


async def test_another_environments_backup_is_refused(sqlite_place: Place, tmp_path: Path) -> None:
    await fill(sqlite_place)
    await back_up(sqlite_place, tmp_path / "one.age")
    await refused(sqlite_place.having(APP_ENV="development"), tmp_path / "one.age", EnvironmentMismatch)


async def test_a_newer_backup_is_refused(sqlite_place: Place, tmp_path: Path) -> None:
    await fill(sqlite_place)
    await back_up(sqlite_place, tmp_path / "one.age")
    rewritten(tmp_path / "one.age", tmp_path / "newer.age", header={"min_app": "99.0.0"})
    await refused(sqlite_place, tmp_path / "newer.age", SchemaNewer, "99.0.0")
    rewritten(tmp_path / "one.age", tmp_path / "newer.age", header={"revision": "9999"})
    await refused(sqlite_place, tmp_path / "newer.age", SchemaNewer, "9999")


async def test_secrets_that_do_not_open_are_named_and_restored_only_on_purpose(
    sqlite_place: Place, tmp_path: Path
) -> None:
    await fill(sqlite_place)
    await sqlite_place.execute(
        "UPDATE api_credentials SET encrypted_value = :none WHERE label = 'two'", none=b"no envelope"
    )
    await back_up(sqlite_place, tmp_path / "one.age")
    await refused(sqlite_place, tmp_path / "one.age", BackupUnreadable, "api_credentials")
    report = await restore(sqlite_place, tmp_path / "one.age", accept_unreadable=True)
    assert len(report.unreadable) == 1


async def test_rows_that_no_schema_takes_are_named_beforehand_and_left_out_only_on_purpose(
    place: Place, tmp_path: Path
) -> None:
    await fill(place)
    await back_up(place, tmp_path / "one.age")
    rewritten(tmp_path / "one.age", tmp_path / "two.age", table="audit_events", row={"at": "garbage"})
    report = await verified(place, tmp_path / "two.age")
    assert not report.ok
    assert "audit_events 1" in report.problems[0]
    await refused(place, tmp_path / "two.age", BackupUnreadable, "audit_events 1")
    restored = await restore(place, tmp_path / "two.age", accept_unreadable=True)
    assert list(restored.unreadable) == ["audit_events 1"]


async def test_a_file_that_is_no_backup_is_refused(sqlite_place: Place, tmp_path: Path) -> None:
    await fill(sqlite_place)
    path = tmp_path / "one.age"
    path.write_text("no backup")
    await refused(sqlite_place, path, NotABackup)
    path.unlink()
    await back_up(sqlite_place, path, replace=True)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    await refused(sqlite_place, path, BackupDamaged)


NEVER_WRITTEN: list[tuple[str, dict[str, object]]] = [
    ("audit_events", {"extra": "column"}),
    ("api_credentials", {"encrypted_value": "no base64 !"}),
    ("api_credentials", {"encrypted_value": 7}),
    ("api_credentials", {"version": "text"}),
    ("api_credentials", {"version": True}),
    ("api_credentials", {"version": 2**40}),
    ("api_credentials", {"owner_kind": "nobody"}),
    ("api_credentials", {"label": None}),
    ("credential_history", {"credential_id": "not there"}),
    ("api_credentials", {"created_at": "yesterday"}),
]


async def test_rows_that_no_keyhall_wrote_are_refused(place: Place, tmp_path: Path) -> None:
    await fill(place)
    await back_up(place, tmp_path / "one.age")
    before = await place.contents()
    for table, change in NEVER_WRITTEN:
        rewritten(tmp_path / "one.age", tmp_path / "other.age", table=table, row=change)
        with pytest.raises((BackupDamaged, BackupUnreadable)):
            await restore(place, tmp_path / "other.age")
    rewritten(tmp_path / "one.age", tmp_path / "other.age", tables=["sessions"])
    with pytest.raises(BackupDamaged):
        await restore(place, tmp_path / "other.age")
    assert await place.contents() == before


async def test_without_the_right_identity_nothing_is_changed(sqlite_place: Place, tmp_path: Path) -> None:

    await fill(sqlite_place)
    await back_up(sqlite_place, tmp_path / "one.age")
    async with open_backup_restore(sqlite_place.load()) as restoring:
        with pytest.raises(BackupLocked):
            await restoring.look(tmp_path / "one.age", OpenWith())


# ---------------------------------------------------------------------------------------------------------------------
# Databases in trouble
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_damaged_database_is_set_aside(sqlite_place: Place, tmp_path: Path) -> None:
    await fill(sqlite_place)
    before = await secrets_of(sqlite_place)
    await back_up(sqlite_place, tmp_path / "one.age")
    damage(sqlite_place, b"no database" * 1000)
    report = await restore(sqlite_place, tmp_path / "one.age")
    assert report.replaced is not None
    assert content_of(report.replaced) == b"no database" * 1000
    assert report.carried.lost
    assert await secrets_of(sqlite_place) == before


async def test_a_database_that_was_lost_is_made_anew(sqlite_place: Place, tmp_path: Path) -> None:
    await fill(sqlite_place)
    before = await secrets_of(sqlite_place)
    await back_up(sqlite_place, tmp_path / "one.age")
    damage(sqlite_place, None)
    await restore(sqlite_place, tmp_path / "one.age")
    assert await secrets_of(sqlite_place) == before


async def test_keys_that_were_damaged_come_back_and_it_is_said_that_marks_were_not_read(
    place: Place, tmp_path: Path
) -> None:
    await fill(place)
    before = await secrets_of(place)
    await back_up(place, tmp_path / "one.age")
    await place.execute("UPDATE app_config SET value = '{}' WHERE key = 'manifest'")
    report = await restore(place, tmp_path / "one.age")
    assert "marks" in report.carried.lost[0]
    assert await secrets_of(place) == before


# ---------------------------------------------------------------------------------------------------------------------
# Whatever happens to the file
# ---------------------------------------------------------------------------------------------------------------------


async def random_restores(place: Place, tmp_path: Path, count: int, seed: int) -> None:
    """Damaged backups are refused with a type; whole ones, and those whose damage was undone, are exact."""
    rng = random.Random(seed)
    path, whole = tmp_path / "changed.age", (tmp_path / "one.age").read_bytes()
    for number in range(count):
        content = bytearray(whole)
        for _ in range(rng.choice((0, 1, 1, 1, 3))):
            at, how = rng.randrange(len(content)), rng.randrange(4)
            if how == 0:
                content[at] ^= 1 << rng.randrange(8)
            elif how == 1:
                del content[at:]
            elif how == 2:
                del content[at : at + rng.randrange(1, 4096)]
            else:
                content[at:at] = rng.randbytes(rng.randrange(1, 64))
            if not content:
                break
        path.write_bytes(content)
        before = await place.contents()
        try:
            await restore(place, path)
        except BackupError:
            assert bytes(content) != whole, number
            assert await place.contents() == before, number
        else:
            assert bytes(content) == whole, number
            await back_up(place, tmp_path / "again.age", replace=True)
            assert rows_in(tmp_path / "again.age") == rows_in(tmp_path / "one.age"), number


async def test_random_restores_are_exact_or_refused(sqlite_place: Place, tmp_path: Path) -> None:
    await fill(sqlite_place)
    await back_up(sqlite_place, tmp_path / "one.age")
    await random_restores(sqlite_place, tmp_path, 12, 1)


@pytest.mark.faults
@pytest.mark.timeout(3600)
async def test_a_thousand_random_restores_are_exact_or_refused(place: Place, tmp_path: Path) -> None:
    await fill(place)
    await back_up(place, tmp_path / "one.age")
    await random_restores(place, tmp_path, 500, 2)
