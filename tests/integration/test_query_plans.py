"""No statement of a repository reads more rows than it is about, however many rows there are.

The plans are asked of both engines. SQLite plans without statistics, so an empty database shows what a large one does;
PostgreSQL is told that reading a whole table is expensive. The exceptions are named, each with its reason: one that is
missing here fails, and so does one that is not needed any more.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import CheckConstraint, PrimaryKeyConstraint, Table, UniqueConstraint, text

from app.infrastructure.database.schema import metadata
from tests.support.database import migrated
from tests.support.statements import every_statement

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from app.infrastructure.database.engine import Database
    from tests.support.statements import Sent

PAGE: Final = "a page walks the primary key, and reads no row beyond its limit"
PASS: Final = "a part of a pass over every row, all of which it opens: see decision record 0024"
COUNT: Final = "reads an index and no row, once before a pass over every row, for its progress"
COUNTS: Final = "once in a reset, and once before a key version is destroyed: see decision record 0024"
FEW: Final = "rows do not accumulate here"
UNFINISHED: Final = "reads the jobs that are not over, and no others"
UNSEALED: Final = "the index holds the rows that are not sealed yet, and no others"
RESET: Final = "a reset of lost keys changes every row, while nobody else is there"

WHOLE: Final[Mapping[str, str]] = {
    "audit.page: audit_events": "walks the primary key to the limit, and leaves out what is not wanted",
    "audit_chain.count_unsealed: audit_events": UNSEALED,
    "audit_chain.next_segment_of_rows: audit_events": "reads the first entry of an index",
    "audit_chain.segments: audit_segments": "a part of a pass over every segment, of which there are a few a day",
    "audit_chain.unsealed: audit_events": UNSEALED,
    "backups.latest_verified: backups": FEW,
    "backups.managed: backups": FEW,
    "backups.page: backups": PAGE,
    "credentials.forget_keys: api_credentials": RESET,
    "credentials.page: api_credentials": PAGE,
    "credentials.unreadable: api_credentials": "the index holds the unreadable ones, and no others",
    "encrypted_rows.all: api_credentials": PAGE,
    "encrypted_rows.all: credential_history": PAGE,
    "encrypted_rows.all: totp_factors": PAGE,
    "encrypted_rows.batch: api_credentials": PASS,
    "encrypted_rows.batch: credential_history": PASS,
    "encrypted_rows.batch: totp_factors": PASS,
    "encrypted_rows.count: api_credentials": COUNT,
    "encrypted_rows.count: credential_history": COUNT,
    "encrypted_rows.count: totp_factors": COUNT,
    "encrypted_rows.counts: api_credentials": COUNTS,
    "encrypted_rows.counts: credential_history": COUNTS,
    "encrypted_rows.counts: totp_factors": COUNTS,
    "factors.encrypted_by_others: totp_factors": RESET,
    "instances.live: instances": FEW,
    "instances.purge: instances": FEW,
    "jobs.cancel_all: jobs": UNFINISHED,
    "jobs.claim: jobs": UNFINISHED,
    "jobs.due_in: jobs": UNFINISHED,
    "jobs.page: jobs": PAGE,
    "jobs.unfinished_of: jobs": UNFINISHED,
    "jobs.waits: jobs": UNFINISHED,
    "links.invitations: one_time_links": PAGE,
    "keys.clear: app_config": FEW,
    "keys.duplicates: app_config": FEW,
    "keys.guarded_rows: api_credentials": "counts what is left of an install whose manifest is lost",
    "keys.guarded_rows: users": "counts what is left of an install whose manifest is lost",
    "keys.rows: app_config": FEW,
    "personal_data.erasures: erasures": PAGE,
    "personal_data.rows: jobs": "jobs are deleted after 30 days; once in an export",
    "schedules.all: key_schedules": FEW,
    "sessions.revoke_all: refresh_tokens": RESET,
    "users.active_owners: users": "the index holds the owners, and no others",
    "users.owner_ever_existed: owner_claim": FEW,
    "users.page: users": PAGE,
}
"""Method and table of each statement that reads a whole table or a whole index."""

POSTGRESQL_ALONE: Final = {
    "audit_chain.count_unsealed: audit_events",
    "audit_chain.next_segment_of_rows: audit_events",
    "audit_chain.unsealed: audit_events",
    "keys.clear: app_config",
}
"""SQLite drops all rows without reading them, and searches the index of unsealed rows by the NULL in it."""

NOT_USED_YET: Final[Mapping[str, str]] = {
    "ix_api_credentials_fingerprint": "for the search of a secret that was posted",
}


async def test_no_statement_reads_a_whole_table(database: Database) -> None:
    read_whole = _of_sqlite if _is_sqlite(database) else _of_postgresql
    found = {
        f"{method}: {table}": f"{table} for\n{statement}"
        for method, statement, plan in await _plans(database)
        for node in plan
        if (table := read_whole(node)) is not None
    }
    expected = WHOLE.keys() - (POSTGRESQL_ALONE if _is_sqlite(database) else frozenset())
    assert {where: scan for where, scan in found.items() if where not in expected} == {}
    assert expected - found.keys() == set(), "these exceptions are not needed any more"


async def test_every_index_serves_a_statement(sqlite_url: str) -> None:
    """Each costs every write something. On SQLite alone: PostgreSQL chooses by statistics, and there are none here."""
    async with migrated(sqlite_url) as database:
        searches = [line for *_, plan in await _plans(database) for line in plan if line.startswith("SEARCH")]
    used = {name for line in searches for name in re.findall(r"INDEX (\w+)", line)}
    indexes = {str(index.name) for table in metadata.tables.values() for index in table.indexes if not index.unique}
    assert indexes - used == NOT_USED_YET.keys()


async def test_what_a_deletion_takes_along_is_found_by_an_index(sqlite_url: str) -> None:
    """No plan shows how the rows are found that point at a row that goes."""
    async with migrated(sqlite_url) as database:
        sent = await every_statement(database)
    deletions = [each.statement for of_method in sent.values() for each in of_method]
    emptied = {found[1] for each in deletions if (found := re.match(r"DELETE FROM (\w+)", each))}
    pointing = [
        f"{table.name}({', '.join(key.column_keys)})"
        for table in metadata.tables.values()
        for key in table.foreign_key_constraints
        if key.referred_table.name in emptied and key.column_keys[0] not in _led(table)
    ]
    assert emptied >= {"sessions", "api_credentials"}
    assert pointing == []


def _led(table: Table) -> set[str]:
    """The columns that an index of the table begins with."""
    columns = [index.columns for index in table.indexes]
    columns += [each.columns for each in table.constraints if isinstance(each, UniqueConstraint | PrimaryKeyConstraint)]
    return {next(iter(each)).name for each in columns if len(each)}


# ---------------------------------------------------------------------------------------------------------------------
# Plans
# ---------------------------------------------------------------------------------------------------------------------

_FEW_VALUES: Final = {
    (table.name, str(each.name).removeprefix(f"ck_{table.name}_").removesuffix("_known"))
    for table in metadata.tables.values()
    for each in table.constraints
    if isinstance(each, CheckConstraint) and str(each.name).endswith("_known")
}
"""Columns that tell only some kinds apart: an index is of little use that is asked for nothing else."""


def _is_sqlite(database: Database) -> bool:
    return database.dialect.writer.dialect.name == "sqlite"


async def _plans(database: Database) -> list[tuple[str, str, list[Any]]]:
    """Method, statement and plan, in which each node is a line of SQLite's or an object of PostgreSQL's."""
    sent = await every_statement(database)
    async with database.write() as connection:
        if not _is_sqlite(database):
            await connection.change(text("SET LOCAL enable_seqscan = off"))
            await connection.change(text("ANALYZE api_credentials (deleted_at)"))  # one is removed, one is not
            # As if the row of each table were a million.
            await connection.change(
                text("UPDATE pg_class SET reltuples = 1e6, relpages = 1 WHERE relkind IN ('r', 'i')")
            )
        return [
            (method, each.statement, await _plan(connection._connection, each))
            for method, of_method in sent.items()
            for each in of_method
            if each.statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH"))
        ]


async def _plan(connection: AsyncConnection, sent: Sent) -> list[Any]:
    if connection.dialect.name == "sqlite":
        explained = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sent.statement}", sent.parameters)
        return list(explained.scalars("detail"))
    explained = await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sent.statement}", sent.parameters)
    return list(_nodes(explained.scalar_one()[0]["Plan"]))


def _of_sqlite(line: str) -> str | None:
    """The table, where it is read from the first row or entry of an index to the last."""
    found = re.match(r"(SCAN|SEARCH) (\w+)(?:.* (AUTOMATIC) )?(?:.*\((.*)\))?", line.strip())
    if found is None:
        return None
    asked = set(re.findall(r"(\w+)[=<>]", found[4] or ""))
    narrow = found[1] == "SEARCH" and not found[3] and not all((found[2], column) in _FEW_VALUES for column in asked)
    return None if narrow else _known(found[2])


def _of_postgresql(node: dict[str, Any]) -> str | None:
    """The same."""
    if node["Node Type"] == "Seq Scan":
        return _known(node["Relation Name"])
    if "Index Name" not in node:
        return None
    table = next((each for each in metadata.tables.values() if node["Index Name"] in _index_names(each)), None)
    if table is None:
        return None
    asked = set(re.findall(r"\w+", node.get("Index Cond", ""))) & set(table.columns.keys())
    return table.name if all((table.name, column) in _FEW_VALUES for column in asked) else None


def _known(table: str) -> str | None:
    return table if table in metadata.tables else None


def _index_names(table: Table) -> set[str]:
    return {str(index.name) for index in table.indexes} | {str(each.name) for each in table.constraints}


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    parts = plan.get("Plans", [])
    if plan["Node Type"] == "BitmapAnd":  # an index of a single page costs nothing, so it is added to one that narrows
        parts = [each for each in parts if "Index Cond" in each] or parts
    for each in parts:
        yield from _nodes(each)
