"""Distinguishes commits to an SQLite file: this process's own quiet ones, and all others.

`PRAGMA data_version` of a connection moves when any other connection has committed. A connection that never writes
therefore notices every commit, and the only connection of this process that writes notices those of other processes.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress


class CommitWatch:
    """Used on the event loop's thread alone; takes some 2 µs. ``connect`` opens a connection that waits for nobody."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._watch: sqlite3.Cursor | None = None
        self._explained: int | None = None
        self._announced = 0
        self._of_writer: int | None = None
        self._quiet = False
        self._of_turn: int | None = None

    def version(self) -> int:
        """A number that moves with every commit by anybody. Raises sqlite3.Error.

        It is not asked again after ``announced_version()`` in the same turn of the event loop: record 0028.
        """
        return self.look() if self._of_turn is None else self._of_turn

    def announced_version(self) -> int:
        """The same, but this process's own commits that announced nothing do not move it. Raises sqlite3.Error."""
        version = self.look()
        if self._of_turn is None:
            asyncio.get_running_loop().call_soon(self._end_turn)
        self._of_turn = version
        if version != self._explained:
            self._explained = self._announced = version
        return self._announced

    def look(self) -> int:
        """``version()`` at this very moment. Raises sqlite3.Error."""
        if self._watch is None:
            self._watch = self._connect().cursor()
        return _data_version(self._watch)

    def _end_turn(self) -> None:
        self._of_turn = None

    def began(self, writer: sqlite3.Connection) -> None:
        """``writer``, idle at this moment, has the file's write lock: no other process commits before it does."""
        self._quiet, self._of_writer = True, None
        with suppress(sqlite3.Error):  # then the commit passes for somebody else's
            self.announced_version()
            self._of_writer = _data_version(writer.cursor())

    def announce(self) -> None:
        """The transaction that has begun concerns every process, this one too."""
        self._quiet = False

    def committed(self, writer: sqlite3.Connection) -> None:
        """``writer`` has committed and is idle. Raises nothing: a doubtful commit passes for somebody else's."""
        with suppress(sqlite3.Error):
            version = self.look()
            # Asked last: where somebody else has committed between the commit and ``version``, the writer's has moved.
            if self._quiet and self._of_writer == _data_version(writer.cursor()):
                self._explained = version

    def close(self) -> None:
        """Close the connection; it is opened again when it is needed."""
        if self._watch is not None:
            self._watch.connection.close()
            self._watch = None


def _data_version(cursor: sqlite3.Cursor) -> int:
    version: int = cursor.execute("PRAGMA data_version").fetchone()[0]
    return version
