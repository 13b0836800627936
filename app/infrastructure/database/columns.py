"""The types of columns, alike on both engines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column, DateTime, LargeBinary, String, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import TypeDecorator, TypeEngine

from app.domain.errors import InvalidInput


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, aware and in UTC on both sides, to the microsecond.

    PostgreSQL keeps `timestamptz`; SQLite keeps RFC 3339 text of fixed width, which sorts as time does.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column's type on that engine."""
        return dialect.type_descriptor(String(27) if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """The stored form. Raises ValueError for a time without a zone, InvalidInput for one beyond the years."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without a time zone is no moment")
        try:
            moment = value.astimezone(UTC)
        except OverflowError:
            raise InvalidInput("time", "must lie between the years 1 and 9999") from None
        if dialect.name == "sqlite":
            return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
        return moment

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """The moment that was stored."""
        if value is None:
            return None
        if dialect.name == "sqlite":
            return datetime.fromisoformat(value)
        # asyncpg takes the first and the last moment of all for infinity, and forgets their zone.
        moment: datetime = value.replace(tzinfo=UTC)
        return moment


class PlainText(TypeDecorator[str]):
    """Text that both engines keep to the letter and sort alike, byte by byte.

    Text that one of them could not keep (NUL, lone surrogates) is InvalidInput on both, whether it is to be stored or
    looked for.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column's type on that engine; the operating system's collation decides nothing."""
        # Not through type_descriptor(), which would make it AsyncpgString, and the column VARCHAR.
        return Text() if dialect.name == "sqlite" else Text(collation="C")

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's
        """The text itself. Raises InvalidInput."""
        if value is None:
            return None
        if "\0" in value:
            raise InvalidInput("text", "must not hold NUL")
        try:
            value.isascii() or value.encode()
        except UnicodeEncodeError:
            raise InvalidInput("text", "must be valid Unicode") from None
        return str(value)


class Sealed(TypeDecorator[bytes]):
    """An envelope. SQLite keeps a value of any type in any column: what is no bytes is read as empty, so as damaged."""

    impl = LargeBinary
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> bytes | None:  # noqa: ARG002 - SQLAlchemy's
        """The bytes that were stored."""
        return value if value is None or isinstance(value, bytes) else b""


class StoredMoment(ColumnElement[str]):
    """A `UtcDateTime` column as SQLite keeps it, on both engines: text, also where somebody edited it.

    PostgreSQL keeps times that Python has not, on which the driver raises: the first and the last years, and infinity.
    They come as seconds since 1970, which no other moment looks like.
    """

    inherit_cache = True
    type = Text()
    _traverse_internals = [("column", InternalTraversal.dp_clauseelement)]  # noqa: RUF012 - SQLAlchemy's

    def __init__(self, column: Column[Any]) -> None:
        self.column = column


@compiles(StoredMoment)
def _as_it_is(element: StoredMoment, compiler: SQLCompiler, **arguments: Any) -> str:
    return compiler.process(element.column, **arguments)


@compiles(StoredMoment, "postgresql")
def _as_text(element: StoredMoment, compiler: SQLCompiler, **arguments: Any) -> str:
    at = compiler.process(element.column, **arguments)
    return (
        f"CASE WHEN {at} >= TIMESTAMPTZ '0001-01-01 00:00:00+00' AND {at} < TIMESTAMPTZ '10000-01-01 00:00:00+00' "
        f"THEN to_char({at} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') "
        f"ELSE extract(epoch FROM {at})::text END"
    )
