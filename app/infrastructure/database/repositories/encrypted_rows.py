"""Every encrypted column, in bulk: what a re-encryption reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Table, func, literal_column, select

from app.domain.encrypted_columns import EncryptedColumn, EncryptedRow, Reencrypted
from app.infrastructure.database.engine import Connection
from app.infrastructure.database.repositories.edited import id_of, is_end
from app.infrastructure.database.schema import api_credentials, metadata, totp_factors


class EncryptedRowRepositoryImpl:
    """See `app.services.ports.SealedRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def batch(
        self, column: EncryptedColumn, *, primary: int, after: str | None, limit: int
    ) -> Sequence[EncryptedRow]:
        return await self._page(column, after, limit, _table(column).c.key_version != primary)

    async def all(self, column: EncryptedColumn, *, after: str | None, limit: int) -> Sequence[EncryptedRow]:
        return await self._page(column, after, limit)

    async def swap(self, column: EncryptedColumn, rows: Sequence[Reencrypted]) -> int:
        """Compare and swap on what the row was when it was read."""
        return await self._connection.change_many(
            _table(column),
            change=(column.field, "key_version"),
            where=("id", "version", "key_version"),
            rows=[(new.value, new.key_version, new.row.id, new.row.version, new.row.key_version) for new in rows],
        )

    async def count(self, column: EncryptedColumn) -> int:
        return int(await self._connection.value(select(func.count()).select_from(_table(column))))

    async def counts(self, column: EncryptedColumn) -> Mapping[int, int]:
        version = _table(column).c.key_version
        found = await self._connection.rows(select(version, func.count()).group_by(version))
        return {row[0]: row[1] for row in found}

    async def _page(
        self, column: EncryptedColumn, after: str | None, limit: int, *conditions: ColumnElement[bool]
    ) -> Sequence[EncryptedRow]:
        table = _table(column)
        rows, kind, owner = _owned(table)
        statement = (
            select(table.c.id, kind, owner, table.c.version, table.c.key_version, table.c[column.field])
            .select_from(rows)
            .where(*conditions)
            .order_by(table.c.id)
            .limit(limit)
        )
        if after is not None:
            statement = statement.where(table.c.id > after)
        found = [] if is_end(after) else await self._connection.tuples(statement)
        return [
            EncryptedRow._make(row) if type(row[0]) is str and type(row[-1]) is bytes else _damaged(row)
            for row in found
        ]


def _damaged(row: Sequence[Any]) -> EncryptedRow:
    return EncryptedRow._make(row)._replace(id=id_of(row[0]), value=b"")


def _owned(table: Table) -> tuple[FromClause, ColumnElement[str], ColumnElement[str]]:
    """The rows of a table with the columns that say whose they are; of a former secret its credential's."""
    if table is totp_factors:
        return table, literal_column("'user'").label("owner_kind"), table.c.user_id
    owner = api_credentials.c
    return table if table is api_credentials else table.join(api_credentials), owner.owner_kind, owner.owner_id


def _table(column: EncryptedColumn) -> Table:
    return metadata.tables[column.table]
