"""From any schema to the head, whole or not at all, by any number of processes at once."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from app import __version__
from app.domain.errors import MigrationFailed, SchemaNewer, StorageError
from app.infrastructure.database import migrate
from app.infrastructure.database.engine import open_database
from app.infrastructure.database.migrate import SCRIPTS, check_schema, current_revision, known_revisions, upgrade
from app.infrastructure.database.schema import metadata
from app.infrastructure.database.unit_of_work import SqlStorage
from app.settings import DatabaseUrl
from tests.support.database import credential, finish, former, migrated, start_python
from tests.support.environment import process_environment
from tests.support.processes import PROJECT, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from sqlalchemy.engine import Connection as SyncConnection

    from app.infrastructure.database.engine import Database

HEAD = known_revisions()[-1]


@pytest.fixture
async def empty(engine_url: str) -> AsyncIterator[Database]:
    async with open_database(DatabaseUrl.parse(engine_url), may_create=True) as database:
        yield database


@pytest.fixture
async def at_head(engine_url: str) -> AsyncIterator[Database]:
    async with migrated(engine_url) as database:
        yield database


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A copy of the migrations, to add to."""
    return shutil.copytree(SCRIPTS, tmp_path / "a lembic 100%", ignore=shutil.ignore_patterns("__pycache__"))


def add_migration(scripts: Path, *statements: str) -> str:
    """Write the next migration, which runs these lines of Python; return its revision."""
    last = known_revisions(scripts)[-1]
    revision = f"{int(last) + 1:04}"
    body = "\n".join(f"    {line}" for line in statements)
    (scripts / "versions" / f"{revision}_next.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision, down_revision = {revision!r}, {last!r}\n\ndef upgrade():\n{body}\n"
    )
    return revision


async def inspected(database: Database, look: Callable[[SyncConnection], Any]) -> Any:
    async with database.read() as connection:
        return await connection._connection.run_sync(look)


def _flat(entry: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in sorted(entry.items()):
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", each) for inner, each in _flat(value))
        else:
            yield name, repr(value) if name == "type" else value


def described(connection: SyncConnection) -> dict[str, Any]:
    """All that the catalogue tells about every table."""
    catalogue = inspect(connection)

    def plain(entries: Any) -> list[str]:
        return sorted(str({name: str(value) for name, value in _flat(each)}) for each in entries)

    return {
        table: (
            plain(catalogue.get_columns(table)),
            plain(catalogue.get_indexes(table)),
            plain(catalogue.get_unique_constraints(table)),
            plain(catalogue.get_check_constraints(table)),
            plain(catalogue.get_foreign_keys(table)),
            catalogue.get_pk_constraint(table),
        )
        for table in catalogue.get_table_names()
        if table != "alembic_version"
    }


async def everything(database: Database) -> tuple[Any, str | None]:
    return await inspected(database, described), await current_revision(database)


# ---------------------------------------------------------------------------------------------------------------------
# The migrations are the schema
# ---------------------------------------------------------------------------------------------------------------------


async def test_autogenerate_finds_nothing_left_to_migrate(at_head: Database) -> None:
    def compare(connection: SyncConnection) -> Any:
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)

    assert await inspected(at_head, compare) == []


async def test_migrating_and_creating_lead_to_the_same_schema(at_head: Database) -> None:
    """Also where autogenerate does not look: checks, conditions of indexes, collations."""
    by_migrations = await inspected(at_head, described)

    def recreate(connection: SyncConnection) -> None:
        metadata.drop_all(connection)
        metadata.create_all(connection)

    await at_head.rebuild(migrate.LOCK, recreate)
    assert await inspected(at_head, described) == by_migrations
    assert by_migrations.keys() == metadata.tables.keys()


def test_revisions_read_from_file_names_are_those_of_alembic() -> None:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    directory = ScriptDirectory.from_config(config)
    revisions = [script.revision for script in directory.walk_revisions()]
    assert list(known_revisions()) == revisions[::-1]
    assert directory.get_heads() == [HEAD]


async def test_the_oldest_version_that_may_run_is_not_newer_than_this_one(at_head: Database) -> None:
    async with at_head.read() as connection:
        oldest = await connection.value(text("SELECT min_app FROM schema_info"))
    assert migrate._version(oldest) <= migrate._version(__version__)


# ---------------------------------------------------------------------------------------------------------------------
# Upgrading
# ---------------------------------------------------------------------------------------------------------------------


async def test_an_empty_database_has_no_revision_and_is_brought_to_head(empty: Database) -> None:
    assert await current_revision(empty) is None
    await check_schema(empty)
    await upgrade(empty)
    assert await current_revision(empty) == HEAD
    await check_schema(empty)


