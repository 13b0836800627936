"""Backup files on the disk: whole under their name or not there, read back before anybody relies on them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar, cast

import orjson

from app import __version__
from app.domain.audit_chain import latest_seal, read_segment
from app.domain.backup import BackupHeader, BackupInfo, EncryptTo, OpenWith, Row, Rows, WrittenBackup
from app.domain.errors import (
    BackupDamaged,
    BackupError,
    BackupNotWritten,
    InvalidInput,
    NotABackup,
)
from app.infrastructure.backup.age import BEGINNING, EncryptingWriter, decrypted, read_header
from app.infrastructure.backup.age_keys import Identity, Passphrase, Recipient, X25519Recipient, identities
from app.infrastructure.backup.archive import ArchiveReader, ArchiveWriter
from app.infrastructure.database.snapshot import Snapshot, count, open_snapshot, rows, tables
from app.infrastructure.private_files import make_directory, sync_directory, writing
from app.services.ports import Randomness, ShowProgress
from app.settings import DatabaseUrl

_T = TypeVar("_T")
_TELL_EVERY: Final = 500
_BUFFER: Final = 256 * 1024


class Stopped(Exception):
    """The caller does not wait any more."""


class AgeBackupFiles:
    """See `app.services.ports.BackupFiles`."""

    def __init__(self, database: DatabaseUrl, randomness: Randomness) -> None:
        self._database = database
        self._randomness = randomness

    async def write(
        self,
        path: Path,
        to: EncryptTo,
        check: Callable[[BackupHeader, Rows], _T],
        *,
        replace: bool,
        created_at: datetime,
        show: ShowProgress,
    ) -> tuple[WrittenBackup, _T]:
        """See `BackupFiles`."""
        recipients = [_recipient(to)]

        def work(stop: threading.Event) -> tuple[WrittenBackup, _T]:
            with _place(path, replace=replace) as file:
                digested = _Digested(file)
                writer = EncryptingWriter(cast("BinaryIO", digested), recipients, self._randomness)
                with open_snapshot(self._database) as snapshot:
                    header = _header(snapshot, created_at)
                    written = _write(snapshot, header, writer, _Counter(show, stop))
                writer.finish()
                file.flush()
                os.fsync(file.fileno())  # before it is read back: the disk is to be read, not the memory
                size = file.tell()
                checked = _read_back(file, header, writer.file_key, lambda h, r: check(h, _stopping(r, stop)))
                return WrittenBackup(header=header, size=size, sha256=digested.hexdigest, rows=written), checked

        return await _in_thread(work)

    async def make_directory(self, path: Path) -> None:
        """See `BackupFiles`."""

        def work(_: threading.Event) -> None:
            try:
                make_directory(path)
            except OSError as error:
                raise BackupNotWritten(
                    f"the directory {path} for backups cannot be made: {error.strerror}; name another in BACKUP_DIR"
                ) from error

        await _in_thread(work)

    async def inspect(self, path: Path, by: OpenWith) -> BackupInfo:
        """See `BackupFiles`."""
        keys = _keys(by)

        def work(_: threading.Event) -> BackupInfo:
            with _opened(path) as file:
                size = os.fstat(file.fileno()).st_size
                kinds = read_header(file).kinds
                header = None
                if keys:
                    file.seek(0)
                    header = ArchiveReader(decrypted(file, keys)).header
                return BackupInfo(size=size, kinds=kinds, header=header)

        return await _in_thread(work)

    async def read(self, path: Path, by: OpenWith, visit: Callable[[BackupHeader, Rows], _T]) -> _T:
        """See `BackupFiles`."""
        keys = _keys(by)

        def work(stop: threading.Event) -> _T:
            with _opened(path) as file:
                reader = ArchiveReader(decrypted(file, keys))
                return visit(reader.header, _stopping(reader.rows(), stop))

        return await _in_thread(work)

    async def remove(self, path: Path) -> bool:
        """See `BackupFiles`."""

        def work(_: threading.Event) -> bool:
            try:
                path.unlink()
                sync_directory(path.parent)
            except FileNotFoundError:
                return False
            except OSError as error:
                raise BackupNotWritten(f"the backup {path} cannot be deleted: {error.strerror}") from error
            return True

        return await _in_thread(work)

    async def exist(self, *paths: Path) -> list[bool]:
        """See `BackupFiles`."""
        return await _in_thread(lambda _: [path.is_file() for path in paths])


# ---------------------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------------------


def _header(snapshot: Snapshot, created_at: datetime) -> BackupHeader:
    """The header of what the snapshot holds; the manifest was verified when the keys were loaded."""
    (manifest,) = (row["value"] for row in rows(snapshot, "app_config") if row["key"] == "manifest")
    members = orjson.loads(cast("str", manifest))
    ((min_app,),) = snapshot.query("SELECT min_app FROM schema_info")
    ((revision,),) = snapshot.query("SELECT version_num FROM alembic_version")
    return BackupHeader(
        install_id=members["install_id"],
        master_key_id=members["master_key_id"],
        environment=members["environment"],
        app_version=__version__,
        revision=revision,
        min_app=min_app,
        created_at=created_at,
        latest_seal=_latest_seal(snapshot),
        tables=tuple(tables(snapshot)),
    )


def _latest_seal(snapshot: Snapshot) -> str | None:
    """Where the chains of the audit trail end: the last segment of each names its audit seal."""
    if not snapshot.columns("audit_segments"):  # of an earlier schema, before it is migrated
        return None
    last = "SELECT max(number) FROM audit_segments GROUP BY stream"
    found = snapshot.query(f"SELECT number, stream, value, mac FROM audit_segments WHERE number IN ({last})")  # noqa: S608
    # SQLite keeps a value of any type in any column: an edited row must not keep the others from a backup.
    heads = [read_segment(*row).segment for row in found if isinstance(row[0], int)]
    return latest_seal([each for each in heads if each is not None])


def _write(snapshot: Snapshot, header: BackupHeader, to: EncryptingWriter, counter: _Counter) -> int:
    archive = ArchiveWriter(to.write, header)
    counter.total = sum(count(snapshot, table) for table in header.tables)
    for table in header.tables:
        for row in rows(snapshot, table):
            archive.add(table, row)
            counter.one_more()
    archive.finish()
    return archive.rows


def _read_back(file: BinaryIO, header: BackupHeader, key: Identity, check: Callable[[BackupHeader, Rows], _T]) -> _T:
    """Read the file from the disk, not from what the kernel remembers of it, where the system can forget."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    file.seek(0)
    try:
        reader = ArchiveReader(decrypted(file, [key]))
        if reader.header != header:
            raise BackupDamaged("its first line is another")
        return check(reader.header, reader.rows())
    except BackupError as error:
        raise BackupNotWritten(
            f"the file was read back and is not what was written ({error}): no backup was made; check the disk"
        ) from error


