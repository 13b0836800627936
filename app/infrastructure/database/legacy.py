"""The database of another program, read only, on an engine of its own."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Text, cast, column, inspect, select, table, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from app.domain.imports import ImportStopped
from app.infrastructure.database.faults import fault_of
from app.settings import DatabaseUrl

_OTHER_DRIVER: Final = re.compile(r"^(postgres(?:ql)?|sqlite)\+\w+:")
_CONNECT_SECONDS: Final = 10
_ROWS_AT_ONCE: Final = 200
_READ_ONLY: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"


class SqlLegacyDatabase:
    """See `app.services.ports.LegacyDatabase`."""

    def __init__(self, connection: AsyncConnection, name: str) -> None:
        self._connection = connection
        self.name = name

    async def tables(self) -> Mapping[str, Sequence[str]]:
        """From the catalogue."""

        def columns(connection: Any) -> Mapping[str, Sequence[str]]:
            found = inspect(connection)
            return {each: [one["name"] for one in found.get_columns(each)] for each in found.get_table_names()}

        return await self._connection.run_sync(columns)

    async def rows(
        self, name: str, columns: Sequence[str], *, as_text: Sequence[str] = ()
    ) -> AsyncIterator[Sequence[Any]]:
        """One statement, whose rows arrive some hundred at a time."""
        wanted = [cast(column(each), Text) if each in as_text else column(each) for each in columns]
        statement = select(*wanted).select_from(table(name))
        streamed = await self._connection.stream(statement.execution_options(yield_per=_ROWS_AT_ONCE))
        async for row in streamed:
            yield tuple(row)


@asynccontextmanager
async def legacy_database(given: str) -> AsyncIterator[SqlLegacyDatabase]:
    """Open the database of a URL; a driver that the URL names makes no difference. Raises ImportStopped."""
    try:
        url = DatabaseUrl.parse(_OTHER_DRIVER.sub(r"\1:", given.strip()))
    except ValueError as refused:
        raise ImportStopped(f"the URL {refused}") from None
    if url.server is not None and not 0 < (url.server.port or 1) < 65536:
        raise ImportStopped("the URL has a port that is not between 1 and 65535")
    arguments: dict[str, Any] = {"timeout": _CONNECT_SECONDS}
    if url.server is None:
        if not url.file.is_file():
            raise ImportStopped(f"{url.name} is not there")
        address: Any = f"sqlite+aiosqlite:///file:{quote(str(url.file))}?mode=ro&uri=true"
    else:
        address = url.server
        tls = url.tls()
        if tls is not None:
            arguments["ssl"] = tls
            address = address.difference_update_query(["ssl", "sslrootcert"])
        arguments["statement_cache_size"] = 0  # as PgBouncer needs it
    engine = create_async_engine(address, connect_args=arguments, hide_parameters=True)
    happened = ""
    try:
        async with engine.connect() as connection:
            # Not as a setting of the connection, which PgBouncer would refuse; everything is read in this transaction.
            await connection.execute(text(_READ_ONLY if url.server else "PRAGMA query_only = ON"))
            yield SqlLegacyDatabase(connection, url.name)
    except (SQLAlchemyError, OSError) as error:
        happened = _cause(error)
    except Exception as error:
        if fault_of(error) is None:
            raise
        happened = _cause(error)
    finally:
        await engine.dispose()
    if happened:
        raise ImportStopped(f"the database {url.name} {happened}")


def _cause(error: BaseException) -> str:
    """The fault, in the words of the table of faults; never the driver's, which may quote data."""
    found: BaseException | None = error
    while found is not None:
        fault = fault_of(found)
        if fault is not None:
            return f"{fault.happened} ({fault.code})"
        found = getattr(found, "orig", None) or found.__cause__
    return f"cannot be read ({type(error).__name__})"
