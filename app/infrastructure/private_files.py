"""Files and directories for one user alone: who owns them, and with which mode they are made.

A command that root runs must not take files away from the user who runs the service: a file keeps the owner and group
of the one that it replaces, and a new one has those of its directory. Modes do not depend on the umask.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


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
    """Make a file, or replace one, in parts: durably, completely or not at all. Raises FileExistsError, OSError.

    Beside it stands a file of another name until all is written; an exception removes it.
    """
    made = path.with_name(f".{path.name}.new")
    _require_free(path, replace=replace)
    made.unlink(missing_ok=True)  # of a command that was killed here
    descriptor = create(made, owner=owner_for(path))
    try:
        with open(descriptor, "wb") as opened:  # noqa: PTH123 - a descriptor has no path
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        _require_free(path, replace=replace)
        made.replace(path)
    except BaseException:
        made.unlink(missing_ok=True)
        raise


def _require_free(path: Path, *, replace: bool) -> None:
    if not replace and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


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