@contextmanager
def _place(path: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """A file without its name yet, which it gets when the block ends well. Raises BackupNotWritten."""
    _require_free(path, replace=replace)
    try:
        with writing(path, replace=replace) as file:
            yield file
    except FileExistsError:
        raise BackupNotWritten(f"{path} is there by now: another process made it") from None
    except BlockingIOError:
        raise BackupNotWritten(f"another process is writing {path} right now") from None
    except OSError as error:
        raise BackupNotWritten(
            f"no backup could be written to {path}: {error.strerror or type(error).__name__}; name a place with free "
            "space that the user who runs Keyhall may write"
        ) from error


def _require_free(path: Path, *, replace: bool) -> None:
    if not path.parent.is_dir():
        raise BackupNotWritten(f"there is no directory {path.parent}: make it first, or name another place")
    if path.is_dir():
        raise BackupNotWritten(f"{path} is a directory: name a file in it")
    if not os.path.lexists(path):
        return
    if not path.is_file() or path.is_symlink():
        raise BackupNotWritten(f"{path} is no regular file: a backup is never written over it")
    if not replace:
        raise BackupNotWritten(f"{path} is there already: name another file, or replace it with --replace")
    try:
        with path.open("rb") as found:
            begins = found.read(len(BEGINNING))
    except OSError as error:
        raise BackupNotWritten(f"{path} cannot be read, so it is not replaced: {error.strerror}") from error
    if begins not in {b"", BEGINNING}:
        raise BackupNotWritten(f"{path} is no backup: a backup replaces nothing but an earlier one, name another file")


class _Digested:
    """A file that is digested as it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return self._file.write(data)

    @property
    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class _Counter:
    """Counts rows, shows the number now and then, and stops once the caller does not wait any more."""

    def __init__(self, show: ShowProgress, stop: threading.Event) -> None:
        self._show = show
        self._stop = stop
        self._done = 0
        self.total: int | None = None

    def one_more(self) -> None:
        self._done += 1
        if not self._done % _TELL_EVERY or self._done == self.total:
            if self._stop.is_set():
                raise Stopped
            self._show(self._done, self.total)


# ---------------------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        # Not blocking, so that a pipe without a writer does not stop the command; a regular file never does.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            kind = (
                "a directory: name a file in it" if stat.S_ISDIR(mode) else "no regular file: copy the backup into one"
            )
            raise NotABackup(f"{path} is {kind}")
        with open(descriptor, "rb", buffering=_BUFFER) as file:  # noqa: PTH123 - a descriptor has no path
            yield file
    except FileNotFoundError:
        raise NotABackup(f"there is no file {path}") from None
    except OSError as error:
        raise BackupError(f"{path} cannot be read: {error.strerror or type(error).__name__}") from error


def _stopping(rows: Rows, stop: threading.Event) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(rows):
        if not number % _TELL_EVERY and stop.is_set():
            raise Stopped
        yield row


def _recipient(to: EncryptTo) -> Recipient:
    if to.passphrase is not None:
        return Passphrase(to.passphrase)
    if to.recipient is None:
        raise ValueError("a backup is for a recipient or a passphrase")
    try:
        return X25519Recipient.parse(to.recipient)
    except ValueError as refused:
        raise InvalidInput("recipient", f"{refused}: give an age recipient, age1…, as `age-keygen` prints it") from None


def _keys(by: OpenWith) -> Sequence[Identity]:
    keys: list[Identity] = []
    if by.passphrase is not None:
        keys.append(Passphrase(by.passphrase))
    if by.identities is not None:
        try:
            keys += identities(by.identities.reveal())
        except ValueError as refused:
            raise InvalidInput("identity file", str(refused)) from None
    return keys


async def _in_thread(work: Callable[[threading.Event], _T]) -> _T:
    """Run it in a thread. A cancellation has it stop, and waits for that: the files are in order then."""
    stop = threading.Event()
    working: asyncio.Future[Any] = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        result: _T = await asyncio.shield(working)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({working})
        with suppress(Exception):
            working.result()
        raise
    return result