async def test_upgrading_again_changes_nothing(at_head: Database) -> None:
    before = await everything(at_head)
    await upgrade(at_head)
    assert await everything(at_head) == before


ALEMBIC_STAYS_AWAY = """
import asyncio, sys
from app.infrastructure.database.engine import open_database
from app.settings import DatabaseUrl
from app.infrastructure.database.migrate import check_schema, current_revision, upgrade

async def main(url):
    async with open_database(DatabaseUrl.parse(url), may_create=False) as database:
        await check_schema(database)
        await upgrade(database)
        print(await current_revision(database), "alembic" in sys.modules)

asyncio.run(main(sys.argv[1]))
"""


async def test_a_start_at_head_does_not_import_alembic(engine_url: str, at_head: Database) -> None:
    command = [sys.executable, "-c", ALEMBIC_STAYS_AWAY, engine_url]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=PROJECT, env=process_environment(), stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.split() == [HEAD, "False"]


UPGRADE = """
import asyncio, sys
from app.bootstrap.database import reachable_database
from app.settings import Settings

async def main(url, data_dir):
    settings = Settings.load({"APP_ENV": "test", "DATABASE_URL": url, "DATA_DIR": data_dir})
    async with reachable_database(settings, may_create=True) as reachable:
        print("ready", flush=True)
        sys.stdin.readline()
        await reachable.migrate(installed=False)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
def test_eight_processes_upgrade_an_empty_database_at_once(engine_url: str, tmp_path: Path) -> None:
    """As starts do: `upgrade` itself says that the database is busy, and a start has a minute to try again."""
    processes = [start_python(UPGRADE, engine_url, str(tmp_path / "data")) for _ in range(8)]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        finish(process)

    async def revision() -> str | None:
        async with open_database(DatabaseUrl.parse(engine_url), may_create=False) as database:
            return await current_revision(database)

    assert asyncio.run(revision()) == HEAD


async def test_five_upgrades_at_once_in_one_process_all_succeed(empty: Database) -> None:
    await asyncio.gather(*(upgrade(empty) for _ in range(5)))
    assert await current_revision(empty) == HEAD


async def test_later_migrations_follow_in_one_upgrade(at_head: Database, scripts: Path) -> None:
    add_migration(scripts, "op.add_column('users', sa.Column('later', sa.Text()))")
    head = add_migration(scripts, "op.create_table('later', sa.Column('id', sa.Integer(), primary_key=True))")
    await upgrade(at_head, scripts=scripts)
    assert await current_revision(at_head) == head
    async with at_head.read() as connection:
        assert await connection.rows(text("SELECT later FROM users")) == []
        assert await connection.has_table("later")


async def test_whoever_is_open_while_another_migrates_goes_on(
    engine_url: str, at_head: Database, scripts: Path
) -> None:
    """Statements name their columns, so a prepared one survives that the table gets another."""

    async def use() -> None:
        async with SqlStorage(at_head).write() as unit:
            await unit.credentials.get("credential-1")
            await unit.users.by_name("alice")

    await use()
    add_migration(scripts, "op.add_column('users', sa.Column('later', sa.Text()))")
    async with open_database(DatabaseUrl.parse(engine_url), may_create=False) as other:
        await upgrade(other, scripts=scripts)
    await use()


async def test_copying_a_parent_table_keeps_its_children(at_head: Database, scripts: Path) -> None:
    """SQLite changes most things by copying; with foreign keys on, dropping the old copy deletes by cascade."""
    async with SqlStorage(at_head).write() as unit:
        await unit.credentials.add(credential())
        await unit.credentials.add_history(former(1))
    add_migration(
        scripts,
        "with op.batch_alter_table('api_credentials', recreate='auto') as batch:",
        "    batch.alter_column('created_by', nullable=True)",
    )
    await upgrade(at_head, scripts=scripts)
    async with SqlStorage(at_head).write() as unit:
        assert await unit.credentials.get("credential-1") == replace(credential(), replaced_at=former(1).replaced_at)
        assert await unit.credentials.history("credential-1") == [former(1)]
        assert await unit.credentials.set_removed(
            "credential-1", expected_version=1, at=former(1).created_at, removed=True
        )
        assert await unit.credentials.purge_removed(former(9).replaced_at) == 1
        assert await unit.credentials.history("credential-1") == []  # foreign keys are on again


# ---------------------------------------------------------------------------------------------------------------------
# Failing
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_migration_that_fails_leaves_the_schema_as_before_and_is_named(
    at_head: Database, scripts: Path
) -> None:
    before = await everything(at_head)
    add_migration(scripts, "op.create_table('made', sa.Column('id', sa.Integer(), primary_key=True))")
    failing = add_migration(
        scripts,
        "op.create_table('made_too', sa.Column('id', sa.Integer(), primary_key=True))",
        "op.drop_index('ix_sessions_user_id')",
        "op.execute('SELECT canary FROM nowhere')",
    )
    add_migration(scripts, "raise AssertionError('never reached')")
    with pytest.raises(MigrationFailed) as caught:
        await upgrade(at_head, scripts=scripts)
    assert f"migration {failing} failed" in caught.value.happened
    assert caught.value.__cause__ is not None
    assert await everything(at_head) == before
    async with SqlStorage(at_head).write() as unit:
        await unit.credentials.add(credential())


async def test_the_first_migration_that_fails_leaves_nothing(empty: Database, scripts: Path) -> None:
    [first] = (scripts / "versions").glob("0001_*.py")
    first.write_text(first.read_text() + "\n    raise RuntimeError\n")
    with pytest.raises(MigrationFailed, match="0001"):
        await upgrade(empty, scripts=scripts)
    assert await everything(empty) == ({}, None)
    await upgrade(empty)


async def test_a_migration_that_leaves_rows_pointing_at_nothing_fails(at_head: Database, scripts: Path) -> None:
    async with SqlStorage(at_head).write() as unit:
        await unit.credentials.add(credential())
        await unit.credentials.add_history(former(1))
    failing = add_migration(scripts, "op.execute(\"UPDATE credential_history SET credential_id = 'nowhere'\")")
    with pytest.raises(MigrationFailed, match=failing):
        await upgrade(at_head, scripts=scripts)
    async with SqlStorage(at_head).read() as unit:
        assert await unit.credentials.history("credential-1") == [former(1)]


async def test_a_cancelled_upgrade_leaves_nothing(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    rebuild = empty.rebuild

    async def cancel_at_its_end(key: int, change: Callable[[SyncConnection], None]) -> None:
        def changed(connection: SyncConnection) -> None:
            change(connection)
            task.cancel()  # takes effect at the next await: before the commit is over

        await rebuild(key, changed)

    monkeypatch.setattr(empty, "rebuild", cancel_at_its_end)
    task = asyncio.create_task(upgrade(empty))
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    tables, revision = await everything(empty)
    assert (len(tables), revision) in {(0, None), (len(metadata.tables), HEAD)}  # whoever cancels a commit cannot know
    await upgrade(empty)
    assert await current_revision(empty) == HEAD


# ---------------------------------------------------------------------------------------------------------------------
# Schemas from the future
# ---------------------------------------------------------------------------------------------------------------------


async def refused(database: Database) -> SchemaNewer:
    before = await everything(database)
    with pytest.raises(SchemaNewer) as checked:
        await check_schema(database)
    with pytest.raises(SchemaNewer):
        await upgrade(database)
    assert await everything(database) == before
    return checked.value


async def test_an_unknown_revision_is_a_newer_schema(at_head: Database) -> None:
    async with at_head.write() as connection:
        await connection.change(text("UPDATE alembic_version SET version_num = '9999'"))
    assert "9999" in (await refused(at_head)).happened


async def test_a_schema_that_demands_a_newer_version_is_refused_though_its_revision_is_known(at_head: Database) -> None:
    async with at_head.write() as connection:
        await connection.change(text("UPDATE schema_info SET min_app = '0.10.0'"))
    assert "0.10.0" in (await refused(at_head)).happened


def test_versions_are_ordered_as_pep_440_orders_them() -> None:
    in_order = [
        "0.1.0",
        "0.2.dev1",
        "0.2a1",
        "0.2a2",
        "0.2b1",
        "0.2rc1",
        "0.2",
        "0.2.1",
        "0.10",
        "1.0rc10",
        "1",
        "10.0",
    ]
    assert sorted(in_order, key=migrate._version) == in_order
    assert migrate._version("1.0.0") == migrate._version("1")
    assert migrate._version("what is this?") > migrate._version("999.0")


async def test_a_database_that_is_not_there_has_no_unknown_schema(sqlite_url: str) -> None:
    async with open_database(DatabaseUrl.parse(sqlite_url), may_create=False) as database:
        for ask in (current_revision, check_schema, upgrade):
            with pytest.raises(StorageError):
                await ask(database)


# ---------------------------------------------------------------------------------------------------------------------
# Alembic's own command line
# ---------------------------------------------------------------------------------------------------------------------


def alembic(url: str, *arguments: str) -> str:
    done = run("-m", "alembic", *arguments, env=process_environment(DATABASE_URL=url))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_alembics_own_command_line_works_on_the_configured_database(engine_url: str) -> None:
    assert HEAD not in alembic(engine_url, "current")
    alembic(engine_url, "upgrade", "head")
    assert f"{HEAD} (head)" in alembic(engine_url, "current")
    assert "No new upgrade operations detected" in alembic(engine_url, "check")
