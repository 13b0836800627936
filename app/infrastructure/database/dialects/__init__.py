"""The differences of the two engines; everything else is written once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Executable, Table
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.engine import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from app.infrastructure.database.dialects.on_loop import LoopLookups


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait, in seconds, before the database counts as not answering."""

    connect: float = 5.0
    busy: float = 10.0
    """For a lock that excludes everybody, and on SQLite for a turn, for a free connection and for each lock."""
    command: float = 5.0
    """On PostgreSQL, for a connection and the first answer on it together, and then for each further answer."""
    lock: float = 2.0
    """On PostgreSQL, for a turn among the writers of this process and a lock together."""
    attempt: float = 1.0
    """On PostgreSQL, for one attempt to exclude everybody, because everybody who comes later queues behind it."""
    abandoned: float = 3.0
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

    @property
    def reserved_reader(self) -> AsyncEngine:
        """As ``reader``, on connections that are kept for the process's own lease, keys and readiness."""
        ...

    @property
    def reserved_writer(self) -> AsyncEngine:
        """As ``writer``, on the same connections."""
        ...

    @property
    def autocommitting(self) -> AsyncEngine | None:
        """Runs statements without a transaction, and none that writes; None where only a transaction ensures that."""
        ...

    @property
    def lookups(self) -> LoopLookups | None:
        """Reads a few rows on the event loop's thread; None where that would wait for a network."""
        ...

    @property
    def excludes_within(self) -> float:
        """Seconds after which an attempt to exclude everybody is given up."""
        ...

    @property
    def answers_within(self) -> float | None:
        """Seconds after which a silent connection is ended; None where nothing can be silent."""
        ...

    def exists(self) -> bool:
        """Whether there is something to connect to, as far as can be seen without connecting."""
        ...

    def turn(self, *, reserved: bool = False) -> AbstractAsyncContextManager[float]:
        """Held around everything that writes, because the number of writers is limited; the seconds that were waited.

        Raises StorageBusy. With ``reserved`` nobody waits for the writers of requests.
        """
        ...

    def crowded(self, error: Exception, /) -> bool:
        """Whether the server refused a connection only because it has too many: that passes."""
        ...

    async def make_room(self, engine: AsyncEngine, /) -> None:
        """Close idle connections of the other engines, so that this one may get one more."""
        ...

    def end(self, connection: AsyncConnection, /) -> Callable[[], None]:
        """A function that ends that connection at once, without another word to the server."""
        ...

    def limits(self, *, waited: float) -> Executable | None:
        """A statement that bounds how long locks of a new transaction may take; None where none is due.

        ``waited`` are the seconds that the transaction has waited for its turn already.
        """
        ...

    def lost(self, connection: AsyncConnection, /) -> bool:
        """Whether a connection is known to have ended, so that nothing can be sent any more."""
        ...

    def data_version(self) -> int | None:
        """A number that changes with every commit by anybody else than the connection that asks."""
        ...

    def announced_version(self) -> int | None:
        """The same, but commits of this process that announced nothing do not change it."""
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

    async def try_lock(self, connection: AsyncConnection, key: int, /) -> bool:
        """The same, exclusively, for `Timeouts.attempt` at most; False where it was in vain, which changes nothing."""
        ...

    async def announce(self, connection: AsyncConnection, /) -> None:
        """Notify every listening process once the transaction has committed."""
        ...

    async def listen(self, notify: Callable[[], None], prompt: Callable[[bool], None], /) -> None:
        """Call ``notify`` after every announced change, and whenever one may have been missed, until cancelled.

        ``prompt`` is called with whether changes are noticed at once from now on.

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
