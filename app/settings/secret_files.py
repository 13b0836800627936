"""The one reader of small files that the operator names, and what their permissions must be.

Docker and Kubernetes mount secrets 0444 or 0644, through symbolic links.
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from app.domain.errors import InsecureKey

log = logging.getLogger(__name__)

_LARGEST_TEXT: Final = 1 << 20


def read_small_file(path: Path, *, largest: int) -> tuple[bytes, int] | None:
    """Content and permission bits of a regular file of at most ``largest`` bytes; None where there is no file.

    Symbolic links are followed; one whose target is missing is an error. Raises OSError.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits until another process writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if path.is_symlink():
            raise
        return None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, f"{os.strerror(errno.EISDIR)}, not a regular file")
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        content = os.read(descriptor, largest + 1)
    finally:
        os.close(descriptor)
    if len(content) > largest:
        raise OSError(errno.EFBIG, f"it is longer than {_size(largest)}")
    return content, stat.S_IMODE(mode)


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"


def read_text_file(path: Path) -> str:
    """A text file of at most 1 MiB; bytes that are not UTF-8 become lone surrogates, as in the environment (PEP 383).

    Raises ValueError with the reason, which repeats nothing of the content.
    """
    try:
        found = read_small_file(path, largest=_LARGEST_TEXT)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if found is None:
        raise ValueError(f"cannot be read: {os.strerror(errno.ENOENT)}")
    return found[0].decode("utf-8-sig", errors="surrogateescape")


def check_secret_file_mode(setting: str, path: Path, mode: int, *, warn: bool = True) -> None:
    """Warn of a file with a secret that others may read. Raises InsecureKey for one that others may write."""
    if mode & 0o022:
        raise InsecureKey(
            f"group or others may write {path}, which {setting}_FILE names, and so put another secret there",
            remedy=f"run `chmod go-w {shlex.quote(str(path))}`",
        )
    if warn and mode & 0o044:
        log.warning("group or others may read %s, which %s_FILE names", path, setting)


def check_secret_file_modes(files: Mapping[str, Path]) -> None:
    """The same for ``Settings.secret_files``. Raises InsecureKey; a file that went away meanwhile is not judged."""
    for setting, path in files.items():
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            continue
        check_secret_file_mode(setting, path, stat.S_IMODE(mode))
