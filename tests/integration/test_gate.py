"""The gate: one key set on a first start, the same ever after, and the right halt for whatever is wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from app.bootstrap import database as database_stage
from app.bootstrap.commands import (
    master_key_page,
    open_key_reset,
    open_master_key_change,
    open_unverified_keys,
    restore_master_key,
    schema_state,
)
from app.bootstrap.keys import open_keys
from app.domain.errors import (
    ConfigInvalid,
    DatabaseUnavailable,
    EnvironmentMismatch,
    InsecureKey,
    InstallMismatch,
    KeyConflict,
    KeyDamaged,
    KeyMissing,
    MasterKeyMismatch,
    MasterKeyMissing,
    NoInstall,
    SchemaNewer,
    StartupError,
)
from app.domain.keys import APPLICATION_KEYS, KeyName, KeysetEntry, KeyState, KeyVersion, Origin
from app.domain.secrets import SecretText
from app.infrastructure.database.engine import Database
from app.infrastructure.database.repositories.keys import KeyRepositoryImpl
from app.services.keys import KeyRing
from app.services.keys import rows as key_rows
from app.settings import Settings
from tests.support.installs import Place

Rows = dict[str, str]


@pytest.fixture
def place(engine_url: str, tmp_path: Path) -> Place:
    return Place(engine_url, tmp_path / "data")


async def _fingerprints(place: Place) -> dict[str, str]:
    async with place.keys() as opened:
        return {f"{each.name}/{each.version}": each.fingerprint for each in opened.keys.listing()}


# ---------------------------------------------------------------------------------------------------------------------
# First start and later ones
# ---------------------------------------------------------------------------------------------------------------------


async def test_first_start_generates_every_key_in_one_manifest(place: Place) -> None:
    async with place.keys() as opened:
        assert opened.created
        assert [each.name for each in opened.keys.listing()] == list(APPLICATION_KEYS)
        assert all(each.primary and each.state is KeyState.ACTIVE for each in opened.keys.listing())
    rows = await place.app_config()
    assert set(rows) == {"manifest", *(f"keyset/{name}" for name in KeyName)}


async def test_a_hundred_restarts_keep_the_keys_and_warn_of_nothing(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    before = await _fingerprints(place)
    rows = await place.app_config()
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            assert await _fingerprints(place) == before
    assert await place.app_config() == rows
    assert caplog.records == []


async def test_commands_never_create_an_install(place: Place) -> None:
    with pytest.raises(NoInstall):
        async with place.keys(may_create=False):
            pass
    assert not (place.data_dir / "master.key").exists()
    assert not (place.data_dir / "install.json").exists()


async def test_key_material_is_nowhere_in_clear(place: Place) -> None:
    async with place.keys() as opened:
        ring = opened.keys.ring
    stored = json.dumps(await place.app_config())
    for versions in ring.materials.values():
        for material in versions.values():
            raw = material.reveal()
            assert raw.hex() not in stored
            assert base64.b64encode(raw).decode() not in stored
            assert repr(raw) not in repr(ring)


async def test_files_of_an_install_are_for_its_user_alone(place: Place) -> None:
    before = os.umask(0)
    try:
        async with place.keys():
            pass
    finally:
        os.umask(before)
    for name in ("master.key", "install.json"):
        assert (place.data_dir / name).stat().st_mode & 0o777 == 0o600


# ---------------------------------------------------------------------------------------------------------------------
# The mutation matrix
# ---------------------------------------------------------------------------------------------------------------------


def _edit(row: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Rows], None]:
    def mutate(rows: Rows) -> None:
        members = json.loads(rows[row])
        change(members)
        rows[row] = json.dumps(members, sort_keys=True, separators=(",", ":"))

    return mutate


def _drop(row: str) -> Callable[[Rows], None]:
    return lambda rows: rows.__delitem__(row)


def _swap(rows: Rows) -> None:
    rows["keyset/AES_KEY"], rows["keyset/ENCRYPTION_KEY"] = rows["keyset/ENCRYPTION_KEY"], rows["keyset/AES_KEY"]


def _truncate(row: str) -> Callable[[Rows], None]:
    return lambda rows: rows.__setitem__(row, rows[row][: len(rows[row]) // 2])


def _flip_wrapped(members: dict[str, Any]) -> None:
    wrapped = bytearray(base64.b64decode(members["versions"][0]["wrapped"]))
    wrapped[20] ^= 1
    members["versions"][0]["wrapped"] = base64.b64encode(wrapped).decode()


def _version_twice(members: dict[str, Any]) -> None:
    members["versions"].append(members["versions"][0])


MUTATIONS: dict[str, tuple[Callable[[Rows], None], type[StartupError]]] = {
    **{f"{name} missing": (_drop(f"keyset/{name}"), KeyMissing) for name in KeyName},
    "manifest gone": (_drop("manifest"), KeyMissing),
    "two keysets swapped": (_swap, KeyDamaged),
    "state edited": (_edit("keyset/AES_KEY", lambda m: m["versions"][0].update(state="deactivated")), KeyDamaged),
    "time edited": (
        _edit(
            "keyset/JWT_SECRET_KEY", lambda m: m["versions"][0].update(created_at="2020-01-01T00:00:00.000000+00:00")
        ),
        KeyDamaged,
    ),
    "epoch edited": (_edit("keyset/AES_KEY", lambda m: m.update(epoch=2)), KeyDamaged),
    "keyset truncated": (_truncate("keyset/API_SECRET_KEY"), KeyDamaged),
    "manifest truncated": (_truncate("manifest"), KeyDamaged),
    "wrapped bytes flipped": (_edit("keyset/AES_KEY", _flip_wrapped), KeyDamaged),
    "version twice": (_edit("keyset/AES_KEY", _version_twice), KeyDamaged),
    "mac edited": (_edit("keyset/AES_KEY", lambda m: m.update(mac=base64.b64encode(bytes(32)).decode())), KeyDamaged),
    "white space added": (lambda rows: rows.update({"keyset/AES_KEY": rows["keyset/AES_KEY"] + " "}), KeyDamaged),
    "member twice": (
        lambda rows: rows.update({"keyset/AES_KEY": '{"epoch":1,' + rows["keyset/AES_KEY"].removeprefix("{")}),
        KeyDamaged,
    ),
    "empty row": (lambda rows: rows.update({"keyset/AES_KEY": ""}), KeyDamaged),
    "not JSON": (lambda rows: rows.update({"manifest": "[" * 5000}), KeyDamaged),
    "manifest: environment edited": (_edit("manifest", lambda m: m.update(environment="production")), KeyDamaged),
    "manifest: install id edited": (
        _edit("manifest", lambda m: m.update(install_id="00000000-0000-4000-8000-000000000000")),
        KeyDamaged,
    ),
    "manifest: master key id edited": (_edit("manifest", lambda m: m.update(master_key_id="0" * 16)), KeyDamaged),
    "manifest: canary edited": (
        _edit("manifest", lambda m: m.update(canary=base64.b64encode(bytes(32)).decode())),
        KeyDamaged,
    ),
    "manifest: digest edited": (
        _edit("manifest", lambda m: m["keysets"]["AES_KEY"].update(digest="0" * 64)),
        KeyDamaged,
    ),
    "a keyset too many": (lambda rows: rows.update({"keyset/OTHER": rows["keyset/AES_KEY"]}), KeyDamaged),
}


async def _replace(place: Place, rows: Rows) -> None:
    await place.execute("DELETE FROM app_config")
    for key, value in rows.items():
        await place.execute(
            "INSERT INTO app_config (key, value, updated_at) VALUES (:key, :value, CURRENT_TIMESTAMP)",
            key=key,
            value=value,
        )


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_whatever_happens_to_a_row_halts_and_changes_nothing(place: Place, mutation: str) -> None:
    await place.install()
    mutate, halt = MUTATIONS[mutation]
    rows = await place.app_config()
    mutate(rows)
    await _replace(place, rows)
    before = await place.contents()
    for _ in range(2):  # the second start must not fare better than the first
        with pytest.raises(halt) as halted:
            await _fingerprints(place)
        assert type(halted.value) is halt
    assert await place.contents() == before


async def _advance(place: Place, name: KeyName) -> None:
    """Rotate a key once, with the domain's own means."""
    async with place.keys() as opened:
        keys, ring = opened.keys, opened.keys.ring
        now = ring.manifest.created_at
        keyset = ring.keysets[name]
        material = type(ring.materials[name][1])(secrets.token_bytes(32))
        version = KeyVersion(
            version=2,
            state=KeyState.PRE_ACTIVATION,
            fingerprint=_fingerprint(ring, name, material),
            wrapped=ring.wrapping.wrap(material, install_id=keyset.install_id, name=name, version=2),
            origin=Origin.GENERATED,
            created_at=now,
        )
        value = key_rows.encode_keyset(keyset.add(version).promote(2, now), ring.wrapping)
        entry = KeysetEntry(epoch=3, digest=key_rows.digest(value))
        manifest = key_rows.encode_manifest(ring.manifest.with_keyset(name, entry), ring.wrapping)
        async with opened.storage.write() as uow:
            await uow.keys.put(key_rows.keyset_row(name), value, now)
            await uow.keys.put(key_rows.MANIFEST_ROW, manifest, now)
        assert await keys.reload()


