"""Files in which somebody gives us a secret: Docker and Kubernetes mount them 0444 or 0644, through links."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path

from app.domain.errors import InsecureKey

log = logging.getLogger(__name__)


def read_small_file(path: Path, *, largest: int) -> tuple[bytes, int] | None:
    """Content and permission bits of a regular file of at most ``largest`` bytes; None where nothing stands.

    Symbolic links are followed; one that leads nowhere is an error, not nothing. Raises OSError.
    """
    try:
        # Without O_NONBLOCK the opening of a FIFO would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if path.is_symlink():
            raise
        return None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        content = os.read(descriptor, largest + 1)
    finally:
        os.close(descriptor)
    if len(content) > largest:
        raise OSError(errno.EFBIG, f"it is larger than {largest} bytes")
    return content, stat.S_IMODE(mode)


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
