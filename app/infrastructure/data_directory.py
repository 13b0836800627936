"""DATA_DIR: small private files that are replaced as a whole, by one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.domain.errors import ConfigInvalid


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
            self._make()
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

    def _make(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            return
        parent = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)


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

    def replace(self, name: str, content: bytes) -> None:
        """Write a file of mode 0600 completely or not at all, even if the process dies in between. Raises OSError."""
        here, temporary = self._descriptor, f".{name}.new"
        with suppress(FileNotFoundError):  # of a process that was killed here
            os.unlink(temporary, dir_fd=here)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=here)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
                os.fchmod(descriptor, 0o600)  # a umask may have taken even the owner's bits
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
        if not self._stands(name):
            return None
        while self._stands(aside):
            number += 1
            aside = f"{name}.{suffix}.{number}"
        os.rename(name, aside, src_dir_fd=here, dst_dir_fd=here)
        os.fsync(here)
        return aside

    def _stands(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def prove(self) -> None:
        """Write a file and take it away again. Raises OSError where that is not possible."""
        self.replace(".probe", b"probe")
        os.unlink(".probe", dir_fd=self._descriptor)