def _fingerprint(_ring: KeyRing, name: KeyName, material: Any) -> str:
    from app.infrastructure.crypto.derive import Derivation

    return Derivation().fingerprint(name, material)


async def test_an_older_row_put_back_is_found(place: Place) -> None:
    await place.install()
    older = await place.app_config()
    await _advance(place, KeyName.AES_KEY)
    rows = await place.app_config()
    await _replace(place, {**rows, "keyset/AES_KEY": older["keyset/AES_KEY"]})
    with pytest.raises(KeyDamaged, match="older"):
        await _fingerprints(place)


async def test_an_older_database_put_back_is_found_by_install_json(place: Place) -> None:
    await place.install()
    older = await place.app_config()
    await _advance(place, KeyName.AES_KEY)
    await _replace(place, older)
    with pytest.raises(KeyDamaged, match="older"):
        await _fingerprints(place)


async def test_a_change_by_another_process_is_taken_up(place: Place) -> None:
    await place.install()
    async with place.services() as services:
        await _advance(place, KeyName.JWT_SECRET_KEY)
        assert await services.keys.reload() or services.keys.ring.keysets[KeyName.JWT_SECRET_KEY].epoch == 3
        assert services.keys.primary(KeyName.JWT_SECRET_KEY).version == 2
        assert set(services.keys.usable_materials(KeyName.JWT_SECRET_KEY)) == {1, 2}


