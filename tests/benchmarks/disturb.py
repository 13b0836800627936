"""What another process does to a database file while it is read. Each prints a line, and goes on when its standard
input ends.

`fill PATH MEGABYTES`: writes so much into the write-ahead log, and reads, so that nobody can move it into the file.
`hold PATH SECONDS`: holds the write lock, from the line that it prints until so long after it went on.
`drop PATH SECONDS`: takes the file out of the page cache again and again.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

_PAGE = 4096
_FILLING = 3900
"""Bytes that take a page of their own."""
_TRANSACTION = 1000


def fill(path: Path, megabytes: float) -> None:
    """Each row is to be read from the log, too, until it is moved."""
    wanted = int(megabytes * 1_000_000) // _PAGE
    with closing(_connect(path)) as reader, closing(_connect(path)) as writer:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM schema_info").fetchall()  # from now on the log is kept for it
        writer.execute("PRAGMA wal_autocheckpoint=0")
        writer.execute("CREATE TABLE IF NOT EXISTS filling (id INTEGER PRIMARY KEY, content BLOB)")
        for start in range(0, wanted, _TRANSACTION):
            writer.execute("BEGIN IMMEDIATE")
            numbers = ((number, _FILLING) for number in range(start, min(start + _TRANSACTION, wanted)))
            writer.executemany("INSERT OR REPLACE INTO filling VALUES (?, randomblob(?))", numbers)
            writer.execute("COMMIT")
        writer.execute("UPDATE api_credentials SET updated_at = updated_at")
        _ready()


def hold(path: Path, seconds: float) -> None:
    """Nobody else can write."""
    with closing(_connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE api_credentials SET updated_at = updated_at")
        _ready()
        time.sleep(seconds)
        connection.execute("COMMIT")


def drop(path: Path, seconds: float) -> None:
    """First everything moves from the log into the file, and from memory to the disk."""
    with closing(_connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("rb") as file:
        os.fsync(file.fileno())
        _ready()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            time.sleep(0.01)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=30)


def _ready() -> None:
    print("ready", flush=True)  # noqa: T201 - whoever started us reads it
    sys.stdin.read()


def droppable(directory: Path) -> bool:
    """Whether files there can be taken out of the page cache."""
    if not hasattr(os, "posix_fadvise") or not hasattr(os, "RWF_NOWAIT"):
        return False
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(_PAGE))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(file.fileno(), [bytearray(_PAGE)], 0, os.RWF_NOWAIT)
        except BlockingIOError:  # it would have to wait for the disk
            return True
        except OSError:  # the file system cannot say
            return False
        return False


if __name__ == "__main__":
    what, where, amount = sys.argv[1:]
    {"fill": fill, "hold": hold, "drop": drop}[what](Path(where), float(amount))
