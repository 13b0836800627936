"""A database of every schema that ever was comes to head with all that is in it; and the rule that keeps it so."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, Table, insert, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from app.domain.identity import Role
from app.infrastructure.database.engine import open_database
from app.infrastructure.database.migrate import SCRIPTS, _version, current_revision, known_revisions, upgrade
from app.infrastructure.database.schema import schema_info
from app.settings import DatabaseUrl
from tests.support.installs import Place
from tests.support.snapshots import kind

PASSWORD = "a brass key on a hook"
SECRET, FORMER, REMOVED, SHARED = (f"sk-proj-{each}-4f9aTq7ZbX2mLw8vKd3Yc6Rn" for each in ("now", "was", "gone", "all"))
GUILD = "900000000000000001"


@pytest.fixture
def place(engine_url: str, tmp_path: Path) -> Place:
    return Place(engine_url, tmp_path / "data")


# ---------------------------------------------------------------------------------------------------------------------
# From every schema
# ---------------------------------------------------------------------------------------------------------------------

Rows = dict[str, list[dict[str, Any]]]
_FURNISHED: dict[str, tuple[Rows, dict[str, bytes]]] = {}
"""The rows of an install at head and the files of its DATA_DIR, by the kind of its database."""


async def _furnished(place: Place) -> tuple[Rows, dict[str, bytes]]:
    if kind(place.url) not in _FURNISHED:
        async with place.services() as services:
            operator = await services.identity.operator()
            await services.identity.create(operator, "mia", PASSWORD, Role.MEMBER)
            mia = await services.identity.operator_for(username="mia")
            kept = await services.credentials.add(mia, provider="openai", label="main", secret=FORMER)
            await services.credentials.replace(mia, kept.view.id, SECRET)
            gone = await services.credentials.add(mia, provider="github", label="old", secret=REMOVED)
            await services.credentials.remove(mia, gone.view.id)
            guild = await services.identity.operator_for(guild_id=GUILD)
            await services.credentials.add(guild, provider="groq", label="shared", secret=SHARED)
        files = {path.name: path.read_bytes() for path in place.data_dir.iterdir() if path.suffix in {".key", ".json"}}
        _FURNISHED[kind(place.url)] = await _rows(place), files
        await _empty(place)
    return _FURNISHED[kind(place.url)]


async def _rows(place: Place) -> Rows:
    """The rows as the driver has them: what the types of the schema add is no business of an older one."""
    engine = create_async_engine(place.url)
    try:
        async with engine.connect() as connection:
            there = await connection.run_sync(_reflected)
            return {
                table.name: [dict(row) for row in (await connection.execute(select(table))).mappings()]
                for table in there.sorted_tables
                if table.name not in {"alembic_version", "schema_info", "instances"}
            }
    finally:
        await engine.dispose()


async def _empty(place: Place) -> None:
    engine = create_async_engine(place.url)
    try:
        async with engine.begin() as connection:
            there = await connection.run_sync(_reflected)
            await connection.run_sync(there.drop_all)
    finally:
        await engine.dispose()
    shutil.rmtree(place.data_dir)


def _reflected(connection: Any) -> MetaData:
    found = MetaData()
    found.reflect(connection)
    return found


async def _at(place: Place, revision: str, rows: Rows, files: dict[str, bytes], tmp_path: Path) -> None:
    """An install of that schema: the rows that it had a place for."""
    scripts = tmp_path / "alembic"
    shutil.copytree(SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    for later in (scripts / "versions").glob("[0-9]*.py"):
        if later.name[:4] > revision:
            later.unlink()
    async with open_database(DatabaseUrl.parse(place.url), may_create=True) as database:
        await upgrade(database, scripts=scripts)
        assert await current_revision(database) == revision
    engine = create_async_engine(place.url)
    try:
        async with engine.begin() as connection:
            there = await connection.run_sync(_reflected)
            for table in there.sorted_tables:
                if given := [_of(table, row) for row in rows.get(table.name, ())]:
                    await connection.execute(insert(table), given)
            if kind(place.url) == "postgresql":  # an insert that names an id does not move the sequence
                move = "SELECT setval(pg_get_serial_sequence('audit_events', 'id'), (SELECT max(id) FROM audit_events))"
                await connection.execute(text(move))
    finally:
        await engine.dispose()
    place.data_dir.mkdir(exist_ok=True)
    for name, content in files.items():
        (place.data_dir / name).write_bytes(content)
        (place.data_dir / name).chmod(0o600)


def _of(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name in table.columns}


@pytest.mark.parametrize("revision", known_revisions())
async def test_an_install_of_that_schema_keeps_everything(place: Place, revision: str, tmp_path: Path) -> None:
    rows, files = await _furnished(place)
    await _at(place, revision, rows, files, tmp_path)

    async with place.services() as services:
        mia = await services.identity.operator_for(username="MIA")
        guild = await services.identity.operator_for(guild_id=GUILD)
        shown = [(await services.credentials.page(each)).items for each in (mia, guild)]
        assert [[(view.provider, view.label, view.version) for view in views] for views in shown] == [
            [("openai", "main", 2)],
            [("groq", "shared", 1)],
        ]
        assert (await services.credentials.reveal(mia, shown[0][0].id)).reveal() == SECRET
        operator = await services.identity.operator()
        verified = [each async for each in services.credentials.health.verify_all(operator)]
        assert verified[-1].done == verified[-1].total == 4
        assert not any(each.unreadable for each in verified)
        await services.credentials.rollback(mia, shown[0][0].id, version=1)
        assert (await services.credentials.reveal(mia, shown[0][0].id)).reveal() == FORMER
    async with open_database(DatabaseUrl.parse(place.url), may_create=False) as database:
        assert await current_revision(database) == known_revisions()[-1]
    after = await _rows(place)
    before = {row["id"]: row for row in rows["audit_events"]}
    assert before.keys() <= {row["id"] for row in after["audit_events"]}
    for table in ("app_config", "subjects", "key_schedules"):
        assert len(after[table]) >= len(rows[table]), table


# ---------------------------------------------------------------------------------------------------------------------
# Expand first, contract a release later
# ---------------------------------------------------------------------------------------------------------------------

MIGRATIONS = sorted((SCRIPTS / "versions").glob("[0-9]*.py"))
_RUNS_ON = re.compile(r"Runs on: Keyhall (\S+) and newer\.")
_CONTRACTS = {"drop_table", "drop_column", "rename_table"}


def _runs_on(migration: str) -> str:
    found = _RUNS_ON.search(ast.get_docstring(ast.parse(migration)) or "")
    assert found, "the docstring must name the oldest version that runs on this schema"
    return found[1]


def _contracting(migration: str) -> list[str]:
    """The steps after which an older version would miss something, or could no longer store a row."""
    found = []
    for call in ast.walk(ast.parse(migration)):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        names = {each.arg: each.value for each in call.keywords}
        required = isinstance(names.get("nullable"), ast.Constant) and names["nullable"].value is False  # type: ignore[attr-defined]
        if (
            call.func.attr in _CONTRACTS
            or (call.func.attr == "alter_column" and (required or names.keys() & {"new_column_name", "type_"}))
            or (call.func.attr == "add_column" and _added_without_default(call))
        ):
            found.append(call.func.attr)
    return found


def _added_without_default(call: ast.Call) -> bool:
    """Whether it adds a column that older versions, which do not fill it, could not store a row without."""
    [column] = [each for each in call.args if isinstance(each, ast.Call)]
    given = {each.arg: each.value for each in column.keywords}
    optional = isinstance(given.get("nullable"), ast.Constant) and given["nullable"].value is True  # type: ignore[attr-defined]
    return not optional and "server_default" not in given


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: path.stem)
def test_a_migration_that_takes_something_away_demands_a_newer_version(path: Path) -> None:
    """So that the release before, which still runs beside the new one, goes on; see docs/architecture.md."""
    migration = path.read_text(encoding="utf-8")
    steps = _contracting(migration)
    if steps and path != MIGRATIONS[0]:
        before = MIGRATIONS[MIGRATIONS.index(path) - 1].read_text(encoding="utf-8")
        assert _version(_runs_on(migration)) > _version(_runs_on(before)), steps


@pytest.mark.parametrize(
    ("body", "steps"),
    [
        ('op.drop_column("users", "old")', ["drop_column"]),
        ('op.alter_column("users", "name", nullable=False)', ["alter_column"]),
        ('op.alter_column("users", "name", new_column_name="label")', ["alter_column"]),
        ('op.add_column("users", sa.Column("x", sa.Text(), nullable=False))', ["add_column"]),
        ('op.add_column("users", sa.Column("x", sa.Text(), nullable=False, server_default=""))', []),
        ('op.add_column("users", sa.Column("x", sa.Text(), nullable=True))', []),
        ('with op.batch_alter_table("users") as batch: batch.drop_column("old")', ["drop_column"]),
        ('op.drop_index("ix", "users")', []),
    ],
)
def test_steps_that_take_something_away_are_found(body: str, steps: list[str]) -> None:
    assert _contracting(body) == steps


async def test_the_schema_demands_the_version_that_its_migrations_name(place: Place, tmp_path: Path) -> None:
    async with open_database(DatabaseUrl.parse(place.url), may_create=True) as database:
        await upgrade(database)
        async with database.read() as connection:
            demanded: str = await connection.value(select(schema_info.c.min_app))
    assert demanded == max((_runs_on(path.read_text(encoding="utf-8")) for path in MIGRATIONS), key=_version)
