"""The differences of the two engines; everything else is written once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Table
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.engine import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait, in seconds, before the database counts as not answering."""

    connect: float = 5.0
    busy: float = 10.0
    """For a turn, for a free connection, and on SQLite for each lock."""
    command: float = 30.0
    """For one statement on PostgreSQL."""
    abandoned: float = 10.0
    """After so long in which nothing happened PostgreSQL ends a transaction, which otherwise takes milliseconds: its
    process was stopped or cut off, and must not keep its locks from everybody until it is back. Less than a lease."""


class Dialect(Protocol):
    """One engine. Methods raise what the driver raises; `Database` translates it."""

    @property
    def reader(self) -> AsyncEngine:
        """Begins transactions in which nothing can be written and everything is seen as of one moment."""
        ...

    @property
    def writer(self) -> AsyncEngine:
        """Begins transactions that write."""
        ...

    def exists(self) -> bool:
        """Whether there is something to connect to, as far as can be seen without connecting."""
        ...

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Held around everything that writes, where the engine allows only one writer. Raises StorageBusy."""
        ...

    def lost(self, connection: AsyncConnection, /) -> bool:
        """Whether a connection is known to have ended, so that nothing can be sent any more."""
        ...

    def data_version(self) -> int | None:
        """A number that changes with every commit by anybody else than the connection that asks."""
        ...

    def insert(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """An INSERT that supports ON CONFLICT."""
        ...

    def now(self, later: timedelta | None = None) -> ColumnElement[datetime]:
        """The time on the database's clock while the statement runs."""
        ...

    async def change_many(
        self,
        connection: AsyncConnection,
        table: Table,
        change: Sequence[str],
        where: Sequence[str],
        rows: Sequence[tuple[object, ...]],
        /,
    ) -> int:
        """Set the columns ``change`` where the columns ``where`` are equal, for each of ``rows``; how many it touched.

        A row holds the values of ``change``, then those of ``where``: text, integers and bytes. There is at least one.
        """
        ...

    async def lock(self, connection: AsyncConnection, key: int, /, *, shared: bool = False) -> None:
        """Exclude every other holder of that key until the transaction ends; a shared one, those that do not share it.

        First come, first served: an exclusive request is not delayed by shared requests that come after it.
        """
        ...

    async def announce(self, connection: AsyncConnection, /) -> None:
        """Notify every listening process once the transaction has committed."""
        ...

    async def listen(self, notify: Callable[[], None], /) -> None:
        """Call ``notify`` after every announced change, and whenever one may have been missed, until cancelled.

        Raises nothing of the driver's. Returns where nobody can listen.
        """
        ...

    async def unfit(self, connection: AsyncConnection, /) -> str | None:
        """The code (faults.py) of what keeps the database as a whole from serving: read-only, its encoding, no schema.

        ``connection`` is the writer's, in a transaction.
        """
        ...

    async def check(self, *, within: float | None) -> bool:
        """Look for damage, reading only; False where there was no time for all of it, or only other tools can.

        Raises a driver's error that says damaged.
        """
        ...

    async def copy(self, path: Path, /) -> bool:
        """Write a consistent copy, mode 0600, proved whole; False where only the server's own tools can do that."""
        ...

    async def rebuild(self, key: int, change: Callable[[Connection], None], /) -> None:
        """Change the schema in one transaction, under the lock of that key; no row is lost to a foreign key."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...
