"""Files and directories for one user alone: who owns them, and with which mode they are made.

A command that root runs must not take files away from the user who runs the service: a file keeps the owner and group
of the one that it replaces, and a new one has those of its directory. Modes do not depend on the umask.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

_BUFFER: Final = 256 * 1024


def make_directory(path: Path) -> None:
    """Make a directory, and each missing one above it, with mode 0700 and durably. Raises OSError."""
    if path.is_dir():
        return
    make_directory(path.parent)
    # By descriptors: the owner of the parent could put a link in the new directory's place before root gives that away.
    above = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.mkdir(path.name, mode=0o700, dir_fd=above)
        made = os.open(path.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        try:
            if os.fstat(made).st_uid == os.geteuid():
                os.fchmod(made, 0o700)
                give(made, os.fstat(above))
        finally:
            os.close(made)
        os.fsync(above)
    except FileExistsError:
        if not path.is_dir():  # else another process was faster
            raise
    finally:
        os.close(above)


def create(path: str | Path, *, owner: os.stat_result, flags: int = os.O_WRONLY, dir_fd: int | None = None) -> int:
    """The descriptor of a new file with mode 0600 and that owner and group. Raises FileExistsError, OSError."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
    try:
        os.fchmod(descriptor, 0o600)  # a umask may have taken even the owner's bits
        give(descriptor, owner)
    except BaseException:
        os.close(descriptor)
        with suppress(FileNotFoundError):
            os.unlink(path, dir_fd=dir_fd)
        raise
    return descriptor


def owner_for(path: Path) -> os.stat_result:
    """The owner for a file at that path: that of the present file, else of its directory. Raises OSError."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return path.parent.stat()


def give(descriptor: int, owner: os.stat_result) -> None:
    """Give a file to that owner and group, as far as this user may: anybody but root keeps what is theirs.

    In a user namespace that does not map the owner even root may not (EINVAL).
    """
    found = os.fstat(descriptor)
    if (found.st_uid, found.st_gid) == (owner.st_uid, owner.st_gid):
        return
    try:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    except OSError:
        with suppress(OSError):
            os.fchown(descriptor, -1, owner.st_gid)


@contextmanager
def writing(path: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """Make a file, or replace a regular one, in parts: durably, completely or not at all. It can be read back, too.

    Beside it stands a file of another name until all is written; an exception removes it. That file is locked, so that
    of two processes which write to one path the second is refused, and only the rest of a killed one is taken away.

    Raises FileExistsError, BlockingIOError where another process is writing it, OSError.
    """
    made = path.with_name(f".{path.name}.new")
    _require_free(path, replace=replace)
    with open(_locked_file(made, like=path), "w+b", buffering=_BUFFER) as opened:
        try:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
            _name(made, path, replace=replace)
        except BaseException:
            made.unlink(missing_ok=True)
            raise
    sync_directory(path.parent)


def _require_free(path: Path, *, replace: bool) -> None:
    if not os.path.lexists(path):
        return
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    if not replace:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def _locked_file(made: Path, *, like: Path) -> int:
    """The descriptor of a new file that this process alone writes."""
    for _ in range(10):
        with suppress(FileExistsError):
            descriptor = create(made, owner=owner_for(like), flags=os.O_RDWR)
            if _locked(descriptor, made):
                return descriptor
            os.close(descriptor)  # another process took it for the rest of a killed one
            continue
        with suppress(FileNotFoundError):
            descriptor = os.open(made, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if _locked(descriptor, made):
                    made.unlink()
            finally:
                os.close(descriptor)
    raise BlockingIOError(errno.EAGAIN, "another process is writing it right now", str(like))


def _locked(descriptor: int, path: Path) -> bool:
    """Lock a file for as long as it is open; False where another process did, or the path is another file's by now.

    Raises BlockingIOError.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(errno.EAGAIN, "another process is writing it right now") from None
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _name(made: Path, path: Path, *, replace: bool) -> None:
    if replace:
        _require_free(path, replace=True)
        made.replace(path)
        return
    try:
        os.link(made, path)  # unlike a rename, it never takes the place of a file that is there by now
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        _require_free(path, replace=False)
        made.rename(path)
    else:
        made.unlink()


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, content: str | bytes, *, replace: bool) -> None:
    """Make a file, or replace one, durably, completely or not at all. Raises FileExistsError, OSError."""
    made = path.with_name(f".{path.name}.new") if replace else path
    if replace:
        made.unlink(missing_ok=True)  # of a command that was killed here
    descriptor = create(made, owner=owner_for(path))
    try:
        with open(descriptor, "wb") as opened:  # noqa: PTH123 - a descriptor has no path
            opened.write(content.encode() if isinstance(content, str) else content)
            opened.flush()
            os.fsync(opened.fileno())
        if replace:
            made.replace(path)
    except BaseException:
        made.unlink(missing_ok=True)
        raise