async def test_an_install_made_while_another_start_looked_is_no_loss(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = KeyRepositoryImpl.guarded_rows

    async def meanwhile(repository: KeyRepositoryImpl) -> int:
        rows = await count(repository)
        monkeypatch.undo()
        await asyncio.create_task(_in_thread(place))
        return rows

    monkeypatch.setattr(KeyRepositoryImpl, "guarded_rows", meanwhile)
    async with place.keys() as opened:
        assert not opened.created


async def _in_thread(place: Place) -> None:
    await asyncio.to_thread(lambda: asyncio.run(_fingerprints(place)))


async def test_a_weak_key_from_outside_is_refused_before_anything_is_made(place: Place) -> None:
    with pytest.raises(InsecureKey):
        await _fingerprints(place.having(APP_ENV="development", AES_KEY="changeme"))
    assert not (place.data_dir / "master.key").exists()


async def test_a_data_directory_that_cannot_be_written_halts_before_anything_is_made(
    place: Place, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a directory")
    blocked = Place(place.url, tmp_path / "file", {"MASTER_KEY": _random_key()})
    with pytest.raises((ConfigInvalid, InstallMismatch)):
        await _fingerprints(blocked)
    async with place.keys() as opened:
        assert opened.created


async def test_a_database_of_another_application_halts_as_a_newer_schema(place: Place) -> None:
    if place.url.startswith("sqlite"):
        place.data_dir.mkdir()
    await place.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    await place.execute("INSERT INTO alembic_version VALUES ('another'), ('and_another')")
    with pytest.raises(SchemaNewer):
        await _fingerprints(place)


async def _look(opened: AbstractAsyncContextManager[object]) -> None:
    async with opened:
        pass


STAGES: dict[str, Callable[[Settings], Awaitable[object]]] = {
    "run": lambda settings: _look(open_keys(settings, may_create=True)),
    "keys list": lambda settings: _look(open_keys(settings, may_create=False)),
    "keys validate": lambda settings: _look(open_unverified_keys(settings)),
    "keys reset": lambda settings: _look(open_key_reset(settings)),
    "keys rotate-master": lambda settings: _look(open_master_key_change(settings)),
    "keys print-master": master_key_page,
    "keys restore-master": lambda settings: restore_master_key(settings, SecretText("ab" * 32), write=False),
    "db current": lambda settings: schema_state(settings, upgrade=False),
    "db upgrade": lambda settings: schema_state(settings, upgrade=True),
}


@pytest.mark.parametrize("command", STAGES)
async def test_every_command_waits_for_a_database_that_is_away_and_then_halts(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_stage, "RETRY_BUDGET_SECONDS", 0.3)
    attempts = 0
    probe = Database.probe

    async def counted(self: Database) -> None:
        nonlocal attempts
        attempts += 1
        await probe(self)

    monkeypatch.setattr(Database, "probe", counted)
    away = Place(f"postgresql+asyncpg://postgres@/keyhall?host={tmp_path}", tmp_path / "data")
    with pytest.raises(DatabaseUnavailable, match="did not answer"):
        await STAGES[command](away.load())
    assert attempts == 2


async def test_validation_finds_what_would_halt_a_start(place: Place) -> None:
    await place.install()
    await place.execute("DELETE FROM app_config WHERE key = 'keyset/AUDIT_SEAL_KEY'")
    async with open_unverified_keys(place.load()) as keys:
        with pytest.raises(KeyMissing):
            await keys.validate()


# ---------------------------------------------------------------------------------------------------------------------
# Nothing is regenerated
# ---------------------------------------------------------------------------------------------------------------------


async def test_keys_gone_while_users_are_there_halts(place: Place) -> None:
    async with place.services() as services:
        actor = await services.identity.operator()
        await services.identity.create_owner("alice", "correct horse battery staple", actor.client)
    (place.data_dir / "install.json").unlink()
    await place.execute("DELETE FROM app_config")
    with pytest.raises(KeyMissing):
        await _fingerprints(place)


async def test_an_empty_database_under_a_remembered_install_halts(place: Place, tmp_path: Path) -> None:
    await place.install()
    if place.url.startswith("sqlite"):
        elsewhere = Place(f"sqlite+aiosqlite:///{tmp_path / 'other.db'}", place.data_dir)
        with pytest.raises(InstallMismatch):
            await _fingerprints(elsewhere)
        assert not (tmp_path / "other.db").exists()
    await place.execute("DELETE FROM app_config")
    with pytest.raises(InstallMismatch):
        await _fingerprints(place)


async def test_a_pinned_install_that_is_not_there_halts(place: Place) -> None:
    pinned = place.having(INSTALL_ID="00000000-0000-4000-8000-000000000000")
    with pytest.raises(InstallMismatch):
        await _fingerprints(pinned)
    await _fingerprints(place)
    with pytest.raises(InstallMismatch):
        await _fingerprints(pinned)


async def test_another_environment_halts(place: Place) -> None:
    await place.install()
    with pytest.raises(EnvironmentMismatch):
        await _fingerprints(place.having(APP_ENV="development"))


async def test_a_database_that_demands_a_newer_version_halts(place: Place) -> None:
    await place.install()
    await place.execute("UPDATE schema_info SET min_app = '999.0.0'")
    with pytest.raises(SchemaNewer):
        await _fingerprints(place)


async def test_an_unknown_revision_halts(place: Place) -> None:
    await place.install()
    await place.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaNewer):
        await _fingerprints(place)


# ---------------------------------------------------------------------------------------------------------------------
# The master key
# ---------------------------------------------------------------------------------------------------------------------


def _random_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


async def test_no_master_key_for_an_install_that_has_keys_halts(place: Place) -> None:
    await place.install()
    (place.data_dir / "master.key").unlink()
    with pytest.raises(MasterKeyMissing):
        await _fingerprints(place)
    assert not (place.data_dir / "master.key").exists()


async def test_another_master_key_halts_and_names_both(place: Place) -> None:
    await place.install()
    async with place.keys() as opened:
        needed = opened.keys.ring.manifest.master_key_id
    other = _random_key()
    with pytest.raises(MasterKeyMismatch) as halted:
        await _fingerprints(place.having(MASTER_KEY=other))
    assert needed in halted.value.line()
    assert other not in halted.value.line()


async def test_an_empty_master_key_is_refused(place: Place) -> None:
    with pytest.raises(InsecureKey):
        await _fingerprints(place.having(MASTER_KEY=""))


async def test_production_creates_no_master_key_and_says_which_command_does(place: Place) -> None:
    with pytest.raises(MasterKeyMissing, match="production") as halted:
        await _fingerprints(place.having(APP_ENV="production", PUBLIC_URL="https://keys.example.org"))
    assert "`keyhall keys generate-master --write`" in halted.value.line()


async def test_a_default_key_file_open_to_others_is_refused(place: Place) -> None:
    await place.install()
    (place.data_dir / "master.key").chmod(0o644)
    with pytest.raises(InsecureKey, match="open to group or others"):
        await _fingerprints(place)


async def test_a_mounted_key_file_may_be_readable_but_not_writable(place: Place, tmp_path: Path) -> None:
    mounted = tmp_path / "secret"
    mounted.write_text(_random_key() + "\n")
    mounted.chmod(0o444)
    given = place.having(MASTER_KEY_FILE=str(mounted))
    before = await _fingerprints(given)
    assert await _fingerprints(given) == before
    mounted.chmod(0o666)
    with pytest.raises(InsecureKey):
        await _fingerprints(given)


async def test_any_mounted_secret_that_others_may_write_is_refused(place: Place, tmp_path: Path) -> None:
    mounted = tmp_path / "jwt"
    mounted.write_text(secrets.token_hex(32))
    mounted.chmod(0o666)
    with pytest.raises(InsecureKey):
        await _fingerprints(place.having(JWT_SECRET_KEY_FILE=str(mounted)))


async def test_master_key_given_twice_is_a_setting_error(place: Place, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(_random_key())
    with pytest.raises(ConfigInvalid):
        place.having(MASTER_KEY=_random_key(), MASTER_KEY_FILE=str(tmp_path / "secret")).load()


# ---------------------------------------------------------------------------------------------------------------------
# Keys from outside
# ---------------------------------------------------------------------------------------------------------------------


async def test_keys_from_outside_are_adopted_and_agree_later(place: Place) -> None:
    jwt, aes = secrets.token_hex(32), _random_key()
    given = place.having(APP_ENV="development", SECRET_KEY=jwt, AES_KEY=aes)
    async with given.keys() as opened:
        origins = {each.name: each.origin for each in opened.keys.listing()}
        assert opened.keys.ring.materials[KeyName.JWT_SECRET_KEY][1].reveal() == jwt.encode()
        assert opened.keys.ring.materials[KeyName.AES_KEY][1].reveal() == base64.b64decode(aes)
    assert origins[KeyName.JWT_SECRET_KEY] is Origin.ADOPTED
    assert origins[KeyName.API_SECRET_KEY] is Origin.GENERATED
    async with given.keys() as opened:
        assert not opened.created
    async with place.having(APP_ENV="development").keys() as opened:
        assert not opened.created


async def test_another_key_from_outside_is_a_conflict(place: Place) -> None:
    await place.install()
    before = await place.contents()
    with pytest.raises(KeyConflict):
        await _fingerprints(place.having(JWT_SECRET_KEY=secrets.token_hex(32)))
    assert await place.contents() == before


async def test_a_key_from_outside_that_was_replaced_only_warns(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    jwt = secrets.token_hex(32)
    given = place.having(JWT_SECRET_KEY=jwt)
    await _fingerprints(given)
    await _advance(given, KeyName.JWT_SECRET_KEY)
    with caplog.at_level(logging.WARNING):
        await _fingerprints(given)
    assert "deactivated" in caplog.text
    assert jwt not in caplog.text


@pytest.mark.parametrize("text", ["changeme", "a" * 64, "0123456789abcdef" * 4, "insecure-default-key-change-this"])
async def test_a_weak_key_from_outside_is_refused(place: Place, text: str) -> None:
    with pytest.raises(InsecureKey) as halted:
        await _fingerprints(place.having(APP_ENV="development", JWT_SECRET_KEY=text))
    assert text not in halted.value.line()
