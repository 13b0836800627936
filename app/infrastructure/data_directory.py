"""DATA_DIR: small private files that are replaced as a whole, by one process at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from app.domain.errors import ConfigInvalid, InsecureKey
from app.infrastructure.private_files import create, make_directory

log = logging.getLogger(__name__)


class DataDirectory:
    """One directory of the file system; made on first use, for this user alone."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[LockedDirectory]:
        """Keep every other process out until the block ends. Raises ConfigInvalid where the directory does not serve.

        The lock is on the directory itself: it dies with the process and leaves no file behind.
        """
        try:
            make_directory(self.path)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield LockedDirectory(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ConfigInvalid(
                f"DATA_DIR {self.path} cannot be written: {error.strerror}",
                remedy="make DATA_DIR a directory with free space that the user who runs Keyhall may write",
            ) from error


def check_owners_and_mode(path: Path, names: Sequence[str], *, production: bool) -> None:
    """Warn of a DATA_DIR in which others may replace files or have done so; a missing one is fine.

    A file may belong to this user, to root, or to the owner of the directory. Raises InsecureKey in production.
    """
    try:
        directory = path.stat()
    except OSError:
        return
    quoted = shlex.quote(str(path))
    if directory.st_mode & 0o022:
        others = "others" if directory.st_mode & 0o002 else "its group"
        _warn(
            f"{others} may write into DATA_DIR {path}, and so put another key there",
            remedy=f"run `chmod go-w {quoted}`",
            refuse=production and bool(directory.st_mode & 0o002),
        )
    for name in names:
        try:
            file = (path / name).lstat()
        except OSError:
            continue
        if file.st_uid not in {0, os.geteuid(), directory.st_uid}:
            _warn(
                f"{path / name} belongs to user {file.st_uid}, who is not the owner of DATA_DIR",
                remedy=f"if it is the right file, run `chown --reference={quoted} {shlex.quote(str(path / name))}`",
                refuse=production,
            )


def _warn(happened: str, *, remedy: str, refuse: bool) -> None:
    if refuse:
        raise InsecureKey(happened, remedy=remedy)
    log.warning("%s: %s", happened, remedy)


def not_a_directory(path: Path) -> ConfigInvalid:
    """The error for a DATA_DIR that is a file, lies under one, or is a circle of links."""
    return ConfigInvalid(
        f"DATA_DIR {path} is no directory",
        remedy="name a directory in DATA_DIR; one that is not there yet is made",
    )


class LockedDirectory:
    """A directory while this process alone may change it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def replace(self, name: str, content: bytes, *, like: str | None = None) -> None:
        """Write a file of mode 0600 completely or not at all, even if the process dies in between. Raises OSError.

        It has the owner and group of the file that it replaces, else of the file ``like``, else of the directory.
        """
        here, temporary = self._descriptor, f".{name}.new"
        with suppress(FileNotFoundError):  # of a process that was killed here
            os.unlink(temporary, dir_fd=here)
        owner = self._stat(name) or (self._stat(like) if like is not None else None) or os.fstat(here)
        descriptor = create(temporary, owner=owner, dir_fd=here)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, name, src_dir_fd=here, dst_dir_fd=here)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=here)
            raise
        os.fsync(here)

    def remove(self, name: str) -> None:
        """Take a file away for good; none there is fine. Raises OSError."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._descriptor)
        os.fsync(self._descriptor)  # also where it is gone: another process may have been killed before its own

    def set_aside(self, name: str, suffix: str) -> str | None:
        """Give a file another name, which nothing has yet; None where there is none. Raises OSError."""
        here, number = self._descriptor, 1
        aside = f"{name}.{suffix}"
        if self._stat(name) is None:
            return None
        while self._stat(aside) is not None:
            number += 1
            aside = f"{name}.{suffix}.{number}"
        os.rename(name, aside, src_dir_fd=here, dst_dir_fd=here)
        os.fsync(here)
        return aside

    def _stat(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def prove(self) -> None:
        """Write a file and take it away again. Raises OSError where that is not possible."""
        self.replace(".probe", b"probe")
        os.unlink(".probe", dir_fd=self._descriptor)
